"""What a candidate is called on a command line: a model, one of its versions, or one of them in other settings.

    phi-4-mini                      the version that the name means
    phi-4-mini@v1, phi-4-mini:1     a version of it that is on this disk
    phi-4-mini@ctx=4096,threads=2   in these settings; also engine=NAME, and behind a version: phi-4-mini:1@threads=2
    phi-4-mini@tuned=no             without what `foundry tune` saved for it, which other settings set aside too

The label stays what was typed, so that tables, kept runs and `--resume` tell the candidates apart.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from localfoundry.cli import context
from localfoundry.cli.versions import WITH_VERSION, required
from localfoundry.errors import InvalidRequest

if TYPE_CHECKING:
    from localfoundry.bench.candidates import Candidate
    from localfoundry.config import Settings

_IN_SETTINGS = re.compile(r"^(?P<model>.+)@(?P<settings>(?:ctx|threads|engine|tuned)=[^@]*)$")
_SETTINGS = {"ctx": "context", "threads": "threads", "engine": "engine"}


def read(given: Settings, candidate: Candidate) -> Candidate:
    """A candidate as it was typed with its model and settings taken apart. Raises InvalidRequest and UnknownModel."""
    if candidate.endpoint is not None:
        return candidate
    match = _IN_SETTINGS.match(candidate.model)
    if match is None:
        return msgspec.structs.replace(candidate, model=_versioned(given, candidate.model))
    settings = _settings(candidate.model, match["settings"])
    model = _versioned(given, match["model"])
    if "tuned" in settings:
        _check_tuned(given, model)
    return msgspec.structs.replace(candidate, model=model, settings={**candidate.settings, **settings})


def with_engine(model: str, engine: str) -> str:
    """The name of the same candidate under an engine; one that names an engine already stays as it is."""
    match = _IN_SETTINGS.match(model)
    if match is None:
        return f"{model}@engine={engine}"
    return model if "engine=" in match["settings"] else f"{model},engine={engine}"


def _versioned(given: Settings, model: str) -> str:
    """The id of the version where one is named, else the name as it is: a model may have to be downloaded first."""
    named = "/" not in model and WITH_VERSION.fullmatch(model)
    if not named or context.cached(given, model) is not None or context.catalog(given).find(model) is not None:
        return model
    return required(given, model).id


def _check_tuned(given: Settings, model: str) -> None:
    """Raises InvalidRequest where the model would be loaded just the same without a profile."""
    from localfoundry.cli.engine_choice import tuned_words

    if tuned_words(given, context.cached(given, model)) is None:
        raise InvalidRequest(
            f"{model} has no profile on this machine: with tuned=no it is loaded as without",
            hint=f"foundry tune {model}",
            param="models",
        )


def _settings(whole: str, words: str) -> dict[str, int | str]:
    from localfoundry.engines import engines
    from localfoundry.engines.choice import named

    found: dict[str, int | str] = {}
    for part in words.split(","):
        name, _, value = part.partition("=")
        if name == "engine":
            found["engine"] = named(value, engines()).name
            continue
        if (name, value) == ("tuned", "no"):
            found["tuned"] = value
            continue
        if name not in _SETTINGS or not value.isdecimal() or not 1 <= int(value) <= 10_000_000:
            raise InvalidRequest(
                f"{whole!r}: {part!r} is no setting; there are ctx=TOKENS, threads=NUMBER, engine=NAME and tuned=no",
                param="models",
            )
        found[_SETTINGS[name]] = int(value)
    return found


def check_distinct(given: Settings, candidates: Sequence[Candidate]) -> None:
    """Raises InvalidRequest for two that would be loaded alike: their answers would be the same."""
    seen: dict[tuple[object, ...], str] = {}
    for candidate in candidates:
        manifest = context.cached(given, candidate.model) if candidate.endpoint is None else None
        key = (
            manifest.id if manifest else candidate.model, candidate.endpoint, candidate.max_tokens,
            *sorted(candidate.settings.items()),
        )  # fmt: skip
        if key in seen:
            raise InvalidRequest(
                f"{seen[key]!r} and {candidate.label!r} are the same candidate; their answers would be the same",
                hint=f"foundry compare {candidate.model} {candidate.model}@threads=1",
                param="models",
            )
        seen[key] = candidate.label
