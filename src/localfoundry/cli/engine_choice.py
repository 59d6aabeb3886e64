"""Which engine would run a model here, which come after it and which do not: as a document, and in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from localfoundry.cli import context, output
from localfoundry.config import Settings
from localfoundry.engines.choice import Candidate
from localfoundry.errors import FoundryError
from localfoundry.service import choosing
from localfoundry.store.manifest import Manifest


def describe(given: Settings, manifest: Manifest | None) -> dict[str, Any] | None:
    """The choice for a version that is here; None for what is not: only its file tells its tensors."""
    if manifest is None:
        return None
    store = context.store(given)
    try:
        choice = choosing.choose(store, manifest, given, choosing.wish_of(manifest, given))
    except FoundryError as exc:
        return {"candidates": [], "leftOut": [], "problem": exc.message, "hint": exc.hint}
    return {
        "candidates": [_candidate(one, given) for one in choice.candidates],
        "leftOut": [{"engine": one.engine, "why": one.why} for one in choice.left_out],
    }


def _candidate(one: Candidate, given: Settings) -> dict[str, Any]:
    return {
        "engine": one.engine.name,
        "version": one.engine.version(given),
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
