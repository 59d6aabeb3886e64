"""Writes small GGUF files, whole or wrong in one place, for tests."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
_FORMS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", I64: "q", F64: "d"}


class Typed:
    """A value with its GGUF type spelled out; `Typed(ARRAY, (U32, [1, 2]))` for an array."""

    def __init__(self, kind: int, value: Any) -> None:
        self.kind = kind
        self.value = value


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def _guess(value: Any) -> Typed:
    if isinstance(value, Typed):
        return value
    if isinstance(value, bool):
        return Typed(BOOL, value)
    if isinstance(value, int):
        return Typed(U32, value)
    if isinstance(value, float):
        return Typed(F32, value)
    if isinstance(value, str | bytes):
        return Typed(STRING, value)
    return Typed(ARRAY, (_guess(value[0]).kind, value))


def _encode(typed: Typed) -> bytes:
    if typed.kind == STRING:
        return string(typed.value)
    if typed.kind == ARRAY:
        kind, items = typed.value
        body = b"".join(_encode(Typed(kind, item)) for item in items)
        return struct.pack("<IQ", kind, len(items)) + body
    return struct.pack("<" + _FORMS[typed.kind], typed.value)


def gguf(
    metadata: Mapping[str, Any] | Sequence[tuple[str | bytes, Any]],
    tensors: Sequence[tuple[str, tuple[int, ...], int, int]] = (),
    *,
    version: int = 3,
    key_count: int | None = None,
    tensor_count: int | None = None,
    alignment: int = 32,
) -> bytes:
    """A file of `metadata` and `tensors` (name, dims, type, size in bytes of its data), the data all zeros."""
    pairs = list(metadata.items()) if isinstance(metadata, Mapping) else list(metadata)
    header = b"GGUF" + struct.pack(
        "<IQQ",
        version,
        len(tensors) if tensor_count is None else tensor_count,
        len(pairs) if key_count is None else key_count,
    )
    for key, value in pairs:
        typed = _guess(value)
        header += string(key) + struct.pack("<I", typed.kind) + _encode(typed)
    data = b""
    for name, dims, kind, size in tensors:
        header += string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, len(data))
        data += bytes((size + alignment - 1) // alignment * alignment)
    if not tensors:
        return header
    return header + bytes(-len(header) % alignment) + data


def tiny_llama(**changes: Any) -> bytes:
    """A whole decoder: 2 layers, hidden 64, 4 heads, 2 key-value heads, vocabulary 32, tied; F32 with one Q8_0."""
    metadata: dict[str, Any] = {
        "general.architecture": "llama",
        "general.name": "Tiny",
        "general.license": "apache-2.0",
        "general.file_type": 7,
        "llama.context_length": 256,
        "llama.embedding_length": 64,
        "llama.block_count": 2,
        "llama.feed_forward_length": 96,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": [f"token{n}" for n in range(30)],
        "tokenizer.chat_template": "{{ messages }}",
    }
    for key, value in changes.items():
        metadata[key.replace("__", ".")] = value
    metadata = {key: value for key, value in metadata.items() if value is not None}
    tensors = [("token_embd.weight", (64, 32), 8, 64 * 32 // 32 * 34), ("output_norm.weight", (64,), 0, 256)]
    for layer in range(2):
        for name, dims in (
            ("attn_q", (64, 64)), ("attn_k", (64, 32)), ("attn_v", (64, 32)), ("attn_output", (64, 64)),
            ("ffn_gate", (64, 96)), ("ffn_up", (64, 96)), ("ffn_down", (96, 64)), ("attn_norm", (64,)),
            ("ffn_norm", (64,)),
        ):  # fmt: skip
            size = 4
            for dim in dims:
                size *= dim
            tensors.append((f"blk.{layer}.{name}.weight", dims, 0, size))
    return gguf(metadata, tensors)
