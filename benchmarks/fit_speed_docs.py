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
from localfoundry.fit.processor import RATES, Rates


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
        f"{len(rows)} medians of {taken} runs in the bundled worker ({machine['engine']}, {machine['system']}) on {machine['processor']} with two cores, one stream. "
        f"The models of a window were loaded together and asked in turns; {asked - taken} of {asked} runs were left out since other programs had more than a "
        "twentieth of the processor meanwhile. Predicted from the median of the window's probes. The host of this virtual machine is shared: "
        f"within one window the probes went from {min(probes):.0f} to {max(probes):.0f} GB/s, and runs of the same model and length differ by a third in the median "
        "(the column *spread*: largest / smallest), which no prediction can follow.\n\n"
        "The rates in `fit/processor.py` are fitted to all rows. *Held back*: every file left out in turn, and predicted with rates fitted to the others "
        "(where another file of its type remains).\n\n"
    )
    held = fit_rates.held_back(rows)
    return text + _summary(rows, held) + _table(rows, held) + _NOT_MEASURED


_NOT_MEASURED = """
The goals were decode within 20 % after the probe and 10 % after one bench, and prefill within 30 %, nine times in ten.
Prefill reaches it, also held back. Decode reaches 20 % for the files that the rates were fitted to, and not for one that
was held back; one thread and mixtures of experts are the worst. One bench at another length does not bring it to 10 %:
it carries the noise of its own few runs into the next prediction, and single runs here are further than that from the
median of their own row (the lines *for comparison*): no prediction could be shown to be so close. The widths of the intervals were chosen by the rows
held back, so that these are held is no proof for others.

Never measured: any processor but this kind, AVX-512, VNNI, AMX, NEON and SVE kernels (the bundled build uses AVX2),
native engines, more than two threads, types not in the table, files larger than 0.9 GB. For those the stated interval
is a factor of 2 either way on another x86 processor and of 2.5 elsewhere, until a load or a bench there corrects it.
Load times are predicted from round figures that only few loads were compared with, a factor of 2 either way.
"""


def _summary(rows: list[Row], held: list[tuple[Row, Rates]]) -> str:
    text = "| | medians | 90 % within | half within | worst | stated 90 % interval held |\n|---|---|---|---|---|---|\n"
    every = [(row, RATES) for row in rows]
    dense = [(row, rates) for row, rates in held if row.threads > 1 and not row.shape.experts]
    for quantity in ("decode", "prefill"):
        for name, some in (("fitted to", every), ("held back", held), ("held back, no mixture, all cores", dense)):
            chosen = [(row, rates) for row, rates in some if row.quantity == quantity]
            share = sum(row.interval(rates).holds(row.median) for row, rates in chosen) / len(chosen)
            errors = [row.error(rates) for row, rates in chosen]
            text += _line(f"**{quantity}**, after the probe, {name}", errors, f"{share:.0%}")
        text += _line(f"**{quantity}**, another length after one bench", after_a_bench(rows, quantity), "")
        text += _line(
            f"for comparison, {quantity}: a single run against the median of the same runs",
            own_noise(rows, quantity),
            "",
        )
    decodes = [row for row in rows if row.quantity == "decode"]
    for name, formula in _OTHERS:
        text += _line(f"decode, {name}", [formula(row) / row.median - 1 for row in decodes], "")
    return text + "\n"


def _line(label: str, errors: list[float], held: str) -> str:
    sizes = [abs(error) for error in errors]
    within, half = stats.percentile(sizes, 0.9), stats.percentile(sizes, 0.5)
    return f"| {label} | {len(sizes)} | {within:.0%} | {half:.0%} | {max(sizes):.0%} | {held} |\n"


_OTHERS: tuple[tuple[str, Callable[[Row], float]], ...] = (
    ("llmfit's formula for a processor", lambda row: other_tools.llmfit_decode(row.shape, row.kind)),
    (
        "llmfit's formula for a known bandwidth",
        lambda row: other_tools.llmfit_roofline(row.shape, row.processor.bandwidth),
    ),
    ("whichllm's formula for a processor", lambda row: other_tools.whichllm_decode(row.shape, row.kind)),
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


def own_noise(rows: Iterable[Row], quantity: str) -> list[float]:
    """How far runs are from the median of their own row: what a prediction that knew it would still be off by."""
    return [
        run / row.median - 1 for row in rows if row.quantity == quantity and len(row.samples) > 2 for run in row.samples
    ]


def _table(rows: list[Row], held: list[tuple[Row, Rates]]) -> str:
    text = (
        "| model and type | threads | tokens | decode, tok/s | spread | error | held back | llmfit | whichllm | prefill, tok/s | spread | error | held back |\n"
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|\n"
    )
    grouped: dict[tuple[str, str, int, int], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        grouped[row.window, row.file, row.threads, row.length][row.quantity] = row
    without = {id(row): f"{row.error(rates):+.0%}" for row, rates in held}
    for (_, file, threads, length), pair in grouped.items():
        if len(pair) == 2:
            decode, prefill = pair["decode"], pair["prefill"]
            others = " | ".join(f"{_OTHERS[at][1](decode) / decode.median - 1:+.0%}" for at in (0, 2))
            text += f"| {file} | {threads} | {length} | {decode.median:,.1f} | {_spread(decode)} | {decode.error():+.0%} | {without.get(id(decode), '')} | {others} "
            text += f"| {prefill.median:,.0f} | {_spread(prefill)} | {prefill.error():+.0%} | {without.get(id(prefill), '')} |\n"
    return text


def _spread(row: Row) -> str:
    return f"{max(row.samples) / min(row.samples):.2f}"
