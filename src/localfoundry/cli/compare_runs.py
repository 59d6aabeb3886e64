"""What a comparison is of: its candidates and its plan; and the runs that hold them, measured now or found."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from localfoundry.bench.plan import Plan
from localfoundry.cli import candidate_names, compare_measure
from localfoundry.cli.bench_options import read_candidates
from localfoundry.cli.compare_fidelity import Fidelities
from localfoundry.cli.compare_services import opened
from localfoundry.cli.endpoint_options import keys_of
from localfoundry.compare.faithful import Faithful
from localfoundry.errors import InvalidRequest
from localfoundry.quality import suite as reading
from localfoundry.units import parse_duration

if TYPE_CHECKING:
    from localfoundry.bench.candidates import Candidate
    from localfoundry.config import Settings
    from localfoundry.quality.suite import Suite
    from localfoundry.results.db import Results
    from localfoundry.results.rows import Run

# The scenario of the bench for each pack of items.
TASKS = {
    "chat": "chat", "code": "code", "reasoning": "chat", "extraction": "structured", "recall": "retrieval",
    "tools": "chat",
}  # fmt: skip


class Compared(msgspec.Struct):
    """`cut`: the measuring was ended before its time. `fidelity` by label."""

    runs: list[Run]
    cut: bool = False
    suites: list[Suite] = []
    fidelity: dict[str, Faithful] = {}


def measured(
    given: Settings, results: Results, models: Sequence[str], options: dict[str, Any], *, quiet: bool
) -> Compared:
    """The runs to compare, measured now or before."""
    candidates = _candidates(given, models, options)
    suites = _suites(options)
    work = compare_measure.Work(given, candidates, keys_of(candidates), _plan(options), suites, quiet)
    bench = None if options["again"] else compare_measure.kept_speeds(work, results)
    asked = None if options["again"] else compare_measure.kept_items(work, results)
    if bench is not None:
        compare_measure.told_again(bench)
    lacking = options["with_items"] and (asked is None or not compare_measure.whole(work, results, asked))
    fidelity = Fidelities(work, results, options["reference"], options["every"], again=options["again"])
    wanted = options["fidelity"] and not (bench is not None and fidelity.all_kept(bench))

    async def run() -> tuple[list[Run], bool]:
        found, cut = [bench] if bench else [], False
        async with opened(given, candidates, quiet) as services:
            if bench is None:
                speeds, cut = await compare_measure.speeds(work, results, services)
                found.append(speeds)
            if lacking and not cut:
                answered, cut = await compare_measure.items(work, results, services, asked)
                found.append(answered)
            if wanted and not cut:
                cut = await fidelity.measure(services)
        return found, cut

    runs, cut = asyncio.run(run()) if bench is None or lacking or wanted else ([bench], False)
    if asked is not None and not lacking:
        runs.append(asked)
    return Compared(runs, cut, suites, fidelity.found)


def _plan(options: dict[str, Any]) -> Plan:
    try:
        levels = tuple(int(word) for word in options["concurrency"].split(",") if word.strip())
        timeout_s = float(parse_duration(options["timeout"]))
    except ValueError as exc:
        raise InvalidRequest(f"--concurrency is a list such as 1,2,4 and --timeout a time such as 60s: {exc}") from None
    plan = Plan(
        scenarios=(TASKS[options["task"]],), concurrency=levels, rounds=options["rounds"], timeout_s=timeout_s,
        currency=options["currency"],
    )  # fmt: skip
    plan.check()
    return plan


def _suites(options: dict[str, Any]) -> list[Suite]:

    found = reading.pack(options["task"], options["language"])
    if options["item_count"]:
        found = msgspec.structs.replace(found, items=reading.spread(found.items, options["item_count"]))
    return [found]


def _candidates(given: Settings, models: Sequence[str], options: dict[str, Any]) -> list[Candidate]:
    """Raises InvalidRequest for fewer than two, and for two that are the same."""
    none: dict[str, Any] = {"max_tokens": (), "prompt_words": None, "prompt": None}
    if options["max_tokens"]:
        none["max_tokens"] = (options["max_tokens"],)
    named = list(models)
    if len(named) + len(options["endpoints"]) < 2:
        raise InvalidRequest(
            f"{len(named) + len(options['endpoints'])} candidates; a comparison needs at least 2",
            hint=f"foundry bench {named[0]}" if named else "foundry compare smollm2-135m smollm2-135m@threads=1",
            param="models",
        )
    found = [candidate_names.read(given, candidate) for candidate in read_candidates(named, {**options, **none})]
    candidate_names.check_distinct(given, found)
    return found
