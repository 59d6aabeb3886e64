"""The comparison for programs: everything as plain data, and the figures as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from localfoundry.bench import report
from localfoundry.compare import quants, text
from localfoundry.compare.cliff import sentences
from localfoundry.compare.evidence import Evidence, Panel
from localfoundry.compare.verdict import Choice, Judged, pair_sentence

_COLUMNS = (
    "run", "alias", "model_id", "file_sha256", "scenario", "language", "load", "metric", "n", "median", "low", "high",
    "mean", "p95", "cv", "error",
)  # fmt: skip


def document(
    evidence: Evidence, judged: Sequence[Judged], descriptions: Mapping[str, str] | None = None
) -> dict[str, object]:
    """For JSON; single requests are in the runs that `runs` names. `results` has the field names of the course."""
    return {
        "text": text.block(evidence, judged, descriptions),
        "notes": evidence.notes,
        "recommendations": [_recommendation(said) for said in judged],
        "ratios": [
            msgspec.to_builtins(pair) | {"sentence": pair_sentence(pair)} for said in judged for pair in said.pairs
        ],
        "results": [row for panel in evidence.panels for row in report.course_rows(panel.measurement)],
        "speed": [_figures(panel) for panel in evidence.panels],
        "scores": msgspec.to_builtins(evidence.scores),
        "differences": [msgspec.to_builtins(d) | {"shown": d.shown} for d in evidence.differences],
        "fidelity": [
            {"label": label, "run": one.run, "within": one.fidelity.within, **msgspec.to_builtins(one.fidelity)}
            for label, one in evidence.fidelity.items()
        ],
        "quantizations": [
            msgspec.to_builtins(cliff) | {"first": [loss.suite for loss in cliff.first], "sentences": sentences(cliff)}
            for cliff in evidence.cliffs
        ],
        "side_by_side": [_quantized(one) for one in quants.quantized(evidence)],
        "perplexity": quants.sentences(evidence),
        "ratings": [msgspec.to_builtins(vote) | {"winner": vote.ranking.winner} for vote in evidence.votes],
        "others": msgspec.to_builtins(evidence.others),
        "candidates": [msgspec.to_builtins(row) for row in evidence.rows.values()],
        "runs": [msgspec.to_builtins(run) for run in [*(panel.run for panel in evidence.panels), *evidence.item_runs]],
        "definitions": text.definitions(evidence),
    }


def _recommendation(said: Judged) -> dict[str, object]:
    return {"run": said.run, "development": _choice(said.development), "production": _choice(said.production)}


def _choice(choice: Choice) -> dict[str, object]:
    return {"label": choice.label, "because": choice.because, "evidence": msgspec.to_builtins(choice.cites)}


def _quantized(one: quants.Quantized) -> dict[str, Any]:
    found, speed = one.fidelity.fidelity if one.fidelity else None, one.speed
    return {
        "family": one.family, "label": one.label, "quantization": one.quantization, "bits": one.bits,
        "size_bytes": one.size_bytes, "peak_bytes": speed.peak_bytes if speed else None,
        "median": {name: s.median for name, s in speed.metrics.items()} if speed else {},
        "perplexity": msgspec.to_builtins(found.perplexity) if found else None,
        "kl": msgspec.to_builtins(found.kl) if found else None,
        "solved": one.solved, "asked": one.asked,
    }  # fmt: skip


def _figures(panel: Panel) -> dict[str, Any]:
    rows = [
        {"alias": f.label, "peak_bytes": f.peak_bytes, **report.condition(f.cell, panel.measurement.plan)}
        for f in panel.figures
    ]
    return {"run": panel.run.id, "conditions": rows}


def lines(evidence: Evidence) -> str:
    """CSV: a line for each metric of each candidate under each condition, seconds and tokens per second; a failed
    candidate has one line with its error."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for panel in evidence.panels:
        for f in panel.figures:
            row = panel.rows.get(f.label)
            where = f.condition
            start = [panel.run.id, f.label, row.model_id if row else None, row.file_sha256 if row else None,
                     where.scenario, where.language, where.load]  # fmt: skip
            for name, s in f.metrics.items():
                ends = [s.median_interval.low, s.median_interval.high] if s.median_interval else [None, None]
                writer.writerow([*start, name, s.n, s.median, *ends, s.mean, s.p95, s.cv, f.cell.error])
            if not f.metrics:
                writer.writerow([*start, None, 0, *[None] * 6, f.cell.error])
    for score in evidence.scores:
        row = evidence.rows.get(score.model)
        known = [row.model_id, row.file_sha256] if row else [None, None]
        runs = " ".join(run.id for run in evidence.item_runs)
        writer.writerow([runs, score.model, *known, score.suite, score.language, "c=1", "accuracy", score.n,
                         score.accuracy, score.interval.low, score.interval.high, None, None, None, None])  # fmt: skip
    return out.getvalue()
