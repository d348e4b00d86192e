"""Which queries the items of a catalogue ask of one another, what is relevant to each, and how an encoder answers.

| query set | query | relevant |
|---|---|---|
| ``text_to_image``, ``image_to_text`` | an item's words; its picture | its picture; its words |
| ``label`` | an item | the others that share a label |
| ``label_name`` | what a label is called | the items that have it, as the index holds them |
| ``copy`` | a changed copy of an item's picture, where no item has words or labels | its picture |
| ``duplicate`` | an item's picture | the pictures of its cluster: near duplicates and variants |
| ``relative`` | a picture and a change of it in words | the picture that has the change |
| ``relative_indexed`` | the same | the item that has the change, among items as the index holds them |

A picture that is there twice, or words that two items have, are as good an answer from the one as from the other: no
query could tell them apart (Chun et al. 2022, ECCV Caption, on what it costs to count such answers as wrong).

Shapes: Q queries, N items of the gallery, D dimensions, W words, P pictures, I items of both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.sparse import csr_array, eye_array

from cbir.answers import Answers
from cbir.baselines import normalise
from cbir.encoder import Encoder, Features
from cbir.features import keep_modalities, replace_words, select_rows
from cbir.gallery import Gallery
from cbir.golden import GoldenQueries
from cbir.label_names import list_names
from cbir.ranks import ScoreRows, measure_queries, pack_qrels, score_vectors
from cbir.relevance import Relevance, ask_across, ask_changes, ask_others, encode_signs, encode_words, point_at

OF_PICTURES = ("copy", "label", "duplicate")  # query sets that can do without words
VIEWS = {"image": (True, False), "text": (False, True), "both": (True, True)}
Vectors = Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class QuerySet:
    """Queries that each have something relevant.

    ``ids`` and ``cluster_Q`` are those of the items that ask, at the rows ``asking_Q`` of the gallery; where no item
    asks there are no such rows, and each query is a cluster of its own.
    """

    name: str
    ids: Sequence[str]
    cluster_Q: np.ndarray
    asking_Q: np.ndarray
    relevance: Relevance


def measure_encoder(encoder: Encoder, gallery: Gallery, *, ks: Sequence[int]) -> Iterator[Answers]:
    """Figures of every query of every query set; the gallery's ``features`` must be of the encoder's own towers.

    Two encoders that are given the same items answer the same queries in the same order.

    Raises:
        TrainingError: the encoder's scores are not numbers.
    """
    vectors = embed_views(encoder, gallery.features)
    for query_set in list_query_sets(gallery, reads_words=encoder.reads_words):
        for system, score in run_encoder(encoder, gallery, query_set, vectors=vectors).items():
            yield measure_system(gallery, query_set, system=system, score=score, ks=ks)


def measure_system(
    gallery: Gallery, query_set: QuerySet, *, system: str, score: ScoreRows, ks: Sequence[int]
) -> Answers:
    """Figures of every query of one query set by one system's scores."""
    measured = measure_queries(
        query_set.relevance.leave_out(score),
        query_set.relevance.judge,
        queries=len(query_set.ids),
        items=len(gallery.ids),
        ks=ks,
    )
    return Answers(
        query_set=query_set.name,
        system=system,
        ids=query_set.ids,
        cluster_Q=query_set.cluster_Q,
        figures=measured.figures,
        precision_QP=measured.precision_QP,
    )


def measure_golden(queries: GoldenQueries, score: ScoreRows, *, ks: Sequence[int]) -> Answers:
    """Figures of the user's own queries over every item; each query is a cluster of its own."""
    measured = measure_queries(
        score,
        lambda start, stop: pack_qrels(queries.grade_QN[start:stop]),
        queries=len(queries.ids),
        items=queries.grade_QN.shape[1],
        ks=ks,
    )
    return Answers(
        query_set="golden",
        system="fused",
        ids=queries.ids,
        cluster_Q=np.arange(len(queries.ids)),
        figures=measured.figures,
        precision_QP=measured.precision_QP,
    )


def list_query_sets(gallery: Gallery, *, reads_words: bool = True) -> list[QuerySet]:
    """The query sets that have queries, each query with something relevant; without words, those of pictures alone."""
    picture_NP = encode_signs([[one] for one in gallery.hashes])
    sets = [
        *_ask_modalities(gallery, picture_NP),
        _ask_others("label", gallery.labels, gallery=gallery),
        _ask_names(gallery),
        _ask_others("duplicate", [[str(cluster)] for cluster in gallery.cluster_N], gallery=gallery),
        *_ask_relative(gallery, picture_NP),
    ]
    return [one for one in sets if len(one.ids) and (reads_words or one.name in OF_PICTURES)]


def _ask_items(name: str, asking_Q: np.ndarray, *, relevance: Relevance, gallery: Gallery) -> QuerySet:
    return QuerySet(
        name=name,
        ids=[gallery.ids[row] for row in asking_Q],
        cluster_Q=gallery.cluster_N[asking_Q],
        asking_Q=asking_Q,
        relevance=relevance,
    )


