"""A search from its space to its profile: what can be tried, the services for it, and what is kept of the result."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from localfoundry import instance
from localfoundry.bench.others import DISTURBED, Others
from localfoundry.build import reencode
from localfoundry.cli import context, output, tune_report
from localfoundry.cli.bench_run import open_results
from localfoundry.cli.fidelity_runs import choose as choose_reference
from localfoundry.cli.tune_bed import TuneBed, key_of
from localfoundry.cli.tune_guard import Guard
from localfoundry.cli.tune_services import TuneServices
from localfoundry.client import ServiceClient
from localfoundry.config import Settings, profiles
from localfoundry.config.profiles import Profile
from localfoundry.engines import choice, engines, llama_builds
from localfoundry.engines.base import Engine
from localfoundry.errors import BadReference, FoundryError, InvalidSetting, UsageError
from localfoundry.hardware.survey import Probe, survey
from localfoundry.quality.reference import Reference
from localfoundry.results import place
from localfoundry.service import choosing, drafts, memory, tuned
from localfoundry.service.tuned import sha256_of
from localfoundry.store.manifest import Manifest
from localfoundry.tuning import files, report, space
from localfoundry.tuning.files import Made
from localfoundry.tuning.purpose import LONG_PROMPT, Purpose
from localfoundry.tuning.search import Outcome, Search
from localfoundry.tuning.space import Option, Setting

_LOOK_S = 0.5  # how long other programs are watched before it begins
_CONTEXT = 8192


@dataclass(frozen=True, slots=True)
class Work:
    """What is asked of a search."""

    given: Settings
    manifest: Manifest
    purpose: Purpose
    budget_s: float
    engine: Engine | None
    max_loss: float
    slower: float
    quants: tuple[str, ...]
    rounds: int
    make: bool
    again: bool
    as_json: bool


@dataclass(frozen=True, slots=True)
class Space:
    """What can be tried: the default, other files and engines, and what has to be made for more of them."""

    work: Work
    base: Setting
    files: list[Setting]
    plans: list[Made]

    def options(self, setting: Setting) -> list[Option]:
        """On top of a setting, as far as its engine takes the words."""
        engine = choice.named(setting.engine, engines())
        if self.work.engine is not None and engine.name != self.work.engine.name:
            return []

        def accepts(changed: Setting) -> bool:
            try:
                engine.check_arguments(
                    changed.words, changed.version, llama_builds.chosen(self.work.given, changed.build)
                )
            except InvalidSetting:
                return False
            return changed.slots != (setting.slots or self.work.given.parallel) or changed.words != setting.words

        purpose = self.work.purpose
        here = place.machine()
        threads = here.threads or 1
        counts = space.thread_counts(threads, here.cores or threads)
        return space.options(setting, purpose.name, counts, purpose.streams, accepts, self._drafts(setting))

    def _drafts(self, setting: Setting) -> list[str]:
        """Ids of models that could guess ahead for the setting's file."""
        store = context.store(self.work.given)
        version = store.find(setting.version)
        return [draft.id for draft in drafts.candidates(store, version)] if version is not None else []


def engine_of(name: str | None) -> Engine | None:
    """Raises InvalidRequest for one that there is not, UsageError for one that is not installed."""
    if name is None:
        return None
    found = choice.named(name, engines())
    missing = found.missing()
    if missing is not None:
        raise UsageError(f"{found.name}: {missing}", param="engine")
    return found


def space_of(work: Work) -> Space:
    """Makes nothing. Raises UsageError where nothing can be tuned, NotRunnable."""
    store = context.store(work.given)
    if "chat" not in work.manifest.tasks:
        tasks = ", ".join(work.manifest.tasks)
        raise UsageError(f"{work.manifest.id} is for {tasks}, and only models for chat are tuned")
    base, first = files.default(store, work.manifest, work.given)
    wide = work.purpose.name == LONG_PROMPT and _multiplies_bf16(work.given)
    plans = files.to_make(store, work.manifest, work.given, work.engine, work.quants, wide=wide) if work.make else []
    if first is not None:  # the default itself wants it
        plans = [reencode.plan(store, work.manifest, first), *plans]
    return Space(work, base, files.others(store, work.manifest, work.given, work.engine, work.quants), plans)


