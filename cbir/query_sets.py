"""Which queries the items of a catalogue ask of one another, what is relevant to each, and how an encoder answers.

| query set | query | relevant |
|---|---|---|
| ``text_to_image``, ``image_to_text`` | an item's words; its picture | its own picture; its own words |
| ``label`` | an item | the others that share a label |
| ``relative`` | a picture and a change of it in words | the picture that has the change |
| ``relative_indexed`` | the same | the same, among items as the index holds them |

Shapes: Q queries, N items of the gallery, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from cbir.baselines import normalise, pool_towers
from cbir.encoder import Encoder, Features
from cbir.features import first_captions, keep_modalities, load_features, replace_words, select_rows
from cbir.metrics import encode_labels, measure_run, share_labels
from cbir.records import read_items, read_relative, read_table

VIEWS = {"image": (True, False), "text": (False, True), "both": (True, True)}
Vectors = Mapping[str, np.ndarray]
Run = tuple[np.ndarray, np.ndarray]  # query vectors (Q, D) and item vectors (N, D); a score is their dot product


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Items that ask and are searched.

    ``pairs`` are relative captions as (row of the reference, words, row of the target).
    """

    ids: Sequence[str]
    cluster_N: np.ndarray
    labels: Sequence[Sequence[str]]
    captions: Sequence[str | None]
    features: Features
    pairs: Sequence[tuple[int, str, int]]


@dataclass(frozen=True, kw_only=True)
class QuerySet:
    """Queries that each have something relevant: the row that asks, and the row that its gallery leaves out, or -1."""

    name: str
    asking_Q: np.ndarray
    left_out_Q: np.ndarray
    relevant_QN: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Answers:
    """How one system answers one query set: id, cluster and figures (``map``, ``hit@1``, ...) of each query."""

    query_set: str
    system: str
    ids: Sequence[str]
    cluster_Q: np.ndarray
    figures: dict[str, np.ndarray] = field(repr=False)


def load_gallery(ingested: Path, split: Path, *, towers_folder: Path, part: str = "test") -> Gallery:
    """The items of one part of the split, with the tower outputs of the encoder in ``towers_folder``.

    Raises:
        WorkspaceError: a file that an earlier stage writes is missing.
        TowerError: there are no towers in the folder.
    """
    items = read_items(ingested, columns=["id", "image", "captions", "labels", "sha256"])
    features = load_features(items, towers_folder=towers_folder)
    where = read_table(split / "split.parquet", made_by="split").to_pandas().set_index("id")
    where = where.loc[items["id"].to_pylist()]
    rows = np.flatnonzero(where["split"].to_numpy() == part)
    return select_gallery(items, features, rows, cluster_N=where["cluster"].to_numpy(), ingested=ingested)


def select_gallery(
    items: pa.Table, features: Features, rows: np.ndarray, *, cluster_N: np.ndarray, ingested: Path
) -> Gallery:
    """The given rows of ``items`` (id, captions, labels), ``features`` and clusters, and the pairs among them."""
    chosen = items.take(rows)
    ids = chosen["id"].to_pylist()
    return Gallery(
        ids=ids,
        cluster_N=cluster_N[rows],
        labels=chosen["labels"].to_pylist(),
        captions=first_captions(chosen),
        features=select_rows(features, rows),
        pairs=read_relative(ingested, ids),
    )


def measure_encoder(encoder: Encoder, gallery: Gallery, *, ks: Sequence[int]) -> Iterator[Answers]:
    """Figures of every query of every query set; the gallery's ``features`` must be of the encoder's own towers.

    Two encoders that are given the same items answer the same queries in the same order.
    """
    vectors = embed_views(encoder, gallery.features)
    for query_set in list_query_sets(gallery):
        for system, run in run_encoder(encoder, gallery, query_set, vectors=vectors).items():
            figures = measure_run(score_run(query_set, run), query_set.relevant_QN, ks=ks)
            yield gather_answers(gallery, query_set, system=system, figures=figures)


def list_query_sets(gallery: Gallery) -> list[QuerySet]:
    """The query sets that have queries, each query with something relevant."""
    own = np.flatnonzero(gallery.features.has_text_B & gallery.features.has_image_B)
    sets = [_ask_own(name, own, gallery=gallery) for name in ("text_to_image", "image_to_text")]
    sets.append(_ask_labels(gallery))
    sets += [_ask_relative(name, gallery) for name in ("relative", "relative_indexed")]
    return [one for one in sets if len(one.asking_Q)]


def _ask_own(name: str, asking_Q: np.ndarray, *, gallery: Gallery) -> QuerySet:
    """The query's own item is what is relevant."""
    relevant_QN = np.eye(len(gallery.ids), dtype=bool)[asking_Q]
    return QuerySet(name=name, asking_Q=asking_Q, left_out_Q=np.full(len(asking_Q), -1), relevant_QN=relevant_QN)


