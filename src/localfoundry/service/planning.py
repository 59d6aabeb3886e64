"""How a model would be loaded: what a caller asks, what is chosen for the model, what the settings say, in that order.

The need of memory is what such a load took here before, or else what the engine's estimate predicts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from localfoundry import engines
from localfoundry.config import Settings
from localfoundry.config.model_defaults import ModelDefaults
from localfoundry.errors import InvalidRequest
from localfoundry.fit.context import DEFAULT_CONTEXT, SMALLEST_CONTEXT
from localfoundry.service.decisions import LoadPlan, Resident
from localfoundry.service.learning import Learned
from localfoundry.service.ledger import CPU, Bytes
from localfoundry.service.loading import LoadedModel
from localfoundry.store.manifest import Manifest
from localfoundry.store.store import Store

_RATIO_OF = 10**12  # bytes: large enough for a ratio of them to be exact
_AHEAD = 2  # requests that an engine gets beyond those it answers at once, so that it never waits for the next

T = TypeVar("T")
_Kind = tuple[str, int, int, tuple[str, ...]]  # of a load: version, context, parallel requests, engine arguments


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What a caller may ask of a load; None takes the setting. `retain` keeps the other models loaded."""

    retain: bool | None = None
    ttl_s: int | None = None
    context: int | None = None
    pinned: bool | None = None
    keep_state: bool | None = None
    force: bool = False  # although the estimate says that it does not fit


class Planner:
    """Plans of one service; it remembers what loads took, and over its end how far the estimate was off."""

    def __init__(self, store: Store, home: Path) -> None:
        self.store = store
        self._measured: dict[_Kind, Bytes] = {}
        self._learned = Learned(home)

    def plan(
        self, manifest: Manifest, options: LoadOptions, settings: Settings, resident: Resident | None, room: int
    ) -> LoadPlan:
        """`room`: bytes that a load could have if everything else were unloaded. Raises InvalidRequest, NotRunnable."""
        chosen = _chosen(manifest, settings)
        parallel, arguments = _way_of_loading(manifest, settings)
        largest = self.largest_context(manifest, settings, room)
        wanted = options.context or chosen.context or settings.context_length
        context, usual = _context(manifest, wanted, largest)
        return LoadPlan(
            need=self.need(manifest, context, settings),
            context=context,
            largest_context=largest,
            usual_context=usual,
            slots=parallel + _AHEAD,
            parallel=parallel,
            ttl_s=_first(options.ttl_s, chosen.ttl_s, settings.model_ttl_s),
            pinned=_first(options.pinned, resident.plan.pinned if resident else None, chosen.pinned, False),
            retain=_first(options.retain, settings.retain_models),
            engine_arguments=arguments,
            keep_state=_first(options.keep_state, chosen.keep_state, settings.keep_state),
            forced=options.force,
        )

    def need(self, manifest: Manifest, context: int, settings: Settings) -> Bytes:
        """Bytes by device of a load with so many tokens. Raises NotRunnable."""
        parallel, arguments = _way_of_loading(manifest, settings)
        measured = self._measured.get((manifest.id, context, parallel, arguments))
        if measured is not None:
            return measured
        engine, file = engines.choose(manifest.format), self.store.main_file(manifest)
        return self._learned.corrected(manifest, engine.memory(manifest, file, context, parallel, arguments))

    def largest_context(self, manifest: Manifest, settings: Settings, room: int) -> int | None:
        """The largest context whose load takes at most `room` bytes, by the same figures; None: not known, or none."""
        parallel, arguments = _way_of_loading(manifest, settings)
        engine, file = engines.choose(manifest.format), self.store.main_file(manifest)
        # What loads here came to is a ratio: so much more or less of the estimate has room.
        corrected = self._learned.corrected(manifest, {CPU: _RATIO_OF})[CPU] / _RATIO_OF
        return engine.largest_context(manifest, file, int(room / corrected), parallel, arguments)

    def learn(self, model: LoadedModel, settings: Settings) -> None:
        """Keep how what the engine allocated compares with the estimate. Blocking."""
        self._learned.note(model, self.store.main_file(model.manifest), settings)

    def measure(self, model: LoadedModel) -> Bytes:
        """What a loaded model holds now; the most it ever held is remembered for loads of the same kind."""
        claim = model.measure()
        plan = model.resident.plan
        kind = model.id, plan.context, plan.parallel, plan.engine_arguments
        before = self._measured.get(kind, {})
        self._measured[kind] = {device: max(size, before.get(device, 0)) for device, size in claim.items()}
        return claim


def _chosen(manifest: Manifest, settings: Settings) -> ModelDefaults:
    return settings.defaults_for((manifest.alias, manifest.name, manifest.id))


def _way_of_loading(manifest: Manifest, settings: Settings) -> tuple[int, tuple[str, ...]]:
    """Parallel requests and engine arguments."""
    chosen = _chosen(manifest, settings)
    return chosen.parallel or settings.parallel, chosen.engine_arguments


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