def _multiplies_bf16(given: Settings) -> bool:
    """Whether vectors are multiplied in bf16, for which llama.cpp has kernels that are faster than those for Q8_0."""
    return "AVX512-BF16" in (survey(given.home, Probe.NEVER).cpu.instructions or ())


def run(work: Work) -> int:
    """Search, print and keep the winner. Exit status 130 after Ctrl-C. Raises what the command reports."""
    _require_idle_service(work)
    found = space_of(work)
    _look_around(work)
    began = datetime.now(UTC)
    found = _made(work, found)
    if not found.options(found.base) and not [s for s in found.files if s != found.base]:
        raise _nothing_else(work)
    left_s = work.budget_s - (datetime.now(UTC) - began).total_seconds()
    outcome = asyncio.run(_searched(work, found, left_s))
    machine = place.machine_id()
    document = report.document(
        outcome, work.purpose, work.manifest.id, machine, work.budget_s, work.max_loss
    )  # fmt: skip
    saved = _save(work, outcome, document)
    if work.as_json:
        output.document(document | {"saved": saved})
    else:
        tune_report.show(document)
        _say_what_now(work, outcome, saved)
    return 130 if outcome.stopped else 0


async def _searched(work: Work, found: Space, left_s: float) -> Outcome:
    store = context.store(work.given)
    sha256 = sha256_of(store, work.manifest)
    used = {(setting.engine, setting.build) for setting in [found.base, *found.files]}
    versions = [_version(work, engine, build) for engine, build in used]
    results = open_results(work.given)
    async with TuneServices(work.given) as services:
        guard = Guard(services, _reference(work), work.max_loss)
        bed = TuneBed(
            services, work.purpose, guard, key_of(sha256, work.purpose.name, versions), results,
            lambda settings: _apart(work, services, settings), again=work.again, quiet=work.as_json,
        )  # fmt: skip
        try:
            search = Search(bed, found.base, work.purpose, found.files, found.options, left_s, work.slower, work.rounds)
            return await search.run()
        finally:
            if results is not None:
                results.close()


def _version(work: Work, engine: str, build: str | None) -> str:
    return choice.named(engine, engines()).version(llama_builds.chosen(work.given, build))


def _require_idle_service(work: Work) -> None:
    """Raise UsageError where the service in use has models: they would take memory, and time of the processor."""
    state = instance.running(work.given)
    if state is None:
        return

    async def loaded() -> list[dict[str, Any]]:
        async with ServiceClient(state) as client:
            found: list[dict[str, Any]] = await client.get("/foundry/ps")
            return found

    names = [model["alias"] for model in asyncio.run(loaded())]
    if names:
        raise UsageError(
            f"the service has {', '.join(names)} loaded, which would disturb what is measured",
            hint="foundry model unload --all",
        )


def _look_around(work: Work) -> None:
    """Say it where other programs are at work: what is measured beside them is rough."""
    import time

    others = Others()
    time.sleep(_LOOK_S)
    share = others.share()
    if share > DISTURBED and not work.as_json:
        output.note(
            f"other programs have {share:.0%} of the processor: figures will be rough, and intervals wide; "
            "a quiet machine shows more"
        )


def _made(work: Work, found: Space) -> Space:
    """With what had to be made; what cannot be is told and left out."""
    if not found.plans:
        return found
    from localfoundry.cli.progress import PullProgress

    store = context.store(work.given)
    for plan in found.plans:
        if plan.seconds > work.budget_s / 4:
            output.note(f"{plan.name} is not made: that would take about {plan.seconds:.0f} s of the budget")
            continue
        if not work.as_json:
            output.note(f"making {plan.name}, for engines that read it better")
        try:
            with PullProgress() as progress:
                files.make(store, plan, progress)
        except FoundryError as exc:
            output.note(f"{plan.name} was not made: {exc.message}")
    again = space_of(work)
    return Space(work, again.base, again.files, [])


