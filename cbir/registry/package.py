"""How an encoder folder becomes an MLflow model that runs without cbir-ops being installed."""

from __future__ import annotations

import base64
import io
import logging
import shutil
from importlib.metadata import version
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema, TensorSpec
from mlflow.types.schema import AnyType
from PIL import Image

from cbir.records import read_json

CODE = Path(__file__).with_name("release_model.py")
LIBRARY = Path(__file__).parent.parent
ENCODER = "artifacts/encoder"  # in the model's folder
REQUIRED = ("mlflow", "numpy", "onnxruntime", "pandas", "pillow", "pyarrow", "tokenizers")


def package_encoder(encoder: Path, folder: Path) -> None:
    """Write ``folder``, an MLflow model: the encoder's files as they are, the code that runs them, and what that needs.

    Nothing is loaded and nothing is pickled.
    """
    assert encoder.name == Path(ENCODER).name, "MLflow keeps the folder's name"
    library = folder.parent / "library" / "cbir"
    shutil.copytree(LIBRARY, library, ignore=shutil.ignore_patterns("__pycache__"))
    logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)
    mlflow.pyfunc.save_model(
        path=str(folder),
        python_model=str(CODE),
        artifacts={"encoder": str(encoder)},
        signature=_describe(encoder),
        input_example=_make_example(),
        pip_requirements=[f"{name}=={version(name).split('+')[0]}" for name in REQUIRED],
        code_paths=[str(library)],
    )


def _describe(encoder: Path) -> ModelSignature:
    """``image`` is of any type: MLflow's own for bytes takes no null from JSON."""
    dimensions = read_json(encoder / "encoder.json").get("dimensions", -1)
    anything = AnyType()  # type: ignore[no-untyped-call]
    inputs = Schema([ColSpec(anything, "image", required=False), ColSpec("string", "text", required=False)])
    return ModelSignature(inputs, Schema([TensorSpec(np.dtype("float32"), (-1, dimensions))]))


def _make_example() -> pd.DataFrame:
    """A small red picture, as base64, and words."""
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (220, 30, 30)).save(buffer, "PNG")
    picture = base64.b64encode(buffer.getvalue()).decode()
    return pd.DataFrame({"image": [picture], "text": ["a red square"]})
