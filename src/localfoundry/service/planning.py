"""How a model would be loaded: what a caller asks, what is chosen for it, what was tuned, what the settings say.

The engine is the first candidate whose load fits the memory. The need of memory is what such a load took here before,
or else what the engine's estimate predicts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from localfoundry.config import Settings
from localfoundry.config.model_defaults import ModelDefaults
from localfoundry.engines.choice import Candidate, Choice, LeftOut, Wish
from localfoundry.errors import InvalidRequest
from localfoundry.fit.context import DEFAULT_CONTEXT, SMALLEST_CONTEXT
from localfoundry.service import choosing, drafts, tuned
from localfoundry.service.decisions import LoadPlan, Resident
from localfoundry.service.learning import Learned
from localfoundry.service.ledger import CPU, Bytes
from localfoundry.service.loading import LoadedModel
from localfoundry.service.workload import Workload
from localfoundry.store.manifest import Manifest
from localfoundry.store.store import Store
from localfoundry.units import format_bytes

_RATIO_OF = 10**12  # bytes: large enough for a ratio of them to be exact
_AHEAD = 2  # requests that an engine gets beyond those it answers at once, so that it never waits for the next

T = TypeVar("T")
# Of a load: version, engine, context, parallel, for one stream, engine arguments.
_Kind = tuple[str, str, int, int, bool, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What a caller may ask of a load; None takes the setting. `retain` keeps the other models loaded."""

    retain: bool | None = None
    ttl_s: int | None = None
    context: int | None = None
    pinned: bool | None = None
    keep_state: bool | None = None
    force: bool = False  # although the estimate says that it does not fit
    engine: str | None = None  # this one and no other
    device: str | None = None


@dataclass(frozen=True, slots=True)
class Way:
    """A candidate with what it would be given: a version's file, its own or a re-encoding, and how much at a time."""

    candidate: Candidate
    runs: Manifest
    file: Path
    parallel: int
    one_stream: bool
    arguments: tuple[str, ...]
    tuned: bool = False
    draft: Manifest | None = None  # a smaller model that guesses ahead, loaded beside it


