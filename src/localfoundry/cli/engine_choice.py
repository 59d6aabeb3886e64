"""Which engine would run a model here, which come after it and which do not: as a document, and in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

from localfoundry.cli import context, output
from localfoundry.config import Settings
from localfoundry.engines import llama_builds
from localfoundry.engines.base import Engine
from localfoundry.engines.choice import Candidate
from localfoundry.errors import FoundryError
from localfoundry.service import choosing, tuned
from localfoundry.store.manifest import Manifest


def describe(given: Settings, manifest: Manifest | None) -> dict[str, Any] | None:
    """The choice for a version that is here; None for what is not: only its file tells its tensors."""
    if manifest is None:
        return None
    store, wish = context.store(given), choosing.wish_of(manifest, given)
    profile = tuned.find(store, manifest, given, wish)
    by_profile = [replace(profile.candidate, reason=f"it was {profile.words}")] if profile and profile.candidate else []
    try:
        choice = choosing.choose(store, manifest, given, wish)
    except FoundryError as exc:
        return {"candidates": [], "leftOut": [], "problem": exc.message, "hint": exc.hint}
    return {
        "candidates": [_candidate(one, given) for one in (*by_profile, *choice.candidates)],
        "leftOut": [{"engine": one.engine, "why": one.why} for one in choice.left_out],
    }


class Running(NamedTuple):
    """The engine that a load would take first, the version whose bytes it would get, and its arguments; `to_make`: a
    re-encoding of that type has to be made first, and the version is the one it is made of."""

    engine: Engine
    runs: Manifest
    to_make: str | None
    arguments: tuple[str, ...] = ()
    build: str | None = None


def first(
    given: Settings, manifest: Manifest, settings: Mapping[str, int | str] = MappingProxyType({})
) -> Running | None:
    """What would run a cached version, as far as that shows without loading; None: nothing here.

    `settings`: of a candidate of a comparison (`engine`, `threads`); they are loaded without what was tuned.
    """
    store = context.store(given)
    wish = choosing.wish_of(manifest, given, engine=str(settings["engine"]) if "engine" in settings else None)
    if "threads" in settings:
        count = str(settings["threads"])
        wish = replace(wish, arguments=("--threads", count, "--threads-batch", count))
    profile = None if settings else tuned.find(store, manifest, given, wish)
    try:
        chosen = profile.candidate if profile else None
        arguments = profile.arguments if profile and chosen else wish.arguments
        chosen = chosen or choosing.choose(store, manifest, given, wish).candidates[0]
    except FoundryError:
        return None
    runs = store.find(chosen.runs) if chosen.runs else None
    return Running(chosen.engine, runs or manifest, chosen.reencode_to, arguments, chosen.build)


def version_words(given: Settings, found: Running) -> str:
    """The engine's version and the arguments that it gets: what besides the bytes decides what comes out."""
    return " ".join([found.engine.version(llama_builds.chosen(given, found.build)), *found.arguments])


def is_by(engine: str | None, told: str | None) -> bool:
    """Whether a measurement is of that engine: `told` has a build behind the name, as in `llama.cpp (native)`."""
    return told is not None and told.partition(" ")[0] == engine


def tuned_words(given: Settings, manifest: Manifest | None) -> str | None:
    """What was tuned for it here, and whether the service loads it so; None where nothing was."""
    if manifest is None:
        return None
    found = tuned.find(context.store(given), manifest, given, choosing.wish_of(manifest, given))
    if found is None:
        return None
    profile = found.profile
    how = " ".join((profile.engine_words, *([profile.runs] if profile.runs else []), *profile.arguments))
    return f"{found.words} ({how})"


def _candidate(one: Candidate, given: Settings) -> dict[str, Any]:
    return {
        "engine": one.engine.name,
        "version": one.engine.version(llama_builds.chosen(given, one.build)),
        "why": one.reason,
        "runs": one.runs,
        "reencodeTo": one.reencode_to,
    }


def show(choice: Mapping[str, Any] | None) -> None:
    """A line for the engine that runs it, and one for each of the others of its format."""
    if choice is None:
        return
    if not choice["candidates"]:
        output.data(f"Engine:        none: {choice['problem']}")
        return
    first, *others = choice["candidates"]
    output.data(f"Engine:        {first['engine']} ({first['version']}), because {first['why']}")
    for one in others:
        output.data(f"    then       {one['engine']} ({one['version']}): {one['why']}")
    for one in choice["leftOut"]:
        output.data(f"    not        {one['engine']}: {one['why']}")
