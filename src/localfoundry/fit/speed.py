"""How fast a model will be on processor cores: decode, prefill and load time, each from what limits it.

Decoding one token reads every active weight and multiplies with it, whichever takes longer, then looks at the keys and
values so far, and spends a little on each layer's steps. Prefill is arithmetic, the head's only for the last token; a
load is bytes off the disk and through the warm-up. Rates are in `processor.py`. How sure a figure is depends on whether
the machine is of the kind they were measured on; `calibration.py` narrows it with every load and bench.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import hypot, sqrt

from localfoundry.fit.interval import Interval
from localfoundry.fit.memory import Load, cells, kv_bytes_per_cell
from localfoundry.fit.processor import RATES, Processor, Rates, kernel_rate
from localfoundry.formats.gguf_types import bytes_per_value
from localfoundry.formats.shape import ModelShape

_START_S = 0.6  # a worker's process and its imports
_WARM_UP_BYTES_PER_S = 2e9  # pages touched by the warm-up, from the page cache
_REARRANGE_BYTES_PER_S = 0.4e9
_TEXTS_PER_S = 400_000  # of the vocabulary
_PER_HEAD = 200  # products that take as long as what a head spends on each position besides them: its softmax, the loop

# 90 % intervals as factors up and down, on the kind of machine that was measured.
_DECODE, _PREFILL, _LOAD = 1.4, 1.35, 2.0
_OTHER_MACHINE = 2.0  # the clock and the width of its cores are not known
_UNMEASURED = 2.5  # kernels for other instructions, or of a type that was never measured
_DEDUCED = 1.15  # a shape from a catalog's facts


@dataclass(frozen=True, slots=True)
class Speed:
    """A rate or a time with its interval and the seconds it is made of, by what takes them.

    `words` say for each how it comes about. `kernel` is the type of most multiplied weights.
    """

    interval: Interval
    terms: dict[str, float]
    kernel: str
    words: dict[str, str]

    @property
    def value(self) -> float:
        return self.interval.value


@dataclass(frozen=True, slots=True)
class _Matrices:
    """Weights of one type that a token passes through."""

    type: str
    size_bytes: float
    parameters: float


def kernel(shape: ModelShape) -> str:
    """The type of most multiplied weights: the kernel that the time is spent in."""
    multiplied = [group for group in shape.weights if group.multiplied] or list(shape.weights)
    return max(multiplied, key=lambda group: group.size_bytes).type if multiplied else "unknown"


def decode(shape: ModelShape, load: Load, processor: Processor, depth: int = 0, rates: Rates = RATES) -> Speed:
    """Tokens a second of one stream that has `depth` tokens behind it."""
    reading = multiplying = weights = 0.0
    for matrices in (*_body(shape), _head(shape)):
        read_s, multiply_s = _one_token(matrices, processor, rates, rates.experts.decode if shape.experts else 1.0)
        reading, multiplying = reading + read_s, multiplying + multiply_s
        weights += longer(read_s, multiply_s)
    kept = kv_read_bytes(shape, load, depth)
    attention = max(
        _attention_operations(shape, depth) / all_cores(rates.attention.decode, processor),
        kept / (processor.bandwidth * rates.stream_share),
    )
    terms = {"weights": weights, "attention": attention, "steps": steps_s(shape, rates)}
    words = {
        "weights": f"{shape.active_bytes / 1e6:,.0f} MB: {_ms(reading)} to read, {_ms(multiplying)} to multiply with",
        "attention": f"{depth:,} tokens behind it, {kept / 1e6:,.1f} MB of keys and values",
        "steps": f"{shape.depth} layers and the sampling",
    }
    return Speed(_interval(1 / sum(terms.values()), _DECODE, shape, processor, rates), terms, kernel(shape), words)


def prefill(shape: ModelShape, load: Load, processor: Processor, tokens: int, rates: Rates = RATES) -> Speed:
    """Tokens a second while a prompt of `tokens` is read, from an empty cache."""
    batches = -(-tokens // load.batch)
    stream = processor.bandwidth * rates.stream_share
    share = rates.experts.prefill if shape.experts else 1.0
    weights = 0.0
    for matrices in _body(shape):
        rate = kernel_rate(rates, matrices.type).prefill * share
        multiply_s = 2 * matrices.parameters * tokens / all_cores(rate, processor)
        weights += longer(batches * matrices.size_bytes / stream, multiply_s)
    attention, elementwise, steps = prefill_consts(shape, load, processor, tokens, rates)
    terms = {
        "weights": weights,
        "head": longer(*_one_token(_head(shape), processor, rates, 1.0)),
        "attention": attention,
        "elementwise": elementwise,
        "steps": steps,
    }
    words = {
        "weights": f"{tokens:,} tokens through the layers' matrices",
        "head": "logits of the last token",
        "attention": f"every token with those before it, in {shape.depth} layers",
        "elementwise": "norms, activations and copies",
        "steps": f"{shape.depth} layers, {batches} batches of {load.batch} tokens",
    }
    return Speed(
        _interval(tokens / sum(terms.values()), _PREFILL, shape, processor, rates), terms, kernel(shape), words
    )


def prefill_consts(
    shape: ModelShape, load: Load, processor: Processor, tokens: int, rates: Rates = RATES
) -> tuple[float, float, float]:
    """Seconds of a prompt that do not depend on the weights: attention, norms and the like, steps."""
    return (
        tokens * _attention_operations(shape, tokens / 2) / all_cores(rates.attention.prefill, processor),
        tokens * shape.depth * _elementwise(shape) / all_cores(rates.elementwise, processor),
        -(-tokens // load.batch) * steps_s(shape, rates),
    )


def steps_s(shape: ModelShape, rates: Rates) -> float:
    """What layers and the sampling take of each token, or batch, whatever the weights."""
    return shape.depth * rates.layer_s + rates.token_s


def load_time(shape: ModelShape, load: Load, processor: Processor | None, rearranged_bytes: int = 0) -> Speed:
    """Seconds until a worker answers; from the page cache where no rate of the disk is given, or no processor."""
    terms = {
        "process": _START_S,
        "vocabulary": (shape.tokens or shape.vocabulary) / _TEXTS_PER_S,
        "weights": shape.weight_bytes / _WARM_UP_BYTES_PER_S,
        "cache": kv_read_bytes(shape, load, load.context) / _WARM_UP_BYTES_PER_S,
        "rearranging": rearranged_bytes / _REARRANGE_BYTES_PER_S,
    }
    if processor and processor.disk_bytes_per_s:
        terms["disk"] = shape.weight_bytes / processor.disk_bytes_per_s
    words = {
        "process": "its start, and the engine's",
        "vocabulary": f"{shape.tokens or shape.vocabulary:,} texts",
        "weights": f"{shape.weight_bytes / 1e6:,.0f} MB through the warm-up, from the page cache",
        "cache": f"made for {load.context:,} tokens",
        "rearranging": f"{rearranged_bytes / 1e6:,.0f} MB copied for the kernels",
        "disk": "read from it",
    }
    return Speed(around(sum(terms.values()), _LOAD), terms, kernel(shape), words)


def _one_token(matrices: _Matrices, processor: Processor, rates: Rates, share: float) -> tuple[float, float]:
    """Seconds to read the matrices, and to multiply one vector with them at a `share` of their kernel's rate."""
    rate = kernel_rate(rates, matrices.type).decode * share
    read_s = matrices.size_bytes / (processor.bandwidth * rates.stream_share)
    return read_s, 2 * matrices.parameters / all_cores(rate, processor)


