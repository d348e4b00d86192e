"""What a release answers as an MLflow model: a picture, words, or both a row -> unit vectors.

MLflow copies this file into the model and runs it there (models from code, so that nothing is unpickled); the weights
stay safetensors and ONNX beside it. It must import nothing but the encoder and what that needs.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from PIL import Image

from cbir.encoder import Encoder
from cbir.errors import ImageError, QueryError
from cbir.images import Canvas, fit_image


class ReleaseModel(PythonModel):
    """The encoder of one release."""

    def load_context(self, context: PythonModelContext) -> None:
        """Open the encoder."""
        self._encoder = Encoder.load(Path(context.artifacts["encoder"]))

    def predict(self, context: PythonModelContext, model_input: pd.DataFrame, params: Any = None) -> np.ndarray:
        """One unit vector a row, float32 (N, D), of the columns ``image`` and ``text``.

        ``image`` is the bytes of a picture, or these in base64; either column may be left out or null.

        Raises:
            QueryError: a row has neither.
            ImageError: a picture cannot be read.
        """
        canvas = self._encoder.canvas
        images = [_read_image(value, canvas, row=n) for n, value in enumerate(_take(model_input, "image"))]
        texts = [_read_text(value) for value in _take(model_input, "text")]
        for n, (image, text) in enumerate(zip(images, texts, strict=True)):
            if image is None and text is None:
                raise QueryError(f"Row {n} has neither a picture nor words; give `image`, `text`, or both.")
        return self._encoder.encode(images, texts)


def _take(frame: pd.DataFrame, column: str) -> list[Any]:
    return list(frame[column]) if column in frame else [None] * len(frame)


def _read_text(value: Any) -> str | None:
    """Nulls come as None or as NaN."""
    return (value.strip() or None) if isinstance(value, str) else None


def _read_image(value: Any, canvas: Canvas, *, row: int) -> Image.Image | None:
    if not isinstance(value, bytes | str) or not value:
        return None
    try:
        data = base64.b64decode(value, validate=False) if isinstance(value, str) else value
        return fit_image(data, canvas)
    except (ImageError, binascii.Error) as error:
        raise ImageError(f"Row {row}: {error}; give the bytes of a picture, or these in base64.") from None


mlflow.models.set_model(ReleaseModel())
