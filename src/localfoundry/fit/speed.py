"""How fast a model will be on processor cores: decode, prefill and load time, each from what limits it.

Decoding one token reads every active weight and the keys and values so far, and multiplies with them: it takes the
longer of both, and a little for each layer's steps. Prefill is arithmetic; a load is bytes off the disk. Rates of
kernels differ by quantization and instruction set; those below are from one machine, so before anything is measured
here the interval is wide, and `calibration.py` narrows it with every load and bench.
"""

from __future__ import annotations

from dataclasses import dataclass

from localfoundry.fit.interval import Interval
from localfoundry.fit.memory import Load, cells, kv_bytes_per_cell
from localfoundry.formats.shape import ModelShape

# Billions of operations a second on one core at about 2.6 GHz, two for each weight and token; the second column where a
# build uses AVX-512 with VNNI, or NEON with i8mm. Q4_0, Q4_1 and Q8_0 were measured in prefill with a model of 135 M
# parameters on one machine; the others are set beside the nearest of these until `benchmarks/fit.py --speed` has run.
_PREFILL_GOPS = {
    "F32": (30, 40), "F16": (45, 60), "BF16": (40, 90), "Q4_0": (108, 194), "Q4_1": (60, 59), "Q5_0": (55, 60),
    "Q5_1": (50, 55), "Q8_0": (100, 123), "Q4_K": (100, 150), "Q5_K": (60, 65), "Q6_K": (60, 65), "Q3_K": (45, 50),
    "Q2_K": (50, 90), "IQ4_NL": (90, 120),
}  # fmt: skip
_UNKNOWN_GOPS = (40, 45)
_DECODE_GOPS_SHARE = 0.35  # of the rate in prefill: one token at a time uses the kernels less well
_STREAM_SHARE = 0.85  # of the bandwidth of a plain read that matrices read row by row reach
_LAYER_S = 40e-6  # for each layer: threads that meet after every step
_TOKEN_S = 300e-6  # sampling and the server's own loop
_START_S = 0.6  # a worker's process and its imports
_WARM_UP_BYTES_PER_S = 2e9  # pages touched by the warm-up, from the page cache
_REARRANGE_BYTES_PER_S = 0.4e9
_TEXTS_PER_S = 400_000  # of the vocabulary

# A 90 % interval, relative: factors around the prediction, before anything was measured on the machine.
_UNMEASURED = 2.0


@dataclass(frozen=True, slots=True)
class Processor:
    """What a rate depends on: bytes a second that all cores read together, physical cores, and instruction sets.

    `disk_bytes_per_s` None: the file is in the page cache.
    """

    bandwidth: float
    cores: int
    isa: tuple[str, ...] = ("avx2",)
    disk_bytes_per_s: float | None = None

    @property
    def wide(self) -> bool:
        """Whether kernels for wide dot products can be used."""
        return bool({"avx512_vnni", "avxvnni", "amx_int8", "i8mm"} & set(self.isa))


@dataclass(frozen=True, slots=True)
class Speed:
    """A rate or a time with its interval and the seconds it is made of, by what takes them."""

    interval: Interval
    terms: dict[str, float]
    kernel: str

    @property
    def value(self) -> float:
        return self.interval.value


def kernel(shape: ModelShape) -> str:
    """The type of most multiplied weights: the kernel that the time is spent in."""
    multiplied = [group for group in shape.weights if group.multiplied] or list(shape.weights)
    return max(multiplied, key=lambda group: group.size_bytes).type if multiplied else "unknown"


def decode(shape: ModelShape, load: Load, processor: Processor, depth: int = 0) -> Speed:
    """Tokens a second of one stream that has `depth` tokens behind it. The native engine is meant where it is wide."""
    read = shape.active_bytes + kv_read_bytes(shape, load, depth)
    operations = 2 * shape.active_parameters + _attention_operations(shape, depth)
    rate = _gops(shape, processor) * 1e9 * _DECODE_GOPS_SHARE
    memory_s, arithmetic_s = read / (processor.bandwidth * _STREAM_SHARE), operations / rate
    terms = {
        "memory": memory_s,
        "arithmetic": arithmetic_s,
        "steps": shape.depth * _LAYER_S + _TOKEN_S,
    }
    seconds = max(memory_s, arithmetic_s) + terms["steps"]
    return Speed(_wide(1 / seconds), terms, kernel(shape))


def prefill(shape: ModelShape, load: Load, processor: Processor, tokens: int) -> Speed:
    """Tokens a second while a prompt of `tokens` is read, from an empty cache."""
    weights_s = 2 * shape.active_parameters * tokens / (_gops(shape, processor) * 1e9)
    attention_s = _attention_operations(shape, tokens // 2) * tokens / (_gops(shape, processor) * 1e9)
    terms = {"weights": weights_s, "attention": attention_s, "steps": _TOKEN_S + shape.depth * _LAYER_S}
    return Speed(_wide(tokens / sum(terms.values())), terms, kernel(shape))


def load_time(shape: ModelShape, load: Load, processor: Processor, rearranged_bytes: int = 0) -> Speed:
    """Seconds until a worker answers; from the page cache where no rate of the disk is given."""
    terms = {
        "process": _START_S,
        "vocabulary": (shape.tokens or shape.vocabulary) / _TEXTS_PER_S,
        "weights": shape.weight_bytes / _WARM_UP_BYTES_PER_S,
        "cache": kv_read_bytes(shape, load, load.context) / _WARM_UP_BYTES_PER_S,
        "rearranging": rearranged_bytes / _REARRANGE_BYTES_PER_S,
    }
    if processor.disk_bytes_per_s:
        terms["disk"] = shape.weight_bytes / processor.disk_bytes_per_s
    return Speed(_wide(sum(terms.values())), terms, kernel(shape))


def kv_read_bytes(shape: ModelShape, load: Load, depth: int) -> int:
    """Bytes of keys and values that the token after `depth` others looks at."""
    total = 0.0
    for kind in shape.layers:
        seen = min(depth, shape.window) if kind.windowed else depth
        total += kind.count * kv_bytes_per_cell(kind, load) * (cells(seen) if seen else 0) + 4 * kind.count * kind.state
    return int(total)


def _attention_operations(shape: ModelShape, depth: int) -> float:
    """Of one token with `depth` others: products with keys, and sums of values."""
    width = shape.heads * (2 * shape.latent + shape.rope_dim if shape.latent else 2 * shape.head_dim)
    layers = sum(
        kind.count * (min(depth, shape.window) if kind.windowed else depth) for kind in shape.layers if kind.keys
    )
    return 2.0 * width * layers


def _gops(shape: ModelShape, processor: Processor) -> float:
    narrow, wide = _PREFILL_GOPS.get(kernel(shape), _UNKNOWN_GOPS)
    return (wide if processor.wide else narrow) * max(processor.cores, 1)


def _wide(value: float) -> Interval:
    return Interval(value, value / _UNMEASURED, value * _UNMEASURED)
