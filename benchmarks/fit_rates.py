"""The rates of fit/processor.py, fitted to recorded measurements, and how they do on the ones held back.

    python benchmarks/fit.py --speed-constants

Fitted to are the cases that `fitted` names: of every type one shape. Least squares of the logarithms, by Gauss and
Newton with a damped step; a weak pull towards the rates now in the file keeps put what nothing measured tells.
"""

from __future__ import annotations

import json
from collections import defaultdict
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
FITTED = ("SmolLM2-135M ", "Qwen3-0.6B (10 layers) ", "a mixture of 32 experts Q8_0")
_PULL = 0.02
_FIRM = 0.5  # on what no single run tells apart: the share of the bandwidth, seconds for layers and tokens
_STEPS = 60
_SAME = ("stream_share", "elementwise", "layer_s", "token_s")


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

    @property
    def fitted(self) -> bool:
        """Whether the rates were: one shape for every type, and no run with fewer threads than cores."""
        return self.threads > 1 and self.file.startswith(FITTED)


def rows(path: Path = KEPT, least: int = 1) -> list[Row]:
    """A median for everything of which `least` runs were not disturbed, over all windows that it was in."""
    kept: dict[str, Any] = json.loads(path.read_text())
    shapes = {name: msgspec.convert(shape, ModelShape) for name, shape in kept["shapes"].items()}
    samples: dict[tuple[str, int, str], list[float]] = defaultdict(list)
    probes: dict[tuple[str, int], list[float]] = defaultdict(list)
    windows: dict[str, str] = {}
    for window in kept["windows"]:
        for case in window["cases"]:
            file, threads = case["file"], case["threads"]
            windows.setdefault(file, window["window"])
            probes[file, threads] += window["probes"].get(str(threads), [])
            for what, runs in case["measured"].items():
                samples[file, threads, what] += [rate for rate, others in runs if others <= DISTURBED]
    return [
        Row(windows[file], file, threads, quantity, int(length), tuple(runs), shapes[file],
            Processor(stats.percentile(probes[file, threads], 0.5), threads, measured=True))
        for (file, threads, what), runs in samples.items()
        for quantity, _, length in [what.partition(" ")]
        if len(runs) >= least and probes[file, threads] and quantity in ("decode", "prefill")
    ]  # fmt: skip


def fit(some: list[Row], start: Rates = RATES) -> Rates:
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


def report(some: list[Row], rates: Rates, label: str) -> None:
    for quantity in ("decode", "prefill"):
        errors = sorted(abs(row.error(rates)) for row in some if row.quantity == quantity)
        if errors:
            print(f"{label}, {quantity}: {len(errors)} medians, 90 % within {stats.percentile(errors, 0.9):.0%}, "
                  f"half within {stats.percentile(errors, 0.5):.0%}, worst {errors[-1]:.0%}")  # fmt: skip


def main() -> None:
    every = rows()
    fitted = [row for row in every if row.fitted]
    rates = fit(fitted)
    for row in every:
        spread = max(row.samples) / min(row.samples) - 1
        print(f"{row.window:8}{row.file:34} x{row.threads} {row.quantity:8}{row.length:5} measured {row.median:8.1f} "
              f"(n {len(row.samples)}, spread {spread:4.0%}) predicted {row.predicted(rates):8.1f} "
              f"{row.error(rates):+.0%}{'' if row.fitted else '  held back'}")  # fmt: skip
    report(fitted, rates, "fitted to")
    report([row for row in every if not row.fitted], rates, "held back")
    measured = {row.file.rpartition(" ")[2] for row in fitted}
    for kind, found in rates.kernels.items():
        if kind in measured:
            print(f'"{kind}": Kernel({found.decode:.1f}, {found.prefill:.1f}),')
    print({name: getattr(rates, name) for name in _SAME}, rates.attention, rates.experts)


if __name__ == "__main__":
    main()
