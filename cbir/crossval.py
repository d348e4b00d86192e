"""How much the figures depend on which items are tested: every item is a test item of exactly one fold.

Shapes: N items, Q queries.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cbir.answers import KEY_FIGURES, find_fused
from cbir.encoder import Encoder
from cbir.errors import SplitError, TrainingError, WorkspaceError
from cbir.evaluation_page.folds import KINDS, percent, render_folds
from cbir.features import CACHE
from cbir.fold_store import SECTIONS as TRAINED
from cbir.fold_store import Scores, name_folds, open_folds
from cbir.gallery import load_gallery
from cbir.outputs import read_data_revision
from cbir.params import SECTIONS, EmbedParams, EvaluateParams, SplitParams, TrainParams
from cbir.params.file import load_section
from cbir.printing import align_columns
from cbir.query_sets import embed_views, list_query_sets, measure_system, run_encoder
from cbir.records import SPLIT_SCHEMA, read_items, write_json, write_table
from cbir.report import format_moment, render_facts, write_page
from cbir.rivals import Rivals
from cbir.split import check_fractions, cluster_items, deal_clusters
from cbir.statistics import find_interval

INGESTED = Path("data/ingested")  # in the workspace
JSON, PAGE = Path("reports/crossval.json"), Path("reports/crossval.html")
CHANGED = (
    "Items, parameters or code of the stages changed while fold {fold} was measured, so it is not kept. Start again: "
    "as they are now, every fold is measured anew; with what changed put back, those that are done are still kept."
)


def cross_validate(workspace: Path, *, folds: int, now: datetime, say: Callable[[str], None]) -> dict[str, Any]:
    """Train with the workspace's parameters on all folds but one, test on that one, each in turn.

    The scores of every fold that is done stay under ``.cbir/crossval``: stopped, it goes on where it was.
    Towers' outputs come from the workspace's cache. Writes ``reports/crossval.json``, which it returns, and
    ``reports/crossval.html``.

    Raises:
        SplitError: the items cannot be dealt into so many folds, or the split's fractions leave nothing to train on.
        WorkspaceError: nothing has been ingested, another cross-validation is running, or what the figures hang on
            was changed meanwhile.
        TrainingError: training on a fold failed.
    """
    key = name_folds(workspace, ingested=INGESTED, folds=folds)  # before anything that it names is read
    params = load_section(workspace / "params.yaml", "split", SplitParams)
    check_fractions(params)
    seed = load_section(workspace / "params.yaml", "evaluate", EvaluateParams).seed
    items = read_items(workspace / INGESTED, columns=["id", "group", "sha256", "phash", "labels"]).to_pydict()
    cluster_N = cluster_items(items["group"], items["sha256"], items["phash"], distance=params.phash_distance)
    fold_N = deal_folds(cluster_N, items["labels"], folds=folds, seed=params.seed)
    rows: list[dict[str, Any]] = []
    measured: list[dict[str, Scores]] = []
    with open_folds(workspace, key=key) as store:
        for fold in range(folds):
            where_N = name_parts(fold_N == fold, cluster_N, items["labels"], params=params)
            counts = {name: int((where_N == name).sum()) for name in ("train", "validation", "test")}
            kept = store.read(fold)
            parts = ", ".join(f"{count} {name}" for name, count in counts.items())
            say(f"fold {fold + 1} of {folds}: {parts if kept is None else 'measured by an earlier run'}")
            if kept is None:
                columns = {"id": items["id"], "split": list(where_N), "cluster": [str(c) for c in cluster_N]}
                kept = _run_fold(workspace, store.work / str(fold), columns, fold=fold)
                if name_folds(workspace, ingested=INGESTED, folds=folds) != key:
                    raise WorkspaceError(CHANGED.format(fold=fold + 1))
                store.write(fold, kept)
            measured.append(kept)
            means = {kind: {name: float(value_Q.mean()) for name, (value_Q, _) in kept[kind].items()} for kind in KINDS}
            shown = [f"{name} {value:.3f}" for name, value in means["figures"].items() if "map" in name]
            say(f"fold {fold + 1}: " + ", ".join(shown))
            rows.append({"fold": fold + 1, **counts, **means})
    document = {
        "folds": folds,
        "seed": params.seed,
        "items": len(cluster_N),
        "clusters": int(cluster_N.max()) + 1,
        "data_revision": read_data_revision(workspace),
        "loss": load_section(workspace / "params.yaml", "train", TrainParams).loss,
        "params": list_changed(workspace / "params.yaml"),
        "rows": rows,
        **{kind: summarise([found[kind] for found in measured], seed=seed) for kind in KINDS},
    }
    write_json(workspace / JSON, document)
    head = render_facts(_list_facts(document, now=now))
    write_page(workspace / PAGE, title=f"Cross-validation, {folds} folds", sections=[head, *render_folds(document)])
    return document


def list_changed(params: Path) -> dict[str, Any]:
    """The parameters that figures hang on and that are not as they are by default, by ``section.key``."""
    changed: dict[str, Any] = {}
    for name in TRAINED:
        usual, here = asdict(SECTIONS[name]()), asdict(load_section(params, name, SECTIONS[name]))
        changed |= {f"{name}.{key}": value for key, value in here.items() if value != usual[key]}
    return changed


def _list_facts(document: dict[str, Any], *, now: datetime) -> dict[str, str]:
    data = {"data revision": document["data_revision"]} if document["data_revision"] else {}
    changed = ", ".join(f"{name} {value}" for name, value in document["params"].items()) or "none"
    return (
        {"loss": document["loss"], "parameters that are not the default": changed}
        | data
        | {"written": format_moment(now)}
    )


def deal_folds(cluster_N: np.ndarray, labels: list[list[str]], *, folds: int, seed: int) -> np.ndarray:
    """Fold of each item, int (N,): whole clusters, balanced over labels as the split is.

    Raises:
        SplitError: there are no items, or the number of folds does not fit them.
    """
    if len(cluster_N) == 0:
        raise SplitError("There are no items to deal into folds; import a source first.")
    clusters = int(cluster_N.max()) + 1
    if not 2 <= folds <= clusters:
        raise SplitError(f"{folds} folds cannot be made of {clusters} clusters; give --folds from 2 to {clusters}.")
    share = {str(fold): 1 / folds for fold in range(folds)}
    fold_N = deal_clusters(cluster_N, labels, share=share, seed=seed, fixed={}).astype(np.int64)
    least = int(np.bincount(fold_N, minlength=folds).min())
    if least < 2:
        raise SplitError(f"A fold would have {least} items, too few to search among; give fewer than {folds} --folds.")
    return fold_N


def name_parts(
    test_N: np.ndarray, cluster_N: np.ndarray, labels: list[list[str]], *, params: SplitParams
) -> np.ndarray:
    """Part of each item, str (N,): test where it says so, the rest train and validation in the split's proportion."""
    where_N = np.full(len(test_N), "test", dtype="<U10")
    rest = np.flatnonzero(~test_N)
    validation = params.validation / (1 - params.test)
    where_N[rest] = deal_clusters(
        cluster_N[rest],
        [labels[n] for n in rest],
        share={"train": 1 - validation, "validation": validation},
        seed=params.seed,
        fixed={},
    )
    return where_N