class Planner:
    """Plans of one service; it remembers what loads took, and over its end how far the estimates were off."""

    def __init__(self, store: Store, home: Path, not_reencoded: Mapping[str, str] | None = None) -> None:
        """`not_reencoded`: why a version could not be re-encoded, by its id; looked at, not kept."""
        self.store = store
        self._not_reencoded: Mapping[str, str] = {} if not_reencoded is None else not_reencoded
        self._measured: dict[_Kind, Bytes] = {}
        self._home = home
        self._learned = Learned(home)
        self.workload = Workload()
        self._failed: dict[str, dict[str, str]] = {}  # by version and engine: why it cannot load what another one can

    def plan(
        self, manifest: Manifest, options: LoadOptions, settings: Settings, resident: Resident | None, room: int,
        failed: Iterable[LeftOut] = (),
    ) -> LoadPlan:  # fmt: skip
        """`room`: bytes that a load could have if everything else were unloaded; `failed`: engines that were tried.

        Raises InvalidRequest, NotRunnable.
        """
        failed = tuple(failed)
        known = self._failed.get(manifest.id, {}) | {one.engine: one.why for one in failed}
        wish = choosing.wish_of(
            manifest, settings, engine=options.engine, device=options.device, keep_state=options.keep_state,
            failed=known, seen=self.workload.profile(manifest.id),
        )  # fmt: skip
        by_profile = self._tuned_way(manifest, settings, wish)
        choice = choosing.choose(self.store, manifest, settings, wish, self._not_reencoded)
        ways = [self._way(manifest, candidate, settings) for candidate in choice.candidates]
        first: LoadPlan | None = None
        too_large: list[LeftOut] = []
        for way in [by_profile, *ways] if by_profile else ways:
            left_out = (*choice.left_out, *too_large)
            made = self._plan(manifest, way, options, settings, resident, room)
            made = replace(made, left_out=left_out, failed=failed)
            need = sum(made.need.values())
            if need <= room:
                return made
            first = first or made
            words = f"it needs {format_bytes(need)}, and {format_bytes(max(room, 0))} can be had"
            too_large.append(LeftOut(made.tried_as, words))
        assert first is not None
        return first

    def _plan(
        self, manifest: Manifest, way: Way, options: LoadOptions, settings: Settings, resident: Resident | None,
        room: int,
    ) -> LoadPlan:  # fmt: skip
        chosen = _chosen(manifest, settings)
        largest = self._largest_context(way, room)
        wanted = options.context or chosen.context or settings.context_length
        context, usual = _context(manifest, wanted, largest)
        return LoadPlan(
            need=self._need(way, context),
            context=context,
            largest_context=largest,
            usual_context=usual,
            slots=way.parallel + _AHEAD,
            parallel=way.parallel,
            ttl_s=_first(options.ttl_s, chosen.ttl_s, settings.model_ttl_s),
            pinned=_first(options.pinned, resident.plan.pinned if resident else None, chosen.pinned, False),
            retain=_first(options.retain, settings.retain_models),
            engine_arguments=way.arguments,
            keep_state=_first(options.keep_state, chosen.keep_state, settings.keep_state),
            forced=options.force,
            engine=way.candidate.engine.name,
            engine_reason=way.candidate.reason,
            tuned=way.tuned,
            build=way.candidate.build,
            draft=way.draft.id if way.draft else None,
            device=(options.device or "CPU").upper(),
            one_stream=way.one_stream,
            runs=way.runs.id,
            reencode_to=way.candidate.reencode_to if way.runs is manifest else None,
        )

    def _way(self, manifest: Manifest, candidate: Candidate, settings: Settings) -> Way:
        chosen = _chosen(manifest, settings)
        runs = manifest if candidate.runs is None else self.store.find(candidate.runs) or manifest
        parallel = chosen.parallel or settings.parallel
        one_stream = _one_stream(parallel, chosen, settings)
        arguments, draft = chosen.engine_arguments, drafts.find(self.store, chosen.engine_arguments)
        return Way(candidate, runs, self.store.main_file(runs), parallel, one_stream, arguments, draft=draft)

    def _tuned_way(self, manifest: Manifest, settings: Settings, wish: Wish) -> Way | None:
        """The way of the saved profile, where that is used."""
        found = tuned.find(self.store, manifest, settings, wish)
        if found is None or found.candidate is None:
            return None
        way = self._way(manifest, found.candidate, settings)
        chosen = _chosen(manifest, settings)
        parallel = chosen.parallel or found.profile.parallel or way.parallel
        one_stream = _one_stream(parallel, chosen, settings)
        return replace(
            way, parallel=parallel, one_stream=one_stream, arguments=found.arguments, tuned=True,
            draft=drafts.find(self.store, found.arguments),
        )  # fmt: skip

    def _usual_way(self, manifest: Manifest, settings: Settings) -> Way:
        """How it would be loaded if nobody asked for anything. Raises NotRunnable."""
        wish = choosing.wish_of(manifest, settings, failed=self._failed.get(manifest.id))
        by_profile = self._tuned_way(manifest, settings, wish)
        return by_profile or self._way(manifest, self.choice(manifest, settings).candidates[0], settings)

    def choice(self, manifest: Manifest, settings: Settings) -> Choice:
        """The engines for it if nobody asked for anything, by what was learned here as well. Raises NotRunnable."""
        seen = self.workload.profile(manifest.id)
        wish = choosing.wish_of(manifest, settings, failed=self._failed.get(manifest.id), seen=seen)
        return choosing.choose(self.store, manifest, settings, wish, self._not_reencoded)

    def need(self, manifest: Manifest, context: int, settings: Settings) -> Bytes:
        """Bytes by device of a load with so many tokens. Raises NotRunnable."""
        return self._need(self._usual_way(manifest, settings), context)

    def largest_context(self, manifest: Manifest, settings: Settings, room: int) -> int | None:
        """The largest context whose load takes at most `room` bytes, by the same figures; None: not known, or none."""
        return self._largest_context(self._usual_way(manifest, settings), room)

    def _need(self, way: Way, context: int) -> Bytes:
        engine = way.candidate.engine
        kind = way.runs.id, engine.name, context, way.parallel, way.one_stream, way.arguments
        measured = self._measured.get(kind)
        if measured is not None:
            return measured
        predicted = engine.memory(way.runs, way.file, context, way.parallel, way.arguments)
        beside = drafts.memory(self.store, engine, way.draft, context, way.parallel)
        own = self._learned.corrected(engine.name, way.runs, predicted)
        return {device: own.get(device, 0) + beside.get(device, 0) for device in {**own, **beside}}

    def _largest_context(self, way: Way, room: int) -> int | None:
        # What loads here came to is a ratio: so much more or less of the estimate has room.
        engine = way.candidate.engine
        corrected = self._learned.corrected(engine.name, way.runs, {CPU: _RATIO_OF})[CPU] / _RATIO_OF
        return drafts.largest_context(
            self.store, engine, way.runs, int(room / corrected), way.parallel, way.arguments, way.draft
        )

    def remember(self, manifest: Manifest, failed: Iterable[LeftOut]) -> None:
        """Engines that could not load what another one then did: they are not tried again while the service runs."""
        self._failed.setdefault(manifest.id, {}).update({one.engine: one.why for one in failed})

    def learn(self, model: LoadedModel, settings: Settings) -> None:
        """Keep how what the engine allocated compares with the estimate. Blocking."""
        self._learned.note(model, self.store.main_file(model.runs), settings)

    def measure(self, model: LoadedModel) -> Bytes:
        """What a loaded model holds now; the most it ever held is remembered for loads of the same kind."""
        claim = model.measure()
        plan = model.resident.plan
        arguments = plan.engine_arguments
        kind = model.runs.id, model.engine.name, plan.context, plan.parallel, plan.one_stream, arguments
        before = self._measured.get(kind, {})
        self._measured[kind] = {device: max(size, before.get(device, 0)) for device, size in claim.items()}
        return claim


def _chosen(manifest: Manifest, settings: Settings) -> ModelDefaults:
    return settings.defaults_for((manifest.alias, manifest.name, manifest.id))


def _one_stream(parallel: int, chosen: ModelDefaults, settings: Settings) -> bool:
    """Whether it is for one conversation at a time; who says nothing (`auto`) may send several requests at once."""
    return parallel == 1 or (chosen.profile or settings.profile) == "chat"


def _context(manifest: Manifest, wanted: int, largest: int | None) -> tuple[int, int]:
    """Tokens to load with, and as many as there would be with memory enough.

    `wanted` 0 leaves the choice: what the model was trained for, at most 8,192, and less where only less fits
    (`largest`). Raises InvalidRequest for more than the model was trained for.
    """
    limit = manifest.context_length
    if wanted and limit and wanted > limit:
        raise InvalidRequest(
            f"a context of {wanted} tokens is more than {manifest.alias} was trained for: {limit}",
            hint=f"foundry model run {manifest.alias} --ctx {limit}",
            param="context",
        )
    usual = wanted or min(limit or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
    if wanted or largest is None or largest < SMALLEST_CONTEXT:
        return usual, usual
    return min(usual, largest), usual


def _first(*values: T | None) -> T:
    """The first that is chosen; the last one always is."""
    return next(value for value in values if value is not None)
