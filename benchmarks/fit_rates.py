"""The rates of fit/processor.py, fitted to recorded measurements, and how they do on the ones held back.

    python benchmarks/fit.py --speed-constants

Least squares of the logarithms, by Gauss and Newton with a damped step, from the same round figures for every type; a
weak pull towards these keeps put what nothing measured tells. How well the formulas do on a file that they were not
fitted to is told by leaving each file out in turn, where another one of its type remains.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from fit_speed import ANSWER, DISTURBED

from localfoundry.bench import stats
from localfoundry.fit import Load, Processor, decode, prefill
from localfoundry.fit.interval import Interval
from localfoundry.fit.processor import RATES, Kernel, Rates
from localfoundry.formats.shape import ModelShape

KEPT = Path(__file__).parent.parent / "tests" / "fit" / "speeds.json"
_PULL = 0.01
_FIRM = 0.2  # on what no single run tells apart: the share of the bandwidth, seconds for tokens
_STEPS = 25
_SAME = ("stream_share", "elementwise", "layer_s", "token_s")


START = Rates(
    kernels=dict.fromkeys(sorted(RATES.kernels), Kernel(40, 80)), stream_share=0.9, attention=Kernel(12, 100),
    elementwise=0.5, experts=Kernel(0.9, 0.7), layer_s=60e-6, token_s=300e-6,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """One median in tokens a second, with what was asked of which processor."""

    window: str
    file: str
    threads: int
    quantity: Literal["decode", "prefill"]
    length: int
    samples: tuple[float, ...]
    shape: ModelShape
    processor: Processor

    @property
    def kind(self) -> str:
        return _kind(self.file)

    @property
    def median(self) -> float:
        return stats.percentile(list(self.samples), 0.5)

    def interval(self, rates: Rates = RATES) -> Interval:
        load = Load(2048, 1)
        if self.quantity == "decode":
            return decode(self.shape, load, self.processor, self.length + ANSWER // 2, rates).interval
        return prefill(self.shape, load, self.processor, self.length, rates).interval

    def predicted(self, rates: Rates = RATES) -> float:
        return self.interval(rates).value

    def error(self, rates: Rates = RATES) -> float:
        return self.predicted(rates) / self.median - 1


def rows(path: Path = KEPT, least: int = 1) -> list[Row]:
    """A median for everything of which `least` runs of a window were not disturbed, beside the probes of that window:
    what the memory of a shared machine gives changes by half within hours."""
    kept: dict[str, Any] = json.loads(path.read_text())
    shapes = {name: msgspec.convert(shape, ModelShape) for name, shape in kept["shapes"].items()}
    return [
        Row(f"{window['window']} {number}", case["file"], case["threads"], quantity, int(length), tuple(calm),
            shapes[case["file"]], Processor(stats.percentile(probes, 0.5), case["threads"], measured=True))
        for number, window in enumerate(kept["windows"])
        for case in window["cases"]
        for probes in [window["probes"].get(str(case["threads"]), [])]
        for what, runs in case["measured"].items()
        for quantity, _, length in [what.partition(" ")]
        for calm in [[rate for rate, others in runs if others <= DISTURBED]]
        if len(calm) >= least and probes and quantity in ("decode", "prefill")
    ]  # fmt: skip


def held_out(some: list[Row], file: str) -> Rates | None:
    """The rates without a file; None where its type would then be unmeasured."""
    rest = [row for row in some if row.file != file]
    return fit(rest) if any(row.kind == _kind(file) for row in rest) else None


def held_back(some: list[Row]) -> list[tuple[Row, Rates]]:
    """Every row whose file can be left out, with the rates that know nothing of it. Takes a second for each file."""
    rates = {file: held_out(some, file) for file in sorted({row.file for row in some})}
    return [(row, found) for row in some for found in [rates[row.file]] if found is not None]


def _kind(file: str) -> str:
    return file.rpartition(" ")[2]


def fit(some: list[Row], start: Rates = START) -> Rates:
    """The rates with the least squares of logarithmic errors over `some`."""
    kinds = sorted(start.kernels)
    first = _vector(start, kinds)
    measured = np.log([row.median for row in some])
    kernels = 2 * len(kinds)
    pull = np.array([_PULL] * kernels + [_FIRM] * (len(first) - kernels))
    pull[len(first) - len(_SAME) + _SAME.index("layer_s")] = _PULL

    def residuals(at: Any) -> Any:
        rates = _rates(np.exp(at), kinds, start)
        errors = np.log([row.predicted(rates) for row in some]) - measured
        return np.concatenate([errors, pull * (at - first)])

    at, damping = first, 1e-2
    now = residuals(at)
    for _ in range(_STEPS):
        slope = np.array([(residuals(at + step) - now) / 1e-4 for step in np.eye(len(at)) * 1e-4]).T
        step = np.linalg.solve(slope.T @ slope + damping * np.eye(len(at)), -slope.T @ now)
        after = residuals(at + np.clip(step, -0.5, 0.5))
        if after @ after < now @ now:
            at, now, damping = at + np.clip(step, -0.5, 0.5), after, damping / 3
        else:
            damping *= 5
    return _rates(np.exp(at), kinds, start)


def _vector(rates: Rates, kinds: list[str]) -> Any:
    values = [part for kind in kinds for part in (rates.kernels[kind].decode, rates.kernels[kind].prefill)]
    values += [rates.attention.decode, rates.attention.prefill, rates.experts.decode, rates.experts.prefill]
    return np.log([*values, *(getattr(rates, name) for name in _SAME)])


def _rates(values: Any, kinds: list[str], start: Rates) -> Rates:
    kernels = {kind: Kernel(float(values[2 * n]), float(values[2 * n + 1])) for n, kind in enumerate(kinds)}
    rest = [float(value) for value in values[2 * len(kinds) :]]
    return replace(
        start, kernels=kernels, attention=Kernel(*rest[:2]), experts=Kernel(*rest[2:4]),
        **dict(zip(_SAME, rest[4:], strict=True)),
    )  # fmt: skip


def report(errors: list[tuple[Row, float]], label: str) -> None:
    for quantity in ("decode", "prefill"):
        sizes = sorted(abs(error) for row, error in errors if row.quantity == quantity)
        print(f"{label}, {quantity}: {len(sizes)} medians, 90 % within {stats.percentile(sizes, 0.9):.0%}, "
              f"half within {stats.percentile(sizes, 0.5):.0%}, worst {sizes[-1]:.0%}")  # fmt: skip


def main() -> None:
    every = rows()
    rates = fit(every)
    held = held_back(every)
    for row, found in held:
        spread = max(row.samples) / min(row.samples) - 1
        print(f"{row.window:9}{row.file:34} x{row.threads} {row.quantity:8}{row.length:5} measured {row.median:8.1f} "
              f"(n {len(row.samples)}, spread {spread:4.0%}) predicted without it {row.predicted(found):8.1f} "
              f"{row.error(found):+.0%}")  # fmt: skip
    report([(row, row.error(rates)) for row in every], "fitted to")
    report([(row, row.error(found)) for row, found in held], "held back")
    for kind, kernel in rates.kernels.items():
        if any(row.kind == kind for row in every):
            print(f'"{kind}": Kernel({kernel.decode:.1f}, {kernel.prefill:.1f}),')
    print({name: getattr(rates, name) for name in _SAME}, rates.attention, rates.experts)


if __name__ == "__main__":
    main()
