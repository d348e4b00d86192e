"""What lies in data/raw is listed, and what is removed goes whole: rows, relative captions, pictures no item has."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from raw_files import png, put
from typer.testing import CliRunner

from cbir.cli import app
from cbir.errors import SourceError
from cbir.records import read_jsonl, write_jsonl
from cbir.sources import import_source, lock_imports, removal
from cbir.sources.inventory import Holding, list_sources
from cbir.sources.removal import Removal, remove_items


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Two sources: shoes with three pictures, two of them the same, and a relative caption; and one hat."""
    for n, colour in enumerate(("red", "red", "blue")):
        put(tmp_path / "shoes", f"{n}.png", png(colour))
    rows = [{"file_name": f"{n}.png", "caption": f"shoe {n}"} | ({"label": "red"} if n < 2 else {}) for n in range(3)]
    write_jsonl(tmp_path / "shoes" / "metadata.jsonl", rows)
    put(tmp_path / "hats", "h.png", png("green"))
    for name in ("shoes", "hats"):
        import_source(str(tmp_path / name), name=name, raw=tmp_path / "raw")
    pair = {"reference_id": "shoes/1", "caption": "but in blue", "target_id": "shoes/2"}
    write_jsonl(tmp_path / "raw" / "shoes" / "relative.jsonl", [pair])
    return tmp_path / "raw"


def read_ids(raw: Path, name: str = "shoes") -> list[str]:
    return [row["id"] for row in read_jsonl(raw / name / "items.jsonl")]


