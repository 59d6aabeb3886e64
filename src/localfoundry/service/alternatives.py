"""What could be loaded instead of a model that does not fit: shorter, as another variant, or another model.

Gathers for `advice/ways_out.py` what the catalog and the store have, in the figures that the planner refuses by, so
that what is advised is what would be granted. Of a large catalog only those nearest in size are looked at.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from localfoundry import engines
from localfoundry.advice.machine import Means
from localfoundry.advice.prospects import Prospect, prospect
from localfoundry.advice.ways_out import Advice, fits, room_of, ways_out
from localfoundry.catalog.filters import preferred_variant
from localfoundry.catalog.lookup import Catalog
from localfoundry.catalog.model import Model, Variant
from localfoundry.config import Settings
from localfoundry.errors import NotRunnable
from localfoundry.fit.context import DEFAULT_CONTEXT, SMALLEST_CONTEXT
from localfoundry.fit.interval import Interval
from localfoundry.service.planning import Planner
from localfoundry.store.manifest import Manifest

_CONTEXTS = (8192, 4096, 2048, SMALLEST_CONTEXT)  # that are tried with others where the wanted one does not fit
_MOST = 200  # models of the catalog that are looked at
_LEAST_BYTES_PER_PARAMETER = 0.25  # of weights: two bits


@dataclass(frozen=True, slots=True)
class Alternatives:
    """See the module. Nothing is loaded, fetched or written; the files of cached models may be read."""

    catalog: Catalog
    planner: Planner
    settings: Settings

    def of_cached(self, manifest: Manifest, context: int, need_bytes: int, free_bytes: int) -> Advice:
        """For a load of a cached version that was refused: it needs so much, and so much can be had."""
        room = room_of(free_bytes)
        wanted = _of_manifest(manifest, context, need_bytes)
        largest = self.planner.largest_context(manifest, self.settings, room)
        shorter = None
        if largest is not None and largest >= SMALLEST_CONTEXT:
            tokens = min(largest, context)
            while tokens >= SMALLEST_CONTEXT and self._need(manifest, tokens) > room:  # loads took more than predicted
                tokens //= 2
            if tokens >= SMALLEST_CONTEXT:
                shorter = _of_manifest(manifest, tokens, self._need(manifest, tokens))
        return ways_out(wanted, shorter, self._others(wanted, room), room)

    def of_known(self, wanted: Prospect, room_bytes: int) -> Advice:
        """For what is not here yet, and would not fit with the smallest context either: others, with the usual one."""
        wanted = replace(wanted, context=DEFAULT_CONTEXT)
        return ways_out(wanted, None, self._others(wanted, room_bytes), room_bytes)

    def _need(self, manifest: Manifest, context: int) -> int:
        return sum(self.planner.need(manifest, context, self.settings).values())

    def _others(self, wanted: Prospect, room: int) -> Iterator[Prospect]:
        formats = engines.runnable_formats()
        here = self.planner.store.manifests()
        cached = {manifest.id: manifest for manifest in here}
        for manifest in here:
            same = manifest.alias.lower() == wanted.alias.lower()
            if manifest.format in formats and manifest.id != wanted.variant and (same or self._is_meant(manifest)):
                yield from self._contexts_of(manifest, wanted, room)
        if self.settings.offline:
            return
        means = Means("this machine", room, room)
        aliases = {manifest.alias.lower() for manifest in here}
        for model, variant in self._of_catalog(wanted, room):
            known = variant.id in cached or (model.alias.lower() in aliases and model.alias != wanted.alias)
            if not known and variant.source is not None and variant.format in formats:
                tried = (prospect(model, variant, means, context=tokens) for tokens in _contexts(wanted, model))
                yield from (one for one in tried if fits(one, room))

    def _is_meant(self, manifest: Manifest) -> bool:
        """Whether its alias stands for it and not for another version."""
        found = self.planner.store.find(manifest.alias)
        return found is not None and found.id == manifest.id

    def _contexts_of(self, manifest: Manifest, wanted: Prospect, room: int) -> Iterator[Prospect]:
        for tokens in _contexts(wanted, manifest):
            try:
                need = self._need(manifest, tokens)
            except NotRunnable:  # by the engine of its format, for a reason of its own
                return
            if need <= room:
                yield _of_manifest(manifest, tokens, need)
                return

    def _of_catalog(self, wanted: Prospect, room: int) -> Iterator[tuple[Model, Variant]]:
        """Variants of the wanted model, and what the alias of other models for the same task means, largest first."""
        formats = engines.runnable_formats()
        same = self.catalog.find(wanted.alias)
        if same is not None:
            yield from ((same[0], variant) for variant in same[0].variants if variant.id != wanted.variant)
        task = wanted.tasks[0] if wanted.tasks else ""
        models = (m for m in self.catalog.models if task in m.tasks and m.alias.lower() != wanted.alias.lower())
        found = ((model, preferred_variant(model, formats)) for model in models)
        yield from _largest(((m, v) for m, v in found if v is not None and _least_bytes(m, v) <= room), _MOST)


def _largest(found: Iterable[tuple[Model, Variant]], count: int) -> list[tuple[Model, Variant]]:
    return heapq.nlargest(count, found, key=lambda pair: _least_bytes(*pair))


def _least_bytes(model: Model, variant: Variant) -> float:
    """What its weights take at least; 0 where nothing is known."""
    return variant.size_bytes or (model.parameters or 0) * _LEAST_BYTES_PER_PARAMETER


def _contexts(wanted: Prospect, other: Model | Manifest) -> list[int]:
    """The wanted context, as far as the other was trained for it, and shorter ones."""
    most = min(wanted.context, other.context_length or wanted.context)
    return [most, *(tokens for tokens in _CONTEXTS if tokens < most)]


def _of_manifest(manifest: Manifest, context: int, need_bytes: int) -> Prospect:
    need = Interval(need_bytes, need_bytes, need_bytes)
    return Prospect(
        alias=manifest.alias, variant=manifest.id, format=manifest.format, quantization=manifest.quantization,
        tasks=manifest.tasks, license=manifest.license, disk_bytes=manifest.size_bytes, context=context,
        trained_context=manifest.context_length, largest_context=None, memory=need, fit="unknown", decode=None,
        prefill=None, first_token_s=None, load_s=None,
    )  # fmt: skip
