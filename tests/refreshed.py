"""A small workspace with a live release whose encoder is tiny but works, and raw data that come and go."""

from __future__ import annotations

import json
from contextlib import chdir
from pathlib import Path

import yaml
from conftest import COLOURS, draw
from small_releases import NOW, make_registry
from tiny_encoder import write_encoder

from cbir.embed import embed
from cbir.encoder import Encoder
from cbir.index.tables import publish_table
from cbir.ingest import ingest
from cbir.params import EmbedParams, IngestParams
from cbir.records import write_jsonl
from cbir.registry import Registry, Release

PARAMS = {"release": {"name": "cbir"}, "ingest": {"image_size": 32}}


def make_raw(workspace: Path, numbers: range, *, price: float = 1) -> None:
    """Pictures of these numbers and no others in the source ``squares``."""
    folder = workspace / "data/raw/squares"
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for n in numbers:
        colour = list(COLOURS)[n % 4]
        path = folder / f"{n}.png"
        if not path.exists():
            draw(COLOURS[colour], seed=n).save(path)
        rows.append(
            {
                "id": f"squares/{n}",
                "file_name": path.name,
                "captions": [f"a {colour} square"],
                "labels": [colour],
                "attributes": {"price": price},
            }
        )
    write_jsonl(folder / "items.jsonl", rows)


def run_stages(workspace: Path, *, encoder: str) -> str:
    """What ``ingest``, ``train`` and ``embed`` write; return the fingerprint."""
    data = workspace / "data"
    ingest(data / "raw", data / "ingested", params=IngestParams(**PARAMS["ingest"]))
    write_encoder(data / "encoder", name=encoder)
    with chdir(workspace):  # where the outputs of the towers are kept
        embed(*(data.resolve() / name for name in ("ingested", "encoder", "embedded")), params=EmbedParams())
    (workspace / "metrics.json").write_text(json.dumps({"label": {"fused_both": {"map": 0.5}}}))
    return Encoder.load(data / "encoder").fingerprint


def register(workspace: Path, *, fingerprint: str, data_revision: str = "d") -> Release:
    """As `retrain` does."""
    data = workspace / "data"
    facts = json.loads((data / "embedded/embedded.json").read_text())
    return Registry(workspace, name="cbir").register(
        encoder=data / "encoder",
        fingerprint=fingerprint,
        data_revision=data_revision,
        rows_revision="r",
        metrics=json.loads((workspace / "metrics.json").read_text()),
        files=[workspace / "metrics.json", workspace / "params.yaml"],
        now=NOW,
        facts={"rows": str(facts["rows"])},
    )


def publish(workspace: Path, release: Release) -> int:
    """As `retrain` does; return the number of rows."""
    data = workspace / "data"
    return publish_table(
        uri=str(workspace / "lancedb"), table=release.table, ingested=data / "ingested", embedded=data / "embedded"
    )


def make_live(workspace: Path, *, items: int = 8, encoder: str = "a") -> Registry:
    """A workspace with release 1 live."""
    registry = make_registry(workspace)
    (workspace / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    make_raw(workspace, range(items))
    release = register(workspace, fingerprint=run_stages(workspace, encoder=encoder))
    publish(workspace, release)
    registry.promote(release, reason="first", now=NOW)
    return registry