def summarise(folds: list[Scores], *, seed: int) -> dict[str, dict[str, float | None]]:
    """What the folds that have a figure say of it together.

    ``mean``, ``deviation`` (of a sample; None of one fold), ``least`` and ``greatest`` are of the folds' means.
    ``pooled`` is the mean over the queries of all folds, ``low`` and ``high`` are the ends of its 95 % bootstrap
    interval over clusters. The interval knows which items happened to be asked for. It does not know that the folds'
    trainings share items, and is a little narrow for that (Bates, Hastie & Tibshirani 2023, Cross-validation: what
    does it estimate and how well does it do it?).
    """
    summary: dict[str, dict[str, float | None]] = {}
    for name in dict.fromkeys(name for fold in folds for name in fold):
        parts = [fold[name] for fold in folds if name in fold]
        mean_F = np.array([value_Q.mean() for value_Q, _ in parts])
        value_Q = np.concatenate([value_Q for value_Q, _ in parts])
        names = [f"{number} {cluster}" for number, (_, cluster_Q) in enumerate(parts) for cluster in cluster_Q]
        low, high = find_interval(value_Q, np.array(names), rng=np.random.default_rng(seed))
        summary[name] = {
            "mean": float(mean_F.mean()),
            "deviation": float(mean_F.std(ddof=1)) if len(mean_F) > 1 else None,
            "least": float(mean_F.min()),
            "greatest": float(mean_F.max()),
            "folds": len(mean_F),
            "pooled": float(value_Q.mean()),
            "low": low,
            "high": high,
            "queries": len(value_Q),
        }
    return summary


