"""How hits look: a page with pictures, whole in one file."""

from __future__ import annotations

import base64
import html
import math
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from cbir.errors import WorkspaceError
from cbir.index import Hit
from cbir.records import write_text

_WORD = re.compile(r"\b(?!to\b)[^\W\d]{2,}")  # not the "to" of an interval
LEAST_P = 0.001  # 2 in 2,001: the test is two-sided, and what was seen counts as a permutation
_MINUS = re.compile(r"(?<!\w)-(?=\d)")
MINUS = "\N{MINUS SIGN}"
STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:1160px;padding:0 1rem;
  color:#202124;background:#fafafa}
h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2.2rem}.grid{display:flex;flex-wrap:wrap;gap:8px}
figure{margin:0;width:132px;background:#fff;border:1px solid #e3e3e3;border-radius:8px;
  padding:8px;box-sizing:border-box}
figure.found{border:2px solid #1e8e3e;padding:7px}
figure img{width:100%;border-radius:4px}figcaption{font-size:12px;overflow-wrap:anywhere}.score,.id{color:#5f6368}
.id{font-size:11px}
table{border-collapse:collapse;background:#fff}
td,th{padding:.35rem .6rem;border-bottom:1px solid #e3e3e3;text-align:left;white-space:nowrap}
.wide{overflow-x:auto;font-size:13px}.wide td,.wide th{padding:.35rem .4rem}h3{font-size:1rem;margin:1.2rem 0 .4rem}
.number{text-align:right}.best{font-weight:700}.told td:last-child{white-space:normal}
.facts{color:#5f6368;font-size:13px;overflow-wrap:anywhere}
.warning{background:#fef7e0;border-left:4px solid #f9ab00;padding:.5rem .8rem}
details{margin:.6rem 0}summary{cursor:pointer}
"""


def render_gallery(title: str, hits: Sequence[Hit]) -> str:
    """One query and its hits as an HTML section."""
    return f"<h2>{html.escape(title)}</h2>{render_hits(hits)}"


def render_hits(hits: Sequence[Hit], *, framed: Collection[int] = ()) -> str:
    """Hits beside each other, those at the places ``framed`` in a frame."""
    shown = (_render_hit(hit, framed=place in framed) for place, hit in enumerate(hits))
    return f"<div class=grid>{''.join(shown)}</div>"


def render_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, best: int | None = None) -> str:
    """A table; after the first column, one without words is of figures and stands to the right.

    Row ``best`` is bold.
    """
    figures = [n > 0 and not any(_WORD.search(row[n]) for row in rows) for n in range(len(header))]
    body = (_render_row("td", row, figures, best=number == best) for number, row in enumerate(rows))
    lines = [_render_row("th", header, figures, best=False), *body]
    return f"<div class=wide><table>{''.join(lines)}</table></div>"


def _render_row(tag: str, cells: Sequence[str], figures: Sequence[bool], *, best: bool) -> str:
    shown = (
        f"<{tag}{' class=number' if figure else ''}>{html.escape(_MINUS.sub(MINUS, cell) if figure else cell)}</{tag}>"
        for cell, figure in zip(cells, figures, strict=True)
    )
    return f"<tr{' class=best' if best else ''}>{''.join(shown)}</tr>"


def render_words(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of words, the last column of which may be sentences."""
    return f"<div class=told>{render_table(header, rows)}</div>"


def render_facts(facts: Mapping[str, str]) -> str:
    """What a page is of, in a line under its heading."""
    shown = (f"{html.escape(name)} <b>{html.escape(value)}</b>" for name, value in facts.items())
    return f"<p class=facts>{' · '.join(shown)}</p>"


def render_warning(text: str) -> str:
    """What figures must not be read without."""
    return f"<p class=warning>{html.escape(text)}</p>"


def format_p_value(p_value: float) -> str:
    """A p-value, no less than the 2,000 permutations of ``cbir.statistics`` can show."""
    return "≤ 0.001" if p_value <= LEAST_P else f"{p_value:.4f}"


def format_moment(moment: datetime) -> str:
    """A moment in UTC, to the minute."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def write_page(path: Path, *, title: str, sections: Sequence[str]) -> None:
    """Write the page in one step.

    Raises:
        WorkspaceError: it cannot be written there.
    """
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title><style>{STYLE}</style>"
    try:
        write_text(path, f"{head}<h1>{html.escape(title)}</h1>{''.join(sections)}</html>\n")
    except OSError as error:
        raise WorkspaceError(
            f"{path} cannot be written ({error.strerror}); make {path.parent} a folder that you may write to, with "
            "room on its disk, then run the command again."
        ) from None


def _render_hit(hit: Hit, *, framed: bool) -> str:
    picture = base64.b64encode(hit.thumbnail).decode()
    seen = "" if hit.agreeing is None else f" · {hit.agreeing} places agree"
    score = "" if math.isnan(hit.score) else f"{hit.score:.3f}"
    told = [f"<span class=score>{score}{seen}</span>"] if score or seen else []
    named = [f"<span class=id>{html.escape(hit.id)}</span>"]
    words = [html.escape(text) for text in (hit.caption, hit.label) if text]
    figure = f'<figure title="{html.escape(hit.id)}"{" class=found" if framed else ""}>'
    return (
        f'{figure}<img alt="{html.escape(hit.caption)}" src="data:image/jpeg;base64,{picture}">'
        f"<figcaption>{'<br>'.join([*words, *told, *named])}</figcaption></figure>"
    )
