"""A language model of a few hundred kilobytes that knows nothing: enough to try whether an engine runs at all.

One layer of random weights over an alphabet of bytes. Written with the standard library, so that trying an engine
needs no model on the disk and no package. The same bytes on every machine.
"""

from __future__ import annotations

import random
import struct
from array import array
from pathlib import Path

_WIDTH, _FFN, _HEADS, _CONTEXT = 64, 128, 2, 512
_UINT32, _FLOAT32, _BOOL, _STRING, _ARRAY, _INT32 = 4, 6, 7, 8, 9, 5
_TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581"]
_KINDS = [2, 3, 3, *[6] * 256, 1]  # unknown, control, control, bytes, a word
_ALIGNMENT = 32


def write(path: Path) -> None:
    """Write the model as a GGUF file."""
    tensors = [(name, dims, _weights(name, dims)) for name, dims in _shapes()]
    keys = _keys()
    head = bytearray(struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(keys)) + b"".join(keys))
    offset = 0
    for name, dims, data in tensors:
        head += _text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, 0, offset)
        offset += -(-len(data) // _ALIGNMENT) * _ALIGNMENT
    head += b"\0" * (-len(head) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(head)
        for _, _, data in tensors:
            file.write(data + b"\0" * (-len(data) % _ALIGNMENT))


def _shapes() -> list[tuple[str, tuple[int, ...]]]:
    block = {"attn_norm": (_WIDTH,), "attn_q": (_WIDTH, _WIDTH), "attn_k": (_WIDTH, _WIDTH),
             "attn_v": (_WIDTH, _WIDTH), "attn_output": (_WIDTH, _WIDTH), "ffn_norm": (_WIDTH,),
             "ffn_gate": (_WIDTH, _FFN), "ffn_up": (_WIDTH, _FFN), "ffn_down": (_FFN, _WIDTH)}  # fmt: skip
    inner: list[tuple[str, tuple[int, ...]]] = [(f"blk.0.{name}.weight", dims) for name, dims in block.items()]
    vocabulary = (_WIDTH, len(_TOKENS))
    return [("token_embd.weight", vocabulary), *inner, ("output_norm.weight", (_WIDTH,)), ("output.weight", vocabulary)]


def _weights(name: str, dims: tuple[int, ...]) -> bytes:
    chance, count = random.Random(name), dims[0] * (dims[1] if len(dims) > 1 else 1)
    norm = "norm" in name
    values = array("f", (1.0 if norm else chance.gauss(0.0, 0.1) for _ in range(count)))
    return struct.pack(f"<{count}f", *values)


def _keys() -> list[bytes]:
    numbers = {"context_length": _CONTEXT, "embedding_length": _WIDTH, "block_count": 1, "feed_forward_length": _FFN,
               "attention.head_count": _HEADS, "attention.head_count_kv": _HEADS,
               "rope.dimension_count": _WIDTH // _HEADS}  # fmt: skip
    words, zeros = [_text(token) for token in _TOKENS], [0.0] * len(_TOKENS)
    return [
        _pair("general.architecture", _STRING, _text("llama")),
        *(_pair(f"llama.{key}", _UINT32, struct.pack("<I", value)) for key, value in numbers.items()),
        _pair("llama.attention.layer_norm_rms_epsilon", _FLOAT32, struct.pack("<f", 1e-5)),
        _pair("general.file_type", _UINT32, struct.pack("<I", 0)),
        _pair("tokenizer.ggml.model", _STRING, _text("llama")),
        _pair("tokenizer.ggml.tokens", _ARRAY, struct.pack("<IQ", _STRING, len(words)) + b"".join(words)),
        _pair("tokenizer.ggml.scores", _ARRAY, struct.pack(f"<IQ{len(words)}f", _FLOAT32, len(words), *zeros)),
        _pair("tokenizer.ggml.token_type", _ARRAY, struct.pack(f"<IQ{len(words)}i", _INT32, len(words), *_KINDS)),
        _pair("tokenizer.ggml.unknown_token_id", _UINT32, struct.pack("<I", 0)),
        _pair("tokenizer.ggml.bos_token_id", _UINT32, struct.pack("<I", 1)),
        _pair("tokenizer.ggml.eos_token_id", _UINT32, struct.pack("<I", 2)),
    ]  # fmt: skip


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _pair(key: str, kind: int, value: bytes) -> bytes:
    return _text(key) + struct.pack("<I", kind) + value
