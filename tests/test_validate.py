"""The expectations stop what must not train an encoder, and say which rows."""

from __future__ import annotations

import contextlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cbir.errors import ValidationError
from cbir.records import ITEM_SCHEMA, QUARANTINE_SCHEMA
from cbir.validate import describe_items, validate

SUITES = Path(__file__).parent.parent / "expectations"


def item(n: int, **changes: Any) -> dict[str, Any]:
    """A row that every expectation of ours accepts, but for ``changes``."""
    row = {"id": f"s/{n}", "image": b"", "source": "s", "source_path": f"{n}.png", "captions": ["a cat"]}
    row |= {"original_captions": ["a cat"], "labels": ["cat"], "group": f"s/{n}", "given_split": None}
    row |= {"attributes": "{}", "sha256": f"{n:064x}", "phash": f"{n:016x}", "width": 64, "height": 64}
    return row | changes


def write_ingested(folder: Path, rows: list[dict[str, Any]], *, quarantined: int = 0) -> Path:
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema=ITEM_SCHEMA), folder / "items-00000.parquet")
    bad = [{"id": f"s/bad{n}", "source": "s", "source_path": "bad.png", "reason": "empty"} for n in range(quarantined)]
    pq.write_table(pa.Table.from_pylist(bad, schema=QUARANTINE_SCHEMA), folder / "quarantine.parquet")
    return folder


GOOD = [item(n) for n in range(40)]


def test_good_rows_pass_and_every_expectation_of_the_file_was_run(tmp_path: Path) -> None:
    document = validate(
        write_ingested(tmp_path / "in", GOOD), SUITES, tmp_path / "out", suite="items", report=tmp_path / "report"
    )
    assert document["success"]
    assert all(result["success"] for result in document["results"])
    assert len(document["results"]) == len(json.loads((SUITES / "items.json").read_text()))
    assert json.loads((tmp_path / "out" / "validation.json").read_text()) == document


