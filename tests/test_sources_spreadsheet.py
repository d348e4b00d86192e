"""A CSV as spreadsheets and people write it keeps every value, and what is wrong is told with its row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from raw_files import put

from cbir.errors import SourceError
from cbir.records import read_jsonl
from cbir.sources import ImportReport, import_source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in "abc":
        put(tmp_path / "mine", f"{name}.png")
    return tmp_path / "mine"


def take(folder: Path, *lines: str) -> ImportReport:
    put(folder, "metadata.csv", "\n".join(lines).encode())
    return import_source(str(folder), name="mine", raw=folder.parent / "raw")


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return list(read_jsonl(folder.parent / "raw/mine/items.jsonl"))


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["00012", "13", "14"], ["00012", "13", "14"]),
        (["9007199254740993", "", "-4"], [9007199254740993, None, -4]),
        (["1.10", "2", "-.5e2"], [1.1, 2, -50.0]),
        (["true", "", "FALSE"], [True, None, False]),
        (["true", "1", "0"], ["true", "1", "0"]),
        (["1_000", "2", "3"], ["1_000", "2", "3"]),
        (["+4912", "2", "3"], ["+4912", "2", "3"]),
        (["9" * 5000, "2", "3"], ["9" * 5000, "2", "3"]),
        (["None", "NA", "nan"], ["None", "NA", "nan"]),
        (["  ", "", " 3"], [None, None, 3]),
    ],
)
def test_a_column_is_numbers_only_where_each_cell_that_is_not_blank_is_one(
    folder: Path, cells: list[str], values: list[Any]
) -> None:
    take(folder, "file_name,x", *(f"{name}.png,{cell}" for name, cell in zip("abc", cells, strict=True)))
    found = [row["attributes"].get("x") for row in rows_of(folder)]
    assert found == values
    assert [type(value) for value in found] == [type(value) for value in values]


def test_commas_and_blank_rows_that_a_spreadsheet_leaves_shift_no_column(folder: Path) -> None:
    report = take(folder, "\ufefffile_name, caption", "a.png,a zebu,", "", ",,", "b.png")
    assert (report.added, report.skipped, report.remarks) == (2, [], [])
    assert [row["captions"] for row in rows_of(folder)] == [["a zebu"], []]


def test_an_index_that_pandas_wrote_is_an_attribute(folder: Path) -> None:
    take(folder, ",file_name", "0,a.png")
    assert rows_of(folder)[0]["attributes"] == {"Unnamed: 0": 0, "file": "a.png"}


def test_a_line_break_in_quotes_is_part_of_a_caption(folder: Path) -> None:
    take(folder, "file_name,caption", 'a.png,"a zebu,\n""big"""')
    assert rows_of(folder)[0]["captions"] == ['a zebu,\n"big"']


def test_a_json_list_in_a_plural_column_is_several_captions_or_labels(folder: Path) -> None:
    report = take(
        folder,
        "file_name,captions,labels,caption",
        'a.png,"[""a zebu"", ""a cow, brown""]","[""cattle"", null, 7]","[""one""]"',
        "b.png,a cow,[],",
    )
    found = [(row["captions"], row["labels"]) for row in rows_of(folder)]
    assert found == [(['["one"]', "a zebu", "a cow, brown"], ["cattle", "7"]), (["a cow"], [])]
    assert report.remarks == []


def test_a_list_that_is_no_json_is_one_text_and_told(folder: Path) -> None:
    report = take(folder, "file_name,captions", "a.png,\"['a zebu', 'a cow']\"", "b.png,[sic] a cow", "c.png,a cow")
    assert rows_of(folder)[0]["captions"] == ["['a zebu', 'a cow']"]
    assert [text.split(";")[0] for text in report.remarks] == [
        "metadata.csv: captions of 2 rows begin with [ and are no JSON list, so each is one text"
    ]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["file_name,caption", "", "b.png,a cow, brown"], r"row 3: 3 cells for 2 columns; put a text with commas"),
        (["file_name,caption", 'a.png,"a zebu', "b.png,a cow"], r"row 2: unexpected end of data; .*double quotes"),
        (["file_name,tag,tag", "a.png,x,y"], r"has the column 'tag' twice; name each once"),
        (["file_name,caption", '"a\n.png",x', ",a cow"], r"row 3: no file_name"),
        (
            ["file_name;caption", "a.png;a zebu, a cow"],
            r"row 1: no file_name, but file_name;caption; write commas .*not semi",
        ),
        (
            ["File_Name,Caption", "a.png,x"],
            r"row 1: no file_name, but File_Name, Caption; did you mean File_Name\? Call it",
        ),
        (["image,caption", "a.png,x"], r"row 1: no file_name, but image, caption; call the one of the pictures' paths"),
        ([""], r"metadata\.csv is empty; name the columns in its first row"),
    ],
    ids=[
        "more cells",
        "an open quote",
        "a column twice",
        "no picture",
        "semicolons",
        "capitals",
        "another name",
        "nothing",
    ],
)
def test_a_malformed_csv_is_refused_with_the_row_that_a_spreadsheet_shows(
    folder: Path, lines: list[str], told: str
) -> None:
    with pytest.raises(SourceError, match=told):
        take(folder, *lines)
