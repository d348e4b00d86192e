"""Releases of four items, registered and published as `retrain` does, in a fraction of a second, without training."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from conftest import COLOURS, draw
from mlflow.tracking import MlflowClient

from cbir.images import encode_png
from cbir.index.tables import publish_table
from cbir.records import ITEM_SCHEMA, write_json, write_table
from cbir.registry import Registry, Release

NOW = datetime(2026, 1, 2, tzinfo=UTC)
IDS = [f"s/{n}" for n in range(4)]


def make_registry(workspace: Path) -> Registry:
    """The registry of a workspace that holds nothing but its params."""
    workspace.mkdir(exist_ok=True)
    (workspace / "params.yaml").write_text("release: {name: cbir}")
    (workspace / "mlflow.db").write_bytes(_migrate())
    return Registry(workspace, name="cbir")


@cache
def _migrate() -> bytes:
    """An empty MLflow database: its migrations take seconds."""
    with tempfile.TemporaryDirectory() as folder:
        Registry(Path(folder), name="cbir").find_champion()
        return (Path(folder) / "mlflow.db").read_bytes()


def write_outputs(workspace: Path, *, fingerprint: str, average_precision: Mapping[str, float]) -> None:
    """What the stages leave behind, as far as a release is made of it."""
    image = encode_png(draw(COLOURS["red"], seed=0))
    rows = [
        {
            "id": id_,
            "image": image,
            "source": "s",
            "source_path": f"{id_}.png",
            "original_captions": [f"<b>picture</b> {id_}"],
            "labels": [],
            "group": id_,
            "attributes": "{}",
        }
        for id_ in IDS
    ]
    data = workspace / "data"
    write_table(data / "ingested/items-00000.parquet", pa.Table.from_pylist(rows, schema=ITEM_SCHEMA))
    column = pa.FixedSizeListArray.from_arrays(pa.array(np.eye(4, dtype=np.float32).ravel()), 4)
    write_table(data / "embedded/embeddings.parquet", pa.table({"id": IDS, "vector": column}))
    write_json(
        data / "embedded/embedded.json",
        {"fingerprint": fingerprint, "similarity": "cosine", "dimensions": 4, "rows": 4},
    )
    write_json(data / "encoder/encoder.json", {"dimensions": 4})
    places = [{"id": id_, "split": "test", "cluster": id_} for id_ in IDS]
    write_table(data / "split/split.parquet", pa.Table.from_pylist(places))
    queries = [
        {"task": "label", "system": system, "query": id_, "average_precision": value}
        for system in ("fused_both", "sum")
        for id_, value in average_precision.items()
    ]
    write_table(data / "evaluated/per_query.parquet", pa.Table.from_pylist(queries))
    mean = float(np.mean(list(average_precision.values())))
    metrics = {"counts": {"items": 4, "test_items": 4}, "label": {"fused_both": {"map": mean, "hit@1": 0.5}}}
    write_json(workspace / "metrics.json", metrics)
    interval = {"map": {"low": mean - 0.1, "high": mean + 0.1}}
    write_json(data / "evaluated/statistics.json", {"label": {"fused_both": {"interval": interval}}})
    row = {"expectation": "to_be", "column": "id", "severity": "error", "success": True, "failing": 0}
    document = {"suite": "items", "rows": 4, "success": True, "results": [row]}
    write_json(data / "validated/validation.json", document)


def make_release(
    workspace: Path,
    *,
    fingerprint: str,
    name: str = "cbir",
    average_precision: Mapping[str, float] | None = None,
    facts: Mapping[str, str] | None = None,
) -> Release:
    """Register and publish a release; its encoder is a config without weights."""
    scores = average_precision or dict.fromkeys(IDS, 0.5)
    write_outputs(workspace, fingerprint=fingerprint, average_precision=scores)
    data = workspace / "data"
    registry = Registry(workspace, name=name)
    release = registry.register(
        encoder=data / "encoder",
        fingerprint=fingerprint,
        data_revision="d",
        rows_revision="r",
        metrics=json.loads((workspace / "metrics.json").read_text()),
        files=[
            workspace / "metrics.json",
            workspace / "params.yaml",
            data / "evaluated/statistics.json",
            data / "evaluated/per_query.parquet",
            data / "validated/validation.json",
        ],
        now=NOW,
        facts={"rows": "4"} | dict(facts or {}),
    )
    publish_table(
        uri=str(workspace / "lancedb"),
        table=release.table,
        ingested=data / "ingested",
        embedded=data / "embedded",
        registry=registry.read_mark(),
    )
    return release


def forget_history(workspace: Path) -> None:
    """Take every entry out of the log, as no command does."""
    client = MlflowClient(f"sqlite:///{workspace / 'mlflow.db'}")
    for key in client.get_registered_model("cbir").tags:
        if key.startswith("history."):
            client.delete_registered_model_tag("cbir", key)
