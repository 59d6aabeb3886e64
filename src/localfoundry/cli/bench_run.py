"""`foundry bench run`: load, warm up, measure in turns, keep each sample, and say what the figures allow to be said."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click
import msgspec

from localfoundry import instance
from localfoundry.cli import context, output
from localfoundry.cli.bench_options import models_of, plan_options, read_candidates, read_plan
from localfoundry.cli.endpoint_options import keys_of
from localfoundry.config import Settings
from localfoundry.errors import DiskError, InvalidRequest

if TYPE_CHECKING:
    from localfoundry.bench.candidates import Candidate
    from localfoundry.bench.expected import Expected
    from localfoundry.bench.outcome import Measurement
    from localfoundry.bench.plan import Plan
    from localfoundry.bench.record import Recorder
    from localfoundry.bench.report import ModelFacts
    from localfoundry.bench.run import Watch
    from localfoundry.chat.target import Target
    from localfoundry.cli.bench_local import Loaded
    from localfoundry.results.db import Results


@dataclass(frozen=True, slots=True)
class Done:
    """A measurement, the id it is kept under, what is known of each local model, and what was expected of it."""

    result: Measurement
    run: str | None
    facts: dict[str, ModelFacts]
    expected: list[Expected] = field(default_factory=list)


@click.command("run")
@plan_options
@click.option("--resume", metavar="RUN", help="Go on with a run that was interrupted; its plan counts.")
@context.json_option
def bench_run(models: tuple[str, ...], resume: str | None, as_json: bool, **options: Any) -> int:
    """Measure models: first token, prefill, decode, latency, load, with intervals, and compare them."""
    given = context.settings()
    if resume is not None:
        done = go_on(given, resume, quiet=as_json)
    else:
        named = models_of(models)
        plan, candidates = read_plan(options), read_candidates(named, options)
        done = measured(given, plan, candidates, quiet=as_json)
    if as_json:
        from localfoundry.bench import report

        told = {"expected": [msgspec.to_builtins(one) for one in done.expected]}
        output.document(report.document(done.result, done.facts, done.run) | told)
    else:
        show(done, given)
    return 130 if done.result.interrupted else 0


def measured(given: Settings, plan: Plan, candidates: Sequence[Candidate], *, quiet: bool) -> Done:
    """A new run, kept as it is measured; its id is None where nothing could be kept, which is said."""
    from localfoundry.bench.record import Protocol, Recorder, plain
    from localfoundry.results import place
    from localfoundry.results.db import now
    from localfoundry.results.rows import Run, new_id

    keys = keys_of(candidates)
    row = Run(new_id(), "bench", now(), machine=place.machine_facts(),
              protocol=plain(Protocol(plan, tuple(candidates))), versions=place.versions())  # fmt: skip
    results = open_results(given)
    recorder = None
    try:
        recorder = Recorder.begin(results, row, tuple(candidates)) if results else None
        result, facts, learned = _measure(given, plan, candidates, keys, recorder, quiet=quiet)
    finally:
        if results:
            results.close()
    return Done(result, recorder.run if recorder else None, facts, learned)


def go_on(given: Settings, name: str, *, quiet: bool) -> Done:
    """The rest of a run. Raises UnknownRun, and InvalidRequest for one that is complete."""
    from localfoundry.bench import history
    from localfoundry.bench.record import Recorder
    from localfoundry.results.db import Results

    with Results(given.home / "results.db", output.note) as results:
        run = results.run(name, "bench")
        if run.status == "finished":
            raise InvalidRequest(f"run {run.id} is complete", hint=f"foundry bench show {run.id[-6:].lower()}")
        before = history.read(results, run)
        candidates = [outcome.candidate for outcome in before.outcomes]
        keys = keys_of(candidates)
        results.resume(run.id)
        recorder = Recorder(results, run.id)
        earlier = [sample for outcome in before.outcomes for sample in outcome.samples]
        result, facts, learned = _measure(given, before.plan, candidates, keys, recorder, quiet=quiet, done=earlier)
    return Done(result, run.id, facts, learned)


def open_results(given: Settings) -> Results | None:
    """The results file, or None, with the reason told: a measurement is not refused for want of a place to keep it."""
    from localfoundry.results.db import FILE_NAME, Results

    try:
        return Results(given.home / FILE_NAME, output.note)
    except DiskError as exc:
        output.note(f"what is measured is not kept: {exc.message}")
        return None


def _measure(
    given: Settings, plan: Plan, candidates: Sequence[Candidate], keys: Mapping[str, str], recorder: Recorder | None,
    *, quiet: bool, done: Sequence[Any] = (),
) -> tuple[Measurement, dict[str, ModelFacts], list[Expected]]:  # fmt: skip
    from localfoundry.bench.others import Others
    from localfoundry.cli.bench_expected import expected
    from localfoundry.cli.bench_local import Loaded
    from localfoundry.cli.bench_progress import BenchWatch

    loaded = Loaded(service_with(given, candidates, quiet)) if any(c.endpoint is None for c in candidates) else None
    others = Others([loaded.service_pid] if loaded else [])
    watch = BenchWatch(recorder, loaded, plan.rounds, quiet=quiet)
    if recorder is None:
        result = _carry_out(given, plan, candidates, keys, loaded, watch, done)
    else:
        with recorder:
            result = _carry_out(given, plan, candidates, keys, loaded, watch, done)
            _keep_facts(given, recorder, result, loaded)
            recorder.finish(result)
        if recorder.problem:
            output.note(f"not everything that was measured is kept: {recorder.problem}")
    watch.clear()
    return result, _facts(given, loaded), expected(given, result, loaded, others)


def service_with(given: Settings, candidates: Sequence[Candidate], quiet: bool) -> instance.ServiceState:
    """The running service, with every local model on the disk."""
    from localfoundry.cli.pull import pull_model

    for model in dict.fromkeys(c.model for c in candidates if c.endpoint is None):
        if context.cached(given, model) is None:
            pull_model(given, model, quiet=quiet)
    state, _ = instance.start(given)
    return state


def _carry_out(
    given: Settings, plan: Plan, candidates: Sequence[Candidate], keys: Mapping[str, str], loaded: Loaded | None,
    watch: Watch, done: Sequence[Any],
) -> Measurement:  # fmt: skip
    import asyncio

    from localfoundry.bench.energy import open_meter
    from localfoundry.bench.run import measure

    async def resident() -> set[str]:
        assert loaded is not None
        models = await loaded.resident()
        return {c.label for c in candidates if c.endpoint is None and c.model in models}

    async def work() -> Measurement:
        targets = {c.label: _target(c, keys, loaded) for c in candidates}
        meter = open_meter(time.perf_counter)
        result = await measure(
            targets, candidates, loaded.load if loaded else None, resident=resident if loaded else None, plan=plan,
            watch=watch, meter=meter, done=done,
        )  # fmt: skip
        if plan.cold and not result.interrupted:
            await _cold(given, result, watch)
        for outcome in result.outcomes:
            if loaded and outcome.candidate.endpoint is None:
                outcome.memory = loaded.memory_of(outcome.candidate.model)
        return result

    # The faster loop takes less of the processor from what is measured.
    try:
        import uvloop
    except ImportError:  # Windows
        return asyncio.run(work())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work())


async def _cold(given: Settings, result: Measurement, watch: Watch) -> None:
    from localfoundry.bench.cold import measure_cold
    from localfoundry.cli.bench_local import OwnService

    service = OwnService(given)
    try:
        await measure_cold(result, service, watch)
    finally:
        service.remove()


def _target(candidate: Candidate, keys: Mapping[str, str], loaded: Loaded | None) -> Target:
    from localfoundry.chat.target import Target

    if candidate.endpoint is not None:
        return Target(candidate.endpoint, secret=keys.get(candidate.label, ""))
    assert loaded is not None
    return loaded.target


def _facts(given: Settings, loaded: Loaded | None) -> dict[str, ModelFacts]:
    from localfoundry.bench.report import ModelFacts

    found = {}
    for model, account in (loaded.accounts if loaded else {}).items():
        manifest = context.cached(given, model)
        found[model] = ModelFacts(
            engine=account["engine"], quantization=account["quantization"], file_sha256=account["sha256"],
            model_id=account["id"], context=account["context"], format=manifest.format if manifest else None,
        )  # fmt: skip
    return found


def _keep_facts(given: Settings, recorder: Recorder, result: Measurement, loaded: Loaded | None) -> None:
    from localfoundry.bench.record import candidate_row

    facts = _facts(given, loaded)
    for outcome in result.outcomes:
        known = facts.get(outcome.candidate.model)
        if known is not None and outcome.candidate.endpoint is None:
            row = candidate_row(recorder.run, outcome.candidate)
            recorder.candidate(msgspec.structs.replace(row, **msgspec.structs.asdict(known)))


def show(done: Done, given: Settings) -> None:
    """The table, what its words mean, and the comparison."""
    from localfoundry.bench import block, report
    from localfoundry.bench.expected import words

    result, run = done.result, done.run
    table = report.table(result)
    output.table(table.columns, table.rows)
    output.data()
    for one in done.expected:
        output.data(words(one))
    for name, meaning in report.definitions(result).items():
        output.data(output.dim(f"{name}: {meaning}"))
    output.data()
    output.data(block.comparison_block(result, descriptions(given, result)))
    if run is not None:
        more = f"foundry bench run --resume {run[-6:].lower()}" if result.interrupted else ""
        output.note(f"kept as run {run[-6:].lower()}" + (f"; to go on: {more}" if more else ""))


def descriptions(given: Settings, result: Measurement) -> dict[str, str]:
    """What the course says a model is good for, by the name it was called here."""
    from localfoundry.catalog.guide import load_guide

    catalog = context.catalog(given)
    notes = {catalog.require(n.model)[0].alias: n.note for c in load_guide().categories for n in c.models}
    found: dict[str, str] = {}
    for name in {outcome.candidate.model for outcome in result.outcomes if outcome.candidate.endpoint is None}:
        entry = catalog.find(name)
        if entry is not None and entry[0].alias in notes:
            found[name] = notes[entry[0].alias]
    return found