class Loads(HTMLParser):
    """Collects what a browser would load or run, and where links lead."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: list[str] = []
        self.links: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.found += [tag] if tag in {"script", "link", "img", "iframe", "object"} else []
        self.found += [name for name in values if name == "src" or name.startswith("on")]
        if tag == "a":
            self.links.append(values["href"] or "")


def read_pages(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text(encoding="utf-8") for p in folder.rglob("*") if p.is_file()}


EVIL = '<img src="http://elsewhere.example/x.png"><script>alert(1)</script>'
BAD = [*GOOD, item(77, id=f"s/{EVIL}", sha256=EVIL), item(78, width=3), item(1)]


@pytest.mark.parametrize("rows", [GOOD, BAD], ids=["accepted", "refused"])
def test_data_docs_load_nothing_run_nothing_and_link_only_to_pages_that_are_there(
    rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    with contextlib.suppress(ValidationError):
        validate(
            write_ingested(tmp_path / "in", rows), SUITES, tmp_path / "out", suite="items", report=tmp_path / "report"
        )
    docs = tmp_path / "out" / "docs" if rows is GOOD else tmp_path / "report"
    pages = list(docs.rglob("*.html"))
    assert len(pages) == 3
    for page in pages:
        loads = Loads(page)
        assert loads.found == []
        for link in loads.links:
            path, _, fragment = link.partition("#")
            assert (page.parent / path).exists() if path else f'id="{fragment}"' in page.read_text()


def test_equal_rows_give_equal_bytes(tmp_path: Path) -> None:
    ingested = write_ingested(tmp_path / "in", [*GOOD, item(77, captions=[])])
    for name in ("one", "two"):
        validate(ingested, SUITES, tmp_path / name, suite="items", report=tmp_path / "report")
    assert read_pages(tmp_path / "one") == read_pages(tmp_path / "two")
    assert len(read_pages(tmp_path / "one")) == 4


def test_refused_rows_leave_data_docs_where_the_message_says_and_the_earlier_output_as_it_was(tmp_path: Path) -> None:
    out, report = tmp_path / "out", tmp_path / "report"
    validate(write_ingested(tmp_path / "in", GOOD), SUITES, out, suite="items", report=report)
    before = read_pages(out)
    bad = write_ingested(tmp_path / "bad", [*GOOD, item(77, width=3)])
    with pytest.raises(ValidationError, match=re.escape(str(report / "index.html"))):
        validate(bad, SUITES, out, suite="items", report=report)
    assert read_pages(out) == before
    assert any("s/77" in page for page in read_pages(report).values())
    validate(tmp_path / "in", SUITES, out, suite="items", report=report)
    assert not report.exists()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (item(1), "s/1"),
        (item(77, width=3), "s/77"),
        (item(77, height=3), "s/77"),
        (item(77, sha256="not a hash"), "s/77"),
        (item(77, captions=["x" * 5000]), "s/77"),
    ],
    ids=["id given twice", "too narrow", "too low", "malformed hash", "endless caption"],
)
def test_an_error_names_the_row_and_what_to_do(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    ingested = write_ingested(tmp_path / "in", [*GOOD, row])
    with pytest.raises(ValidationError, match=rf"{said}.*To do: \w+"):
        validate(ingested, SUITES, tmp_path / "out", suite="items", report=tmp_path / "report")


def test_at_most_ten_rows_are_named_and_all_are_counted(tmp_path: Path) -> None:
    ingested = write_ingested(tmp_path / "in", [item(n, width=3) for n in range(40)])
    with pytest.raises(ValidationError, match="40 rows") as caught:
        validate(ingested, SUITES, tmp_path / "out", suite="items", report=tmp_path / "report")
    assert "s/9" in str(caught.value)
    assert "s/10" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"[\xff]", "is not JSON in UTF-8"),
        (b'[{"type": "expect_column_to_exist", "kwargs": {"column": "id"}, "meta": null}]', "severity is one of"),
    ],
)
def test_a_suite_that_is_no_text_or_has_an_empty_meta_is_named(tmp_path: Path, text: bytes, said: str) -> None:
    (tmp_path / "mine.json").write_bytes(text)
    ingested = write_ingested(tmp_path / "in", GOOD)
    with pytest.raises(ValidationError, match=rf"mine\.json.*{said}"):
        validate(ingested, tmp_path, tmp_path / "out", suite="mine", report=tmp_path / "report")


def test_too_many_quarantined_files_are_an_error(tmp_path: Path) -> None:
    ingested = write_ingested(tmp_path / "in", GOOD, quarantined=5)
    with pytest.raises(ValidationError, match="quarantine"):
        validate(ingested, SUITES, tmp_path / "out", suite="items", report=tmp_path / "report")


def test_a_warning_is_recorded_and_stops_nothing(tmp_path: Path) -> None:
    ingested = write_ingested(tmp_path / "in", [item(n, captions=[]) for n in range(40)])
    document = validate(ingested, SUITES, tmp_path / "out", suite="items", report=tmp_path / "report")
    failed = [result for result in document["results"] if not result["success"]]
    assert [(result["severity"], result["failing"]) for result in failed] == [("warning", 40)]


def test_a_missing_column_fails_and_is_no_crash(tmp_path: Path) -> None:
    wanted = {"type": "expect_column_values_to_be_between", "kwargs": {"column": "depth", "min_value": 1}}
    (tmp_path / "items.json").write_text(json.dumps([wanted]))
    ingested = write_ingested(tmp_path / "in", GOOD)
    with pytest.raises(ValidationError, match="depth"):
        validate(ingested, tmp_path, tmp_path / "out", suite="items", report=tmp_path / "report")


@pytest.mark.parametrize(
    ("type_", "kwargs", "said"),
    [
        ("expect_column_values_to_be_betwen", {"column": "width"}, "did you mean expect_column_values_to_be_between"),
        ("between", {"column": "width"}, "no between in Great Expectations; did you mean expect_"),
        (
            "expect_column_values_to_be_unique",
            {"column": "capton_count"},
            "no column capton_count; did you mean caption_c",
        ),
        ("expect_column_values_to_be_unique", {"column": "xyz"}, "no column xyz; there are: id, source, sha256"),
        ("expect_column_pair_values_to_be_equal", {"column_A": "id", "column_B": "widht"}, "did you mean width"),
        ("expect_compound_columns_to_be_unique", {"column_list": ["id", "heigth"]}, "did you mean height"),
    ],
)
def test_a_misspelt_type_or_column_is_told_with_the_nearest(
    tmp_path: Path, type_: str, kwargs: dict[str, Any], said: str
) -> None:
    good = {"type": "expect_column_values_to_be_unique", "kwargs": {"column": "id"}}
    (tmp_path / "mine.json").write_text(json.dumps([good, {"type": type_, "kwargs": kwargs}]))
    ingested = write_ingested(tmp_path / "in", GOOD)
    with pytest.raises(ValidationError, match=rf"mine\.json: expectation 2: there is .*{said}"):
        validate(ingested, tmp_path, tmp_path / "out", suite="mine", report=tmp_path / "report")


def test_an_expectation_that_a_column_exists_may_fail(tmp_path: Path) -> None:
    wanted = {"type": "expect_column_to_exist", "kwargs": {"column": "depth"}, "meta": {"remedy": "add depths"}}
    (tmp_path / "items.json").write_text(json.dumps([wanted]))
    ingested = write_ingested(tmp_path / "in", GOOD)
    with pytest.raises(ValidationError, match="To do: add depths"):
        validate(ingested, tmp_path, tmp_path / "out", suite="items", report=tmp_path / "report")


PAGE = (SUITES.parent / "docs/expectations.md").read_text()


def test_the_page_names_every_column_that_can_be_expected_of_and_no_other(tmp_path: Path) -> None:
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    told = {name for row in rows for name in re.findall("`([^`]+)`", row)}
    assert told == set(describe_items(write_ingested(tmp_path / "in", GOOD)).columns)


def test_the_suite_in_the_page_runs_as_it_says(tmp_path: Path) -> None:
    (tmp_path / "shop.json").write_text(PAGE.split("```json\n")[1].split("```")[0])
    for width, said in ((96, "of at least 200 pixels"), (200, "")):
        ingested = write_ingested(tmp_path / f"in{width}", [item(n, width=width) for n in range(40)])
        with pytest.raises(ValidationError, match=said) if said else contextlib.nullcontext():
            document = validate(ingested, tmp_path, tmp_path / "out", suite="shop", report=tmp_path / "report")
    assert [(result["severity"], result["success"]) for result in document["results"]] == [
        ("error", True),
        ("warning", False),
        ("error", True),
    ]


@pytest.mark.parametrize("text", [None, "[{"], ids=["missing", "not JSON"])
def test_a_suite_that_cannot_be_read_is_named(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "items.json").write_text(text)
    ingested = write_ingested(tmp_path / "in", GOOD)
    with pytest.raises(ValidationError, match=r"items\.json is not"):
        validate(ingested, tmp_path, tmp_path / "out", suite="items", report=tmp_path / "report")


@pytest.mark.parametrize(
    "suite",
    [
        [],
        {},
        [{"type": "expect_column_values_to_be_unique"}],
        [{"type": "expect_column_values_to_be_unique", "kwargs": {"column": "id"}, "meta": {"severity": "eror"}}],
        [{"type": "expect_column_values_to_be_unique", "kwargs": {"colum": "id"}}],
    ],
    ids=["empty list", "object", "no kwargs", "mistyped severity", "mistyped argument"],
)
def test_a_malformed_suite_never_passes(suite: Any, tmp_path: Path) -> None:
    ingested = write_ingested(tmp_path / "in", [item(n) for n in range(20)])
    (tmp_path / "s.json").write_text(json.dumps(suite))
    with pytest.raises(ValidationError):
        validate(ingested, tmp_path, tmp_path / "out", suite="s", report=tmp_path / "report")
    assert not (tmp_path / "out").exists()
