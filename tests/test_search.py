"""A picture that is searched with finds the same thing first, where it is asked to look again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image
from refreshed import make_live

from cbir.errors import QueryError
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
