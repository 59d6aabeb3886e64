"""Runs as they are kept, made up to the sample: what a comparison is built from in these tests."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec

from localfoundry.bench.candidates import Candidate
from localfoundry.bench.outcome import Measurement, Outcome
from localfoundry.bench.plan import Plan
from localfoundry.bench.record import candidate_row, plain, protocol, sample_row
from localfoundry.bench.request import Sample
from localfoundry.quality.fidelity import Estimate, Fidelity
from localfoundry.quality.results import ItemResult, item_row
from localfoundry.results.db import Results
from localfoundry.results.rows import CandidateRow, ItemRow, Run, VoteRow, new_id

MACHINE: dict[str, object] = {"cpu": "Test CPU", "cores": 2, "threads": 2, "memory_bytes": 8 * 1024**3, "system": "T"}


def answers(
    label: str, latency_s: float, plan: Plan, *, spread: float = 0.02, answer: str = "An answer.", seed: int = 1
) -> list[Sample]:
    """Every request of the plan, answered in about `latency_s`; twice the streams take 1.6 times as long."""
    draw = random.Random(f"{label}/{seed}")
    found = []
    for condition in plan.conditions():
        streams = condition.concurrency or 1
        for number in range(1, plan.rounds + 1):
            for seq in range(plan.requests(condition)):
                took = latency_s * streams**0.68 * draw.uniform(1 - spread, 1 + spread)
                sent = number * 1000.0 + (seq // streams) * took
                found.append(
                    Sample(
                        label, label, number, sent, sent + took, sent + took / 10, sent + took / 10, sent + took,
                        tuple(sent + took * k / 10 for k in range(1, 11)), 80, 0, 64, "stop", answer=answer,
                        scenario=condition.scenario, language=condition.language, load=condition.load, seq=seq,
                        prompt_id=f"{condition.key}/{number}/{seq}",
                    )
                )  # fmt: skip
    return found


def outcome(label: str, latency_s: float, plan: Plan, peak_bytes: int = 200_000_000, **how: object) -> Outcome:
    return Outcome(
        Candidate(label, label), 1.5, answers(label, latency_s, plan, **how), peak_bytes=peak_bytes,  # type: ignore[arg-type]
    )  # fmt: skip


def failing(label: str, error: str = "the worker ended") -> Outcome:
    return Outcome(Candidate(label, label), error=error)


def keep_bench(
    results: Results, plan: Plan, outcomes: Sequence[Outcome], machine: dict[str, object] | None = None,
    sha256: dict[str, str] | None = None,
) -> Run:  # fmt: skip
    """A finished run of a bench in the file."""
    measured = Measurement(plan, "2026-11-23T05:00:00+00:00", list(outcomes))
    run = Run(
        new_id(), "bench", "2026-11-23T05:00:00+00:00", machine=MACHINE if machine is None else machine,
        protocol=plain(protocol(measured)), versions={"localfoundry": "0"},
    )  # fmt: skip
    rows = [
        msgspec.structs.replace(
            candidate_row(run.id, one.candidate), model_id=f"{one.candidate.label}:1",
            file_sha256=(sha256 or {}).get(one.candidate.label, one.candidate.label.encode().hex()[:8].ljust(64, "0")),
            engine="llama.cpp", quantization="Q4_1", context=2048,
        )
        for one in outcomes
    ]  # fmt: skip
    results.begin(run, rows)
    with results.together():
        for one in outcomes:
            for sample in one.samples:
                results.add_sample(sample_row(run.id, sample))
    results.finish(run.id)
    return results.run(run.id)


def keep_items(
    results: Results, passed: dict[str, Sequence[bool]], suite: str = "chat", sha256: dict[str, str] | None = None,
    answer: str = "42", content: str | None = None, language: str = "en", quantizations: dict[str, str] | None = None,
    engines: dict[str, str] | None = None,
) -> Run:  # fmt: skip
    """A finished run of a suite in the file: for each label whether it passed item after item.

    `content` is the hash of the suite's content.
    """
    run = Run(new_id(), "eval", "2026-11-23T05:10:00+00:00", machine=MACHINE, protocol={"seed": 42})
    rows = [
        CandidateRow(
            run.id,
            label,
            label,
            file_sha256=(sha256 or {}).get(label),
            engine=(engines or {}).get(label),
            quantization=(quantizations or {}).get(label),
        )
        for label in passed
    ]
    results.begin(run, rows)
    with results.together():
        for label, each in passed.items():
            for number, good in enumerate(each):
                item = ItemResult(
                    suite=suite, language=language, item=f"item-{number}", model=label, passed=good, answer=answer,
                    failures=() if good else ("is not 42",), seconds=1.0, tokens=5,
                    suite_sha256=content,
                )  # fmt: skip
                results.add_item(item_row(run.id, item))
    results.finish(run.id)
    return results.run(run.id)


def keep_fidelity(results: Results, figures: dict[str, Estimate], every: int = 8) -> Run:
    """A finished run of fidelity in the file: of each label the perplexity over that of the source weights."""
    run = Run(new_id(), "eval", "2026-11-23T05:15:00+00:00", machine=MACHINE, protocol={"fidelity": {"every": every}})
    results.begin(run, [CandidateRow(run.id, label, label, engine="llama.cpp") for label in figures])
    for label, perplexity in figures.items():
        one = Fidelity(positions=384, kl=Estimate(0.1, 0.09, 0.11), top1=Estimate(0.95, 0.94, 0.96),
                       perplexity=perplexity)  # fmt: skip
        results.add_item(ItemRow(run.id, label, "fidelity", "summary", "", None, msgspec.json.encode(one).decode()))
    results.finish(run.id)
    return results.run(run.id)


def keep_votes(results: Results, a: str, b: str, choices: Sequence[str], criterion: str = "accuracy") -> None:
    run = Run(new_id(), "rating", "2026-11-23T05:20:00+00:00")
    results.begin(run)
    for number, choice in enumerate(choices):
        results.add_vote(
            VoteRow(run.id, "rater", criterion, "course", f"{number}.en", a, b, a, choice, "2026-11-23T05:21:00+00:00")
        )
    results.finish(run.id)
