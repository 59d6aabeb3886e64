"""From the results of this machine to runs that can be shared: facts flattened, raw values kept, secrets and paths out.

Left out are prompts and answers, which may be private, the name given to a baseline, and runs that still go on.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from localfoundry.results.db import Results
from localfoundry.results.distribution import Distribution, distribution
from localfoundry.results.models_json import VERSION, Candidate, Document, Fact, SharedRun, Speed, Task, Vote, addressed
from localfoundry.results.rows import CandidateRow, Judged, Run, Timed, VoteRow
from localfoundry.results.secrets_in import cleaned

_KINDS = ("bench", "eval", "rating")
_MOST_FACTS = 100
_LONGEST_FACT = 400
_LONGEST_NAME = 200


def shared(results: Results, runs: Iterable[Run], by: str | None, *, anonymous: bool = False) -> Document:
    """The document of these runs, passed on by `by`. `anonymous`: raters are told apart and not named."""
    found = [_run(results, run, by, anonymous) for run in runs if run.kind in _KINDS and run.status != "running"]
    return Document(schema=VERSION, runs=tuple(sorted(found, key=lambda run: run.id)))


def _run(results: Results, run: Run, by: str | None, anonymous: bool) -> SharedRun:
    candidates = results.candidates(run.id)
    assert run.kind in ("bench", "eval", "rating") and run.status != "running"
    return addressed(
        SharedRun(
            id="",
            run=run.id,
            kind=run.kind,
            started_at=run.started_at,
            finished_at=run.finished_at,
            status=run.status,
            machine=facts(run.machine),
            protocol=facts(run.protocol),
            versions=facts(run.versions),
            candidates=tuple(_candidate(row) for row in candidates),
            speed=tuple(_speeds(results.timed(run.id))),
            tasks=tuple(_tasks(results.judged(run.id))),
            votes=tuple(_vote(row, anonymous) for row in results.votes(run.id)),
            passed_on_by=(_name(by),) if by else (),
        )
    )


def facts(document: Mapping[str, object]) -> dict[str, Fact]:
    """Nested values under dotted names, lists as words; at most a hundred, each short and without secrets."""
    found: dict[str, Fact] = {}
    for key, value in _flat("", document):
        if len(found) == _MOST_FACTS:
            break
        found[key[:80]] = cleaned(value)[:_LONGEST_FACT] if isinstance(value, str) else value
    return dict(sorted(found.items()))


def _flat(start: str, document: Mapping[str, object]) -> Iterable[tuple[str, Fact]]:
    for key, value in document.items():
        name = "".join(one if one.isascii() and (one.isalnum() or one in "_.-") else "_" for one in f"{start}{key}")
        if not name[:1].isalpha():
            name = f"x{name}"
        if isinstance(value, dict):
            yield from _flat(f"{name}.", value)
        elif isinstance(value, list | tuple):
            yield name, ", ".join(map(str, value))
        elif value is None or isinstance(value, get_args(str | int | float | bool)):
            yield name, value


def _candidate(row: CandidateRow) -> Candidate:
    return Candidate(
        label=_name(row.label),
        model=_name(row.model),
        model_id=_name(row.model_id),
        file_sha256=row.file_sha256,
        engine=_name(row.engine),
        engine_version=_name(row.engine_version),
        quantization=_name(row.quantization),
        format=_name(row.format),
        context=row.context,
        threads=row.threads,
        endpoint_host=_name(row.endpoint_host),
        price_in=row.price_in,
        price_out=row.price_out,
    )


def _speeds(rows: Sequence[Timed]) -> Iterable[Speed]:
    groups: dict[tuple[str, str, str, str], list[Timed]] = {}
    for row in rows:
        groups.setdefault((row.label, row.scenario, row.language, row.load), []).append(row)
    for (label, scenario, language, load), group in sorted(groups.items()):
        good = [row for row in group if row.ok]
        yield Speed(
            label=_name(label),
            scenario=_name(scenario),
            language=_name(language) or "-",
            load=_name(load),
            requests=len(group),
            failed=len(group) - len(good),
            prompt_tokens=sum(row.prompt_tokens or 0 for row in good),
            completion_tokens=sum(row.completion_tokens or 0 for row in good),
            ttft_s=_distribution(row.ttft_s for row in good),
            ttfa_s=_distribution(row.ttfa_s for row in good),
            itl_s=_distribution(row.itl_s for row in good),
            latency_s=_distribution(row.latency_s for row in good),
        )


def _distribution(values: Iterable[float | None]) -> Distribution | None:
    there = [value for value in values if value is not None]
    return distribution(there) if there else None


def _tasks(rows: Sequence[Judged]) -> Iterable[Task]:
    groups: dict[tuple[str, str, str, str], list[Judged]] = {}
    for row in rows:
        groups.setdefault((row.label, row.suite, row.language, row.suite_sha256 or ""), []).append(row)
    for (label, suite, language, content), group in sorted(groups.items()):
        passed, failed = (sorted(_name(row.item) for row in group if row.passed is kind) for kind in (True, False))
        yield Task(_name(label), _name(suite), _name(language) or "-", tuple(passed), tuple(failed), content or None)


def _vote(row: VoteRow, anonymous: bool) -> Vote:
    a, b, first, choice = map(_name, (row.a, row.b, row.shown_first, row.choice))
    a, b = sorted((a, b))
    rater = row.rater
    if anonymous and not rater.startswith("judge:"):
        # The same person stays one person within a run, and is nobody's beyond it.
        rater = f"rater-{hashlib.sha256(f'{row.run}/{rater}'.encode()).hexdigest()[:8]}"
    return Vote(_name(rater), _name(row.criterion), _name(row.suite), _name(row.item), a, b, first, choice)


@functools.lru_cache(maxsize=4096)  # items and labels come again with every run
def _name(text: Any) -> Any:
    """As it may leave this machine: a label can be the path of a file. None stays None."""
    return None if text is None else cleaned(text)[:_LONGEST_NAME]
