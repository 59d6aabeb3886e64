"""Which engine would run a version here: the facts of `engines/choice.py` gathered from settings, store and machine."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping

from localfoundry.build import reencode
from localfoundry.config import Settings
from localfoundry.engines import choice, engines, faithful, llama_fit
from localfoundry.engines.base import Engine, ModelFacts
from localfoundry.engines.choice import Choice, Reencoding, Wish
from localfoundry.errors import FoundryError
from localfoundry.store.manifest import Manifest
from localfoundry.store.store import Store
from localfoundry.units import format_bytes, format_duration

# What is made of a GGUF file for an engine that reads it badly: its own form, else what every engine reads.
_OWN_FORM = {"openvino": reencode.OPENVINO}
_ANY = "Q8_0"
QUICK_S = 10.0  # a re-encoding that takes longer is not made for a load, unless its engine was asked for


def choose(
    store: Store, manifest: Manifest, settings: Settings, wish: Wish, not_reencoded: Mapping[str, str] | None = None
) -> Choice:
    """Candidates for a cached version. Reads headers at most. `not_reencoded`: why that failed before, by version.

    Raises InvalidRequest, NotRunnable.
    """
    facts, known = facts_of(store, manifest), engines()
    failed = (not_reencoded or {}).get(manifest.id)
    found = _reencodings(store, manifest, facts, known, settings, wish, failed)
    return choice.choose(facts, wish, known, faithful.words, found)


def facts_of(store: Store, manifest: Manifest) -> ModelFacts:
    """From the manifest; of a version that is older than its shape, from the file's header."""
    types: frozenset[str] = frozenset()
    if manifest.format == "gguf":
        shape = llama_fit.shape_of(manifest, store.main_file(manifest))
        types = frozenset(group.type for group in shape.weights) if shape is not None and shape.exact else types
    return ModelFacts(manifest.format, manifest.architecture_name, types, manifest.tasks)


def wish_of(
    manifest: Manifest, settings: Settings, *, engine: str | None = None, device: str | None = None,
    keep_state: bool | None = None, failed: Mapping[str, str] | None = None, seen: str | None = None,
) -> Wish:  # fmt: skip
    """What a caller asks, else what is chosen for the model, else the settings; `failed` as in `Wish`.

    `seen`: the profile that its requests had until now, for where none is chosen.
    """
    chosen = settings.defaults_for((manifest.alias, manifest.name, manifest.id))
    profile = chosen.profile or settings.profile
    keeps = keep_state if keep_state is not None else chosen.keep_state
    return Wish(
        engine=engine or chosen.engine,
        preferred=None if settings.engine == "auto" else settings.engine,
        profile=seen if seen and profile == "auto" else profile,
        seen=profile == "auto" and seen is not None,
        device=device,
        keep_state=settings.keep_state if keeps is None else keeps,
        arguments=chosen.engine_arguments,
        failed=failed or {},
    )


def _reencodings(
    store: Store, manifest: Manifest, facts: ModelFacts, known: Iterable[Engine], settings: Settings, wish: Wish,
    failed: str | None,
) -> dict[str, Reencoding]:  # fmt: skip
    """By engine, for those that gain from one: the file is read badly, or one in the engine's own form is here."""
    if manifest.format != "gguf":
        return {}
    sums = {f.sha256 for f in manifest.files}
    made = [m for m in store.manifests() if m.recipe and m.recipe.stands_in and m.recipe.source_sha256 in sums]
    found = {}
    for engine in known:
        badly, target = _badly(engine, facts), _OWN_FORM.get(engine.name, _ANY)
        ready = next((m for m in _own_form_first(made) if _reads(store, engine, m)), None)
        own_form = ready is not None and ready.format != manifest.format
        if own_form or (badly and ready is not None):
            found[engine.name] = Reencoding(target, ready.id if ready else None, better=own_form)
        elif badly and engine.missing() is None:
            forced = wish.engine is not None and choice.named(wish.engine, [*known]) is engine
            why_not = _why_not(store, manifest, settings, failed, target, forced=forced)
            found[engine.name] = Reencoding(target, why_not=why_not)
    return found


def _own_form_first(made: Iterable[Manifest]) -> list[Manifest]:
    return sorted(made, key=lambda m: m.format == "gguf")


def _reads(store: Store, engine: Engine, manifest: Manifest) -> bool:
    return manifest.format in engine.formats and not _badly(engine, facts_of(store, manifest))


def _badly(engine: Engine, facts: ModelFacts) -> bool:
    return facts.format in engine.formats and bool(faithful.misread(engine.name, facts.tensor_types))


def _why_not(
    store: Store, manifest: Manifest, settings: Settings, failed: str | None, target: str, *, forced: bool
) -> str | None:
    """Why no re-encoding is made for a load; None: it is."""
    command = f"foundry model reencode {manifest.alias} --to {target.lower()}"
    if failed is not None:
        return f"re-encoding it failed ({failed}); to try again: {command}"
    if settings.reencode == "never":
        return f"the setting reencode says never: {command}"
    if importlib.util.find_spec("numpy") is None:
        return "re-encoding needs numpy: pip install 'localfoundry[reencode]'"
    try:
        plan = reencode.plan(store, manifest, target)
    except FoundryError as exc:
        return f"it cannot be re-encoded ({exc.message})"
    if not plan.fits:
        return f"the disk has no room for a re-encoding: {format_bytes(plan.needs_bytes)} must be free"
    if plan.seconds > QUICK_S and not forced:
        return f"re-encoding it takes about {format_duration(plan.seconds)}: {command}"
    return None
