"""A folder of ONNX Runtime GenAI with a decoder of random weights, made in a moment: 2 layers, tokens are bytes.

The same operators and names as the model builder's graphs for the processor: GroupQueryAttention over a shared buffer,
with its rotary embedding inside, between simplified layer norms. What it says means nothing, and is always the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LAYERS, HEADS, KV_HEADS, HEAD_DIM, CONTEXT = 2, 4, 2, 16, 512
HIDDEN, INNER = HEADS * HEAD_DIM, 96
START, END = 256, 257
VOCABULARY = 258
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write(
    folder: Path, *, seed: int = 7, attention: str = "GroupQueryAttention", short_until: int | None = None
) -> Path:
    """The folder, made. `attention`: another operator's name, for a graph that cannot be run.

    short_until: as in models with two rotary caches, the length behind which the other one is taken.
    """
    folder.mkdir(parents=True)
    onnx.save(_graph(np.random.default_rng(seed), attention, short_until), folder / "model.onnx")
    (folder / "genai_config.json").write_text(json.dumps(_config()))
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer()))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>", "bos_token": None}))
    (folder / "chat_template.jinja").write_text(CHATML)
    return folder


def _config() -> dict[str, Any]:
    decoder = {
        "filename": "model.onnx", "head_size": HEAD_DIM, "hidden_size": HIDDEN, "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS, "num_key_value_heads": KV_HEADS,
        "inputs": {
            "input_ids": "input_ids", "attention_mask": "attention_mask",
            "past_key_names": "past_key_values.%d.key", "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits", "present_key_names": "present.%d.key", "present_value_names": "present.%d.value",
        },
    }  # fmt: skip
    return {
        "model": {
            "type": "llama", "context_length": CONTEXT, "vocab_size": VOCABULARY, "eos_token_id": END,
            "pad_token_id": END, "decoder": decoder,
        },
        "search": {"past_present_share_buffer": True},
    }  # fmt: skip


def _byte_letters() -> dict[int, str]:
    """The letter that stands for each byte in byte-level vocabularies."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + place) for place, byte in enumerate(others)}


def _tokenizer() -> dict[str, Any]:
    letters = _byte_letters()
    marks = [{"id": START, "content": "<|im_start|>"}, {"id": END, "content": "<|im_end|>"}]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [mark | flags for mark in marks],
        "normalizer": None, "pre_tokenizer": level, "post_processor": None, "decoder": level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {letters[byte]: byte for byte in range(256)}, "merges": [],
        },
    }  # fmt: skip


