"""How an encoder is made of a catalogue: its towers, fine-tuned or frozen, and the fusion fitted on what they see.

Shapes: N items.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from cbir.copies import is_bare, load_copies
from cbir.encoder import Features, read_canvas
from cbir.errors import CbirError, TrainingError
from cbir.features import CACHE, load_features
from cbir.fit import Catalogue, fit_epochs, solve_changes
from cbir.fusing import save_fusion
from cbir.held_out import embed_views
from cbir.label_names import lend_names
from cbir.late import TEXTURES
from cbir.launch import compute_deterministically
from cbir.params import FineTuneParams, TowerParams, TrainParams
from cbir.params.file import load_section
from cbir.records import read_items, read_table, replace_folder, write_json
from cbir.towers.export import export_towers
from cbir.towers.imagenet import read_classes
from cbir.towers.run import Towers, hash_files
from cbir.towers.text import build_text
from cbir.towers.visual import build_visual
from cbir.tune_towers import forget_checkpoints, tune_towers

LEAST_ITEMS = 16
COPIES = 2  # changed copies of each picture, where pictures are all there is


def train(
    ingested: Path,
    split: Path,
    out: Path,
    *,
    tower_params: TowerParams,
    tune_params: FineTuneParams,
    params: TrainParams,
) -> None:
    """Choose the number of epochs by retrieval on validation, then train on train and validation items together.

    Writes the encoder folder ``out``: towers (ONNX), tokenizer, fusion weights (safetensors), sizes, history.

    Raises:
        TrainingError: too few items, or a loss that is not finite.
        TowerError: a tower's weights are missing.
    """
    compute_deterministically()
    items, table = _read_split_items(ingested, split)
    rows = {name: np.flatnonzero(table["split"] == name) for name in ("train", "validation")}
    lacking = LEAST_ITEMS - len(rows["train"])
    if lacking > 0:
        raise TrainingError(f"Only {len(rows['train'])} items to train on; import at least {lacking} more.")
    told = items.drop_columns(["image"])  # rows taken of pictures would be copies of all of them
    captions = [text for texts in lend_names(told.take(rows["train"]))["captions"].to_pylist() for text in texts]
    textured = any(name in TEXTURES and share > 0 for name, share in params.late.items())
    visual, text = build_visual(tower_params, textured=textured), build_text(tower_params, captions=captions)
    tuned = None
    if tune_params.epochs:
        key = f"{tower_params}{tune_params}{params}{hash_files([split / 'split.parquet', *sorted(ingested.iterdir())])}"
        one_space = tower_params.visual == tower_params.text
        tuned = tune_towers(
            visual,
            text,
            items,
            rows=rows,
            one_space=one_space,
            key=key,
            out=out,
            tune_params=tune_params,
            params=params,
        )
        if tuned is None:
            return
    with replace_folder(out) as folder:
        if tuned is not None:
            write_json(folder / "finetune.json", tuned)
        export_towers(visual, text, folder)
        towers = Towers(folder)
        catalogue = Catalogue(
            ingested=ingested,
            items=told,
            cluster_N=table["cluster"],
            features=load_features(items, towers_folder=folder),
            towers=towers,
            classes=read_classes(tower_params, towers, tuned=tune_params.epochs > 0),
            copies=_copy_pictures(items, towers_folder=folder, seed=params.seed),
        )
        del items  # what follows needs no pictures, and may need their room
        _write_fusion(folder, catalogue, rows, params=params)
    if tune_params.epochs:
        forget_checkpoints(out)


def _write_fusion(folder: Path, catalogue: Catalogue, rows: Mapping[str, np.ndarray], *, params: TrainParams) -> None:
    """Fit the fusion, turn its space so that the first dimensions say most, and write it with its history."""
    fit = solve_changes if catalogue.copies else fit_epochs
    fusion, config, history = fit(catalogue, rows["train"], validation=rows["validation"], params=params)
    fusion.late.order(embed_views(fusion, catalogue.features))
    canvas = read_canvas(catalogue.ingested / "ingest.json")
    save_fusion(fusion, config, catalogue.towers.shapes, folder=folder, canvas=canvas)
    write_json(folder / "history.json", history)


def _copy_pictures(items: pa.Table, *, towers_folder: Path, seed: int) -> list[Features]:
    """What a catalogue without words and labels learns from; nothing where there are any."""
    if not is_bare(items.drop_columns(["image"])):
        return []
    seeds = range(COPIES * seed, COPIES * (seed + 1))
    return [load_copies(items, seed=one, towers_folder=towers_folder, cache=CACHE) for one in seeds]


def _read_split_items(ingested: Path, split: Path) -> tuple[pa.Table, dict[str, np.ndarray]]:
    """Items that are no test items, and the split and cluster of each."""
    items = read_items(ingested, columns=["id", "image", "captions", "labels", "sha256"])
    table = read_table(split / "split.parquet", made_by="split").to_pydict()
    row = {id_: n for n, id_ in enumerate(table["id"])}
    order = np.array([row[id_] for id_ in items["id"].to_pylist()], dtype=np.int64)
    known_N = np.array(table["split"])[order] != "test"
    kept = order[known_N]
    return items.filter(pa.array(known_N)), {name: np.array(table[name])[kept] for name in ("split", "cluster")}


def main() -> None:
    """Run the stage: ``python -m cbir.train INGESTED SPLIT OUT``."""
    ingested, split, out = map(Path, sys.argv[1:4])
    try:
        train(
            ingested,
            split,
            out,
            tower_params=load_section(Path("params.yaml"), "towers", TowerParams),
            tune_params=load_section(Path("params.yaml"), "finetune", FineTuneParams),
            params=load_section(Path("params.yaml"), "train", TrainParams),
        )
    except CbirError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
