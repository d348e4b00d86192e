"""What comes, changes or goes in the raw data reaches the live table, and nothing is embedded that was before."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import COLOURS, cbir, draw
from memory import SIDE, draw_noise, list_ids, measure_share
from refreshed import PARAMS, make_live, make_raw, publish, register, run_stages
from small_releases import NOW

from cbir.errors import IndexError_, SourceError
from cbir.feature_store import FeatureStore
from cbir.images import encode_png
from cbir.index import Index
from cbir.index.tables import holds_release
from cbir.promotion import check_table, roll_back
from cbir.records import ITEM_SCHEMA, read_jsonl, read_table, write_jsonl
from cbir.refresh import Refresh, refresh_table
from cbir.registry import Registry
from cbir.rows import build_rows, fit_rows
from cbir.search import Searcher
from cbir.towers.run import Towers


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return make_live(tmp_path)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each call of the visual tower got."""
    counts: list[int] = []
    see = Towers.see

    def count(self, images):
        counts.append(len(images))
        return see(self, images)

    monkeypatch.setattr(Towers, "see", count)
    return counts


def open_table(workspace: Path) -> Index:
    return Index.open(uri=str(workspace / "lancedb"), table="release_v1")


def run(workspace: Path, **options: float) -> Refresh:
    return refresh_table(workspace, now=NOW, **options)


def count(found: Refresh) -> tuple[int, ...]:
    return found.added, found.changed, found.deleted, found.unchanged, found.embedded, found.rows


def edit(workspace: Path, number: int, **values: object) -> None:
    path = workspace / "data/raw/squares/items.jsonl"
    rows = [row | (values if row["id"] == f"squares/{number}" else {}) for row in read_jsonl(path)]
    write_jsonl(path, rows)


def test_what_came_changed_and_went_is_live_and_no_other_picture_goes_through_the_towers(
    registry: Registry, tmp_path: Path, seen: list[int]
) -> None:
    make_raw(tmp_path, range(1, 10))
    draw(COLOURS["yellow"], seed=99).save(tmp_path / "data/raw/squares/5.png")
    before = open_table(tmp_path).version
    assert count(run(tmp_path)) == (2, 1, 1, 6, 3, 9)
    assert sum(seen) == 3
    index = open_table(tmp_path)
    assert set(index.read_marks()) == {f"squares/{n}" for n in range(1, 10)}
    assert index.version == before + 1


def test_a_second_refresh_embeds_and_commits_nothing(registry: Registry, tmp_path: Path, seen: list[int]) -> None:
    make_raw(tmp_path, range(1, 10))
    run(tmp_path)
    version, log = open_table(tmp_path).version, registry.read_log()
    seen.clear()
    assert count(run(tmp_path)) == (0, 0, 0, 9, 0, 9)
    assert (open_table(tmp_path).version, registry.read_log(), seen) == (version, log, [])


def test_a_new_price_or_label_changes_the_row_and_embeds_nothing(registry: Registry, tmp_path: Path) -> None:
    old = open_table(tmp_path).read_vectors(["squares/3"])["squares/3"]
    edit(tmp_path, 3, attributes={"price": 7}, labels=["sold", "red"])
    assert count(run(tmp_path)) == (0, 1, 0, 7, 0, 8)
    index = open_table(tmp_path)
    hits = index.search(old, k=8, where="price = 7 and label = 'sold' and array_has(labels, 'red')")
    assert [hit.id for hit in hits] == ["squares/3"]
    assert np.array_equal(index.read_vectors(["squares/3"])["squares/3"], old)


def test_a_new_caption_is_embedded(registry: Registry, tmp_path: Path) -> None:
    edit(tmp_path, 3, captions=["a test"])
    assert count(run(tmp_path)) == (0, 1, 0, 7, 1, 8)


def test_the_vectors_and_rows_are_those_of_a_full_embed(registry: Registry, tmp_path: Path) -> None:
    make_raw(tmp_path, range(2, 12), price=2)
    run(tmp_path)
    run_stages(tmp_path, encoder="a")
    full = read_table(tmp_path / "data/embedded/embeddings.parquet", made_by="embed").to_pylist()
    index = open_table(tmp_path)
    got = index.read_vectors([row["id"] for row in full])
    assert len(got) == 10
    assert all(np.allclose(got[row["id"]], row["vector"], atol=1e-6) for row in full)
    data = tmp_path / "data"
    assert holds_release(
        uri=str(tmp_path / "lancedb"), table="release_v1", ingested=data / "ingested", embedded=data / "embedded"
    )


