"""A processor in the estimator's plain numbers, and how fast llama.cpp's kernels are on one core of it.

The rates were fitted by `benchmarks/fit.py --speed-constants` to the recorded runs in tests/fit/speeds.json, all of one
machine and of the bundled build, which uses AVX2 and nothing wider. Anywhere else they are a guess, and figures made
with them have an interval that says so, until a load or a bench there corrects them.
"""

from __future__ import annotations

from dataclasses import dataclass

# Name and instructions of the processor that the rates were measured on, as `hardware` tells them.
MEASURED_ON = ("AMD EPYC", ("AVX2", "AVX512-VNNI", "AVX512-BF16"))


@dataclass(frozen=True, slots=True)
class Processor:
    """What a rate depends on: bytes a second that all cores read together, physical cores, and instruction sets.

    `isa`: those that the engine's build uses, in small letters, of those that the processor has. `measured`: it is of
    the kind that the kernels' rates were measured on. `doubt`: by how much the memory may be faster than `bandwidth`,
    which a disturbed probe found. `disk_bytes_per_s` None: the file is in the page cache.
    """

    bandwidth: float
    cores: int
    isa: tuple[str, ...] = ("avx2",)
    disk_bytes_per_s: float | None = None
    measured: bool = False
    doubt: float = 1.0


@dataclass(frozen=True, slots=True)
class Kernel:
    """Billions of operations a second of one core, two for each weight and token: one token at a time, and many."""

    decode: float
    prefill: float


@dataclass(frozen=True, slots=True)
class Rates:
    """All that was fitted. Rates are of one core, in billions a second; `_s` are seconds.

    `stream_share`: of the probed bandwidth, what matrices reach that are read row by row. `attention`: products with
    keys and values. `elementwise`: values of a token that pass through norms, activations and copies, in prefill.
    `experts`: share of a kernel's rate that is left where each token picks its matrices.
    """

    kernels: dict[str, Kernel]
    stream_share: float
    attention: Kernel
    elementwise: float
    experts: Kernel
    layer_s: float
    token_s: float


# Of these types and this processor's kind; the types below are guesses set beside them.
RATES = Rates(
    kernels={
        "F16": Kernel(65.7, 39.2), "Q8_0": Kernel(24.6, 60.2), "Q6_K": Kernel(28.9, 80.9), "Q5_K": Kernel(28.6, 93.5),
        "Q5_1": Kernel(20.5, 28.5), "Q5_0": Kernel(22.9, 47.0), "Q4_K": Kernel(46.7, 77.2), "Q4_1": Kernel(18.7, 34.7),
        "Q4_0": Kernel(39.7, 74.0), "IQ4_NL": Kernel(53.9, 75.3), "Q3_K": Kernel(29.9, 85.4), "Q2_K": Kernel(40.9, 105),
    },
    stream_share=0.946,
    attention=Kernel(12.5, 172),
    elementwise=0.466,
    experts=Kernel(0.64, 0.63),
    layer_s=67e-6,
    token_s=269e-6,
)  # fmt: skip
_GUESSED = {"F32": Kernel(12, 20), "BF16": Kernel(14, 25)}
_UNKNOWN = Kernel(14, 36)


def kernel_rate(rates: Rates, kind: str) -> Kernel:
    """Measured for the types in `rates`, a guess for the others."""
    return rates.kernels.get(kind) or _GUESSED.get(kind, _UNKNOWN)
