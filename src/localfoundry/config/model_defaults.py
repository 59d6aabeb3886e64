"""What a person has chosen for single models: `models` in the settings file, by alias, name or id.

Each choice is declared once, as settings are (`config.py`). Choices for an alias hold for every version of the model;
those for a name, and for an id with its version, win over them one by one. What the choices do is decided elsewhere:
how it is loaded (`context`, `parallel`, `engine` and the like) at the next load, the rest at the next request.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from localfoundry.config.values import Parser, arguments, boolean, integer, number, one_of, text, texts
from localfoundry.errors import InvalidSetting

LONGEST_NAME = 300
ENGINES = ("llama.cpp", "openvino", "onnx", "fake", "fake2")  # those of `engines/`, which a test compares
PROFILES = ("auto", "chat", "throughput")


@dataclass(frozen=True, slots=True)
class ModelOption:
    """One choice: its key in the file, the name of the field it fills, and for sampling the field of a request."""

    key: str
    name: str
    parse: Parser
    help: str
    unit: str = ""
    sampling: bool = False
    takes_effect: str = "next request"


_SEED_LIMIT = 2**32 - 1

MODEL_OPTIONS: tuple[ModelOption, ...] = (
    ModelOption(
        "context", "context", integer(1, 10_000_000), "Context to load it with.", "tokens", takes_effect="next load"
    ),
    ModelOption(
        "ttl", "ttl_s", integer(0, 31_536_000), "Unload it when idle for so long; 0 never.", "seconds",
        takes_effect="next load",
    ),
    ModelOption(
        "parallel", "parallel", integer(1, 256), "Requests it answers at the same time.", takes_effect="next load"
    ),
    ModelOption("pinned", "pinned", boolean, "Not unloaded to make room for another.", takes_effect="next load"),
    ModelOption(
        "keepState", "keep_state", boolean, "Its prompt cache is kept on the disk when it is unloaded.",
        takes_effect="next load",
    ),
    ModelOption(
        "engine", "engine", one_of(*ENGINES), "The engine that runs it, and no other.", takes_effect="next load"
    ),
    ModelOption(
        "profile", "profile", one_of(*PROFILES), "What its engine is chosen for: `chat`, `throughput` or `auto`.",
        takes_effect="next load",
    ),
    ModelOption(
        "engineArguments", "engine_arguments", arguments, "More arguments for its engine; see docs/configuration.md.",
        takes_effect="next load",
    ),
    ModelOption("system", "system", text, "System prompt of a chat that brings none."),
    ModelOption("temperature", "temperature", number(0, 2), "Where a request does not say.", sampling=True),
    ModelOption("topP", "top_p", number(0, 1), "Where a request does not say.", sampling=True),
    ModelOption("topK", "top_k", integer(0, 1_000_000), "Where a request does not say; 0 is off.", sampling=True),
    ModelOption("minP", "min_p", number(0, 1), "Where a request does not say.", sampling=True),
    ModelOption(
        "maxTokens", "max_tokens", integer(1, 10_000_000), "Longest answer where a request does not say.", "tokens",
        sampling=True,
    ),
    ModelOption("presencePenalty", "presence_penalty", number(-2, 2), "Where a request does not say.", sampling=True),
    ModelOption("frequencyPenalty", "frequency_penalty", number(-2, 2), "Where a request does not say.", sampling=True),
    ModelOption("repeatPenalty", "repeat_penalty", number(0, 10), "Where a request does not say.", sampling=True),
    ModelOption("seed", "seed", integer(0, _SEED_LIMIT), "Where a request does not say.", sampling=True),
    ModelOption("stop", "stop", texts(16), "Words that end an answer, where a request names none.", sampling=True),
)  # fmt: skip

Values = Mapping[str, Any]  # what is chosen for one name, by field name
_BY_KEY = {option.key: option for option in MODEL_OPTIONS}


@dataclass(frozen=True, slots=True)
class ModelDefaults:
    """What is chosen for one model; None where nothing is. `sampling` is by the name of a request's field."""

    context: int | None = None
    ttl_s: int | None = None
    parallel: int | None = None
    pinned: bool | None = None
    keep_state: bool | None = None
    engine: str | None = None
    profile: str | None = None
    system: str | None = None
    sampling: Mapping[str, float | str | list[str]] = field(default_factory=dict, hash=False)
    engine_arguments: tuple[str, ...] = ()

    @property
    def shape_requests(self) -> bool:
        """Whether a request is changed by them at all."""
        return bool(self.sampling) or self.system is not None


NONE = ModelDefaults()


def find(key: str) -> ModelOption | None:
    """The choice of that key, in camel case or with underscores."""
    wanted = key.replace("_", "").lower()
    return next((o for o in MODEL_OPTIONS if wanted in (o.key.lower(), o.name.replace("_", ""))), None)


def read(document: object, source: str) -> dict[str, Values]:
    """`models` of a settings file: what is chosen, by name in lower case. Raises InvalidSetting naming the key."""
    if not isinstance(document, dict):
        raise InvalidSetting(f"models = {document!r} (from {source}) is not valid: expected an object of models")
    found: dict[str, Values] = {}
    for name, values in document.items():
        if not name.strip() or len(name) > LONGEST_NAME:
            raise InvalidSetting(f"models (from {source}) has {name[:50]!r} where the name of a model belongs")
        if not isinstance(values, dict):
            raise InvalidSetting(
                f"models.{name} = {values!r} (from {source}) is not valid: expected an object of choices"
            )
        found[name.lower()] = {
            _option(name, key, source).name: parse(name, _option(name, key, source), value, source)
            for key, value in values.items()
        }
    return found


def parse(model: str, option: ModelOption, value: object, source: str) -> Any:
    """The value of one choice. Raises InvalidSetting naming key, value and source."""
    try:
        return option.parse(value)
    except ValueError as exc:
        raise InvalidSetting(
            f"models.{model}.{option.key} = {value!r} (from {source}) is not valid: expected {exc}"
        ) from None


def chosen(models: Mapping[str, Values], names: Sequence[str]) -> dict[str, Any]:
    """What is chosen under these names of one model by field name, the later name winning."""
    together: dict[str, Any] = {}
    for name in names:
        together.update(models.get(name.lower(), {}))
    return together


def by_key(values: Values) -> dict[str, Any]:
    """The same by the keys of the file, and as JSON has it."""
    found = {option.key: values[option.name] for option in MODEL_OPTIONS if option.name in values}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}


def merged(models: Mapping[str, Values], names: Sequence[str]) -> ModelDefaults:
    """What is chosen under these names of one model, the later name winning."""
    together = chosen(models, names)
    if not together:
        return NONE
    sampling = {
        option.name: list(value) if isinstance(value := together.pop(option.name), tuple) else value
        for option in MODEL_OPTIONS
        if option.sampling and option.name in together
    }
    return dataclasses.replace(NONE, sampling=sampling, **together)


def _option(model: str, key: str, source: str) -> ModelOption:
    option = _BY_KEY.get(key)
    if option is None:
        raise InvalidSetting(
            f"models.{model} (from {source}) has the unknown key {key!r}",
            hint="it may hold: " + ", ".join(_BY_KEY),
        )
    return option
