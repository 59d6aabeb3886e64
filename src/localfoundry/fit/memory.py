"""How much memory a load takes in llama.cpp: pure arithmetic, and the only place that does it.

Weights, keys and values are exact: their sizes follow from the header. Compute buffers are what the engine's allocator
needs at the widest place of the graph; the sums below reproduce its log to the megabyte for the architectures that
`benchmarks/fit.py` loads. The process itself (Python, code, the vocabulary's texts) is a line through measured loads.
docs/fit.md compares all of it with loads of the real engine.

    total = weights + rearranged + stale + kv_cache + state + checkpoints + compute + output + projector + process
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from localfoundry.fit.interval import Interval
from localfoundry.formats.shape import LayerKind, ModelShape

Purpose = Literal[
    "weights", "rearranged", "stale", "kv_cache", "state", "checkpoints", "compute", "output", "projector", "process"
]

BATCH = 512  # tokens that the engine computes at once (n_ubatch)
CHECKPOINTS = 2  # of each sequence that the engine keeps beside its buffers; workers are told so
_PAD = 256  # cells that a cache is rounded up to
# Bytes for one value of a key or value: blocks of 32 with their scales. ggml/src/ggml.c, `type_traits`.
CACHE_BYTES = {
    "f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32, "q4_1": 20 / 32,
    "q4_0": 18 / 32, "iq4_nl": 18 / 32,
}  # fmt: skip
# Types that the processor's kernels want with rows interleaved, so that a second copy is made. ggml-cpu/repack.cpp.
_REARRANGED = {
    "avx2": frozenset({"Q4_0", "Q4_K", "IQ4_NL"}),
    "avx512": frozenset({"Q4_0", "Q4_K", "Q2_K", "IQ4_NL"}),
    "neon": frozenset({"Q4_0", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "IQ4_NL"}),
}
# The bundled worker's process: a line through the loads in tests/fit/loads.json, by `benchmarks/fit.py --constants`.
_PROCESS_BYTES = 38_000_000
_BYTES_PER_TOKEN = 364  # of the vocabulary: its text twice, its place in the maps, one merge
_SAMPLER_BYTES = 18.3  # for each token of the vocabulary, of every request: its candidates

# Half the width of a 90 % interval, relative: the least that held 90 % of the loads that were fitted to.
_COMPUTE_SPREAD = 0.04
_PROCESS_SPREAD = 0.04
MIX_SPREAD = 0.10  # where the file's size is known, but not which of its matrices are of which type
UNCERTAIN_SPREAD = 0.30  # where shape or architecture are not known for certain


@dataclass(frozen=True, slots=True)
class Load:
    """How a model is loaded: `context` tokens shared by `parallel` sequences, types of the cache, and the processor.

    `isa` names what kernels rearrange weights for: avx2, avx512, neon, or nothing of these.
    """

    context: int
    parallel: int = 1
    cache_keys: str = "f16"
    cache_values: str = "f16"
    flash_attention: bool = True
    embeddings: bool = False
    batch: int = BATCH
    isa: str = "avx2"
    mapped: bool = True  # weights stay in the page cache; False: read into memory of the process
    full_window: bool = False
    projector_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Term:
    """Bytes for one purpose, half the width of their interval relative to them, and the arithmetic in words.

    `later_bytes` of them are taken only as the context fills, so that a load may be seen without them.
    """

    purpose: Purpose
    size_bytes: int
    spread: float
    words: str
    later_bytes: int = 0

    @property
    def low(self) -> float:
        return self.size_bytes * (1 - self.spread) - self.later_bytes

    @property
    def high(self) -> float:
        return self.size_bytes * (1 + self.spread)


@dataclass(frozen=True, slots=True)
class Memory:
    """What a load takes, term by term. `stale` can be had back by the system without harm, the rest cannot."""

    terms: tuple[Term, ...]

    def __getitem__(self, purpose: Purpose) -> int:
        return sum(term.size_bytes for term in self.terms if term.purpose == purpose)

    @property
    def total(self) -> int:
        return sum(term.size_bytes for term in self.terms)

    @property
    def interval(self) -> Interval:
        """The total with the interval that 90 % of loads are meant to lie in; the terms' errors are taken to add up.

        What is taken only as the context fills is in the total, and at the low end it is not. Weights are added last,
        so that a sum kept of the other terms gives the same floats (`decoder.py`).
        """
        low = high = 0.0
        for term in reversed(self.terms):
            low += term.low
            high += term.high
        return Interval(self.total, low, high)


def memory(shape: ModelShape, load: Load) -> Memory:
    """Bytes by purpose, once the model has answered: untouched buffers cost nothing before that."""
    return Memory((*(term for term in _weights(shape, load) if term.size_bytes), *buffers(shape, load)))


def buffers(shape: ModelShape, load: Load) -> tuple[Term, ...]:
    """Everything but the weights: it does not depend on how those are quantized."""
    unsure = 0.0 if shape.certain and shape.exact else UNCERTAIN_SPREAD
    terms = [_kv_cache(shape, load, unsure)]
    state = sum(kind.count * kind.state for kind in shape.layers) * 4 * load.parallel
    if state:
        terms.append(Term("state", state, unsure, f"{load.parallel} sequences of recurrent state in f32"))
    terms.append(_checkpoints(shape, load, unsure))
    terms.append(_compute(shape, load, unsure))
    output = 4 * load.parallel * (shape.vocabulary + (shape.hidden if load.embeddings else 0))
    terms.append(Term("output", output, 0.0, f"{load.parallel} sequences x {shape.vocabulary:,} logits x 4 bytes"))
    if load.projector_bytes:
        terms.append(Term("projector", load.projector_bytes, 0.1, "weights of the projector for images or sound"))
    process = _PROCESS_BYTES + _BYTES_PER_TOKEN * (shape.tokens or shape.vocabulary)
    process += int(_SAMPLER_BYTES * shape.vocabulary * load.parallel)
    words = f"{_PROCESS_BYTES / 1e6:.0f} MB + for the vocabulary, each text {_BYTES_PER_TOKEN} bytes, and "
    words += f"{_SAMPLER_BYTES:.0f} more for each request"
    terms.append(Term("process", process, _PROCESS_SPREAD, words))
    return tuple(term for term in terms if term.size_bytes)


def cells(context: int) -> int:
    """Places in a cache for `context` tokens: rounded up as the engine does."""
    return -(-context // _PAD) * _PAD


def window_cells(shape: ModelShape, load: Load) -> int:
    """Places in the cache of layers with a window: the window of every sequence and one batch, at most the context."""
    full = cells(load.context)
    return full if load.full_window else min(full, cells(shape.window * load.parallel + load.batch))


def kv_bytes_per_cell(kind: LayerKind, load: Load) -> float:
    """Bytes that one layer of this kind keeps of one token."""
    return kind.keys * CACHE_BYTES[load.cache_keys] + kind.values * CACHE_BYTES[load.cache_values]


def _kv_cache(shape: ModelShape, load: Load, unsure: float) -> Term:
    full, window = cells(load.context), window_cells(shape, load)
    size = 0.0
    for kind in shape.layers:
        size += kind.count * kv_bytes_per_cell(kind, load) * (window if kind.windowed else full)
    slid = sum(kind.count for kind in shape.layers if kind.windowed)
    rest = sum(kind.count for kind in shape.layers if kind.keys) - slid
    parts = [f"{count} layers x {places:,} tokens" for count, places in ((rest, full), (slid, window)) if count]
    types = load.cache_keys if load.cache_keys == load.cache_values else f"{load.cache_keys}/{load.cache_values}"
    return Term("kv_cache", int(size), unsure, f"{' + '.join(parts)}, keys and values in {types}")


def _checkpoints(shape: ModelShape, load: Load, unsure: float) -> Term:
    """Copies of what cannot be rolled back, so that the next prompt need not be read anew: window and state.

    The engine makes them at the end of a prompt, `CHECKPOINTS` of each sequence; a sequence has at most the window in
    them, and all sequences together what the context holds. With the whole window kept (`full_window`) there are none.
    """
    kept = 0.0
    if not load.full_window and not shape.encoder:
        tokens = min(shape.window * load.parallel, cells(load.context))
        kept = sum(kind.count * kv_bytes_per_cell(kind, load) for kind in shape.layers if kind.windowed) * tokens
    kept += sum(kind.count * kind.state for kind in shape.layers) * 4 * load.parallel
    size = int(CHECKPOINTS * kept)
    words = f"{CHECKPOINTS} copies of window and state for each of {load.parallel} requests, as they are used"
    return Term("checkpoints", size, unsure, words, int(size * (1 - unsure)))


def rearranged_types(isa: str) -> frozenset[str]:
    return _REARRANGED.get(isa, frozenset())


def _weights(shape: ModelShape, load: Load) -> list[Term]:
    """Weights as mapped, copies rearranged for the kernels, and pages of the file that those copies made useless.

    The engine maps the file from the first tensor it uses in place to the last; what it rearranged lies in between.
    A head that is the embedding is copied as well: the embedding itself is looked up in place.
    """
    types = rearranged_types(load.isa)
    copied = [group for group in shape.weights if group.multiplied and group.type in types]
    used = [group for group in shape.weights if group not in copied]
    in_place = sum(group.size_bytes for group in used)
    copies = sum(group.size_bytes for group in copied)
    if copies and not shape.output_bytes and shape.output_type in types:
        copies += shape.embedding_bytes
    spread, words = 0.0, "tensors used as they are in the file"
    if not shape.exact:
        spread = MIX_SPREAD if shape.sized else UNCERTAIN_SPREAD
        words = "of the file's size" if shape.sized else "so many bits for each parameter: no file is known"
    terms = [Term("weights", in_place, spread, words)]
    if copies:
        kinds = ", ".join(sorted({group.type for group in copied}))
        terms.append(
            Term("rearranged", copies, spread, f"{kinds} copied into the order that the {load.isa} kernels read")
        )
    if copied and used and load.mapped:
        begin, end = min(group.begin for group in used), max(group.end for group in used)
        stale = max(end - begin - in_place, 0)
        terms.append(
            Term("stale", stale, spread, "pages of the file behind those copies: dropped when others need room")
        )
    return terms


def _compute(shape: ModelShape, load: Load, unsure: float) -> Term:
    """The widest place of the graph. A unit is one batch of f32 values, so that widths can be added.

    Read off the engine's log: with flash attention 5 times the hidden size, and on top the larger of attention (queries
    twice, or queries, keys and values once) and the feed-forward network (gate, up, product). Latent attention holds
    queries three times, compressed. Without flash attention the scores of all heads come on top.
    """
    unit = 4 * load.batch
    full, window = cells(load.context), window_cells(shape, load)
    places = full + (window if any(kind.windowed for kind in shape.layers) else 0)
    inner = max(_attention(shape), _feed_forward(shape), 4 * shape.hidden if shape.convolution else 0)
    width, words = 5 * shape.hidden + inner, "widest layer + mask"
    mask = (2 if load.flash_attention else 4) * load.batch * places
    if load.embeddings and not shape.encoder:
        width = max(width, 5 * shape.hidden + shape.vocabulary)  # logits of the whole batch
    size = unit * width + mask
    later = mask - min(mask, load.batch * 2 * load.batch)
    if not load.flash_attention:
        queries = shape.heads * shape.head_dim
        keys = max((kind.keys for kind in shape.layers), default=0)
        scores = unit * (shape.heads * full + 5 * shape.hidden + 2 * queries + 2 * keys)
        later += max(scores + mask - size, 0)
        size = max(size, scores + mask)
        words = "scores of all heads + mask"
    return Term(
        "compute", int(size), max(_COMPUTE_SPREAD, unsure), f"a batch of {load.batch} tokens: {words}", int(later)
    )


def _attention(shape: ModelShape) -> int:
    queries = shape.heads * shape.head_dim
    keys = max((kind.keys for kind in shape.layers), default=0)
    if shape.latent:
        return shape.heads * (2 * shape.latent + shape.rope_dim + shape.head_dim)
    return queries + 2 * keys if shape.fused else max(2 * queries, queries + 2 * keys)


def _feed_forward(shape: ModelShape) -> int:
    """Width of gate, up and their product; with experts, of those that one token uses.

    What is no wider than the hidden size finds room in what attention left. The experts' answers need new room where
    they do not fit into that of gate and up.
    """
    parts = 3 if shape.gated else 2
    dense = parts * shape.ffn if shape.ffn > shape.hidden else 0
    if not shape.experts:
        return dense
    inner, answers = shape.experts_used * shape.expert_ffn, shape.experts_used * shape.hidden
    if inner <= shape.hidden:
        return answers
    mixture = parts * inner + (answers if answers > 2 * inner else 0)
    return max(mixture, dense if shape.latent else 0)