def test_what_cannot_be_used_is_left_out_with_the_reason_and_goes_where_it_was_live(
    registry: Registry, tmp_path: Path
) -> None:
    (tmp_path / "data/raw/squares/2.png").write_bytes(b"broken")
    found = run(tmp_path)
    assert (found.deleted, found.rows) == (1, 7)
    assert found.refused == ["squares/2 (squares/2.png): the file is not an image"]


def block(path: Path) -> None:
    """Let every access fail with an error that is not that of a missing file."""
    path.unlink()
    path.symlink_to(path.name)


def test_what_a_disk_or_mount_does_not_give_stays_as_it_is_live_and_is_told(registry: Registry, tmp_path: Path) -> None:
    before = open_table(tmp_path).find("squares/2")
    block(tmp_path / "data/raw/squares/2.png")
    found = run(tmp_path)
    assert count(found) == (0, 0, 0, 8, 0, 8)
    assert (found.refused, len(found.unreadable)) == ([], 1)
    assert found.unreadable[0].startswith("squares/2 (squares/2.png): the file cannot be read: Too many levels")
    assert open_table(tmp_path).find("squares/2") == before


def test_where_much_cannot_be_read_the_refresh_fails_and_changes_nothing(registry: Registry, tmp_path: Path) -> None:
    make_raw(tmp_path, range(1, 9))
    version = open_table(tmp_path).version
    for n in (2, 3):
        block(tmp_path / f"data/raw/squares/{n}.png")
    with pytest.raises(SourceError, match=r"2 of 8 files cannot be read; the first: squares/2 .*disk, mount"):
        run(tmp_path)
    assert open_table(tmp_path).version == version


def test_a_source_that_cannot_be_listed_is_not_taken_for_one_that_is_gone(registry: Registry, tmp_path: Path) -> None:
    squares = tmp_path / "data/raw/squares"
    shutil.copytree(squares, tmp_path / "data/raw/more")
    write_jsonl(squares.parent / "more/items.jsonl", [{"id": "more/1", "file_name": "1.png"}])
    block(squares / "items.jsonl")
    with pytest.raises(SourceError, match=r"squares/items\.jsonl cannot be read .*run `cbir-ops refresh` again"):
        run(tmp_path, most_deleted=1)
    assert open_table(tmp_path).rows == 8


def test_what_is_left_out_is_called_as_before_it_was_imported(registry: Registry, tmp_path: Path) -> None:
    edit(tmp_path, 2, attributes={"file": "shop/shoe 2.png"})
    (tmp_path / "data/raw/squares/2.png").unlink()
    assert run(tmp_path).refused == ["squares/2 (shop/shoe 2.png): the file is missing"]


def test_of_an_id_that_is_there_twice_what_is_live_stays_and_else_the_first_comes(
    registry: Registry, tmp_path: Path
) -> None:
    make_raw(tmp_path, range(9))
    path = tmp_path / "data/raw/squares/items.jsonl"
    rows = list(read_jsonl(path))
    again = [row | {"captions": ["another"], "file_name": "1.png"} for row in rows if row["id"][-1] in "38"]
    write_jsonl(path, [*again[:1], *rows, *again])
    before = open_table(tmp_path).find("squares/3")
    found = run(tmp_path)
    assert count(found) == (1, 0, 0, 8, 1, 9)
    assert found.refused == [f"squares/{n} (squares/1.png): the id is there already" for n in (3, 3, 8)]
    assert open_table(tmp_path).find("squares/3") == before
    assert open_table(tmp_path).find("squares/8")["source_path"] == "squares/8.png"


def test_raw_data_that_are_not_all_there_delete_nothing(registry: Registry, tmp_path: Path) -> None:
    make_raw(tmp_path, range(3))
    with pytest.raises(SourceError, match=r"lacks 5 of the 8 items.*dvc checkout.*--most-deleted 1"):
        run(tmp_path)
    assert open_table(tmp_path).rows == 8
    assert count(run(tmp_path, most_deleted=1)) == (0, 0, 5, 3, 0, 3)
    shutil.rmtree(tmp_path / "data/raw")
    with pytest.raises(SourceError, match="holds no source"):
        run(tmp_path, most_deleted=1)


