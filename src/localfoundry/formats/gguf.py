"""The header of a GGUF file, read within bounds: what the model is, how large, and whether the file is whole.

A model file is untrusted input. Every count and length in it is checked against a limit before it is used, no read
passes `MAX_HEADER_BYTES`, and long arrays (a tokenizer's vocabulary) are counted and stepped over, never built. Our
own reader and not the `gguf` package: that one builds every value, and a file of 43 bytes keeps it busy for ever.
Weights are not read here, and whether an engine can run the architecture is for the engines to say.

Layout: docs/gguf.md of ggml-org/ggml. Little-endian, versions 2 and 3.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from localfoundry.catalog.model import Architecture
from localfoundry.errors import NotAModel
from localfoundry.formats.cursor import MAX_HEADER_BYTES, MAX_STRING_BYTES, Cursor, Read, of_file
from localfoundry.formats.gguf_types import FILE_TYPES, TENSOR_TYPES

MAGIC = b"GGUF"
MAX_KEYS = 16_384
MAX_TENSORS = 65_536  # the largest mixtures of experts have a few thousand
MAX_KEY_BYTES = 65_535
MAX_TEXT_BYTES = 2 * 2**20  # of a string that is kept; longer ones are stepped over
MAX_KEPT_ARRAY = 4096  # numbers for each layer; the deepest models have a few hundred
MAX_NUMBER = 2**48  # of anything that is counted: no dimension, context or vocabulary comes near

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9

_NAMED_TOKENS = ("bos", "eos", "eot", "eom", "unknown", "padding")
# What else decides how much memory a layer keeps: field of the header, key after the architecture's name.
_MEMORY_KEYS = {
    "expert_ffn_size": "expert_feed_forward_length", "key_length_mla": "attention.key_length_mla",
    "kv_lora_rank": "attention.kv_lora_rank", "rope_dim": "rope.dimension_count",
    "full_attention_interval": "full_attention_interval", "convolution": "shortconv.l_cache",
    "ssm_conv_kernel": "ssm.conv_kernel", "ssm_inner_size": "ssm.inner_size", "ssm_state_size": "ssm.state_size",
    "ssm_groups": "ssm.group_count", "wkv_head_size": "wkv.head_size", "token_shift": "token_shift_count",
}  # fmt: skip
# Position tables that some converters store as tensors; no model card counts them.
_NOT_PARAMETERS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


class LongArray(msgspec.Struct, frozen=True):
    """An array that was stepped over, and where in the file its values lie."""

    count: int
    offset: int
    size_bytes: int


class Tensor(msgspec.Struct, frozen=True):
    """A tensor's name, dimensions (the row first), type, place in the data section and size; None: unknown type."""

    name: str
    dims: tuple[int, ...]
    type: str
    offset: int
    size_bytes: int | None

    @property
    def values(self) -> int:
        return math.prod(self.dims)


class Part(msgspec.Struct, frozen=True):
    """A later part of a split model: its number from 0, of how many, and its tensors; None: of an unknown type."""

    number: int
    parts: int
    tensors: tuple[Tensor, ...]
    weight_bytes: int | None


