"""Memory and speed in engines other than llama.cpp, from what few facts there are; wide, because little was measured.

    decode   1 / (weights / (share x bandwidth) + layers x 67 us + 269 us)      one stream, nothing behind it
    prefill  operations x cores / (2 x parameters)                              512 tokens, alone
    load     start + weights / rate                                             from the page cache

llama.cpp's kernels were measured one by one (`fit/speed.py`); these rates are those of one model, SmolLM2-135M, on one
machine (two cores of an AMD EPYC, 38 to 43 GB/s), as docs/benchmarks.md and docs/fit.md have them: OpenVINO on Q8_0
weights decoded 82 to 118 tokens/s, read 1,000 to 3,200 (two days) and loaded in 1.9 s, ONNX Runtime decoded 95 (int8,
270 MB) and 165 (int4, 90 MB), read 610 to 700 and loaded in 1.0 s (int8). The steps are llama.cpp's. Memory is the
engines' own estimate, of `onnx.py` and `openvino_fit.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from localfoundry import fit
from localfoundry.catalog.model import Architecture
from localfoundry.engines import onnx, openvino_fit
from localfoundry.fit.context import largest_that
from localfoundry.fit.interval import Interval
from localfoundry.fit.shape import assumed_bytes
from localfoundry.fit.speed import around
from localfoundry.formats.onnx import OnnxFolder
from localfoundry.formats.shape import ModelShape

_SIZED, _UNSIZED = 0.20, 0.35  # of the memory, either way: of a file whose size is known, and of one whose is assumed
_LOAD = 3.0  # of the seconds of a load, either way
_FACTOR, _OTHER_MACHINE = 2.5, 3.5  # of a rate, either way: on the kind of machine that was measured, and elsewhere
_LAYER_S, _TOKEN_S = 67e-6, 269e-6


@dataclass(frozen=True, slots=True)
class Facts:
    """What a figure rests on. `kept`: keys and values of one token, in all layers; `parameters` None: not known."""

    weights_bytes: int
    layers: int
    kept: int
    head_dim: int
    vocabulary: int
    parameters: float | None
    sized: bool = True


@dataclass(frozen=True, slots=True)
class _Rates:
    """`share`: of the probed bandwidth, at which all weights are read for a token; `operations`: 1e9 a second of one
    core while a prompt is read, everything included; `start_s` and bytes a second of a load."""

    share: float
    operations: float
    start_s: float
    load_bytes_per_s: float


_RATES = {"openvino": _Rates(0.45, 242, 0.9, 0.15e9), "onnx": _Rates(0.65, 86, 0.7, 0.8e9)}
_MEMORY: dict[str, Callable[[Facts, int], int]] = {
    "openvino": lambda f, context: (
        openvino_fit.fixed_bytes(f.vocabulary, f.weights_bytes) + openvino_fit.blocks_bytes(f.kept, f.head_dim, context)
    ),
    "onnx": lambda f, context: onnx.fixed_bytes(f.vocabulary, f.weights_bytes) + onnx.cache_bytes(f.kept, context),
}
KNOWN = frozenset(_RATES)


def of_architecture(shape: Architecture, size_bytes: int | None, quantization: str | None) -> Facts:
    """From a catalog's facts."""
    return Facts(
        weights_bytes=size_bytes or assumed_bytes(shape, quantization), layers=shape.layers,
        kept=2 * shape.layers * shape.kv_heads * shape.head_dim, head_dim=shape.head_dim, vocabulary=shape.vocab_size,
        parameters=shape.parameters(), sized=size_bytes is not None,
    )  # fmt: skip


def of_shape(shape: ModelShape, weights_bytes: int) -> Facts:
    """From the header of the file that the engine would get, or that what it would get is made of."""
    return Facts(
        weights_bytes=weights_bytes, layers=shape.depth,
        kept=sum(kind.count * (kind.keys + kind.values) for kind in shape.layers), head_dim=shape.head_dim,
        vocabulary=shape.tokens or shape.vocabulary, parameters=shape.active_parameters,
    )  # fmt: skip


def of_folder(folder: OnnxFolder, weights_bytes: int) -> Facts | None:
    """From the configuration of a folder, which does not tell the feed-forward network: 12 x hidden^2 for a layer."""
    layers, hidden, dim, heads = folder.layers, folder.hidden_size, folder.head_dim, folder.kv_heads
    if not (layers and hidden and dim and heads):
        return None
    vocabulary = folder.vocab_size or 0
    return Facts(weights_bytes, layers, 2 * layers * heads * dim, dim, vocabulary,
                 12.0 * hidden * hidden * layers + vocabulary * hidden)  # fmt: skip


class OtherEstimate:
    """What is predicted of one model in one of these engines; rates need a processor."""

    def __init__(self, engine: str, facts: Facts, processor: fit.Processor | None) -> None:
        self._facts, self._processor, self._rates, self._memory = facts, processor, _RATES[engine], _MEMORY[engine]
        self.sized, self.kernel, self.weight_bytes = facts.sized, engine, facts.weights_bytes

    def memory(self, load: fit.Load) -> Interval:
        size, spread = self._memory(self._facts, load.context), _SIZED if self.sized else _UNSIZED
        return Interval(size, size * (1 - spread), size * (1 + spread))

    def largest_context(self, load: fit.Load, room_bytes: int, most: int) -> int | None:
        return largest_that(lambda context: self._memory(self._facts, context) <= room_bytes, most)

    def decode(self, load: fit.Load) -> Interval:
        processor = self._processor
        assert processor is not None
        weights_s = self._facts.weights_bytes / (processor.bandwidth * self._rates.share)
        rate = 1 / (weights_s + self._facts.layers * _LAYER_S + _TOKEN_S)
        return around(rate, _factor(processor), processor.doubt)  # of the probe: nothing else here depends on it

    def prefill(self, load: fit.Load, tokens: int) -> Interval:
        processor = self._processor
        assert processor is not None
        operations = 2 * (self._facts.parameters or self._facts.weights_bytes)
        return around(self._rates.operations * 1e9 * max(processor.cores, 1) / operations, _factor(processor))

    def load_s(self) -> Interval:
        """Of a file that is there in the engine's own form."""
        return around(self._rates.start_s + self._facts.weights_bytes / self._rates.load_bytes_per_s, _LOAD)


def _factor(processor: fit.Processor) -> float:
    return _FACTOR if processor.measured else _OTHER_MACHINE
