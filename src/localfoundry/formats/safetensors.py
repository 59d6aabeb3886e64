"""The header of a safetensors file, read within bounds, and the folder of configuration around it.

Eight bytes of length, a JSON object of tensors, then the data without a gap. The header says types and shapes only;
architecture, context and template stand in `config.json` and its siblings, as the hub's models have them.

Source: the format's own description in huggingface/safetensors, README "Format".
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import msgspec

from localfoundry.errors import NotAModel
from localfoundry.formats.bounded_json import count, parse_object
from localfoundry.formats.cursor import Read, of_file

MAX_HEADER_BYTES = 32 * 2**20  # the reference accepts 100 MB; headers of the largest models have 2 MB
MAX_TENSORS = 65_536
MAX_DIMENSIONS = 8
MAX_FILES = 1024  # of a split model

_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


class SafetensorsHeader(msgspec.Struct, frozen=True):
    """What one safetensors file says of itself."""

    header_bytes: int  # where the data begins
    data_bytes: int
    tensor_types: dict[str, int]  # number of tensors of each type
    values: dict[str, int]  # numbers stored in each type
    metadata: dict[str, str] = {}

    @property
    def parameters(self) -> int:
        return sum(self.values.values())


def read_safetensors(path: Path) -> SafetensorsHeader:
    """The header of a file on disk. Raises NotAModel, or DiskError where the file cannot be read."""
    return of_file(path, read_header)


def read_header(read: Read, file_size_bytes: int | None = None) -> SafetensorsHeader:
    """The header behind `read`. Raises NotAModel.

    The tensors must fill the data from its beginning to its end, each byte in just one of them: a gap could hide
    something, and an overlap or a rest is damage. With `file_size_bytes`, the data must also be there.
    """
    first = read(0, 8)
    if len(first) < 8:
        raise NotAModel("safetensors file is cut short: it ends within its first eight bytes")
    length: int = struct.unpack("<Q", first)[0]
    if not 2 <= length <= MAX_HEADER_BYTES:
        raise NotAModel(
            f"damaged safetensors file: a header of {length:,} bytes; 2 to {MAX_HEADER_BYTES:,} are accepted"
        )
    if file_size_bytes is not None and 8 + length > file_size_bytes:
        raise NotAModel(f"safetensors file is cut short: its header needs {8 + length:,} bytes")
    raw = read(8, length)
    if len(raw) < length:
        raise NotAModel(f"safetensors file is cut short: it ends within its header of {length:,} bytes")
    if raw[:1] != b"{":
        raise NotAModel("damaged safetensors file: its header does not begin with an object")
    document = parse_object(raw, "the header", MAX_HEADER_BYTES)
    metadata = _metadata(document.pop("__metadata__", {}))
    if len(document) > MAX_TENSORS:
        raise NotAModel(f"damaged safetensors file: {len(document):,} tensors, at most {MAX_TENSORS:,} are accepted")
    tensors = sorted((_tensor(name, entry) for name, entry in document.items()), key=lambda t: (t.begin, t.end))
    data_bytes = _contiguous(tensors)
    if file_size_bytes is not None and 8 + length + data_bytes != file_size_bytes:
        raise NotAModel(
            f"safetensors file has {file_size_bytes:,} bytes, and its tensors need {8 + length + data_bytes:,}",
            hint="download it again",
        )
    types: dict[str, int] = {}
    values: dict[str, int] = {}
    for tensor in tensors:
        types[tensor.type] = types.get(tensor.type, 0) + 1
        values[tensor.type] = values.get(tensor.type, 0) + tensor.values
    return SafetensorsHeader(8 + length, data_bytes, types, values, metadata)


class _Tensor(msgspec.Struct, frozen=True):
    name: str
    type: str
    values: int
    begin: int
    end: int


def _tensor(name: str, entry: Any) -> _Tensor:
    shown = name[:64]
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise NotAModel(f"damaged safetensors file: tensor {shown!r} is not described by dtype, shape and data_offsets")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in _BITS:
        raise NotAModel(f"tensor {shown!r} has the type {str(kind)[:20]!r}, which is not known")
    if not _counts(shape) or len(shape) > MAX_DIMENSIONS:
        raise NotAModel(f"damaged safetensors file: the shape of {shown!r} is not up to {MAX_DIMENSIONS} counts")
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise NotAModel(f"damaged safetensors file: the offsets of {shown!r} are not a begin and an end")
    values = math.prod(shape)
    if values * _BITS[kind] != (offsets[1] - offsets[0]) * 8:
        raise NotAModel(f"damaged safetensors file: {values:,} values of {shown!r} do not fill its offsets")
    return _Tensor(name, kind, values, offsets[0], offsets[1])


def _counts(value: Any) -> bool:
    limit = 2**48
    return isinstance(value, list) and all(type(n) is int and 0 <= n <= limit for n in value)


def _contiguous(tensors: list[_Tensor]) -> int:
    """The end of the data."""
    at = 0
    for tensor in tensors:
        if tensor.begin != at:
            what = "a gap before" if tensor.begin > at else "an overlap at"
            raise NotAModel(f"damaged safetensors file: {what} tensor {tensor.name[:64]!r}")
        at = tensor.end
    return at


def _metadata(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise NotAModel("damaged safetensors file: __metadata__ is not texts by name")
    return {key: text for key, text in value.items() if len(key) + len(text) <= 4096}


class ModelConfig(msgspec.Struct, frozen=True):
    """What `config.json` says of a model. None: it does not say."""

    architecture: str | None = None
    layers: int | None = None
    attention_heads: int | None = None
    kv_heads: int | None = None
    context_length: int | None = None
    vocab_size: int | None = None
    quantization: str | None = None


def read_config(data: bytes) -> ModelConfig:
    """The facts in a `config.json`; models with a vision part keep those of their text part. Raises NotAModel."""
    what = "config.json"
    document = parse_object(data, what, 2**20)
    inner = document.get("text_config")
    inside = document | inner if isinstance(inner, dict) else document
    method = document.get("quantization_config")
    heads = count(inside, "num_attention_heads", what)
    kind = document.get("model_type")
    return ModelConfig(
        architecture=kind if isinstance(kind, str) else None,
        layers=count(inside, "num_hidden_layers", what),
        attention_heads=heads,
        kv_heads=count(inside, "num_key_value_heads", what) or heads,
        context_length=count(inside, "max_position_embeddings", what),
        vocab_size=count(inside, "vocab_size", what),
        quantization=str(method.get("quant_method"))[:40] if isinstance(method, dict) else None,
    )