def list_rows(document: dict[str, Any]) -> list[str]:
    """What a terminal shows, in percent: a line a figure, its interval and each fold's mean; then a line a gain."""
    lines = []
    for kind, title in KINDS.items():
        rows = [
            [
                name,
                percent(total["pooled"]),
                f"{percent(total['low'])} to {percent(total['high'])}",
                *(percent(total[key]) for key in ("mean", "deviation")),
                *(percent(row[kind].get(name)) for row in document["rows"]),
            ]
            for name, total in document[kind].items()
        ]
        folds = [f"fold {row['fold']}" for row in document["rows"]]
        lines += align_columns([title, "pooled", "95 %", "mean", "sd", *folds], rows) if rows else []
    return lines


def _run_fold(workspace: Path, folder: Path, columns: dict[str, list[str]], *, fold: int) -> dict[str, Scores]:
    """Train without the fold's test items, and measure on them; what lies in ``folder`` afterwards is not needed."""
    write_table(folder / "split" / "split.parquet", pa.Table.from_pydict(columns, schema=SPLIT_SCHEMA))
    train_fold(workspace, folder, fold=fold)
    found = _measure(workspace, folder)
    shutil.rmtree(folder)
    return found


def train_fold(workspace: Path, folder: Path, *, fold: int) -> None:
    """Train in a process of its own, as DVC would; its progress goes to stderr."""
    command = [sys.executable, "-m", "cbir.train", str(INGESTED), str(folder / "split"), str(folder / "encoder")]
    process = subprocess.Popen(command, cwd=workspace, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        status = process.wait()
    except BaseException:  # Ctrl-C is for us to hear: the training, of several processes, would tell of it at length
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    if status != 0:
        raise TrainingError(f"Training without fold {fold + 1} failed, for the reason above; mend it and start again.")


def _measure(workspace: Path, folder: Path) -> dict[str, Scores]:
    """The fused system's figures of each query among the fold's test items, by ``query set.system.figure``; its gains.

    A gain is by how much its mAP is above that of what needs no training, by ``query set.system.map above rival``.
    """
    ks = load_section(workspace / "params.yaml", "evaluate", EvaluateParams).k
    dimensions = load_section(workspace / "params.yaml", "embed", EmbedParams).dimensions
    encoder = Encoder.load(folder / "encoder").shorten(dimensions)
    gallery = load_gallery(
        workspace / INGESTED, folder / "split", towers_folder=folder / "encoder", cache=workspace / CACHE
    )
    vectors, rivals = embed_views(encoder, gallery.features), Rivals(gallery, encoder)
    figures: Scores = {}
    gains: Scores = {}
    for query_set in list_query_sets(gallery, reads_words=encoder.reads_words):
        systems = run_encoder(encoder, gallery, query_set, vectors=vectors)
        ours = find_fused(systems)
        if ours is None:
            continue
        found = measure_system(gallery, query_set, system=ours, score=systems[ours], ks=ks).figures
        name = f"{query_set.name}.{ours}"
        shown = [figure for figure in KEY_FIGURES if figure in found]
        figures |= {f"{name}.{figure}": (found[figure], query_set.cluster_Q) for figure in shown}
        for rival, score in rivals.answer(query_set).items():
            theirs = measure_system(gallery, query_set, system=rival, score=score, ks=ks).figures
            gains[f"{name}.map above {rival}"] = (found["map"] - theirs["map"], query_set.cluster_Q)
    return {"figures": figures, "gains": gains}
