"""How a model card reads: as a page with pictures, as Markdown, and as the few lines of a version's description."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from cbir.card import Card, Figure, WorseQuery, gather_card
from cbir.gate_report import TOLD, order_rules, sign_rule
from cbir.records import write_text
from cbir.registry import Registry, Release
from cbir.report import format_p_value, render_table, render_words, write_page

LONGEST = 5000  # characters that MLflow keeps of a description
WORSE = "Queries that got worse"  # title of the part that has pictures
GATE, VALIDATION = "Gate", "Validation"  # titles of those whose tables hold no figures
Table = tuple[list[str], list[list[str]]]


def log_card(workspace: Path, *, registry: Registry, release: Release, folder: Path) -> Card:
    """Write a release's card into ``folder`` and log it with the release; done again, it is written anew.

    Raises:
        ReleaseError: the release's evidence cannot be had.
        WorkspaceError: an output of a stage is missing.
    """
    card = gather_card(workspace, registry=registry, release=release)
    page, text = folder / "model_card.html", folder / "model_card.md"
    write_page(page, title=name_card(card), sections=render_sections(card))
    write_text(text, render_markdown(card))
    registry.log_card(release, [page, text], description=render_description(card))
    return card


def name_card(card: Card) -> str:
    """Title of the card."""
    return f"Release {card.release.version} of {card.release.name}"


def render_markdown(card: Card) -> str:
    """The whole card; thumbnails are on the page only."""
    parts = [f"# {name_card(card)}", render_summary(card)]
    for title, note, table in list_tables(card):
        parts += [f"## {title}", *([note] if note else []), _to_markdown(table)]
    return "\n\n".join([*parts, "## Make it again", render_recipe(card)]) + "\n"


def render_description(card: Card) -> str:
    """Summary, key figures, recipe: what MLflow shows on the version's page, never longer than it keeps."""
    title, _, table = next(iter(list_tables(card)))
    cut = (table[0], table[1][:12])
    parts = [render_summary(card), f"**{title}**", _to_markdown(cut), render_recipe(card)]
    text = "\n\n".join(
        [*parts, "The whole card with pictures: `model_card.html` among the artifacts of the source run."]
    )
    return text if len(text) <= LONGEST else text[: LONGEST - 4] + " ..."


def render_sections(card: Card) -> list[str]:
    """The whole card as HTML."""
    sections = [_to_paragraphs(render_summary(card))]
    for title, note, table in list_tables(card):
        if title.startswith(WORSE):
            shown = f"<div class=grid>{''.join(map(_render_worse, card.worse))}</div>"
        elif title.startswith(GATE):
            shown = _render_gate(*table)
        elif title == VALIDATION:
            shown = render_words(*table)
        else:
            shown = render_table(*table)
        sections.append(f"<h2>{html.escape(title)}</h2>{_to_paragraphs(note)}{shown}")
    return [*sections, "<h2>Make it again</h2>", _to_paragraphs(render_recipe(card))]


def render_summary(card: Card) -> str:
    """What it is, in a few lines."""
    release = card.release
    dimensions = card.encoder.get("dimensions", "?")
    fewer = release.dimensions not in (None, dimensions)
    lines = [
        f"Encoder `{release.fingerprint}` turns a picture, words, or both into one vector of {dimensions} dimensions"
        f"{f', of which the first {release.dimensions} are searched' if fewer else ''}; table `{release.table}` holds "
        f"{card.counts.get('items', 0):,.0f} items, of which {card.counts.get('test_items', 0):,.0f} were kept for the "
        "figures below.",
        f"Data revision `{release.data_revision}`, {_name_commit(release)}, made {release.made:%Y-%m-%d %H:%M} UTC.",
        _describe_gate(card),
    ]
    return "\n\n".join(line for line in lines if line)


def render_recipe(card: Card) -> str:
    """How to make the release again, or why that cannot be done."""
    release = card.release
    if release.tags.get("git_dirty") != "false":
        changed = release.tags.get("git_changed")
        return (
            f"It was made from files that are not committed{f' ({changed})' if changed else ''} and cannot be made "
            "again from git alone. So that the next one can: set `release.commit: true` in params.yaml, and commit "
            "your own changes before `cbir-ops retrain`."
        )
    return f"`cbir-ops repro --verify {release.version}` checks out commit `{release.tags['git_commit']}` and compares."


def list_tables(card: Card) -> list[tuple[str, str, Table]]:
    """Title, note and table of every part that there is something to say in; the key figures come first."""
    against = f"release {card.against}" if card.against else "no champion"
    tables = [
        (
            f"Figures, against {against}",
            "In percent, on each release's own test items, with 95 % intervals over clusters of near duplicates.",
            _compare([""], [([figure.metric], figure) for figure in card.figures], card),
        )
    ]
    if card.gate:
        rows = [[rule["name"], sign_rule(rule), rule["sentence"]] for rule in order_rules(card.gate["rules"])]
        tables.append((f"{GATE}: {card.gate['verdict']}", "", (["rule", "verdict", ""], rows)))
    if card.differences:
        tables.append(_list_differences(card, against))
    if card.slices:
        table = _compare(["slice", "metric"], [([part, figure.metric], figure) for part, figure in card.slices], card)
        tables.append(("Slices", "In percent; slices with too few queries are left out.", table))
    if card.against and card.differences:
        tables.append(_list_worse(card, against))
    if card.validation:
        tables.append(_list_validation(card))
    return tables