def _ask_labels(gallery: Gallery) -> QuerySet:
    """Every item asks for the others that share a label."""
    relevant_NN = share_labels(encode_labels(gallery.labels))
    asking_Q = np.flatnonzero(relevant_NN.any(axis=1))
    return QuerySet(name="label", asking_Q=asking_Q, left_out_Q=asking_Q, relevant_QN=relevant_NN[asking_Q])


def _ask_relative(name: str, gallery: Gallery) -> QuerySet:
    """This picture, but ...: the target is relevant, the reference itself is left out of the gallery."""
    reference_Q = np.array([reference for reference, _, _ in gallery.pairs], np.int64)
    relevant_QN = np.zeros((len(gallery.pairs), len(gallery.ids)), bool)
    relevant_QN[np.arange(len(gallery.pairs)), [target for _, _, target in gallery.pairs]] = True
    return QuerySet(name=name, asking_Q=reference_Q, left_out_Q=reference_Q, relevant_QN=relevant_QN)


def run_encoder(encoder: Encoder, gallery: Gallery, query_set: QuerySet, *, vectors: Vectors) -> dict[str, Run]:
    """The systems that an encoder is on a query set; ``vectors`` are those of ``embed_views``.

    ``fused_sum`` adds the encoder's vectors of the picture and of the wish.
    """
    image, text, both = (vectors[f"fused_{name}"] for name in VIEWS)
    rows = query_set.asking_Q
    match query_set.name:
        case "text_to_image":
            return {"fused": (text[rows], image)}
        case "image_to_text":
            return {"fused": (image[rows], text)}
        case "label":
            return {name: (vector_ND[rows], vector_ND) for name, vector_ND in vectors.items()}
    wishes = embed_views(encoder, read_wishes(encoder, gallery))
    wishes["fused_sum"] = normalise(wishes["fused_image"] + wishes["fused_text"])
    searched = image if query_set.name == "relative" else both
    return {name: (query_QD, searched) for name, query_QD in wishes.items()}


def run_towers(encoder: Encoder, gallery: Gallery, query_set: QuerySet) -> dict[str, Run]:
    """The systems that the frozen towers are without any training of ours; untrained, they share no space.

    For relative captions ``sum`` adds the cosines of picture to picture and of wish to caption.
    """
    rows = query_set.asking_Q
    pooled = pool_towers(gallery.features)
    match query_set.name:
        case "label":
            return {name: (vector_ND[rows], vector_ND) for name, vector_ND in pooled.items()}
        case "relative":
            return {"image_only": (pooled["image_only"][rows], pooled["image_only"])}
        case "relative_indexed":
            return {"sum": (pool_towers(read_wishes(encoder, gallery))["sum"], pooled["sum"])}
    return {}


def read_wishes(encoder: Encoder, gallery: Gallery) -> Features:
    """Tower outputs of what the relative captions ask with: the reference's picture, and the words of the change."""
    reference_Q = np.array([reference for reference, _, _ in gallery.pairs])
    return replace_words(
        select_rows(gallery.features, reference_Q), encoder.towers, [words for _, words, _ in gallery.pairs]
    )


def embed_views(encoder: Encoder, features: Features) -> dict[str, np.ndarray]:
    """Unit vectors (N, D) of the rows by picture, by words, and by both: ``fused_image`` and so on."""
    return {
        f"fused_{name}": encoder.fuse(keep_modalities(features, image=image, text=text))
        for name, (image, text) in VIEWS.items()
    }


def score_run(query_set: QuerySet, run: Run) -> np.ndarray:
    """Scores (Q, N) of a run, minus infinity for the row that a query's gallery leaves out."""
    query_QD, item_ND = run
    return leave_out(query_set, query_QD @ item_ND.T)


def leave_out(query_set: QuerySet, score_QN: np.ndarray) -> np.ndarray:
    """The scores, in place, with minus infinity for the row that a query's gallery leaves out."""
    asked = np.flatnonzero(query_set.left_out_Q >= 0)
    score_QN[asked, query_set.left_out_Q[asked]] = -np.inf
    return score_QN


def gather_answers(gallery: Gallery, query_set: QuerySet, *, system: str, figures: dict[str, np.ndarray]) -> Answers:
    """Figures of a query set's queries, with the id and the cluster of the item that asks each."""
    rows = query_set.asking_Q
    return Answers(
        query_set=query_set.name,
        system=system,
        ids=[gallery.ids[row] for row in rows],
        cluster_Q=gallery.cluster_N[rows],
        figures=figures,
    )
