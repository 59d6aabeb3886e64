"""A small encoder with random weights as an OpenVINO folder, and the same in numpy: embeddings without a download.

One layer of attention over token, kind and position. `states` is the reference: one text alone, in float64.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from openvino import Type
from openvino import opset13 as ops

from localfoundry.workers import openvino_ir
from workers import tiny_model

WIDTH, PLACES = 32, 64
_random = np.random.default_rng(11)
_ROWS = {"tokens": tiny_model.TOKENS, "places": PLACES, "kinds": 2, "q": WIDTH, "k": WIDTH, "v": WIDTH}
_WEIGHTS = {name: _random.standard_normal((rows, WIDTH)) for name, rows in _ROWS.items()}
_SCALE = WIDTH**-1.5


def write(folder: Path, *, pooling: str | None = "mean", **config: object) -> Path:
    """The folder, as optimum and sentence-transformers lay one out. `pooling` None: nothing says how."""
    folder.mkdir()
    openvino_ir.graph_of(tiny_model.write(folder / "tiny.gguf"), folder)  # for its tokenizer
    for name in ("tiny.gguf", "openvino_detokenizer.xml", "openvino_detokenizer.bin"):
        (folder / name).unlink()
    openvino.save_model(graph(), folder / "openvino_model.xml", compress_to_fp16=False)
    said = {"model_type": "bert", "max_position_embeddings": PLACES, "vocab_size": tiny_model.TOKENS, **config}
    (folder / "config.json").write_text(json.dumps(said))
    if pooling is not None:
        key = {"mean": "mean_tokens", "cls": "cls_token", "last": "lasttoken"}[pooling]
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{key}": True}))
    return folder


def graph() -> openvino.Model:
    ids, mask, kinds, places = (ops.parameter([-1, -1], Type.i64, name=name) for name in
                                ("input_ids", "attention_mask", "token_type_ids", "position_ids"))  # fmt: skip
    for one in (ids, mask, kinds, places):
        one.output(0).set_names({one.get_friendly_name()})

    def weights(name: str) -> Any:
        return ops.constant(_WEIGHTS[name].astype(np.float32))

    stream = ops.add(_rows(weights("kinds"), kinds), _rows(weights("places"), places))
    stream = ops.add(_rows(weights("tokens"), ids), stream)
    q, k, v = (ops.matmul(stream, weights(name), False, True) for name in "qkv")
    scores = ops.multiply(ops.matmul(q, k, False, True), ops.constant(np.float32(_SCALE)))
    left_out = ops.subtract(ops.constant(np.float32(1)), ops.convert(mask, Type.f32))
    away = ops.unsqueeze(ops.multiply(left_out, ops.constant(np.float32(-1e9))), ops.constant(np.int64(1)))
    states = ops.add(stream, ops.matmul(ops.softmax(ops.add(scores, away), 2), v, False, False))
    states.output(0).set_names({"last_hidden_state"})
    return openvino.Model([ops.result(states)], [ids, mask, kinds, places], "encoder")


def _rows(matrix: Any, places: Any) -> Any:
    return ops.gather(matrix, places, ops.constant(np.int64(0)))


def states(tokens: list[int]) -> Any:
    """The last hidden state of every token."""
    w = _WEIGHTS
    stream = w["tokens"][tokens] + w["kinds"][0] + w["places"][: len(tokens)]
    q, k, v = (stream @ w[name].T for name in "qkv")
    scores = np.exp(q @ k.T * _SCALE - (q @ k.T * _SCALE).max(1, keepdims=True))
    return stream + scores / scores.sum(1, keepdims=True) @ v
