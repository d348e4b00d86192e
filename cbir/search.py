"""What answers a query: alias -> release -> encoder and table -> hits."""

from __future__ import annotations

from pathlib import Path

from cbir.encoder import Encoder
from cbir.errors import IndexError_, QueryError
from cbir.images import load_query_image
from cbir.index import Hit, Index
from cbir.params import ReleaseParams, load_section
from cbir.registry import Registry, Release
from cbir.workspace import locate_index


class Searcher:
    """The live release, open for queries."""

    def __init__(self, *, release: Release, encoder: Encoder, index: Index) -> None:
        """Pair an encoder with a table.

        Raises:
            IndexError_: the table's vectors come from another encoder.
        """
        if index.fingerprint != encoder.fingerprint:
            raise IndexError_(
                f"Table {release.table} holds vectors of encoder {index.fingerprint}, but release {release.version} "
                f"is encoder {encoder.fingerprint}; run `cbir-ops retrain` to publish it again."
            )
        self.release = release
        self._encoder = encoder
        self._index = index

    @classmethod
    def open(cls, workspace: Path) -> Searcher:
        """Open the champion.

        Raises:
            ReleaseError: no release is live.
            IndexError_: its table is missing or does not match.
        """
        params = load_section(workspace / "params.yaml", "release", ReleaseParams)
        registry = Registry(workspace, name=params.name)
        return cls.open_release(workspace, registry=registry, release=registry.get_champion())

    @classmethod
    def open_release(cls, workspace: Path, *, registry: Registry, release: Release) -> Searcher:
        """Open any release, live or not."""
        encoder = Encoder.load(registry.download_encoder(release))
        index = Index.open(uri=locate_index(workspace), table=release.table)
        return cls(release=release, encoder=encoder, index=index)

    @property
    def rows(self) -> int:
        """How many items are searched."""
        return self._index.rows

    @property
    def reads_words(self) -> bool:
        """Whether words can be searched with."""
        return self._encoder.reads_words

    def query(self, *, text: str | None, image: Path | None, k: int, where: str | None = None) -> list[Hit]:
        """The ``k`` best hits for words, a picture, or both.

        Raises:
            QueryError: neither is given, the release reads no words, or ``where`` does not work.
            ImageError: the picture cannot be read.
        """
        text = text.strip() if text else None
        if not text and image is None:
            raise QueryError('Nothing to search for; give words ("a red fruit"), --image FILE, or both.')
        if text and not self.reads_words:
            raise QueryError(
                f"Release {self.release.version} was trained on pictures without captions and reads no words; search "
                "with --image FILE alone, or import captions and run `cbir-ops retrain`."
            )
        picture = load_query_image(image) if image else None
        vector_1D = self._encoder.encode([picture], [text])
        return self._index.search(vector_1D[0], k=k, where=where)
