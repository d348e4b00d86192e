"""Pictures, workspaces and a Prefect server that several tests share."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from cbir.towers.shape import COLOURS as COLOUR_BINS
from cbir.towers.shape import TextShape, TowerShapes, VisualShape

ROOT = Path(__file__).parent.parent
OPEN_GATE = {  # a catalogue of 48 squares can neither fill a test set nor show that fusion helps
    "require": "non_inferiority",
    "floor": {"label.fused_both.map": 0.0},
    "first_floor": {},
    "protect": {"label.fused_both.map": 1.0},
    "least_clusters": 2,
    "slice_margin": 1.0,
    "fusion": [],
    "leaks": 48,
}
COLOURS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 70, 220), "yellow": (240, 210, 40)}


TINY = "cbir-test-tiny"
TINY_CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": 4, "width": 64, "patch_size": 16, "head_width": 32},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 48, "heads": 2, "layers": 2},
}
SHAPES = TowerShapes(  # of towers small enough to invent their outputs
    visual=VisualShape(
        image_size=32,
        mean=(0.5, 0.5, 0.5),
        deviation=(0.5, 0.5, 0.5),
        width=12,
        blocks=((12, 1.2), *3 * ((9, 5.0),), *4 * ((8, 0.0),), (COLOUR_BINS, 7.5)),
    ),
    text=TextShape(width=10, blocks=((10, 1.2), (10, 1.0)), max_tokens=16),
)


def draw(colour: tuple[int, int, int], *, seed: int) -> Image.Image:
    """A coloured square somewhere on a noisy ground."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(200, 255, (96, 96, 3), dtype=np.uint8)
    x, y = rng.integers(0, 48, 2)
    pixels[y : y + 44, x : x + 44] = colour
    return Image.fromarray(pixels)


def draw_catalogue(folder: Path) -> Path:
    """Fill ``folder`` with 48 pictures and a metadata.jsonl."""
    folder.mkdir()
    rows = []
    for n in range(48):
        name = list(COLOURS)[n % 4]
        draw(COLOURS[name], seed=n).save(folder / f"{n:02d}.png")
        rows.append({"file_name": f"{n:02d}.png", "caption": f"a {name} square, number {n}", "label": name, "price": n})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def make_workspace(folder: Path) -> Path:
    """A workspace as a clone has it, with few epochs and low floors."""
    folder.mkdir()
    for name in ("cbir", "flows", "expectations", "golden"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "dvc.yaml", folder)
    (folder / "data" / "kept").mkdir(parents=True)
    for name in ("data/.gitignore", "data/kept/.gitignore"):
        shutil.copy(ROOT / name, folder / name)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["train"] |= {"epochs": 2, "batch_size": 16}
    params["split"] |= {"phash_distance": 0}
    params["gate"] |= OPEN_GATE
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=folder, check=True)
    return folder


def set_param(workspace: Path, section: str, **values: object) -> None:
    """Change one section of the workspace's params.yaml."""
    path = workspace / "params.yaml"
    params = yaml.safe_load(path.read_text())
    params.setdefault(section, {}).update(values)
    path.write_text(yaml.safe_dump(params))


def command(*arguments: str) -> list[str]:
    """The command as an installed script runs it."""
    return [sys.executable, "-c", "from cbir.cli import main; main()", *arguments]


def cbir(workspace: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user would."""
    environment = os.environ | {"PYTHONPATH": str(workspace)} | variables
    return subprocess.run(command(*arguments), cwd=workspace, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of ``TINY``, a small architecture that open_clip then knows."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("tiny")
    (folder / f"{TINY}.json").write_text(json.dumps(TINY_CONFIG))
    open_clip.add_model_config(folder / f"{TINY}.json")
    torch.manual_seed(0)
    save_file(open_clip.create_model(TINY).state_dict(), folder / "tiny.safetensors")
    return folder / "tiny.safetensors"


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    """A folder of 48 pictures with a metadata.jsonl."""
    return draw_catalogue(tmp_path / "catalogue")


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace as a clone has it."""
    return make_workspace(tmp_path / "workspace")


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a Prefect server of its own, started as a user would, in the foreground."""
    home = tmp_path_factory.mktemp("prefect")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    environment.pop("PREFECT_API_URL", None)
    start = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port]
    log = home / "server.log"
    with log.open("w") as out:
        server = subprocess.Popen(start, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    url = f"http://127.0.0.1:{port}/api"
    try:
        wait_for_server(url, log)
        yield url
    finally:
        server.terminate()
        server.wait(timeout=30)


def wait_for_server(url: str, log: Path) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
        except OSError:
            time.sleep(0.5)
        else:
            return
    pytest.fail(f"the Prefect server did not start:\n{log.read_text()}")


@pytest.fixture(scope="session")
def released(tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> Path:
    """A workspace with release 1 live. Not to be changed: take ``live``."""
    folder = tmp_path_factory.mktemp("released")
    workspace = make_workspace(folder / "workspace")
    pictures = draw_catalogue(folder / "catalogue")
    cbir(workspace, "data", "import", str(pictures), "--name", "squares")
    done = cbir(workspace, "retrain", PREFECT_API_URL=prefect_server)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["outcome"] == "promoted"
    return workspace


@pytest.fixture
def live(released: Path, tmp_path: Path) -> Path:
    """A workspace of its own with release 1 live."""
    return copy_workspace(released, tmp_path / "live")


def copy_workspace(workspace: Path, to: Path) -> Path:
    """A copy of its own; large files, which nothing changes in place, are links: an encoder takes 150 MB."""
    return shutil.copytree(workspace, to, copy_function=_link_or_copy)


def _link_or_copy(source: str, to: str) -> None:
    if os.stat(source).st_size > 2**21 and not source.endswith(".db"):
        os.link(source, to)
    else:
        shutil.copy2(source, to)
