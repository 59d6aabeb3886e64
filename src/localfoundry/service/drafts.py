"""Draft models: a smaller model guesses tokens ahead, and the larger one, which has the same vocabulary, checks them.

A person names the draft among the model's `engineArguments` (`--spec-draft-model NAME`), as any model is named and
never by a file; its bytes are found when the model is loaded. What it guesses comes out only where the larger one
agrees, so greedy answers stay what they are.
"""

from __future__ import annotations

from collections.abc import Sequence

from localfoundry.engines import llama_fit
from localfoundry.engines.base import Engine
from localfoundry.engines.llama_arguments import DRAFT_MODEL
from localfoundry.errors import FoundryError, InvalidSetting
from localfoundry.fit.context import DEFAULT_CONTEXT
from localfoundry.formats import vocabulary
from localfoundry.service.ledger import Bytes
from localfoundry.store.manifest import Manifest
from localfoundry.store.store import Store

_LARGEST_SHARE = 0.5  # of the target's bytes that a token takes: with more, guessing costs what it saves
_MOST = 2  # proposed


def named(arguments: Sequence[str]) -> str | None:
    """The draft model among the arguments; the last where there are several, as for the engine."""
    found = None
    for place, word in enumerate(arguments):
        flag, equals, rest = word.partition("=")
        if flag == DRAFT_MODEL:
            found = rest if equals else "".join(arguments[place + 1 : place + 2])
    return found


def renamed(arguments: Sequence[str], value: str) -> tuple[str, ...]:
    """The arguments with another value for the draft model: an id, or the file for the engine."""
    kept: list[str] = []
    words = list(arguments)
    while words:
        word = words.pop(0)
        if word.partition("=")[0] != DRAFT_MODEL:
            kept.append(word)
            continue
        if word == DRAFT_MODEL and words:
            words.pop(0)
        kept += [DRAFT_MODEL, value]
    return tuple(kept)


def find(store: Store, arguments: Sequence[str]) -> Manifest | None:
    """The draft model that the arguments name; None where they name none, or one that is not here."""
    name = named(arguments)
    return None if name is None else store.find(name)


def required(store: Store, arguments: Sequence[str], target: Manifest) -> Manifest | None:
    """As `find`, fit to draft for `target`. Blocking: reads headers. Raises InvalidSetting, NotAModel."""
    name = named(arguments)
    if name is None:
        return None
    draft = store.find(name)
    if draft is None:
        raise InvalidSetting(
            f"engineArguments of {target.alias}: the draft model {name[:100]!r} is not on this disk",
            hint=f"foundry model download {name[:100]}", param="model",
        )  # fmt: skip
    why_not = "only GGUF files draft" if draft.format != "gguf" else _differ(store, target, draft)
    if why_not is not None:
        raise InvalidSetting(
            f"engineArguments of {target.alias}: {draft.id} cannot draft for {target.id}: {why_not}",
            hint=f"foundry tune {target.alias} --for rewrite --dry-run", param="model",
        )  # fmt: skip
    return draft


def candidates(store: Store, target: Manifest) -> list[Manifest]:
    """Models here that could draft for it, the smallest first: the same vocabulary, half of its bytes at the most."""
    shape = llama_fit.shape_of(target, store.main_file(target)) if target.format == "gguf" else None
    if shape is None or not shape.exact:
        return []
    found: list[tuple[int, Manifest]] = []
    for draft in store.manifests():
        small = draft.shape if draft.format == "gguf" and "chat" in draft.tasks else None
        if small is None or not 0 < small.active_bytes <= shape.active_bytes * _LARGEST_SHARE:
            continue
        if abs(small.tokens - shape.tokens) <= vocabulary.MOST_MORE:
            found.append((small.active_bytes, draft))
    found.sort(key=lambda one: (one[0], one[1].id))
    return [draft for _, draft in found if _can(store, target, draft)][:_MOST]


def memory(store: Store, engine: Engine, draft: Manifest | None, context: int, parallel: int) -> Bytes:
    """What it takes beside its target: its weights, and a KV cache for as many tokens as the target has."""
    return {} if draft is None else engine.memory(draft, store.main_file(draft), context, parallel)


def largest_context(
    store: Store, engine: Engine, target: Manifest, room: int, parallel: int, arguments: tuple[str, ...],
    draft: Manifest | None,
) -> int | None:  # fmt: skip
    """The largest context of a target for which it and its draft fit in `room` bytes, from below; None: not known."""

    def beside(tokens: int) -> int | None:
        left = room - sum(memory(store, engine, draft, tokens, parallel).values())
        return engine.largest_context(target, store.main_file(target), left, parallel, arguments)

    found = beside(DEFAULT_CONTEXT)
    return beside(found) if draft is not None and found is not None and found > DEFAULT_CONTEXT else found


def _can(store: Store, target: Manifest, draft: Manifest) -> bool:
    try:
        return _differ(store, target, draft) is None
    except FoundryError:  # a file that cannot be read drafts for nobody
        return False


def _differ(store: Store, target: Manifest, draft: Manifest) -> str | None:
    found = vocabulary.differ(store.main_file(target), store.main_file(draft))
    return None if found is None else f"their vocabularies differ ({found})"
