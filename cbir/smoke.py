"""Whether a release can be loaded and asked by a process that knows nothing but its key."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from cbir.errors import CbirError, IndexError_, ReleaseError
from cbir.images import encode_png
from cbir.registry import Registry, Release, open_registry
from cbir.search import Searcher


def ask_release(workspace: Path, key: str) -> int:
    """Load the release with this key, ask it once, return the number of hits.

    Raises:
        ReleaseError: there is no such release.
        IndexError_: its table is missing, does not match, or does not answer.
    """
    registry = open_registry(workspace)
    release = registry.find(key)
    if release is None:
        raise ReleaseError(f"There is no release with the key {key}; run `cbir-ops retrain`.")
    return ask_once(workspace, registry=registry, release=release)


def ask_once(workspace: Path, *, registry: Registry, release: Release) -> int:
    """Ask a release a query that any can answer, a picture, and words where it reads words; return the number of hits.

    Raises:
        IndexError_: its table is missing, does not match, or does not answer.
        TowerError: its encoder cannot be loaded.
    """
    searcher = Searcher.open_release(workspace, registry=registry, release=release)
    with TemporaryDirectory() as folder:
        picture = Path(folder) / "grey.png"
        picture.write_bytes(encode_png(Image.new("RGB", (64, 64), "grey")))
        hits = searcher.query(text="a test query" if searcher.reads_words else None, image=picture, k=10)
    if len(hits) != min(10, searcher.rows) or not hits:
        raise IndexError_(f"Table {release.table} answers with {len(hits)} of {searcher.rows} rows.")
    return len(hits)


def main() -> None:
    """Run it: ``python -m cbir.smoke WORKSPACE KEY``."""
    try:
        print(f"{ask_release(Path(sys.argv[1]), sys.argv[2])} hits")
    except CbirError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
