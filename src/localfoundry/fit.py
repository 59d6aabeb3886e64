"""How much memory a model takes when it is loaded: pure arithmetic, and the only place that does it.

What is known exactly (weights, keys and values) is computed; what is not (compute buffers, the process itself) is a
formula fitted to measured loads, and is compared with them in tests/test_fit.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from localfoundry.catalog.model import Architecture

_BATCH = 512  # tokens that llama.cpp computes at once
_PROCESS_BYTES = 45_000_000  # Python, the engine's code and its threads, measured with the bundled worker
_UNKNOWN_KV_SHARE = 0.25  # of the weights, for 8,192 tokens, where the header does not tell the shape


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes by purpose."""

    weights: int
    kv_cache: int
    compute: int
    process: int = _PROCESS_BYTES

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.compute + self.process


def predicted(weights_bytes: int, shape: Architecture | None, context: int, parallel: int) -> Memory:
    """Memory of a GGUF model in llama.cpp with f16 keys and values; `parallel` requests share `context` tokens.

    compute = batch * 4 bytes * (4 * hidden + 3 * ffn) for the activations, + batch * 2 bytes * context for the mask,
    + parallel * 4 bytes * vocabulary for the logits.
    """
    if shape is None:
        kv = int(weights_bytes * _UNKNOWN_KV_SHARE * context / 8192)
        return Memory(weights_bytes, kv, _BATCH * 2 * context + weights_bytes // 10)
    activations = _BATCH * 4 * (4 * shape.hidden_size + 3 * shape.ffn_size)
    mask = _BATCH * 2 * context
    logits = parallel * 4 * shape.vocab_size
    return Memory(weights_bytes, shape.kv_cache_bytes(context), activations + mask + logits)


def largest_context(
    free_bytes: int, weights_bytes: int, shape: Architecture | None, parallel: int, most: int
) -> int | None:
    """The largest context, a multiple of 256 and at most `most`, whose memory fits; None where not even 256 does."""
    low, high = 0, most // 256
    while low < high:
        middle = (low + high + 1) // 2
        if predicted(weights_bytes, shape, middle * 256, parallel).total <= free_bytes:
            low = middle
        else:
            high = middle - 1
    return low * 256 or None
