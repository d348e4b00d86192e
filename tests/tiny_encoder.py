"""An encoder of a few kilobytes, made by hand: colours of a picture and words of a text, without any training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

from cbir.encoder import CONFIG, FUSION_ONNX
from cbir.images import PLAIN, Canvas
from cbir.records import write_json
from cbir.towers.run import TEXT_ONNX, TOKENIZER, VISUAL_ONNX
from cbir.towers.shape import GRID_CELLS, TextShape, TowerShapes, VisualShape

SIDE = 16
WORDS = ("red", "green", "blue", "yellow", "square", "a", "test", "query")
WIDTH = 3  # of what is seen: the mean of each channel
DIMENSIONS = WIDTH + len(WORDS) + 1


def write_encoder(folder: Path, *, name: str, canvas: Canvas = PLAIN) -> Path:
    """Two of different names have different fingerprints."""
    folder.mkdir(parents=True, exist_ok=True)
    TowerShapes(
        visual=VisualShape(
            image_size=SIDE, mean=(0.5,) * 3, deviation=(0.5,) * 3, width=WIDTH, blocks=((WIDTH, 1.0), (0, 1.0))
        ),
        text=TextShape(width=len(WORDS) + 1, blocks=((len(WORDS) + 1, 1.0),), max_tokens=16),
    ).save(folder)
    config = {"similarity": "cosine", "dimensions": DIMENSIONS, "words": len(WORDS), "name": name}
    write_json(folder / CONFIG, config | {"image_size": canvas.size, "background": canvas.background})
    vocabulary = {"[UNK]": 0} | {word: n for n, word in enumerate(WORDS, start=1)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / TOKENIZER))
    _write_visual(folder / VISUAL_ONNX)
    _write_text(folder / TEXT_ONNX)
    _write_fusion(folder / FUSION_ONNX)
    return folder


def _write_visual(path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["pixels"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "one"], ["cell"]),
        helper.make_node("Tile", ["cell", "cells"], ["tokens"]),
        helper.make_node("Identity", ["mean"], ["summary"]),
    ]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["B", 3, SIDE, SIDE])
    _save(
        path,
        nodes,
        inputs=[pixels],
        outputs={"tokens": ["B", GRID_CELLS, WIDTH], "summary": ["B", WIDTH]},
        constants={"one": np.array([1]), "cells": np.array([1, GRID_CELLS, 1])},
    )


def _write_text(path: Path) -> None:
    width = len(WORDS) + 1
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["known"]),
        helper.make_node("Cast", ["mask"], ["weight"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["weight", "last"], ["weights"]),
        helper.make_node("Mul", ["known", "weights"], ["tokens"]),
        helper.make_node("ReduceMean", ["tokens"], ["summary"], axes=[1], keepdims=0),
    ]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["B", "T"]) for name in ("ids", "mask")]
    _save(
        path,
        nodes,
        inputs=inputs,
        outputs={"tokens": ["B", "T", width], "summary": ["B", width]},
        constants={"table": np.eye(width, dtype=np.float32), "last": np.array([2])},
    )


def _write_fusion(path: Path) -> None:
    """What is seen beside what is read, of unit length; inputs that it has no use for count nothing."""
    shapes = {
        "image": ["B", WIDTH],
        "text": ["B", len(WORDS) + 1],
        "grid": ["B", GRID_CELLS, WIDTH],
        "tokens": ["B", "T", len(WORDS) + 1],
    }
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    inputs += [helper.make_tensor_value_info("mask", TensorProto.BOOL, ["B", "T"])]
    inputs += [helper.make_tensor_value_info(name, TensorProto.BOOL, ["B"]) for name in ("has_image", "has_text")]
    nodes = [
        helper.make_node("Concat", ["image", "text"], ["both"], axis=1),
        helper.make_node("LpNormalization", ["both"], ["vector"], axis=1, p=2),
    ]
    _save(path, nodes, inputs=inputs, outputs={"vector": ["B", DIMENSIONS]}, constants={})


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    *,
    inputs: list[onnx.ValueInfoProto],
    outputs: dict[str, list[int | str]],
    constants: dict[str, np.ndarray],
) -> None:
    graph = helper.make_graph(
        nodes,
        "tiny",
        inputs,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        initializer=[numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
