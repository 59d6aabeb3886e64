"""The starter model as a folder of ONNX Runtime GenAI in 8 bits, made from its GGUF file: numpy and `onnx`, no torch.

The same operators as the model builder's graphs for the processor, with the same weights as every other engine here
reads: its Q4_1 blocks become Q8_0 as for OpenVINO, and Q8_0 is what MatMulNBits takes (integers and a step for 32).
Two things differ from the builder's: the embeddings share the head's integers, which halves the file, and the
rotary embedding turns neighbouring values, as llama.cpp's order of rows wants it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from localfoundry.build import blocks, q8_0

_CONTROL = 3  # the type of tokens that are marks, in GGUF


def write(source: Path, folder: Path) -> Path:
    """The folder, made from a llama model in GGUF whose tensors are Q4_1, Q8_0 and F32."""
    reader = gguf.GGUFReader(source)
    folder.mkdir(parents=True)
    model = _Graph(reader).model()
    onnx.save_model(model, folder / "model.onnx", save_as_external_data=True, location="model.onnx.data")
    (folder / "genai_config.json").write_text(json.dumps(_config(reader)))
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer(reader)))
    tokens = _value(reader, "tokenizer.ggml.tokens")
    marks = {f"{name}_token": tokens[_value(reader, f"tokenizer.ggml.{name}_token_id")] for name in ("bos", "eos")}
    (folder / "tokenizer_config.json").write_text(json.dumps(marks))
    (folder / "chat_template.jinja").write_text(_value(reader, "tokenizer.chat_template"))
    return folder


def _value(reader: gguf.GGUFReader, key: str) -> Any:
    return reader.fields[key].contents()


def _config(reader: gguf.GGUFReader) -> dict[str, Any]:
    heads = _value(reader, "llama.attention.head_count")
    hidden = _value(reader, "llama.embedding_length")
    decoder = {
        "filename": "model.onnx", "hidden_size": hidden, "head_size": hidden // heads, "num_attention_heads": heads,
        "num_hidden_layers": _value(reader, "llama.block_count"),
        "num_key_value_heads": _value(reader, "llama.attention.head_count_kv"),
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
            "type": "llama", "context_length": _value(reader, "llama.context_length"),
            "vocab_size": _value(reader, "llama.vocab_size"), "decoder": decoder,
            "bos_token_id": _value(reader, "tokenizer.ggml.bos_token_id"),
            "eos_token_id": _value(reader, "tokenizer.ggml.eos_token_id"),
            "pad_token_id": _value(reader, "tokenizer.ggml.padding_token_id"),
        },
        "search": {"past_present_share_buffer": True},
    }  # fmt: skip


def _tokenizer(reader: gguf.GGUFReader) -> dict[str, Any]:
    tokens, kinds = (_value(reader, f"tokenizer.ggml.{name}") for name in ("tokens", "token_type"))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    marks = [
        {"id": number, "content": token, **flags}
        for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind == _CONTROL
    ]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    merges = [merge.split(" ", 1) for merge in _value(reader, "tokenizer.ggml.merges")]
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": marks, "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, level]}, "post_processor": None,
        "decoder": level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {token: number for number, token in enumerate(tokens)}, "merges": merges,
        },
    }  # fmt: skip


class _Graph:
    def __init__(self, reader: gguf.GGUFReader) -> None:
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._epsilon = _value(reader, "llama.attention.layer_norm_rms_epsilon")
        self._layers = _value(reader, "llama.block_count")
        self._heads = _value(reader, "llama.attention.head_count")
        self._kv_heads = _value(reader, "llama.attention.head_count_kv")
        self._hidden = _value(reader, "llama.embedding_length")
        self._dim = self._hidden // self._heads
        self._vocabulary = _value(reader, "llama.vocab_size")
        self._context = _value(reader, "llama.context_length")
        self._base = _value(reader, "llama.rope.freq_base")

    def model(self) -> onnx.ModelProto:
        self._lengths()
        self._rotary()
        head = self._quantized("head", "token_embd")
        stream = self._embedded(head)
        mixed = self._norm([stream], "blk.0.attn_norm")
        for layer in range(self._layers):
            following = f"blk.{layer + 1}.attn_norm" if layer + 1 < self._layers else "output_norm"
            stream, mixed = self._layer(layer, stream, mixed, following)
        self._product(mixed, head, "logits", self._hidden, self._vocabulary)
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(self._bounded(), opset_imports=opsets, ir_version=10)

    def _add(self, kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> str:
        ours = kind in ("MatMulNBits", "SkipSimplifiedLayerNormalization", "GroupQueryAttention")
        domain = "com.microsoft" if ours else ""
        self._nodes.append(helper.make_node(kind, inputs, outputs, name=outputs[0], domain=domain, **attributes))
        return outputs[0]

    def _constant(self, name: str, value: np.ndarray) -> str:
        self._weights.append(numpy_helper.from_array(value, name))
        return name

    def _quantized(self, name: str, *sources: str) -> str:
        """Matrices of the file, one below the other, as integers around 128 and their steps."""
        packed = []
        for source in sources:
            tensor = self._tensors[f"{source}.weight"]
            raw = np.ascontiguousarray(tensor.data).reshape(-1, gguf.GGML_QUANT_SIZES[tensor.tensor_type][1])
            kind = tensor.tensor_type.name
            packed.append(raw if kind == "Q8_0" else q8_0.encode(blocks.take_apart(kind, raw)))
        rows = sum(int(self._tensors[f"{source}.weight"].shape[1]) for source in sources)
        whole = np.concatenate(packed).reshape(rows, -1, q8_0.BLOCK_BYTES)
        steps = np.ascontiguousarray(whole[:, :, :2]).view(np.float16).astype(np.float32)
        self._constant(f"{name}.q", whole[:, :, 2:] ^ 128)  # -128..127 as 0..255
        self._constant(f"{name}.steps", steps.reshape(rows, -1))
        return name

    def _product(self, given: str, weight: str, name: str, inner: int, outer: int) -> str:
        return self._add(
            "MatMulNBits", [given, f"{weight}.q", f"{weight}.steps"], [name],
            K=inner, N=outer, bits=8, block_size=32, accuracy_level=4,
        )  # fmt: skip

    def _embedded(self, head: str) -> str:
        self._constant("middle", np.array(128, np.float32))
        self._constant("last_axis", np.array([-1], np.int64))
        self._constant("hidden_shape", np.array([0, 0, self._hidden], np.int64))
        integers = self._add("Gather", [f"{head}.q", "input_ids"], ["embedded.q"])
        steps = self._add("Gather", [f"{head}.steps", "input_ids"], ["embedded.steps"])
        signed = self._add("Sub", [self._add("Cast", [integers], ["embedded.cast"], to=1), "middle"], ["embedded.s"])
        wide = self._add("Unsqueeze", [steps, "last_axis"], ["embedded.wide"])
        return self._add("Reshape", [self._add("Mul", [signed, wide], ["embedded.v"]), "hidden_shape"], ["embedded"])

    def _norm(self, given: list[str], name: str) -> str:
        """Of one value, or of the sum of two; the sum is `name.sum`."""
        tensor = self._tensors[f"{name}.weight"]
        self._constant(f"{name}.weight", np.array(tensor.data, np.float32))
        if len(given) == 1:
            return self._add(
                "SimplifiedLayerNormalization", [*given, f"{name}.weight"], [name], axis=-1, epsilon=self._epsilon
            )
        outputs = [name, "", "", f"{name}.sum"]
        return self._add("SkipSimplifiedLayerNormalization", [*given, f"{name}.weight"], outputs, epsilon=self._epsilon)

    def _layer(self, layer: int, stream: str, mixed: str, following: str) -> tuple[str, str]:
        name, inner = f"blk.{layer}", int(self._tensors["blk.0.ffn_up.weight"].shape[1])
        qkv = self._quantized(f"{name}.qkv", *(f"{name}.attn_{part}" for part in "qkv"))
        width = (self._heads + 2 * self._kv_heads) * self._dim
        given = self._product(mixed, qkv, f"{name}.mixed", self._hidden, width)
        past = [f"past_key_values.{layer}.{kind}" for kind in ("key", "value")]
        present = [f"present.{layer}.{kind}" for kind in ("key", "value")]
        attended = self._add(
            "GroupQueryAttention", [given, "", "", *past, "lengths", "total", "cos_cache", "sin_cache"],
            [f"{name}.attended", *present], num_heads=self._heads, kv_num_heads=self._kv_heads, do_rotary=1,
            rotary_interleaved=1, scale=self._dim**-0.5,
        )  # fmt: skip
        out = self._quantized(f"{name}.out", f"{name}.attn_output")
        result = self._product(attended, out, f"{name}.result", self._hidden, self._hidden)
        norm = self._norm([stream, result], f"{name}.ffn_norm")
        gate, up, down = (self._quantized(f"{name}.{part}", f"{name}.ffn_{part}") for part in ("gate", "up", "down"))
        gated = self._product(norm, gate, f"{name}.gated", self._hidden, inner)
        active = self._add("Mul", [gated, self._add("Sigmoid", [gated], [f"{name}.open"])], [f"{name}.active"])
        raised = self._add("Mul", [active, self._product(norm, up, f"{name}.up.v", self._hidden, inner)], [f"{name}.m"])
        fallen = self._product(raised, down, f"{name}.fallen", inner, self._hidden)
        return f"{following}.sum", self._norm([f"{norm}.sum", fallen], following)

    def _lengths(self) -> None:
        """From the mask: each row's last place, and the longest row."""
        self._constant("one", np.array([1], np.int64))
        self._constant("second", np.array(1, np.int64))
        summed = self._add("ReduceSum", ["attention_mask", "one"], ["mask_sums"], keepdims=0)
        self._add("Cast", [self._add("Sub", [summed, "one"], ["last"])], ["lengths"], to=TensorProto.INT32)
        shape = self._add("Shape", ["attention_mask"], ["mask_shape"])
        longest = self._add("Gather", [shape, "second"], ["longest"], axis=0)
        self._add("Cast", [longest], ["total"], to=TensorProto.INT32)

    def _rotary(self) -> None:
        half = self._dim // 2
        angles = np.arange(self._context)[:, None] / self._base ** (np.arange(half) / half)
        self._constant("cos_cache", np.cos(angles).astype(np.float32))
        self._constant("sin_cache", np.sin(angles).astype(np.float32))

    def _bounded(self) -> onnx.GraphProto:
        whole, number = TensorProto.INT64, TensorProto.FLOAT
        cache: list[int | str] = ["batch_size", self._kv_heads, "past_sequence_length", self._dim]
        inputs = [
            helper.make_tensor_value_info("input_ids", whole, ["batch_size", "sequence_length"]),
            helper.make_tensor_value_info("attention_mask", whole, ["batch_size", "total_sequence_length"]),
        ]
        shape: list[int | str] = ["batch_size", "sequence_length", self._vocabulary]
        outputs = [helper.make_tensor_value_info("logits", number, shape)]
        for layer in range(self._layers):
            for kind in ("key", "value"):
                inputs.append(helper.make_tensor_value_info(f"past_key_values.{layer}.{kind}", number, cache))
                outputs.append(helper.make_tensor_value_info(f"present.{layer}.{kind}", number, cache))
        return helper.make_graph(self._nodes, "starter", inputs, outputs, self._weights)