def _ask_modalities(gallery: Gallery, picture_NP: csr_array) -> Iterator[QuerySet]:
    """An item's words ask for its picture, its picture for its words, and a changed copy for the picture."""
    words_NW = encode_words(gallery.captions)
    own = np.flatnonzero(gallery.features.has_text_B & gallery.features.has_image_B)
    yield _ask_items("text_to_image", own, relevance=ask_across(words_NW, picture_NP, own), gallery=gallery)
    yield _ask_items("image_to_text", own, relevance=ask_across(picture_NP, words_NW, own), gallery=gallery)
    if gallery.copies is not None:
        every = np.arange(len(gallery.ids))
        yield _ask_items("copy", every, relevance=ask_across(picture_NP, picture_NP, every), gallery=gallery)


def _ask_others(name: str, signs: Sequence[Sequence[str]], *, gallery: Gallery) -> QuerySet:
    """Every item asks for the others that share a sign, a label or the cluster."""
    asking_Q, relevance = ask_others(encode_signs(signs))
    return _ask_items(name, asking_Q, relevance=relevance, gallery=gallery)


def _ask_names(gallery: Gallery) -> QuerySet:
    """What labels are called asks for the items that have them; labels of one name are one query."""
    named = list_names(gallery.labels)
    names = sorted({name for row in named for name in row})
    nothing_QN = csr_array((len(names), len(named)), dtype=bool)
    return QuerySet(
        name="label_name",
        ids=names,
        cluster_Q=np.arange(len(names)),
        asking_Q=np.zeros(0, np.int64),
        relevance=Relevance(
            sign_QS=eye_array(len(names), format="csr"), sign_NT=encode_signs(named), left_out_QN=nothing_QN
        ),
    )


def _ask_relative(gallery: Gallery, picture_NP: csr_array) -> Iterator[QuerySet]:
    """This picture, but ...: among pictures, where those that are the reference's are left out; among items."""
    item_NI = encode_signs([[f"{one} {words}"] for one, words in zip(gallery.hashes, gallery.captions, strict=True)])
    reference_Q = np.array([reference for reference, _, _ in gallery.pairs], np.int64)
    copies_QN = csr_array((picture_NP[reference_Q] @ picture_NP.T) > 0)
    pictures = ask_changes(gallery.pairs, picture_NP, left_out_QN=copies_QN)
    items = ask_changes(gallery.pairs, item_NI, left_out_QN=point_at(reference_Q, len(gallery.ids)))
    yield _ask_items("relative", reference_Q, relevance=pictures, gallery=gallery)
    yield _ask_items("relative_indexed", reference_Q, relevance=items, gallery=gallery)


def run_encoder(encoder: Encoder, gallery: Gallery, query_set: QuerySet, *, vectors: Vectors) -> dict[str, ScoreRows]:
    """The systems that an encoder is on a query set; ``vectors`` are those of ``embed_views``.

    ``fused_sum`` adds the encoder's vectors of the picture and of the wish.
    """
    image, text, both = (vectors[f"fused_{name}"] for name in VIEWS)
    rows, compare = query_set.asking_Q, partial(score_vectors, similarity=encoder.similarity)
    match query_set.name:
        case "text_to_image":
            return {"fused": compare(text[rows], image)}
        case "image_to_text":
            return {"fused": compare(image[rows], text)}
        case "copy":
            assert gallery.copies is not None, "the query set is of them"
            return {"fused": compare(encoder.fuse(gallery.copies), image)}
        case "duplicate":
            return {"fused": compare(image[rows], image)}
        case "label":
            # without words the view of both is that of the picture, and that of words is nothing
            told = vectors if gallery.features.has_text_B.any() else {"fused_both": both}
            return {name: compare(vector_ND[rows], vector_ND) for name, vector_ND in told.items()}
        case "label_name":
            return {"fused": compare(encoder.fuse(read_names(encoder, gallery, query_set.ids)), both)}
    wishes = embed_views(encoder, read_wishes(encoder, gallery))
    wishes["fused_sum"] = normalise(wishes["fused_image"] + wishes["fused_text"])
    searched = image if query_set.name == "relative" else both
    return {name: compare(query_QD, searched) for name, query_QD in wishes.items()}


def read_wishes(encoder: Encoder, gallery: Gallery) -> Features:
    """Tower outputs of what the relative captions ask with: the reference's picture, and the words of the change."""
    reference_Q = np.array([reference for reference, _, _ in gallery.pairs])
    return replace_words(
        select_rows(gallery.features, reference_Q), encoder.towers, [words for _, words, _ in gallery.pairs]
    )


def read_names(encoder: Encoder, gallery: Gallery, names: Sequence[str]) -> Features:
    """Tower outputs of labels' names, without a picture."""
    nobody_Q = np.zeros(len(names), np.int64)
    named = replace_words(select_rows(gallery.features, nobody_Q), encoder.towers, names)
    return keep_modalities(named, image=False, text=True)


def embed_views(encoder: Encoder, features: Features) -> dict[str, np.ndarray]:
    """Vectors (N, D) of the rows by picture, by words, and by both: ``fused_image`` and so on."""
    return {
        f"fused_{name}": encoder.fuse(keep_modalities(features, image=image, text=text))
        for name, (image, text) in VIEWS.items()
    }
