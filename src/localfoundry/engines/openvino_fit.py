"""How much memory a load takes in OpenVINO: a few terms through measured loads.

    total = process + vocabulary + copies x weights + cache

The library reads a GGUF into memory of its own, and the processor's plugin lays every matrix out once more; computing
in f32 it unpacks 16-bit weights besides. Constants from loads with openvino-genai 2026.4.1 (resident memory once every
block of the cache has been used, less the cache):

    file                                      bytes        resident
    SmolLM2-135M Q4_0, 49,152 tokens          77,571,136   387 MB
    SmolLM2-135M Q8_0, 49,152 tokens         144,811,072   534 MB
    SmolLM2-135M Q8_0 as an IR folder        143,025,948   519 MB
    SmolLM2-135M F16, 49,152 tokens          270,885,952  1340 MB
    Qwen2.5-0.5B's shape Q8_0, 151,936       528,974,880  1440 MB
    Qwen2.5-0.5B's shape F16, 151,936        992,063,520  3634 MB

The last place of the load, before memory is given back, was up to a sixth higher.
"""

from __future__ import annotations

from pathlib import Path

from localfoundry.engines import llama_fit, openvino_arguments
from localfoundry.errors import InvalidSetting
from localfoundry.fit.context import largest_that
from localfoundry.formats.shape import ModelShape
from localfoundry.store.manifest import Manifest

_PROCESS_BYTES = 190_000_000  # Python, the library's code (80 MB of it mapped), its threads
_BYTES_PER_TOKEN = 545  # of the vocabulary: the tokenizer is a graph with a trie
_WEIGHT_COPIES = 2.19
_WIDE_COPIES = 3.8  # of weights in 16 bits: 4.1 of a small model, 3.5 where the vocabulary is a third of it
_WIDE = frozenset({"F16", "BF16"})
_BLOCK = 32
_SPARE_BLOCKS = 2
_CACHE_BYTES = {"u8": 1.0, "f16": 2.0, "bf16": 2.0, "f32": 4.0}
_SCALE_BYTES = 12  # beside the values of one head and token: scales and zero points, of u8


def memory(manifest: Manifest, model_path: Path, context: int, arguments: tuple[str, ...] = ()) -> int:
    """Bytes of the process once every block of the cache has been used."""
    shape = llama_fit.shape_of(manifest, model_path) if manifest.format == "gguf" else manifest.shape
    weights = sum(file.size_bytes for file in manifest.files)
    if shape is None:
        return int(_PROCESS_BYTES + weights * (_WEIGHT_COPIES + 0.25 * context / 8192))
    return _fixed(shape, weights) + cache_bytes(shape, context, arguments)


def cache_bytes(shape: ModelShape, context: int, arguments: tuple[str, ...] = ()) -> int:
    """Blocks of 32 tokens, two of them spare; keys and values in 8 bits with their scales unless asked otherwise."""
    kind = _cache_type(arguments)
    per_token = 0.0
    for layer in shape.layers:
        heads = (layer.keys + layer.values) / shape.head_dim
        scales = heads * _SCALE_BYTES if kind == "u8" else 0
        per_token += layer.count * ((layer.keys + layer.values) * _CACHE_BYTES[kind] + scales)
    return int((-(-context // _BLOCK) + _SPARE_BLOCKS) * _BLOCK * per_token)


def blocks_bytes(kept: int, head_dim: int, context: int) -> int:
    """The same where only the sum over all layers is known: `kept` keys and values of one token, in 8 bits."""
    per_token = kept * _CACHE_BYTES["u8"] + kept / head_dim * _SCALE_BYTES
    return int((-(-context // _BLOCK) + _SPARE_BLOCKS) * _BLOCK * per_token)


def largest_context(
    manifest: Manifest, model_path: Path, room_bytes: int, arguments: tuple[str, ...] = ()
) -> int | None:
    """The most tokens, up to what the model was trained for, that fit; None: not known, or not even the weights do."""
    if not manifest.context_length:
        return None
    return largest_that(
        lambda context: memory(manifest, model_path, context, arguments) <= room_bytes, manifest.context_length
    )


def fixed_bytes(vocabulary: int, weights_bytes: int, wide_bytes: int = 0) -> int:
    """Bytes of a load before any token is kept; `wide_bytes` of the weights are in 16 bits."""
    copies = _WIDE_COPIES * wide_bytes + _WEIGHT_COPIES * (weights_bytes - wide_bytes)
    return int(_PROCESS_BYTES + _BYTES_PER_TOKEN * vocabulary + copies)


def _fixed(shape: ModelShape, weights: int) -> int:
    wide = sum(group.size_bytes for group in shape.weights if group.type in _WIDE)
    return fixed_bytes(shape.tokens or shape.vocabulary, weights, wide)


def _cache_type(arguments: tuple[str, ...]) -> str:
    try:
        return openvino_arguments.properties(arguments, "").get("KV_CACHE_PRECISION", "u8")
    except InvalidSetting:
        return "u8"  # the load itself refuses them
