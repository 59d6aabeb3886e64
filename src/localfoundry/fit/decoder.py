"""The estimate for many files of few architectures: what depends on dimensions is computed once, a file adds its bytes.

Only for plain decoders as a catalog describes them (`of_catalog`), loaded as nothing else was said. Of a file its size
and its quantization count: weights, and the time to read them, are linear in the size. This is no second formula:
operations and their order are those of `shape.py`, `memory.py` and `speed.py`, so that the figures are the same to the
last bit, which tests/fit/test_decoder.py holds them to. A figure takes some microseconds instead of a hundred.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from localfoundry.catalog.model import Architecture
from localfoundry.fit.context import largest_that
from localfoundry.fit.interval import Interval
from localfoundry.fit.memory import MIX_SPREAD, UNCERTAIN_SPREAD, Load, Memory, buffers, rearranged_types
from localfoundry.fit.processor import RATES, Processor, Rates, kernel_rate
from localfoundry.fit.shape import EMBEDDING_TYPE, assumed_bytes, mix_of, of_catalog
from localfoundry.fit.speed import all_cores, around, decode_factor, longer, prefill_consts, prefill_factor, steps_s
from localfoundry.formats.gguf_types import bytes_per_value


class Part(NamedTuple):
    """Matrices of one type: their share of a file's. `copied`: the kernels want them rearranged.

    `with_head`: the head is of this type, and counts apart. Operations a second are those of all cores.
    """

    share: float
    copied: bool
    with_head: bool
    bytes_per_value: float
    decode: float
    prefill: float


@dataclass(frozen=True, slots=True)
class Quantization:
    """What files called so are made of, and how wide the intervals of rates with it are, as factors."""

    kernel: str
    parts: tuple[Part, ...]
    copied: bool  # any of them
    decode_factor: float
    prefill_factor: float


class Rest(NamedTuple):
    """All that a load takes besides its weights: the sum, and the ends of its interval."""

    total: int
    low: float
    high: float


class Decoders:
    """Of one machine. `processor` None: only memory can be told."""

    def __init__(self, processor: Processor | None, isa: str, rates: Rates = RATES) -> None:
        self.rates = rates
        self.processor = processor
        self._copied = rearranged_types(isa)
        self.copies_embedding = EMBEDDING_TYPE in self._copied
        self.stream = processor.bandwidth * rates.stream_share if processor else 1.0
        head = kernel_rate(rates, EMBEDDING_TYPE).decode * 1.0
        self.head_operations = all_cores(head, processor) if processor else 1.0
        self.doubt = max(processor.doubt, 1.0) if processor else 1.0
        self._quantizations: dict[str | None, Quantization] = {}
        self._decoders: dict[Architecture, Decoder] = {}

    def file(self, architecture: Architecture, size_bytes: int | None, quantization: str | None) -> File:
        """`size_bytes` None: as large as the quantization makes such a model."""
        decoder = self._decoders.get(architecture)
        if decoder is None:
            decoder = self._decoders[architecture] = Decoder(architecture, self)
        known = self._quantizations.get(quantization)
        if known is None:
            known = self._quantizations[quantization] = self._quantization(quantization)
        return File(decoder, size_bytes, known, size_bytes or assumed_bytes(architecture, quantization))

    def _quantization(self, name: str | None) -> Quantization:
        mix, processor = mix_of(name), self.processor
        kernel = max(mix, key=lambda part: part[1])[0]
        parts = []
        for kind, share in mix:
            rate = kernel_rate(self.rates, kind)
            decode, prefill = (all_cores(one * 1.0, processor) if processor else 1.0
                               for one in (rate.decode, rate.prefill))  # fmt: skip
            parts.append(Part(share, kind in self._copied, kind == EMBEDDING_TYPE, bytes_per_value(kind) or 1.0,
                              decode, prefill))  # fmt: skip
        copied = any(part.copied for part in parts)
        if processor is None:
            return Quantization(kernel, tuple(parts), copied, 1.0, 1.0)
        known = kernel in self.rates.kernels
        return Quantization(kernel, tuple(parts), copied, decode_factor(processor, known, exact=False),
                            prefill_factor(processor, known, exact=False))  # fmt: skip


class Decoder:
    """One architecture on one machine."""

    __slots__ = ("_prompts", "_rests", "_shape", "active", "architecture", "head_s", "machine", "share", "steps_s",
                 "untied")  # fmt: skip

    def __init__(self, architecture: Architecture, machine: Decoders) -> None:
        embedding = architecture.vocab_size * architecture.hidden_size
        self.architecture, self.machine = architecture, machine
        self.share = embedding / architecture.parameters()
        self.untied = not architecture.tied_embeddings
        self._shape = of_catalog(architecture, None, None)
        self.active = max(self._shape.active_parameters - float(embedding), 0.0)  # values of the layers' matrices
        self.head_s = 2 * float(embedding) / machine.head_operations
        self.steps_s = steps_s(self._shape, machine.rates)
        self._rests: dict[tuple[int, bool], Rest] = {}
        self._prompts: dict[int, tuple[float, float, float]] = {}

    def rest(self, load: Load, context: int) -> Rest:
        """Of `load` with another context."""
        key = context, load.embeddings
        found = self._rests.get(key)
        if found is None:
            terms = Memory(buffers(self._shape, load if load.context == context else replace(load, context=context)))
            ends = terms.interval
            found = self._rests[key] = Rest(terms.total, ends.low, ends.high)
        return found

    def prompt_s(self, load: Load, tokens: int) -> tuple[float, float, float]:
        """Seconds of a prompt that do not depend on the weights."""
        found = self._prompts.get(tokens)
        if found is None:
            assert self.machine.processor is not None
            found = prefill_consts(self._shape, load, self.machine.processor, tokens, self.machine.rates)
            self._prompts[tokens] = found
        return found


class File:
    """A file of an architecture, in bytes by what it holds; `sized` False: its size is an assumption."""

    __slots__ = ("_decoder", "_embedding", "_parts", "_quantization", "_size", "sized")

    def __init__(self, decoder: Decoder, size_bytes: int | None, quantization: Quantization, size: int) -> None:
        self._decoder, self._quantization, self._size = decoder, quantization, size
        self.sized = size_bytes is not None
        self._embedding = int(size * decoder.share)
        matrices = size - self._embedding
        self._parts = [int(matrices * part.share) for part in quantization.parts]

    @property
    def kernel(self) -> str:
        return self._quantization.kernel

    @property
    def weight_bytes(self) -> int:
        return self._embedding + sum(self._parts)

    def memory(self, load: Load) -> Interval:
        """Bytes that a load takes, as `memory(...).interval`."""
        in_place, copies, stale = self._weights()
        spread = MIX_SPREAD if self.sized else UNCERTAIN_SPREAD
        less, more = 1 - spread, 1 + spread
        rest = self._decoder.rest(load, load.context)
        return Interval(
            in_place + copies + stale + rest.total,
            rest.low + stale * less + copies * less + in_place * less,
            rest.high + stale * more + copies * more + in_place * more,
        )

    def largest_context(self, load: Load, room_bytes: int, most: int) -> int | None:
        """As `fit.largest_context`."""
        decoder, left = self._decoder, room_bytes - sum(self._weights())
        return largest_that(lambda context: decoder.rest(load, context).total <= left, most)

    def decode(self, load: Load) -> Interval:
        """Tokens a second of one stream, as `decode(...).interval`; needs a processor."""
        decoder, quantization = self._decoder, self._quantization
        weights = 0.0
        for part, size, parameters in self._layers():
            weights += longer(size / decoder.machine.stream, 2 * parameters / part.decode)
        weights += longer(self._embedding / decoder.machine.stream, decoder.head_s)
        rate = 1 / sum((weights, 0.0, decoder.steps_s))
        return around(rate, quantization.decode_factor, decoder.machine.doubt)

    def prefill(self, load: Load, tokens: int) -> Interval:
        """Tokens a second of a prompt of `tokens`, as `prefill(...).interval`; needs a processor."""
        decoder, quantization, batches = self._decoder, self._quantization, -(-tokens // load.batch)
        weights = 0.0
        for part, size, parameters in self._layers():
            weights += longer(batches * size / decoder.machine.stream, 2 * parameters * tokens / part.prefill)
        head = longer(self._embedding / decoder.machine.stream, decoder.head_s)
        rate = tokens / sum((weights, head, *decoder.prompt_s(load, tokens)))
        return around(rate, quantization.prefill_factor, decoder.machine.doubt)

    def _layers(self) -> Sequence[tuple[Part, float, float]]:
        """Of the layers' matrices, by type: their part, bytes and values that a token passes through."""
        decoder, head = self._decoder, self._embedding if self._decoder.untied else 0
        active, parameters = self._size - head - self._embedding, decoder.active
        if len(self._parts) == 1:  # as of most quantizations
            part, left = self._quantization.parts[0], self._parts[0]
            if part.with_head:
                left = left - head if left > head else 0
            value = left / part.bytes_per_value
            return ((part, max(active, 0) * left / left, parameters * value / value),) if left else ()
        size, count, found = 0, 0.0, []
        for part, left in zip(self._quantization.parts, self._parts, strict=True):
            if part.with_head:
                left = left - head if left > head else 0
            value = left / part.bytes_per_value
            size, count = size + left, count + value
            found.append((part, left, value))
        if not size:
            return ()
        active = max(active, 0)
        return [(part, active * left / size, parameters * value / count) for part, left, value in found]

    def _weights(self) -> tuple[int, int, int]:
        """Bytes that are used in place, copied, and made useless by that; the embedding comes first in the file."""
        if not self._quantization.copied:
            return self.weight_bytes, 0, 0
        decoder = self._decoder
        in_place = at = end = self._embedding
        copies = 0
        for part, size in zip(self._quantization.parts, self._parts, strict=True):
            at += size
            if part.copied:
                copies += size
            else:
                in_place, end = in_place + size, at
        stale = end - in_place
        if copies and not decoder.untied and decoder.machine.copies_embedding:
            copies += self._embedding
        return in_place, copies, stale