def longer(one: float, other: float) -> float:
    """Of two times that overlap; near each other they get in each other's way."""
    return sqrt(hypot(one * one, other * other))


def all_cores(rate: float, processor: Processor) -> float:
    return rate * 1e9 * max(processor.cores, 1)


def _body(shape: ModelShape) -> Iterator[_Matrices]:
    """Matrices of the layers, by type; of a mixture as many of each type as one token uses on average."""
    head = _head(shape)
    left = {group.type: group.size_bytes for group in shape.weights if group.multiplied}
    if shape.output_bytes and head.type in left:
        left[head.type] = max(left[head.type] - shape.output_bytes, 0)
    values = {kind: size / (bytes_per_value(kind) or 1.0) for kind, size in left.items()}
    size, count = sum(left.values()), sum(values.values())
    if not size or not count:
        return
    active_bytes = max(shape.active_bytes - head.size_bytes, 0)
    active_parameters = max(shape.active_parameters - head.parameters, 0)
    for kind in left:
        yield _Matrices(kind, active_bytes * left[kind] / size, active_parameters * values[kind] / count)


def _head(shape: ModelShape) -> _Matrices:
    """The matrix that makes logits of the last layer; often the embedding."""
    size = shape.output_bytes or shape.embedding_bytes
    if shape.encoder:
        return _Matrices("F32", 0.0, 0.0)
    return _Matrices(shape.output_type or kernel(shape), size, float(shape.vocabulary * shape.hidden))


def _elementwise(shape: ModelShape) -> float:
    inner = shape.experts_used * shape.expert_ffn if shape.experts else shape.ffn
    return 8.0 * shape.hidden + 3.0 * inner + 4.0 * shape.heads * shape.head_dim


def kv_read_bytes(shape: ModelShape, load: Load, depth: int) -> int:
    """Bytes of keys and values that the token after `depth` others looks at."""
    total = 0.0
    for kind in shape.layers:
        seen = min(depth, shape.window) if kind.windowed else depth
        total += kind.count * kv_bytes_per_cell(kind, load) * (cells(seen) if seen else 0) + 4 * kind.count * kind.state
    return int(total)


def _attention_operations(shape: ModelShape, depth: float) -> float:
    """Of one token with `depth` others: products with keys, and sums of values."""
    width = shape.heads * (2 * shape.latent + shape.rope_dim if shape.latent else 2 * shape.head_dim + _PER_HEAD)
    layers = sum(
        kind.count * (min(depth, shape.window) if kind.windowed else depth) for kind in shape.layers if kind.keys
    )
    return 2.0 * width * layers


def _interval(value: float, spread: float, shape: ModelShape, processor: Processor, rates: Rates) -> Interval:
    """As wide as what was measured allows: on this kind of machine, with these instructions, this kernel, this file."""
    known = kernel(shape) in rates.kernels and not shape.experts
    return around(value, _factor(spread, processor, known, shape.exact), processor.doubt)


def decode_factor(processor: Processor, known: bool, *, exact: bool) -> float:
    """Half the width of a decode rate's interval, as a factor. `known`: the kernel was measured."""
    return _factor(_DECODE, processor, known, exact)


def prefill_factor(processor: Processor, known: bool, *, exact: bool) -> float:
    return _factor(_PREFILL, processor, known, exact)


def _factor(spread: float, processor: Processor, known: bool, exact: bool) -> float:
    factor = spread
    if not processor.measured:
        factor = max(factor, _OTHER_MACHINE if processor.isa == ("avx2",) else _UNMEASURED)
    if not known:
        factor = max(factor, _UNMEASURED)
    return factor if exact else factor * _DEDUCED


def around(value: float, factor: float, doubt: float = 1.0) -> Interval:
    return Interval(value, value / factor, value * factor * max(doubt, 1.0))


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.2f} ms"
