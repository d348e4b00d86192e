"""What answers a query: alias -> release -> encoder and table -> hits."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from cbir.encoder import Encoder
from cbir.errors import ImageError, IndexError_, QueryError
from cbir.images import load_query_image
from cbir.index import Hit, Index, blame_table
from cbir.registry import Registry, Release, open_registry
from cbir.texts import is_unicode
from cbir.workspace import locate_index


class Searcher:
    """The live release, open for queries."""

    def __init__(self, *, release: Release, encoder: Encoder, index: Index, raw: Path) -> None:
        """Pair an encoder with a table; ``raw`` is the folder with the items' own pictures, as far as they are there.

        Raises:
            IndexError_: the table's vectors come from another encoder.
        """
        if index.fingerprint != encoder.fingerprint:
            raise IndexError_(
                f"Table {release.table} holds vectors of encoder {index.fingerprint}, but release {release.version} "
                f"is encoder {encoder.fingerprint}; run `cbir-ops retrain` to publish it again."
            )
        self.release = release
        self._raw = raw
        self._encoder = encoder
        self._index = index

    @classmethod
    def open(cls, workspace: Path) -> Searcher:
        """Open the champion.

        Raises:
            ReleaseError: no release is live.
            IndexError_: its table is missing or does not match.
        """
        registry = open_registry(workspace)
        return cls.open_release(workspace, registry=registry, release=registry.get_champion())

    @classmethod
    def open_release(cls, workspace: Path, *, registry: Registry, release: Release) -> Searcher:
        """Open any release, live or not.

        Raises:
            ReleaseError: the registry does not give it.
            IndexError_: its table is missing, does not answer or does not match.
        """
        encoder = Encoder.load(registry.download_encoder(release))
        try:
            index = Index.open(uri=locate_index(workspace), table=release.table)
        except (ValueError, RuntimeError, OSError) as error:
            raise blame_table(release.table, error) from None
        return cls(release=release, encoder=encoder, index=index, raw=workspace / "data" / "raw")

    @property
    def rows(self) -> int:
        """How many items are searched."""
        return self._index.rows

    @property
    def reads_words(self) -> bool:
        """Whether words can be searched with."""
        return self._encoder.reads_words

    def query(
        self, *, text: str | None, image: Path | None, k: int, where: str | None = None, verify: bool = False
    ) -> list[Hit]:
        """The ``k`` best hits for words, a picture, or both.

        With ``verify`` the first 20 come in the order in which more places of the picture are found in them: what shows
        the same thing before what is only like it.

        Raises:
            QueryError: neither is given, there is no picture to verify, the release reads no words, or ``where`` does
                not work.
            ImageError: the picture cannot be read.
        """
        text = text.strip() if text else None
        if not text and image is None:
            raise QueryError('Nothing to search for; give words ("a red fruit"), --image FILE, or both.')
        if text and not is_unicode(text):
            raise QueryError("The words are no valid UTF-8; set the terminal to it, or write them anew.")
        if text and not self.reads_words:
            raise QueryError(
                f"Release {self.release.version} was trained on pictures without captions or labels and reads no "
                "words; search with --image FILE alone, or import captions or labels and run `cbir-ops retrain`."
            )
        if verify and image is None:
            raise QueryError("--verify looks for the places of a picture; give --image FILE too.")
        if where is not None and not where.strip():
            raise QueryError("--where is blank; write a condition, e.g. \"label = 'fruit'\", or leave it out.")
        picture = load_query_image(image, self._encoder.canvas) if image else None
        vector_1D = self._encoder.encode([picture], [text])
        if picture is None or not verify:
            return self._index.search(vector_1D[0], k=k, where=where)
        return self._search_again(picture, vector_1D[0], k=k, where=where)

    def explain_nothing(self, where: str | None) -> str:
        """Why a query has no hit."""
        if not self.rows or where is None:
            return "No hit; the index is empty. Import pictures, then run `cbir-ops refresh`."
        return f"No hit; --where leaves {self._index.count(where):,} of {self.rows:,} rows."

    def _search_again(self, picture: Image.Image, vector_D: np.ndarray, *, k: int, where: str | None) -> list[Hit]:
        """The first hits by the places that agree, those of equal number and all others as they were."""
        from cbir.classical import VERIFIED, look_again  # here, as most queries need neither OpenCV nor scikit-image

        hits = self._index.search(vector_D, k=max(k, VERIFIED), where=where)
        agreeing = look_again(picture, [self._show(hit) for hit in hits[:VERIFIED]])
        first = [replace(hit, agreeing=count) for hit, count in zip(hits, agreeing, strict=False)]
        return (sorted(first, key=lambda hit: -(hit.agreeing or 0)) + hits[VERIFIED:])[:k]

    def _show(self, hit: Hit) -> Image.Image:
        """The item's own picture, or its thumbnail where the file is not here."""
        try:
            return load_query_image(self._raw / hit.source_path, self._encoder.canvas)
        except ImageError:
            return Image.open(io.BytesIO(hit.thumbnail))