def _compare(names: list[str], rows: Sequence[tuple[list[str], Figure]], card: Card) -> Table:
    """Figures beside the champion's, where there is one."""
    kept = None if card.against else -2
    header = [*names, "this", "95 % interval", "champion", "difference"]
    return header[:kept], [[*named, *_format_figure(figure)][:kept] for named, figure in rows]


def _list_differences(card: Card, against: str) -> tuple[str, str, Table]:
    rows = [
        [
            row.metric,
            f"{row.queries:,}",
            f"{100 * row.difference:+.1f}",
            f"{100 * row.low:+.1f} to {100 * row.high:+.1f}",
            format_p_value(row.p_value),
        ]
        for row in card.differences
    ]
    header = ["", "queries", "difference", "95 % interval", "p"]
    note = "Points on the queries that both answered, paired; a permutation test over clusters."
    return f"The same queries, against {against}", note, (header, rows)


def _list_worse(card: Card, against: str) -> tuple[str, str, Table]:
    rows = [[row.query, row.caption, row.metric, f"{row.before:.2f}", f"{row.after:.2f}"] for row in card.worse]
    asked = sum(row.queries for row in card.differences)
    note = f"{card.worse_in_all:,} of {asked:,} that both answered; those that lost most first."
    return f"{WORSE}, against {against}", note, (["query", "caption", "figure", "champion", "this"], rows)


def _list_validation(card: Card) -> tuple[str, str, Table]:
    assert card.validation is not None
    results = card.validation["results"]
    held = sum(result["success"] for result in results)
    rows = [
        [
            result["expectation"],
            result.get("column") or "",
            result["severity"],
            "holds" if result["success"] else f"{result['failing']} rows fail",
        ]
        for result in sorted(results, key=lambda result: result["success"])
    ]
    suite, count = card.validation["suite"], card.validation["rows"]
    note = f"Suite `{suite}`: {held} of {len(results)} expectations hold on {count:,} rows."
    return VALIDATION, note, (["expectation", "column", "severity", ""], rows)


def _describe_gate(card: Card) -> str:
    if card.gate is None:
        return ""
    rules = [rule for rule in card.gate["rules"] if rule["verdict"] != "pass" and rule.get("binding", True)]
    because = f", because of {', '.join(rule['name'] for rule in rules)}" if rules else ""
    return f"**Gate: {card.gate['verdict']}**{because}."


def _name_commit(release: Release) -> str:
    commit = release.tags.get("git_commit")
    if not commit:
        return "no git commit"
    return f"git commit `{commit}`" + (
        " with changes that are not committed" if release.tags["git_dirty"] != "false" else ""
    )


def _format_figure(figure: Figure) -> list[str]:
    interval = "" if figure.low is None or figure.high is None else f"{100 * figure.low:.1f} to {100 * figure.high:.1f}"
    before = "" if figure.before is None else f"{100 * figure.before:.1f}"
    difference = "" if figure.before is None else f"{100 * (figure.value - figure.before):+.1f}"
    return [f"{100 * figure.value:.1f}", interval, before, difference]


def _to_markdown(table: Table) -> str:
    header, rows = table
    cells = [[_escape(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *cells])


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


def _to_paragraphs(text: str) -> str:
    """Paragraphs of the little Markdown that is used above: code and bold."""
    return "".join(
        f"<p>{_mark(_mark(html.escape(part), '**', 'b'), '`', 'code')}</p>" for part in text.split("\n\n") if part
    )


def _mark(text: str, sign: str, tag: str) -> str:
    parts: Sequence[str] = text.split(sign)
    return "".join(part if n % 2 == 0 else f"<{tag}>{part}</{tag}>" for n, part in enumerate(parts))


def _render_gate(header: list[str], rows: list[list[str]]) -> str:
    """The rules that count; the others can be unfolded."""
    counting = [row for row in rows if row[1] != TOLD]
    told = [row for row in rows if row[1] == TOLD]
    fold = (
        f"<details><summary>{len(told)} that are told and do not count</summary>{render_words(header, told)}</details>"
    )
    return render_words(header, counting) + (fold if told else "")


def _render_worse(row: WorseQuery) -> str:
    picture = base64.b64encode(row.thumbnail).decode()
    image = f'<img alt="{html.escape(row.caption)}" src="data:image/jpeg;base64,{picture}">' if row.thumbnail else ""
    return (
        f"<figure>{image}<figcaption>{html.escape(row.caption or row.query)}<br>"
        f"<span class=score>{html.escape(row.metric)}<br>{row.before:.2f} \N{RIGHTWARDS ARROW} {row.after:.2f}</span>"
        "</figcaption></figure>"
    )
