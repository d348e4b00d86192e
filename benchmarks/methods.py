"""What each method that ``params.yaml`` can name retrieves, on one split: ``python -m benchmarks.methods WORKSPACE``.

Takes the ingested items of a workspace, or the first so many clusters of them, and trains once for every row of the
table with everything else as it is by default. Towers without weights offline run with random ones, and say so.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.__main__ import describe_machine
from cbir.answers import Answers
from cbir.encoder import Encoder
from cbir.gallery import Gallery, load_gallery
from cbir.params import FineTuneParams, LossName, TowerParams, TrainParams
from cbir.query_sets import embed_views, list_query_sets, measure_system, run_encoder
from cbir.records import read_items, read_table, write_table
from cbir.rivals import Rivals
from cbir.train import train

KS = (1, 10)
COLUMNS = (
    ("label", "fused_both", "map"),
    ("label", "fused_image", "map"),
    ("text_to_image", "fused", "hit@10"),
    ("relative_indexed", "fused_both", "hit@1"),
    ("duplicate", "fused", "map"),
)
RIVALLED = (("label", "fused_both"), ("duplicate", "fused"))  # columns of systems that are not trained
RANDOM = "random weights"


@dataclass(frozen=True, kw_only=True)
class Method:
    """A row of the table: what differs from the default."""

    name: str
    note: str = ""
    towers: TowerParams = field(default_factory=TowerParams)
    train: TrainParams = field(default_factory=TrainParams)


def list_methods() -> list[Method]:
    """The default first, then one change each."""
    clip = "open_clip/ViT-B-32"
    methods = [Method(name="default: EfficientNet-Lite0, MiniLM-L6, InfoNCE, cosine")]
    methods += [Method(name=f"pooling: {name}", towers=TowerParams(pooling=name)) for name in ("gem", "attention")]
    losses = [name for name in get_args(LossName) if name != TrainParams().loss]
    methods += [Method(name=f"loss: {name}", train=TrainParams(loss=name)) for name in losses]
    methods += [Method(name=f"similarity: {name}", train=TrainParams(similarity=name)) for name in ("dot", "euclidean")]
    methods += [
        Method(name=f"fused late: {name}", train=TrainParams(late={name: 0.1}))
        for name in ("tower", "histogram", "patterns", "gabor")
    ]
    methods.append(Method(name="no labels in training", train=TrainParams(label_weight=0.0)))
    methods.append(Method(name="no relative captions in training", train=TrainParams(relative_weight=0.0)))
    methods += [
        Method(name=f"visual tower: {name}", note=RANDOM, towers=TowerParams(visual=name, visual_weights="random"))
        for name in ("torchvision/vgg16", "torchvision/resnet50", "torchvision/inception_v3", clip)
    ]
    methods += [
        Method(
            name="text tower: word vectors", note="learned on the captions", towers=TowerParams(text="word-vectors")
        ),
        Method(name=f"text tower: {clip}", note=RANDOM, towers=TowerParams(text=clip, text_weights="random")),
    ]
    return methods


def take_clusters(workspace: Path, scratch: Path, *, items: int) -> None:
    """Write into ``scratch`` whole clusters of the workspace's items, at random, until there are ``items``."""
    table = read_items(workspace / "data/ingested")
    where = read_table(workspace / "data/split/split.parquet", made_by="split")
    clusters = where["cluster"].to_numpy()
    order = np.random.default_rng(0).permutation(np.unique(clusters))
    size = {name: int((clusters == name).sum()) for name in order}
    kept = order[np.cumsum([size[name] for name in order]) <= items]
    ids = where.filter(pc.is_in(where["cluster"], pa.array(kept)))["id"]
    write_table(scratch / "ingested/items-00000.parquet", table.filter(pc.is_in(table["id"], ids)))
    write_table(scratch / "split/split.parquet", where.filter(pc.is_in(where["id"], ids)))
    relative = read_table(workspace / "data/ingested/relative.parquet", made_by="ingest")
    inside = pc.and_(pc.is_in(relative["reference_id"], ids), pc.is_in(relative["target_id"], ids))
    write_table(scratch / "ingested/relative.parquet", relative.filter(inside))


def measure_method(method: Method) -> tuple[Encoder, Gallery, float]:
    """Train in the current folder; the encoder, the test items, and how many seconds it took."""
    began = time.monotonic()
    folder = Path("encoder")
    train(
        Path("ingested"),
        Path("split"),
        folder,
        tower_params=method.towers,
        tune_params=FineTuneParams(),
        params=method.train,
    )
    gallery = load_gallery(Path("ingested"), Path("split"), towers_folder=folder)
    return Encoder.load(folder), gallery, time.monotonic() - began


def score_encoder(encoder: Encoder, gallery: Gallery, *, dimensions: int | None = None) -> list[str]:
    """The cells of ``COLUMNS``, with the first ``dimensions`` of every vector where that is given."""
    encoder = encoder.shorten(dimensions)
    vectors = embed_views(encoder, gallery.features)
    figures = {}
    for query_set in list_query_sets(gallery):
        for system, score in run_encoder(encoder, gallery, query_set, vectors=vectors).items():
            if any((query_set.name, system) == column[:2] for column in COLUMNS):
                figures[query_set.name, system] = measure_system(gallery, query_set, system=system, score=score, ks=KS)
    return [_format(figures.get(column[:2]), column[2]) for column in COLUMNS]


def score_rivals(encoder: Encoder, gallery: Gallery) -> Iterator[list[str]]:
    """Rows of the systems that are not trained."""
    rivals = Rivals(gallery, encoder)
    answers: dict[str, dict[str, Answers]] = {}
    for query_set in list_query_sets(gallery):
        for system, score in rivals.answer(query_set).items():
            measured = measure_system(gallery, query_set, system=system, score=score, ks=KS)
            answers.setdefault(system, {})[query_set.name] = measured
    for system, found in answers.items():
        if "label" in found:
            cells = [
                _format(found.get(query_set), figure) if (query_set, ours) in RIVALLED else "-"
                for query_set, ours, figure in COLUMNS
            ]
            yield [f"not trained: {system}", "", *cells, "-"]


def _format(answers: Answers | None, figure: str) -> str:
    return "-" if answers is None else f"{100 * float(answers.figures[figure].mean()):.1f}"


def main() -> None:
    """Print one Markdown table, a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--items", type=int, default=1200)
    parser.add_argument("--only", default="", help="rows whose name holds this")
    options = parser.parse_args()
    workspace = options.workspace.resolve()
    print(
        f"Machine: {describe_machine()}.\nCommand: `python -m benchmarks.methods WORKSPACE --items {options.items}`.\n"
    )
    with tempfile.TemporaryDirectory() as scratch:
        take_clusters(workspace, Path(scratch), items=options.items)
        os.chdir(scratch)
        head = [" ".join(column) for column in COLUMNS]
        print(f"| method | weights | {' | '.join(head)} | seconds |\n|{'---|' * (len(head) + 3)}")
        for number, method in enumerate(one for one in list_methods() if options.only in one.name):
            print(method.name, file=sys.stderr)
            encoder, gallery, seconds = measure_method(method)
            rows = [[method.name, method.note, *score_encoder(encoder, gallery), f"{seconds:.0f}"]]
            if number == 0:
                print(f"{len(gallery.ids)} test items of {options.items} in all", file=sys.stderr)
                rows += [
                    [f"the same, first {count} dimensions", "", *score_encoder(encoder, gallery, dimensions=count), ""]
                    for count in (256, 128, 64)
                ]
                rows += list(score_rivals(encoder, gallery))
            for row in rows:
                print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
