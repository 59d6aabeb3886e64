"""A model in several GGUF files, read as one: the first part's header with the tensors of all of them.

`name-00001-of-00003.gguf` is how llama.cpp's `gguf-split` calls them; the metadata is in the first.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from localfoundry.errors import NotAModel
from localfoundry.formats.cursor import of_file
from localfoundry.formats.gguf import GgufHeader, Part, count_parameters, read_gguf, read_part

MAX_PARTS = 1024
_NUMBERED = re.compile(r"-00001-of-(\d{5})(\.gguf)$", re.IGNORECASE)


def names_of(first: str) -> list[str]:
    """The names of all parts, by that of the first; of a whole model only its own."""
    found = _NUMBERED.search(first)
    if found is None or not 1 < int(found[1]) <= MAX_PARTS:
        return [first]
    stem, count, ending = first[: found.start()], found[1], found[2]
    return [f"{stem}-{number:05}-of-{count}{ending}" for number in range(1, int(count) + 1)]


def read_model(first: Path) -> GgufHeader:
    """The header of a whole model, or of a split one by its first part. Raises NotAModel, DiskError."""
    header = read_gguf(first)
    if header.parts == 1:
        return header
    return joined(header, [of_file(first.with_name(name), read_part) for name in names_of(first.name)[1:]])


def joined(first: GgufHeader, later: Sequence[Part]) -> GgufHeader:
    """One header for all parts, offsets counted through them. Raises NotAModel for parts that are not of one model."""
    if [(part.number, part.parts) for part in later] != [(n, first.parts) for n in range(1, first.parts)]:
        raise NotAModel(f"a model in {first.parts} parts, and these are not they: {len(later) + 1} in this order")
    tensors, sizes, begin = list(first.tensors), [first.weight_bytes], first.weight_bytes or 0
    for part in later:
        tensors += [msgspec.structs.replace(tensor, offset=begin + tensor.offset) for tensor in part.tensors]
        sizes.append(part.weight_bytes)
        begin += part.weight_bytes or 0
    names = {tensor.name for tensor in tensors}
    if len(names) != len(tensors):
        raise NotAModel("damaged GGUF file: two tensors have the same name")
    return msgspec.structs.replace(
        first,
        tensors=tuple(tensors),
        tensor_count=len(tensors),
        tensor_types=dict(Counter(tensor.type for tensor in tensors)),
        weight_bytes=None if None in sizes else sum(size or 0 for size in sizes),
        parameters=count_parameters(tensors),
        tied_embeddings="token_embd.weight" in names and "output.weight" not in names,
        qkv_bias="blk.0.attn_q.bias" in names or "blk.0.attn_qkv.bias" in names,
        qk_norm="blk.0.attn_q_norm.weight" in names,
    )
