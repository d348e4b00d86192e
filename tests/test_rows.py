"""Every attribute that is called searchable can be searched by, and none breaks the table."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import lancedb
import pyarrow as pa
import pytest
from PIL import Image

from cbir.records import ITEM_SCHEMA
from cbir.rows import OWN, build_rows, find_types, fit_rows, name_column

DOCS = (Path(__file__).parent.parent / "docs/data.md").read_text()
CONDITIONS = re.findall(r"^\| (`+) ?(.+?) ?\1 \|", DOCS.partition("| condition |")[2], flags=re.MULTILINE)
ODD = ["size.cm", "back`tick", "two words", "größe", "Price", "select", "a/b", 'quo"te', "it's", "a[0]"]
REFUSED = ["", "_rowid", "_rowaddr", "_distance", "_score", ".hidden", *OWN]


def items(*attributes: dict[str, Any]) -> pa.Table:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    empty: dict[str, Any] = dict.fromkeys(ITEM_SCHEMA.names)
    empty |= {"captions": [], "original_captions": [], "labels": [], "source": "s", "image": buffer.getvalue()}
    rows = [empty | {"id": f"s/{n}", "attributes": json.dumps(row)} for n, row in enumerate(attributes)]
    return pa.Table.from_pylist(rows, schema=ITEM_SCHEMA)


def vectors(count: int) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array([0.0, 1.0] * count, pa.float32()), 2)


def build(*attributes: dict[str, Any]) -> pa.Table:
    types = find_types(map(json.dumps, attributes))
    return build_rows(items(*attributes), vectors(len(attributes)), types=types, refreshed_at=None)


def test_the_own_columns_are_those_of_a_table_without_attributes() -> None:
    assert set(build({}).column_names) == set(OWN)


@pytest.mark.parametrize("attribute", ODD)
def test_an_attribute_of_any_name_can_be_searched_by(attribute: str, tmp_path: Path) -> None:
    table = lancedb.connect(tmp_path).create_table("t", build({attribute: 1}, {attribute: 2}))
    found = table.search([0.0, 1.0]).where(f"`{name_column(attribute)}` = 2").to_list()
    assert [row["id"] for row in found] == ["s/1"]


def test_names_of_the_tables_own_columns_make_none_and_shadow_none(tmp_path: Path) -> None:
    rows = build(dict.fromkeys(REFUSED, 1), {})
    assert all(name_column(name) is None for name in REFUSED)
    assert set(rows.column_names) == set(OWN)
    assert rows["source"].to_pylist() == ["s", "s"]
    table = lancedb.connect(tmp_path).create_table("t", rows)
    assert len(table.search([0.0, 1.0]).to_list()) == 2


def test_of_two_attributes_of_one_column_the_one_of_its_very_name_is_taken() -> None:
    assert build({"size_cm": 1, "size.cm": 2}, {"size.cm": 3})["size_cm"].to_pylist() == [1, 3]


def test_a_part_of_the_items_has_the_columns_of_all_even_where_it_has_other_types_or_no_values() -> None:
    rows: list[dict[str, Any]] = [{"a": 1, "b": True, "c": "x"}, {"a": 0.5, "c": 2}, {"a": 2**63, "d": None}]
    types = find_types(map(json.dumps, rows))
    assert types == {"a": pa.float64(), "b": pa.bool_()}
    whole = items(*rows)
    parts = [build_rows(whole.slice(n, 1), vectors(1), types=types, refreshed_at=None) for n in range(len(rows))]
    assert pa.concat_tables(parts).equals(build(*rows))
    assert [part["a"].to_pylist() for part in parts] == [[1.0], [0.5], [float(2**63)]]


def test_a_refresh_fits_attributes_by_the_same_names() -> None:
    before = build({"size.cm": 1})
    rows, left_out = fit_rows(
        items({"size.cm": 4, "source": "camera", "new.one": 5}), vectors(1), schema=before.schema, refreshed_at="now"
    )
    assert rows["size_cm"].to_pylist() == [4]
    assert left_out == ["new_one"]


def test_an_attribute_that_was_called_labels_keeps_its_column_in_a_table_of_before_there_was_one() -> None:
    before = build({}).schema
    before = before.set(before.get_field_index("labels"), pa.field("labels", pa.string()))
    rows, _ = fit_rows(items({"labels": "x"}), vectors(1), schema=before, refreshed_at="now")
    assert rows.schema.names == before.names


def test_every_condition_of_the_docs_finds_what_it_says(tmp_path: Path) -> None:
    whole = {"price": 7.5, "colour": "blue", "stock": 5, "sold": True, "shelf no": 3}
    rows = build(whole, {"colour": "red", "sold": False})
    first = rows.schema.get_field_index("caption")
    rows = rows.set_column(first, "caption", pa.array(["the cat's bed", "the cat's bed"]))
    rows = rows.set_column(first + 1, "label", pa.array(["food-drink/food-fruit", ""]))
    rows = rows.set_column(first + 2, "labels", pa.array([["food-drink/food-fruit", "red"], []]))
    table = lancedb.connect(tmp_path).create_table("t", rows)
    found = {text: len(table.search([0.0, 1.0]).where(text).to_list()) for _, text in CONDITIONS}
    assert list(found.values()) == [1, 1, 2, 1, 1, 1, 2, 1, 1], found


def test_every_own_column_that_can_be_searched_by_is_in_the_docs() -> None:
    assert all(f"`{name}`" in DOCS for name in OWN)