def read_all(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_sources_are_listed_with_what_their_items_say(raw: Path) -> None:
    hats, shoes = list_sources(raw)
    common = {"missing": 0}
    red, blue, green = (len(png(colour)) for colour in ("red", "blue", "green"))
    assert hats == Holding(name="hats", items=1, captioned=0, labelled=0, labels=0, relative=0, bytes=green, **common)
    assert shoes == Holding(
        name="shoes", items=3, captioned=3, labelled=2, labels=1, relative=1, bytes=red + blue, **common
    )
    for picture in (raw / "hats/images").rglob("*.png"):
        picture.unlink()
    assert (list_sources(raw)[0].missing, list_sources(raw)[0].bytes) == (1, 0)
    assert list_sources(raw / "nothing") == []


def test_an_item_goes_with_its_relative_captions_and_a_picture_that_another_has_stays(raw: Path) -> None:
    assert remove_items("shoes", ["shoes/1"], raw=raw) == Removal(name="shoes", items=1, relative=1, left=2)
    assert read_ids(raw) == ["shoes/0", "shoes/2"]
    assert list(read_jsonl(raw / "shoes" / "relative.jsonl")) == []
    assert len(list((raw / "shoes/images").rglob("*.png"))) == 2
    assert all((raw / "shoes" / row["file_name"]).is_file() for row in read_jsonl(raw / "shoes" / "items.jsonl"))


def test_a_picture_that_no_item_has_goes_and_what_is_elsewhere_stays(raw: Path, tmp_path: Path) -> None:
    put(tmp_path, "mine.png")
    outside = {"id": "shoes/9", "file_name": "../../mine.png", "captions": []}
    with (raw / "shoes" / "items.jsonl").open("a") as lines:
        lines.write(json.dumps(outside) + "\n")
    assert remove_items("shoes", ["2", "shoes/9"], raw=raw).items == 2
    assert len(list((raw / "shoes/images").rglob("*.png"))) == 1
    assert (tmp_path / "mine.png").exists()


def test_with_an_item_go_the_pictures_that_it_had_before(raw: Path, tmp_path: Path) -> None:
    put(raw / "shoes", "images/be/before.png", png("white"))
    put(raw / "shoes", "readme.txt", b"mine")
    remove_items("shoes", ["2"], raw=raw)
    left = {path.name for path in (raw / "shoes").rglob("*")}
    red = Path(next(read_jsonl(raw / "shoes/items.jsonl"))["file_name"])
    assert left == {"images", red.parent.name, red.name, "items.jsonl", "relative.jsonl", "readme.txt"}


def test_a_picture_that_another_row_names_in_other_words_stays(raw: Path) -> None:
    put(raw / "shoes", "boot.png", png("white"))
    with (raw / "shoes" / "items.jsonl").open("a") as lines:
        lines.write('{"id": "boot", "file_name": "boot.png"}\n{"id": "left", "file_name": "./boot.png"}\n')
    remove_items("shoes", ["boot"], raw=raw)
    assert (raw / "shoes/boot.png").exists()
    remove_items("shoes", ["left"], raw=raw)
    assert not (raw / "shoes/boot.png").exists()


def test_ids_that_were_written_by_hand_need_not_name_their_source(raw: Path) -> None:
    with (raw / "shoes" / "items.jsonl").open("a") as lines:
        lines.write('{"id": "boot", "file_name": "boot.png"}\n{"id": 7, "file_name": "7.png"}\n')
    assert remove_items("shoes", ["boot"], raw=raw).items == 1
    assert read_ids(raw) == ["shoes/0", "shoes/1", "shoes/2", 7]
    assert remove_items("shoes", raw=raw).left == 0


@pytest.mark.parametrize("ids", [[], ["shoes/0", "1", "2"]], ids=["by name", "by its items"])
def test_a_source_without_items_is_none(raw: Path, ids: list[str]) -> None:
    assert remove_items("shoes", ids, raw=raw) == Removal(name="shoes", items=3, relative=1, left=0)
    assert [path.name for path in raw.iterdir()] == ["hats"]
    assert not (raw.parent / ".import").exists()


def test_a_dry_run_counts_and_leaves_everything(raw: Path) -> None:
    before = read_all(raw)
    assert remove_items("shoes", ["shoes/2"], raw=raw, dry_run=True).relative == 1
    assert remove_items("hats", raw=raw, dry_run=True).left == 0
    assert read_all(raw) == before


@pytest.mark.parametrize(
    ("name", "ids", "says"),
    [
        ("shoe", [], "did you mean shoes"),
        ("trousers", [], "there are hats, shoes"),
        ("..", [], "There is no source"),
        ("hats/../shoes", [], "There is no source"),
        ("shoes", ["shoes/0", "shoes/11"], r"shoes has no item 11; did you mean 1\?"),
        ("shoes", ["boot"], "shoes has no item boot; .*query.* Nothing was removed"),
    ],
)
def test_what_is_not_there_is_named_and_nothing_goes(raw: Path, name: str, ids: list[str], says: str) -> None:
    before = read_all(raw)
    with pytest.raises(SourceError, match=says):
        remove_items(name, ids, raw=raw)
    assert read_all(raw) == before


def test_a_malformed_list_is_named_by_its_line_and_nothing_goes(raw: Path) -> None:
    with (raw / "shoes" / "items.jsonl").open("a") as lines:
        lines.write("{half a row\n")
    before = read_all(raw)
    with pytest.raises(SourceError, match=r"shoes/items\.jsonl, line 4 is no JSON object"):
        remove_items("shoes", ["shoes/0"], raw=raw)
    with pytest.raises(SourceError, match=r"shoes/items\.jsonl, line 4: Invalid JSON: .*; mend or delete the line"):
        list_sources(raw)
    assert read_all(raw) == before


def test_a_row_that_ingest_would_refuse_is_not_counted_and_can_be_removed(raw: Path) -> None:
    with (raw / "shoes" / "items.jsonl").open("a") as lines:
        lines.write('{"id": "shoes/x", "file_name": "x.png", "captions": "a boot"}\n')
    with pytest.raises(SourceError, match="line 4: captions: Input should be a valid array; mend or delete the line"):
        list_sources(raw)
    assert remove_items("shoes", ["x"], raw=raw).items == 1
    assert list_sources(raw)[1].items == 3


@pytest.mark.parametrize("step", [1, 2])
def test_a_removal_killed_at_a_rename_is_undone_by_who_comes_next(
    raw: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, calls, replace = read_all(raw), [], os.replace

    def die(source: Any, target: Any) -> None:
        calls.append(source)
        if len(calls) == step:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(removal, "restore", lambda *a, **b: None)  # nothing runs after SIGKILL
        patch.setattr(os, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            remove_items("shoes", ["shoes/0"], raw=raw)
    with lock_imports(raw, patience=1):
        assert read_all(raw) == before
    assert not (raw.parent / ".import").exists()


def test_the_commands_show_and_remove(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    raw.rename(tmp_path / "data" / "raw")
    (tmp_path / "dvc.yaml").touch()
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["data", *arguments])
        assert done.exit_code == 0, done.output
        return done.output

    assert [line.split()[:2] for line in run("list").splitlines()[1:3]] == [["hats", "1"], ["shoes", "3"]]
    assert [source["labels"] for source in json.loads(run("list", "--json"))] == [0, 1]
    assert "hats: 1 of 1 items and 0 relative captions would go" in run("remove", "hats", "--dry-run")
    assert json.loads(run("remove", "shoes", "0", "--json"))["left"] == 2
    run("remove", "shoes")
    run("remove", "hats")
    assert "holds no source" in run("list")