class _Maker:
    def __init__(self, random: np.random.Generator) -> None:
        self.random = random
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, *shape: int, scale: float | None = None) -> str:
        scale = shape[0] ** -0.5 if scale is None else scale
        return self.constant(name, (self.random.standard_normal(shape) * scale).astype(np.float32))

    def constant(self, name: str, value: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def add(self, kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> str:
        domain = "com.microsoft" if kind.startswith("Skip") or kind.endswith("Attention") else ""
        self.nodes.append(helper.make_node(kind, inputs, outputs, name=outputs[0], domain=domain, **attributes))
        return outputs[0]

    def product(self, given: str, name: str, rows: int, columns: int) -> str:
        return self.add("MatMul", [given, self.weight(f"{name}.weight", rows, columns)], [name])


def _graph(random: np.random.Generator, attention: str, short_until: int | None) -> onnx.ModelProto:
    make = _Maker(random)
    _lengths(make)
    make.weight("embeddings", VOCABULARY, HIDDEN, scale=1.0)
    stream = make.add("Gather", ["embeddings", "input_ids"], ["embedded"])
    make.constant("ones", np.ones(HIDDEN, np.float32))
    _rotary(make, short_until)
    for layer in range(LAYERS):
        stream = _layer(make, layer, stream, attention)
    last = _norm(make, stream, "final")
    make.product(last, "logits", HIDDEN, VOCABULARY)
    return _model(make)


def _lengths(make: _Maker) -> None:
    """From the mask: each row's last place, and the longest row."""
    make.constant("one", np.array([1], np.int64))
    make.constant("second", np.array(1, np.int64))
    summed = make.add("ReduceSum", ["attention_mask", "one"], ["mask_sums"], keepdims=0)
    make.add("Cast", [make.add("Sub", [summed, "one"], ["last"])], ["lengths"], to=TensorProto.INT32)
    shape = make.add("Shape", ["attention_mask"], ["mask_shape"])
    longest = make.add("Gather", [shape, "second"], ["longest"], axis=0)
    make.add("Cast", [longest], ["total"], to=TensorProto.INT32)


def _rotary(make: _Maker, short_until: int | None) -> None:
    angles = np.arange(CONTEXT)[:, None] / 10_000 ** (np.arange(HEAD_DIM // 2) / (HEAD_DIM // 2))
    caches = {"cos_cache": np.cos(angles).astype(np.float32), "sin_cache": np.sin(angles).astype(np.float32)}
    if short_until is None:
        for name, cache in caches.items():
            make.constant(name, cache)
        return

    def branch(sign: int) -> onnx.GraphProto:
        nodes = [
            helper.make_node("Constant", [], [f"{name}{sign}"], value=numpy_helper.from_array(sign * cache))
            for name, cache in caches.items()
        ]
        outputs = [helper.make_tensor_value_info(f"{name}{sign}", 1, cache.shape) for name, cache in caches.items()]
        return helper.make_graph(nodes, f"caches{sign}", [], outputs)

    make.constant("short_until", np.array(short_until, np.int64))
    longer = make.add("Greater", ["longest", "short_until"], ["longer"])
    make.add("If", [longer], list(caches), then_branch=branch(-1), else_branch=branch(1))


def _norm(make: _Maker, given: str, name: str) -> str:
    return make.add("SimplifiedLayerNormalization", [given, "ones"], [f"{name}.norm"], axis=-1, epsilon=1e-5)


def _layer(make: _Maker, layer: int, stream: str, attention: str) -> str:
    name = f"layer{layer}"
    mixed = make.product(_norm(make, stream, f"{name}.in"), f"{name}.qkv", HIDDEN, (HEADS + 2 * KV_HEADS) * HEAD_DIM)
    past = [f"past_key_values.{layer}.{kind}" for kind in ("key", "value")]
    present = [f"present.{layer}.{kind}" for kind in ("key", "value")]
    attended = make.add(
        attention, [mixed, "", "", *past, "lengths", "total", "cos_cache", "sin_cache"], [f"{name}.mix", *present],
        num_heads=HEADS, kv_num_heads=KV_HEADS, do_rotary=1, scale=HEAD_DIM**-0.5,
    )  # fmt: skip
    stream = make.add("Add", [stream, make.product(attended, f"{name}.out", HIDDEN, HIDDEN)], [f"{name}.attended"])
    inner = make.product(_norm(make, stream, f"{name}.mlp"), f"{name}.up", HIDDEN, INNER)
    active = make.add("Mul", [inner, make.add("Sigmoid", [inner], [f"{name}.gate"])], [f"{name}.active"])
    return make.add("Add", [stream, make.product(active, f"{name}.down", INNER, HIDDEN)], [f"{name}.result"])


def _model(make: _Maker) -> onnx.ModelProto:
    whole = TensorProto.INT64
    cache: list[int | str] = ["batch_size", KV_HEADS, "past_sequence_length", HEAD_DIM]
    inputs = [
        helper.make_tensor_value_info("input_ids", whole, ["batch_size", "sequence_length"]),
        helper.make_tensor_value_info("attention_mask", whole, ["batch_size", "total_sequence_length"]),
    ]
    outputs = [helper.make_tensor_value_info("logits", 1, ["batch_size", "sequence_length", VOCABULARY])]
    for layer in range(LAYERS):
        for kind in ("key", "value"):
            inputs.append(helper.make_tensor_value_info(f"past_key_values.{layer}.{kind}", 1, cache))
            outputs.append(helper.make_tensor_value_info(f"present.{layer}.{kind}", 1, cache))
    graph = helper.make_graph(make.nodes, "tiny", inputs, outputs, make.weights)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)
