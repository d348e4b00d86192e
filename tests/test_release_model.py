"""A release is an MLflow model that answers without cbir-ops' tools, in Python and over HTTP."""

from __future__ import annotations

import ast
import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.metadata import packages_distributions
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import COLOURS, ROOT, draw
from PIL import Image
from test_architecture import close_imports, own_imports
from tiny_encoder import write_encoder

from cbir.encoder import Encoder
from cbir.images import Canvas, encode_png
from cbir.registry.package import REQUIRED

BLOCKED = ("dvc", "prefect", "great_expectations", "lancedb", "lance", "typer", "torch", "open_clip", "timm", "flows")
PREDICT = f"""
import base64, json, sys
from importlib.abc import MetaPathFinder
class Block(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Block())
import mlflow, pandas
model = mlflow.pyfunc.load_model("models:/cbir@champion")
png = open(sys.argv[1], "rb").read()
text = base64.b64encode(png).decode()
frame = pandas.DataFrame({{"image": [png, text, None, png], "text": [None, None, "a red square", "a red square"]}})
vectors = model.predict(frame)
faults = []
for bad in ({{"image": [None], "text": [""]}}, {{"image": [b"no"], "text": [None]}}):
    try:
        model.predict(pandas.DataFrame(bad))
    except Exception as error:
        faults.append(str(error))
import cbir
print(json.dumps([vectors.tolist(), str(vectors.dtype), faults, cbir.__file__]))
"""


def run_elsewhere(workspace: Path) -> dict[str, str]:
    """An environment in which only the registry is known, not the workspace's code."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return environment | {
        "MLFLOW_TRACKING_URI": f"sqlite:///{workspace / 'mlflow.db'}",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }


@pytest.mark.slow
def test_the_champion_gives_unit_vectors_where_the_tools_are_not_installed(released: Path, tmp_path: Path) -> None:
    picture = tmp_path / "red.png"
    picture.write_bytes(encode_png(draw(COLOURS["red"], seed=99)))
    done = subprocess.run(
        [sys.executable, "-c", PREDICT, str(picture)],
        cwd=tmp_path,
        env=run_elsewhere(released),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows, dtype, faults, library = json.loads(done.stdout.splitlines()[-1])
    vectors = np.array(rows)
    assert (vectors.shape, dtype) == ((4, 512), "float32")
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert vectors[0] @ vectors[3] < 0.999
    assert ["Row 0 has neither" in faults[0], "Row 0: the file is not an image" in faults[1]] == [True, True]
    assert str(released) in library, "the code that runs is the model's own"


@pytest.mark.slow
def test_the_champion_is_served_over_http(released: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    serve = ["models", "serve", "-m", "models:/cbir@champion", "--env-manager", "local", "--host", "127.0.0.1"]
    log = (tmp_path / "serve.log").open("w+")
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", *serve, "--port", port],
        cwd=tmp_path,
        env=run_elsewhere(released) | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        answer = ask(port, log=Path(log.name))
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)
    vectors = np.array(answer["predictions"])
    assert vectors.shape == (2, 512)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


def ask(port: str, *, log: Path) -> dict[str, list[list[float]]]:
    picture = base64.b64encode(encode_png(draw(COLOURS["red"], seed=99))).decode()
    rows = [[picture, None], [None, "a red square"]]
    body = json.dumps({"dataframe_split": {"columns": ["image", "text"], "data": rows}}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", data=body, headers={"Content-Type": "application/json"}
    )
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            pytest.fail(error.read().decode())
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"the server did not start:\n{log.read_text()}")


def test_the_model_fits_pictures_as_the_items_were(tmp_path: Path) -> None:
    from cbir.registry.release_model import ReleaseModel

    model = ReleaseModel()
    model._encoder = Encoder.load(write_encoder(tmp_path, name="a", canvas=Canvas(size=40, background="black")))
    wide = Image.new("RGB", (80, 40), (220, 30, 30))
    fitted = Image.new("RGB", (40, 40), "black")
    fitted.paste((220, 30, 30), (0, 10, 40, 30))
    vector = model.predict(None, pd.DataFrame({"image": [encode_png(wide)]}))
    np.testing.assert_allclose(vector, model._encoder.encode([fitted], [None]), atol=1e-3)


def test_what_the_model_imports_is_among_its_requirements() -> None:
    """Imports inside functions are those of training, which a model does not do."""
    code = ROOT / "cbir" / "registry" / "release_model.py"
    files = {code}
    for name in ("encoder", "images", "errors"):
        files |= close_imports(ROOT / "cbir" / f"{name}.py", root=ROOT)
    assert own_imports(code) == {"encoder", "images", "errors"}
    names = {name for file in files for name in top_imports(file)} - {"cbir", *sys.stdlib_module_names}
    packages = packages_distributions()
    assert {"onnxruntime", "mlflow"} <= names
    assert {name for name in names if not set(packages[name]) & set(REQUIRED)} == set()


def test_a_query_does_not_import_what_only_a_registration_needs() -> None:
    code = "import sys, cbir.search; print([name for name in sys.modules if name.startswith('mlflow.pyfunc')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def top_imports(file: Path) -> set[str]:
    names = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names
