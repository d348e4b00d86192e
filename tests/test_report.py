"""A page is written whole, or one message says why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from refreshed import make_live
from typer.testing import CliRunner

from cbir.cli import app
from cbir.errors import WorkspaceError
from cbir.index import Hit
from cbir.report import format_p_value, render_hits, render_table, write_page


def test_a_page_has_its_title_as_text_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    write_page(tmp_path / "reports/a.html", title="<a> & b", sections=["<p>c</p>"])
    assert [path.name for path in (tmp_path / "reports").iterdir()] == ["a.html"]
    page = (tmp_path / "reports/a.html").read_text()
    assert "<h1>&lt;a&gt; &amp; b</h1><p>c</p></html>" in page


def make_hit(**texts: str) -> Hit:
    shown: dict[str, Any] = {"id": "s/a.png", "score": 0.5, "caption": "", "label": "", "source_path": ""} | texts
    return Hit(**shown, attributes={}, thumbnail=b"")


def test_a_card_has_its_items_id_and_no_line_of_what_is_not_there() -> None:
    caption = render_hits([make_hit(caption="a <cat>", label="animals")]).partition("<figcaption>")[2]
    lines = "a &lt;cat&gt;<br>animals<br><span class=score>0.500</span><br><span class=id>s/a.png</span></figcaption>"
    assert caption.startswith(lines)
    bare = render_hits([make_hit()])
    assert "<figcaption><span class=score>0.500</span><br><span class=id>s/a.png</span></figcaption>" in bare


def test_a_p_value_is_no_less_than_permutations_can_show() -> None:
    assert [format_p_value(p) for p in (0.0625, 2 / 2001, 0.0015)] == [
        "0.0625",
        "≤ 0.001",
        "0.0015",
    ]


def test_a_figure_below_zero_has_a_minus_sign_and_a_name_keeps_its_hyphens() -> None:
    table = render_table(["item", "gain"], [["cat-1", "-2.5 (-4.0 to +1.0)"]])
    assert "<td>cat-1</td><td class=number>\N{MINUS SIGN}2.5 (\N{MINUS SIGN}4.0 to +1.0)</td>" in table


def test_where_reports_cannot_be_written_the_message_names_the_path_and_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "reports").write_text("a plain file")
    with pytest.raises(WorkspaceError, match=r"reports/a\.html cannot be written \(.+\); make .*/reports a folder"):
        write_page(tmp_path / "reports/a.html", title="a", sections=[])


def test_a_gallery_that_cannot_be_written_is_the_users_fault_after_the_hits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_live(tmp_path)
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "reports").write_text("a plain file")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["query", "a red square", "--html"])
    assert isinstance(done.exception, WorkspaceError)
    assert "a red square" in done.stdout


def test_a_gallery_shows_what_was_asked_with_and_under_which_condition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_live(tmp_path)
    (tmp_path / "dvc.yaml").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("webbrowser.open", lambda address: True)
    picture = next((tmp_path / "data/raw").rglob("*.png"))
    done = CliRunner().invoke(app, ["query", "--image", str(picture), "--where", "label <> 'x'", "--html", "-k", "2"])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "reports/query.html").read_text()
    assert page.count("data:image/jpeg") == 3
    assert page.index("the query&#x27;s picture") < page.rindex("<figure title=")
    assert f"{picture.name}, where label &lt;&gt; &#x27;x&#x27;" in page