def _nothing_else(work: Work) -> UsageError:
    reasons = [*files.left_out(context.store(work.given), work.manifest)]
    words = f" ({'; '.join(reasons)})" if reasons else ""
    return UsageError(f"there is nothing else to try for {work.manifest.id}{words}",
                      hint=f"foundry tune {work.manifest.alias} --make")  # fmt: skip


def _reference(work: Work) -> Reference | None:
    try:
        return choose_reference(work.given, work.manifest, None)
    except BadReference:
        return None


def _apart(work: Work, services: TuneServices, settings: Sequence[Setting]) -> list[list[Setting]]:
    """Groups that are predicted to fit the memory together, each with the first of all, their common measure."""
    budget = memory.look(services.pids(), work.given.memory_limit_bytes, work.given.memory_reserve_bytes)
    room = budget.limit - budget.others - budget.reserve
    base, *rest = settings
    groups = [[base]]
    left = room - _need(work, base)
    for setting in rest:
        need = _need(work, setting)
        if need > left and len(groups[-1]) > 1:
            groups.append([base])
            left = room - _need(work, base)
        groups[-1].append(setting)
        left -= need
    return groups


def _need(work: Work, setting: Setting) -> int:
    store = context.store(work.given)
    version = store.find(setting.version) or work.manifest
    tokens = work.given.context_length or min(version.context_length or _CONTEXT, _CONTEXT)
    engine = choice.named(setting.engine, engines())
    slots = setting.slots or work.given.parallel
    beside = drafts.memory(store, engine, drafts.find(store, setting.words), tokens, slots)
    own = engine.memory(version, store.main_file(version), tokens, slots, setting.words)
    return sum(own.values()) + sum(beside.values())


def _save(work: Work, outcome: Outcome, document: dict[str, Any]) -> bool:
    """Keep the winner; a profile of before for the same purpose stays where nothing better was shown."""
    if outcome.winner is None:
        return False
    store, winner = context.store(work.given), outcome.winner
    version = store.find(winner.version) or work.manifest
    sha256 = sha256_of(store, work.manifest)
    recipe = version.recipe
    own = version.id == work.manifest.id
    draft = drafts.find(store, winner.words)
    made = draft.recipe if draft is not None and draft.alias == work.manifest.alias else None
    profiles.save(work.given.home, Profile(
        machine=place.machine_id(), sha256=sha256, purpose=work.purpose.name, model=work.manifest.id,
        tuned_at=datetime.now(UTC).isoformat(timespec="seconds"), engine=winner.engine,
        engine_version=_version(work, winner.engine, winner.build), build=winner.build,
        arguments=winner.words, parallel=winner.slots,
        runs=None if own else version.id, runs_sha256=None if own else sha256_of(store, version),
        runs_target=recipe.target if recipe and recipe.source_sha256 == sha256 and recipe.stands_in else None,
        draft=draft.id if draft else None, draft_sha256=sha256_of(store, draft) if draft else None,
        draft_target=made.target if made else None, evidence=document, **document["gain"],
    ))  # fmt: skip
    return True


def _say_what_now(work: Work, outcome: Outcome, saved: bool) -> None:
    alias = work.manifest.alias
    if saved:
        wish = choosing.wish_of(work.manifest, work.given)
        used = tuned.find(context.store(work.given), work.manifest, work.given, wish)
        if used is None or used.why_not:
            why = used.why_not if used else f"the settings say profile {wish.profile}"
            output.data(f"Saved, but not used as long as {why}: foundry config list")
        else:
            output.data(f"Saved: the service loads {work.manifest.id} so from its next load on.")
        output.note(f"to see it again: foundry tune {alias} --explain; to forget it: foundry tune {alias} --reset")
    elif outcome.stopped:
        output.note(f"what was measured is kept; to go on: foundry tune {alias} --for {work.purpose.name}")
