"""A picture that is searched with finds the same thing first, where it is asked to look again."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import refreshed
from PIL import Image
from refreshed import make_live
from small_releases import NOW
from tiny_encoder import write_encoder
from typer.testing import CliRunner

from cbir.cli import app
from cbir.errors import IndexError_, QueryError
from cbir.images import Canvas
from cbir.records import write_jsonl
from cbir.refresh import refresh_table
from cbir.search import Searcher

TWIN = 4  # of the colour of pictures 0, 8, 12 and 16: the tiny encoder sees no difference


@pytest.fixture
def turned(tmp_path: Path) -> Path:
    """A live release of 20 squares, and a picture of one of them, turned a little."""
    make_live(tmp_path, items=20)
    path = tmp_path / "turned.png"
    Image.open(tmp_path / f"data/raw/squares/{TWIN}.png").rotate(8, fillcolor=(230, 230, 230)).save(path)
    return path


def test_what_shows_the_same_thing_comes_before_what_is_only_like_it(turned: Path, tmp_path: Path) -> None:
    hits = Searcher.open(tmp_path).query(text=None, image=turned, k=3, verify=True)
    counts = [hit.agreeing or 0 for hit in hits]
    assert hits[0].id == f"squares/{TWIN}"
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 2 * counts[1]
    assert [hit.agreeing for hit in Searcher.open(tmp_path).query(text=None, image=turned, k=3)] == [None] * 3


def test_thumbnails_are_looked_at_where_the_pictures_are_not_here(turned: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "data/raw")
    hits = Searcher.open(tmp_path).query(text="a red square", image=turned, k=20, verify=True)
    assert len({hit.id for hit in hits}) == 20
    assert hits[0].id == f"squares/{TWIN}"


def test_words_alone_cannot_be_looked_for_in_pictures(turned: Path, tmp_path: Path) -> None:
    with pytest.raises(QueryError, match=r"--image FILE"):
        Searcher.open(tmp_path).query(text="a red square", image=None, k=3, verify=True)


def test_a_query_without_hits_says_what_the_filter_leaves(turned: Path, tmp_path: Path) -> None:
    searcher = Searcher.open(tmp_path)
    assert searcher.query(text="a red square", image=None, k=3, where="price > 9") == []
    assert searcher.explain_nothing("price > 9") == "No hit; --where leaves 0 of 20 rows."


@pytest.mark.parametrize("where", ["", "  "])
def test_a_blank_filter_is_a_mistake(turned: Path, tmp_path: Path, where: str) -> None:
    with pytest.raises(QueryError, match=r"--where is blank; write a condition, e\.g\. \"label = 'fruit'\""):
        Searcher.open(tmp_path).query(text="a red square", image=None, k=3, where=where)


def test_without_hits_the_command_prints_an_empty_list_and_says_why_beside_it(
    turned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dvc.yaml").touch()
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["query", "a red square", "--where", "price > 9", "--json"])
    assert (done.exit_code, done.stdout, done.stderr) == (0, "[]\n", "No hit; --where leaves 0 of 20 rows.\n")


def test_words_need_no_quotes_and_columns_stand_below_each_other(
    turned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dvc.yaml").touch()
    monkeypatch.chdir(tmp_path)
    quoted, bare = (
        CliRunner().invoke(app, ["query", *words, "-k", "20"]) for words in (["a red square"], ["a", "red", "square"])
    )
    assert (bare.exit_code, bare.stdout) == (0, quoted.stdout)
    assert len({line.index(" square") for line in bare.stdout.splitlines() if "red" in line}) == 1


def test_words_that_are_no_text_are_refused(turned: Path, tmp_path: Path) -> None:
    with pytest.raises(QueryError, match="no valid UTF-8"):
        Searcher.open(tmp_path).query(text=b"\xff\xfe".decode(errors="surrogateescape"), image=None, k=1)


def test_a_table_that_cannot_be_opened_is_named_with_the_remedy(turned: Path, tmp_path: Path) -> None:
    for file in (tmp_path / "lancedb/release_v1.lance/_versions").iterdir():
        file.write_bytes(b"damaged")
    with pytest.raises(IndexError_, match=r"release_v1 does not answer .*files are damaged: move it away"):
        Searcher.open(tmp_path)


def test_a_wide_picture_searched_with_itself_is_seen_as_the_index_saw_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(refreshed.PARAMS, "ingest", {"image_size": 40, "background": "black"})
    write = partial(write_encoder, canvas=Canvas(size=40, background="black"))
    monkeypatch.setattr(refreshed, "write_encoder", write)
    make_live(tmp_path)
    wide = tmp_path / "data/raw/wide/1.png"
    wide.parent.mkdir()
    Image.new("RGBA", (160, 40), (220, 30, 30, 120)).save(wide)
    write_jsonl(wide.parent / "items.jsonl", [{"id": "wide/1", "file_name": "1.png"}])
    refresh_table(tmp_path, now=NOW)
    (hit,) = Searcher.open(tmp_path).query(text=None, image=wide, k=1)
    assert (hit.id, hit.score) == ("wide/1", pytest.approx(1.0, abs=1e-4))


@pytest.mark.slow
def test_a_trained_encoder_says_what_its_items_were_fitted_into(released: Path) -> None:
    config = json.loads((released / "data/encoder/encoder.json").read_text())
    assert {"image_size": 224, "background": "white"}.items() <= config.items()