def test_a_release_keeps_the_ingest_params_that_it_was_made_with(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("{release: {name: cbir}, ingest: {least_side: 1000}}")
    make_raw(tmp_path, range(9))
    assert count(run(tmp_path)) == (1, 0, 0, 8, 1, 9)


def test_a_table_of_before_there_were_hashes_is_embedded_whole_once(registry: Registry, tmp_path: Path) -> None:
    open_table(tmp_path)._table.drop_columns(["sha256", "text_hash", "row_hash", "refreshed_at"])
    assert count(run(tmp_path)) == (0, 8, 0, 0, 8, 8)
    assert count(run(tmp_path)) == (0, 0, 0, 8, 0, 8)


def test_a_reader_that_is_open_keeps_its_rows_and_a_new_one_has_the_new_ones(
    registry: Registry, tmp_path: Path
) -> None:
    held = Searcher.open(tmp_path)
    make_raw(tmp_path, range(4, 12))
    run(tmp_path)
    ids = [
        {hit.id for hit in searcher.query(text="a red square", image=None, k=20)}
        for searcher in (held, Searcher.open(tmp_path))
    ]
    assert ids == [{f"squares/{n}" for n in numbers} for numbers in (range(8), range(4, 12))]


def test_two_at_once_leave_every_item_once(registry: Registry, tmp_path: Path) -> None:
    make_raw(tmp_path, range(20))
    threads = [threading.Thread(target=run, args=(tmp_path,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert open_table(tmp_path).rows == 20


def test_a_refreshed_table_can_be_rolled_back_to(registry: Registry, tmp_path: Path) -> None:
    make_raw(tmp_path, range(10))
    run(tmp_path)
    second = register(tmp_path, fingerprint=run_stages(tmp_path, encoder="b"))
    publish(tmp_path, second)
    registry.promote(second, reason="better", now=NOW)
    assert roll_back(tmp_path, to=None, reason="wrong hits", now=NOW).version == "1"
    assert Searcher.open(tmp_path).rows == 10
    assert [(entry["action"], entry["why"]) for entry in registry.read_log()][1] == (
        "refresh",
        "2 added, 0 changed, 0 deleted",
    )


def test_a_refreshed_table_that_lost_rows_cannot(registry: Registry, tmp_path: Path) -> None:
    make_raw(tmp_path, range(10))
    run(tmp_path)
    open_table(tmp_path)._table.delete("id = 'squares/4' or id = 'squares/5' or id = 'squares/6'")
    with pytest.raises(IndexError_, match="has 7 rows"):
        check_table(registry.get_champion(), uri=str(tmp_path / "lancedb"))


def test_publishing_a_release_again_takes_back_what_a_refresh_did(registry: Registry, tmp_path: Path) -> None:
    make_raw(tmp_path, range(3, 10), price=5)
    run(tmp_path)
    assert publish(tmp_path, registry.get_champion()) == 8
    data = tmp_path / "data"
    assert holds_release(
        uri=str(tmp_path / "lancedb"), table="release_v1", ingested=data / "ingested", embedded=data / "embedded"
    )


def test_a_table_of_before_there_was_a_list_of_labels_is_refreshed_and_restored_without(
    registry: Registry, tmp_path: Path
) -> None:
    open_table(tmp_path)._table.drop_columns(["labels"])
    make_raw(tmp_path, range(3, 10), price=5)
    assert count(run(tmp_path)) == (2, 5, 3, 0, 2, 7)
    assert publish(tmp_path, registry.get_champion()) == 8
    assert "labels" not in open_table(tmp_path).schema.names


def test_a_refresh_tidies_the_table_where_it_has_many_files(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cbir.index.MOST_FRAGMENTS", 2)
    for last, files in ((9, 2), (10, 1)):
        make_raw(tmp_path, range(last))
        run(tmp_path)
        assert open_table(tmp_path)._table.stats()["fragment_stats"]["num_fragments"] == files
    assert open_table(tmp_path).rows == 10


def test_values_without_a_column_or_of_another_kind_are_told_and_not_lost(registry: Registry, tmp_path: Path) -> None:
    edit(tmp_path, 1, attributes={"price": "cheap", "size": 3})
    found = run(tmp_path)
    assert found.unsearchable == ["price", "size"]
    row = open_table(tmp_path).find("squares/1")
    assert row is not None
    assert row["price"] is None
    assert json.loads(row["attributes"]) == {"price": "cheap", "size": 3}


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (pa.int64(), 3, 3),
        (pa.int64(), 3.5, None),
        (pa.int64(), 2**70, None),
        (pa.int64(), True, None),
        (pa.float64(), 2, 2.0),
        (pa.float64(), 2**70, float(2**70)),
        (pa.float64(), "x", None),
        (pa.string(), "x", "x"),
        (pa.string(), [1], None),
        (pa.bool_(), True, True),
        (pa.bool_(), 1, None),
    ],
)
def test_a_value_gets_into_a_column_of_its_type_and_into_no_other(
    kind: pa.DataType, value: object, expected: object
) -> None:
    row = {"id": "1", "image": encode_png(draw(COLOURS["red"], seed=0)), "original_captions": [], "labels": []}
    row |= {"attributes": json.dumps({"own": value})}
    items = pa.Table.from_pylist([row], schema=ITEM_SCHEMA)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(4, np.float32)), 4)
    plain = pa.Table.from_pylist([row | {"attributes": "{}"}], schema=ITEM_SCHEMA)
    schema = build_rows(plain, vectors, types={}, refreshed_at=None).schema.append(pa.field("own", kind))
    rows, left_out = fit_rows(items, vectors, schema=schema, refreshed_at="now")
    assert rows["own"].to_pylist() == [expected]
    assert left_out == (["own"] if expected is None and not isinstance(value, list) else [])


def test_one_new_picture_in_a_hundred_costs_at_most_three_in_a_hundred_of_a_full_embed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: list[int]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    make_live(tmp_path, items=200)
    full = sum(seen)
    seen.clear()
    make_raw(tmp_path, range(202))
    assert count(run(tmp_path)) == (2, 0, 0, 200, 2, 202)
    assert full == 200
    assert sum(seen) <= 0.03 * full


@pytest.mark.slow
def test_a_refresh_has_few_of_the_fresh_pictures_in_memory_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setitem(PARAMS["ingest"], "image_size", SIDE)
    monkeypatch.setattr("cbir.changes.BLOCK", 5)
    monkeypatch.setattr("cbir.refresh.BLOCK", 5)
    make_live(tmp_path)
    noise = tmp_path / "data/raw/noise"
    noise.mkdir()
    (noise / "1.png").write_bytes(draw_noise())
    write_jsonl(noise / "items.jsonl", ({"id": id_, "file_name": "1.png"} for id_ in list_ids()))
    assert measure_share(lambda: run(tmp_path)) < 1
    assert open_table(tmp_path).rows == 8 + len(list_ids())


def test_a_refresh_that_was_stopped_on_the_way_embeds_only_the_rest_and_leaves_every_item_once(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: list[int]
) -> None:
    monkeypatch.setattr("cbir.changes.BLOCK", 3)
    monkeypatch.setattr("cbir.refresh.BLOCK", 3)
    make_raw(tmp_path, range(16))
    write, written = FeatureStore.write, []

    def write_two_blocks(self, keys, block):
        assert len(written) < 2, "stopped"
        written.append(keys)
        write(self, keys, block)

    monkeypatch.setattr(FeatureStore, "write", write_two_blocks)
    with pytest.raises(AssertionError, match="stopped"):
        run(tmp_path)
    assert open_table(tmp_path).rows == 8
    monkeypatch.setattr(FeatureStore, "write", write)
    seen.clear()
    assert count(run(tmp_path)) == (8, 0, 0, 8, 8, 16)
    assert sum(seen) == 2
    assert sorted(open_table(tmp_path)._read_columns(["id"])["id"].to_pylist()) == sorted(
        f"squares/{n}" for n in range(16)
    )
    assert not list((tmp_path / ".cbir/scratch").iterdir())


def test_a_file_that_was_only_touched_is_unchanged(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "data/raw/squares/3.png").touch()
    assert count(run(tmp_path)) == (0, 0, 0, 8, 0, 8)


@pytest.mark.slow
def test_the_command_refreshes_and_lineage_and_retrain_know(live: Path, tmp_path: Path, prefect_server: str) -> None:
    more = tmp_path / "more"
    more.mkdir()
    draw(COLOURS["red"], seed=500).save(more / "new.png")
    (more / "new.txt").write_text("a red square that is new")
    (more / "no picture.png").write_text("broken")
    cbir(live, "data", "import", str(more), "--name", "more")
    done = cbir(live, "refresh", "--json", PREFECT_API_URL=prefect_server)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {"added": 1, "unchanged": 48, "embedded": 1, "rows": 49}.items() <= found.items()
    assert found["refused"] == ["more/no picture (no picture.png): the file is not an image"]
    again = cbir(live, "refresh", PREFECT_API_URL=prefect_server)
    assert again.stdout == "Release 1: 0 added, 0 changed, 0 deleted, 49 unchanged, 0 embedded, 1 left out.\n"
    traced = json.loads(cbir(live, "lineage", "more/new", "--json").stdout)
    assert (traced["release"]["version"], traced["refresh"]["last"]["added"]) == ("1", 1)
    assert traced["source"]["now"] == "unchanged"
    shutil.rmtree(live / "data/raw/more")
    retrained = cbir(live, "retrain", PREFECT_API_URL=prefect_server)
    assert retrained.returncode == 0, retrained.stdout + retrained.stderr
    assert {"outcome": "promoted", "version": "1", "rows": 48}.items() <= json.loads(retrained.stdout).items()
    assert open_table(live).rows == 48
