"""The smallest file that is a GGUF model as far as headers go, padded with random bytes to any size."""

from __future__ import annotations

import random
import struct


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _text(key: str, value: str) -> bytes:
    return _string(key) + struct.pack("<I", 8) + _string(value)


def _number(key: str, value: int) -> bytes:
    return _string(key) + struct.pack("<II", 4, value)


def tiny_gguf(size_bytes: int = 4096, seed: int = 0, template: str = "{{ messages }}") -> bytes:
    """A llama header with one F32 tensor that fills the file; the same bytes for the same arguments."""
    pairs = [
        _text("general.architecture", "llama"),
        _number("llama.context_length", 2048),
        _number("llama.embedding_length", 64),
        _number("llama.block_count", 2),
        _number("llama.feed_forward_length", 128),
        _number("llama.attention.head_count", 4),
        _number("llama.attention.head_count_kv", 2),
        _text("tokenizer.chat_template", template),
    ]
    name = _string("token_embd.weight")
    head = struct.pack("<IIQQ", 0x46554747, 3, 1, len(pairs)) + b"".join(pairs)
    start = -(-(len(head) + len(name) + 4 + 16 + 4 + 8) // 32) * 32
    rows = (size_bytes - start) // (4 * 64)
    assert rows > 0, "too small for a header"
    tensor = name + struct.pack("<IQQIQ", 2, 64, rows, 0, 0)
    body = (head + tensor).ljust(start, b"\0")
    return body + random.Random(seed).randbytes(size_bytes - len(body))