class GgufHeader(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a GGUF file says of itself. None: the file does not say.

    `kv_heads`, `attention_heads` and `ffn_size` are the largest of any layer where they differ between layers, and
    `kv_heads_per_layer` then holds them all (0: a layer without attention). Which layers have the sliding window is
    `sliding_window_layers` (one truth value each) or every layer but each `sliding_window_period`th, where the file
    says so; many leave it to the engine's knowledge of the architecture.
    """

    version: int
    kind: str  # `general.type`: model, adapter, mmproj, ...; "model" where the file does not say
    architecture: str
    file_size_bytes: int | None
    header_bytes: int  # where the weights begin
    weight_bytes: int | None  # of all tensors; None where one has a type this version does not know
    tensor_count: int
    tensor_types: dict[str, int]  # number of tensors of each type
    quantization: str | None
    parameters: int | None  # None for one part of a split model
    name: str | None = None
    license: str | None = None
    context_length: int | None = None
    layers: int | None = None
    hidden_size: int | None = None
    ffn_size: int | None = None
    attention_heads: int | None = None
    kv_heads: int | None = None
    kv_heads_per_layer: tuple[int, ...] = ()
    head_dim: int | None = None
    value_head_dim: int | None = None
    vocab_size: int | None = None
    experts: int | None = None
    experts_used: int | None = None
    sliding_window: int | None = None  # tokens
    sliding_window_layers: tuple[bool, ...] = ()
    sliding_window_period: int | None = None
    tied_embeddings: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    pooling: bool = False  # the file names a pooling type: an embedding or rerank model
    tokenizer: str | None = None
    splitting: str | None = None  # how texts are split before the tokenizer, by the name that llama.cpp has for it
    tokens: LongArray | None = None  # the vocabulary's texts; `tokens.py` reads of them what is wanted
    token_ids: dict[str, int] = {}  # of those the file names: bos, eos, eot, eom, unknown, padding
    adds_bos: bool | None = None  # whether the tokenizer puts the first token in front by itself
    chat_template: str | None = None
    parts: int = 1  # of a split model; 1 for a whole one
    tensors: tuple[Tensor, ...] = ()
    merges: int | None = None  # of the tokenizer
    expert_ffn_size: int | None = None
    key_length_mla: int | None = None
    kv_lora_rank: int | None = None
    rope_dim: int | None = None
    nextn_layers: int = 0  # at the end, for guessing tokens ahead; not part of the model proper
    shared_kv_layers: int = 0  # at the end, which use the keys and values of earlier ones
    full_attention_interval: int | None = None  # each nth layer has attention, the others a state
    convolution: int | None = None  # tokens of the short convolution in layers without attention
    ssm_conv_kernel: int | None = None
    ssm_inner_size: int | None = None
    ssm_state_size: int | None = None
    ssm_groups: int | None = None
    wkv_head_size: int | None = None
    token_shift: int | None = None

    def shape(self) -> Architecture | None:
        """The catalog's form of the shape, where it describes this model exactly.

        None for a shape it cannot express (experts, layers that differ, other norms): its parameter count must come
        out at the file's own.
        """
        facts = {field: getattr(self, field) for field in Architecture.__struct_fields__}
        if self.kv_heads_per_layer or any(value is None for value in facts.values()):
            return None
        shape = Architecture(**facts)
        return shape if shape.parameters() == self.parameters else None


class _Tensor(msgspec.Struct, frozen=True):
    name: str
    dims: tuple[int, ...]
    type: int
    offset: int

    @property
    def values(self) -> int:
        count = 1
        for dim in self.dims:
            count *= dim
        return count

    def size_bytes(self) -> int | None:
        if self.type not in TENSOR_TYPES:
            return None
        _, values, size = TENSOR_TYPES[self.type]
        if self.dims and self.dims[0] % values:
            raise NotAModel(
                f"damaged GGUF file: rows of tensor {self.name!r} are {self.dims[0]} values, not whole blocks"
            )
        return self.values // values * size


def read_gguf(path: Path) -> GgufHeader:
    """The header of a file on disk. Raises NotAModel, or DiskError where the file cannot be read."""
    return of_file(path, read_header)


def read_header(read: Read, file_size_bytes: int | None = None) -> GgufHeader:
    """The header behind `read`, in time bounded by the limits above. Raises NotAModel.

    With `file_size_bytes`, also that every tensor lies within the file, so that a partial download is found out.
    """
    version, fields, tensors, data_start = _contents(read, file_size_bytes)
    weight_bytes = _weight_bytes(tensors, data_start, file_size_bytes)
    return _header(version, fields, tensors, file_size_bytes, data_start, weight_bytes)


def read_part(read: Read, file_size_bytes: int | None = None) -> Part:
    """A later part of a split model, which has tensors and says little else. Raises NotAModel."""
    _, fields, tensors, data_start = _contents(read, file_size_bytes)
    weight_bytes = _weight_bytes(tensors, data_start, file_size_bytes)
    number, parts = fields.number("split.no") or 0, fields.number("split.count") or 1
    return Part(number, parts, _public(tensors), weight_bytes)


def _contents(read: Read, file_size_bytes: int | None) -> tuple[int, _Fields, list[_Tensor], int]:
    """Version, metadata, tensors, and where in the file their data begins."""
    cursor = Cursor(read)
    version = read_preamble(cursor)
    tensor_count = cursor.length(MAX_TENSORS, "the number of tensors")
    key_count = cursor.length(MAX_KEYS, "the number of keys")
    values = _metadata(cursor, key_count)
    tensors = [_tensor(cursor) for _ in range(tensor_count)]
    fields = _Fields(values)
    alignment = fields.number("general.alignment") or 32
    if alignment > 2**20 or alignment & (alignment - 1):
        raise NotAModel(f"damaged GGUF file: alignment {alignment} is not a power of two")
    if file_size_bytes is not None and cursor.offset > file_size_bytes:  # what was stepped over is not there
        raise NotAModel(f"GGUF file is cut short: its header needs {cursor.offset:,} bytes, it has {file_size_bytes:,}")
    return version, fields, tensors, (cursor.offset + alignment - 1) // alignment * alignment


def read_preamble(cursor: Cursor) -> int:
    magic = cursor.take(4)
    if magic != MAGIC:
        raise NotAModel(f"not a GGUF file: it begins with {magic!r}, not {MAGIC!r}")
    version: int = cursor.number("I")
    if version in (2 << 24, 3 << 24):
        raise NotAModel("this GGUF file is big-endian; only little-endian files are accepted")
    if version not in (2, 3):
        raise NotAModel(f"GGUF version {version} is not known; 2 and 3 are", hint="convert the model again")
    return version


def _metadata(cursor: Cursor, count: int) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for _ in range(count):
        raw = cursor.string(MAX_KEY_BYTES, "a key")
        try:
            key = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise NotAModel(f"damaged GGUF file: the key {raw[:64]!r} is not text") from None
        if key in values:
            raise NotAModel(f"damaged GGUF file: the key {key[:64]!r} is there twice")
        values[key] = read_value(cursor, key[:64])
    return values


def read_value(cursor: Cursor, key: str) -> Any:
    """A value of the metadata with its type in front; `LongArray` for what was stepped over. Raises NotAModel."""
    kind: int = cursor.number("I")
    if kind in _SCALARS:
        return cursor.number(_SCALARS[kind])
    if kind == _STRING:
        size = cursor.length(MAX_STRING_BYTES, f"the length of {key!r}")
        if size > MAX_TEXT_BYTES:
            return cursor.skip(size)
        return cursor.take(size).decode("utf-8", "replace")
    if kind == _ARRAY:
        return _array(cursor, key)
    raise NotAModel(f"damaged GGUF file: {key!r} has the unknown type {kind}")


def _array(cursor: Cursor, key: str) -> Any:
    kind: int = cursor.number("I")
    count = cursor.length(MAX_HEADER_BYTES, f"the length of {key!r}")
    if kind == _STRING:
        begin = cursor.offset
        cursor.skip_strings(count)
        return LongArray(count, begin, cursor.offset - begin)
    if kind not in _SCALARS:
        what = "arrays within arrays are not accepted" if kind == _ARRAY else f"unknown type {kind}"
        raise NotAModel(f"damaged GGUF file: {key!r} is an array: {what}")
    form = _SCALARS[kind]
    if count <= MAX_KEPT_ARRAY and count <= cursor.numbers_left:
        cursor.numbers_left -= count
        size = struct.calcsize(f"<{count}{form}")
        return struct.unpack(f"<{count}{form}", cursor.take(size))
    begin = cursor.offset
    cursor.skip(count * struct.calcsize("<" + form))
    return LongArray(count, begin, cursor.offset - begin)


def _tensor(cursor: Cursor) -> _Tensor:
    name = cursor.string(MAX_KEY_BYTES, "a tensor's name").decode("utf-8", "replace")
    rank: int = cursor.number("I")
    if rank > 4:
        raise NotAModel(f"damaged GGUF file: tensor {name[:64]!r} has {rank} dimensions, at most 4 are possible")
    dims = tuple(cursor.length(MAX_NUMBER, f"a dimension of {name[:64]!r}") for _ in range(rank))
    tensor = _Tensor(name, dims, cursor.number("I"), cursor.number("Q"))
    if tensor.values > MAX_NUMBER:
        raise NotAModel(f"damaged GGUF file: tensor {name[:64]!r} has {tensor.values:,} values")
    return tensor


def _weight_bytes(tensors: list[_Tensor], data_start: int, file_size_bytes: int | None) -> int | None:
    """Bytes of all tensors; None where a type is not known. Raises NotAModel where one ends past the file."""
    sizes = [tensor.size_bytes() for tensor in tensors]
    if file_size_bytes is not None:
        ends = (data_start + t.offset + (size or 0) for t, size in zip(tensors, sizes, strict=True))
        needed = max(ends, default=0)
        if needed > file_size_bytes:
            raise NotAModel(
                f"GGUF file is cut short: its tensors need {needed:,} bytes, it has {file_size_bytes:,}",
                hint="download it again",
            )
    return None if None in sizes else sum(size for size in sizes if size is not None)


class _Fields:
    """Typed access to the metadata: absent is None, present with another type is damage."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values
        self.architecture = self.text("general.architecture")

    def text(self, key: str) -> str | None:
        value = self._values.get(key)
        if value is None or isinstance(value, str):
            return value or None
        raise NotAModel(f"damaged GGUF file: {key!r} is not text")

    def number(self, key: str) -> int | None:
        numbers = self.numbers(key)
        return max(numbers) if numbers else None

    def numbers(self, key: str) -> tuple[int, ...]:
        """One number, or one for each layer."""
        value = self._values.get(key)
        if value is None:
            return ()
        numbers = value if isinstance(value, tuple) else (value,)
        if not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n <= MAX_NUMBER for n in numbers):
            raise NotAModel(f"damaged GGUF file: {key[:64]!r} is not a count")
        return numbers

    def single(self, key: str) -> int | None:
        return self.number(key) if isinstance(self._values.get(key), int) else None

    def truths(self, key: str) -> tuple[bool, ...]:
        value = self._values.get(key)
        return tuple(map(bool, value)) if isinstance(value, tuple) else ()

    def count(self, key: str) -> int | None:
        """The length of an array."""
        value = self._values.get(key)
        if isinstance(value, LongArray):
            return value.count
        return len(value) if isinstance(value, tuple) else None

    def long_array(self, key: str) -> LongArray | None:
        value = self._values.get(key)
        return value if isinstance(value, LongArray) else None

    def truth(self, key: str) -> bool | None:
        value = self._values.get(key)
        return value if isinstance(value, bool) else None

    def has(self, key: str) -> bool:
        return key in self._values


def _header(
    version: int,
    fields: _Fields,
    tensors: list[_Tensor],
    file_size_bytes: int | None,
    data_start: int,
    weight_bytes: int | None,
) -> GgufHeader:
    arch, parts = _identity(fields)
    names = {t.name for t in tensors}
    if len(names) != len(tensors):
        raise NotAModel("damaged GGUF file: two tensors have the same name")
    heads = fields.number(f"{arch}.attention.head_count")
    hidden = fields.number(f"{arch}.embedding_length")
    kv_heads = fields.numbers(f"{arch}.attention.head_count_kv")
    head_dim = fields.number(f"{arch}.attention.key_length")
    if head_dim is None and hidden and heads:
        head_dim = hidden // heads
    return GgufHeader(
        version=version,
        kind=fields.text("general.type") or "model",
        architecture=arch,
        file_size_bytes=file_size_bytes,
        header_bytes=data_start,
        weight_bytes=weight_bytes,
        tensor_count=len(tensors),
        tensor_types=_tensor_types(tensors),
        quantization=_quantization(fields, tensors),
        parameters=count_parameters(tensors) if parts == 1 else None,
        name=fields.text("general.name"),
        license=fields.text("general.license"),
        context_length=fields.number(f"{arch}.context_length"),
        layers=fields.number(f"{arch}.block_count"),
        hidden_size=hidden,
        ffn_size=fields.number(f"{arch}.feed_forward_length"),
        attention_heads=heads,
        kv_heads=max(kv_heads) if kv_heads else heads,  # absent means one for each head
        kv_heads_per_layer=kv_heads if len(set(kv_heads)) > 1 else (),
        head_dim=head_dim,
        value_head_dim=fields.number(f"{arch}.attention.value_length") or head_dim,
        vocab_size=_vocab_size(fields, arch, tensors),
        experts=fields.number(f"{arch}.expert_count") or None,
        experts_used=fields.number(f"{arch}.expert_used_count") or None,
        sliding_window=fields.number(f"{arch}.attention.sliding_window") or None,
        sliding_window_layers=fields.truths(f"{arch}.attention.sliding_window_pattern"),
        sliding_window_period=fields.single(f"{arch}.attention.sliding_window_pattern"),
        tied_embeddings="token_embd.weight" in names and "output.weight" not in names,
        qkv_bias="blk.0.attn_q.bias" in names or "blk.0.attn_qkv.bias" in names,
        qk_norm="blk.0.attn_q_norm.weight" in names,
        pooling=fields.has(f"{arch}.pooling_type"),
        tokenizer=fields.text("tokenizer.ggml.model"),
        splitting=fields.text("tokenizer.ggml.pre"),
        tokens=fields.long_array("tokenizer.ggml.tokens"),
        token_ids=_token_ids(fields),
        adds_bos=fields.truth("tokenizer.ggml.add_bos_token"),
        chat_template=fields.text("tokenizer.chat_template"),
        parts=parts,
        tensors=_public(tensors),
        merges=fields.count("tokenizer.ggml.merges"),
        **{name: fields.number(f"{arch}.{key}") for name, key in _MEMORY_KEYS.items()},
        nextn_layers=fields.number(f"{arch}.nextn_predict_layers") or 0,
        shared_kv_layers=fields.number(f"{arch}.attention.shared_kv_layers") or 0,
    )


def count_parameters(tensors: Iterable[Tensor | _Tensor]) -> int:
    """As model cards count them."""
    return sum(t.values for t in tensors if t.name not in _NOT_PARAMETERS)


def _public(tensors: list[_Tensor]) -> tuple[Tensor, ...]:
    return tuple(Tensor(t.name, t.dims, _type_name(t.type), t.offset, t.size_bytes()) for t in tensors)


def _identity(fields: _Fields) -> tuple[str, int]:
    parts = fields.number("split.count") or 1
    part = fields.number("split.no") or 0
    if parts > 1 and part > 0:
        raise NotAModel(f"this is part {part + 1} of {parts} of a model", hint="name the first part, …-00001-of-…")
    if fields.architecture is None:
        raise NotAModel("this GGUF file does not name its architecture (general.architecture)")
    return fields.architecture, parts


def _token_ids(fields: _Fields) -> dict[str, int]:
    found = {name: fields.number(f"tokenizer.ggml.{name}_token_id") for name in _NAMED_TOKENS}
    return {name: number for name, number in found.items() if number is not None}


def _tensor_types(tensors: list[_Tensor]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for tensor in tensors:
        name = _type_name(tensor.type)
        counts[name] = counts.get(name, 0) + 1
    return counts


def _quantization(fields: _Fields, tensors: list[_Tensor]) -> str | None:
    """What the file calls itself, else the type that holds most of its values."""
    file_type = fields.number("general.file_type")
    if file_type is not None and file_type in FILE_TYPES:
        return FILE_TYPES[file_type]
    values: dict[int, int] = {}
    for tensor in tensors:
        values[tensor.type] = values.get(tensor.type, 0) + tensor.values
    return _type_name(max(values, key=lambda t: values[t])) if values else None


def _type_name(tensor_type: int) -> str:
    return TENSOR_TYPES[tensor_type][0] if tensor_type in TENSOR_TYPES else f"type{tensor_type}"


def _vocab_size(fields: _Fields, arch: str, tensors: list[_Tensor]) -> int | None:
    """Rows of the embedding, which may be padded past the tokenizer; else what the metadata says."""
    embedding = next((t.dims for t in tensors if t.name == "token_embd.weight" and len(t.dims) == 2), None)
    if embedding:
        return embedding[1]
    return fields.number(f"{arch}.vocab_size") or fields.count("tokenizer.ggml.tokens")
