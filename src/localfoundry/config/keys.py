"""Keys of the settings file: found as a person types them, read, and changed.

A key is a setting's (`contextLength`, also `context_length`) or one choice for one model
(`models.phi-4-mini.temperature`). Which settings there are is `config.py`'s, and comes in as `options`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localfoundry.config import file, model_defaults
from localfoundry.config.model_defaults import ModelOption
from localfoundry.errors import InvalidSetting

Options = Sequence["dataclasses.Field[Any]"]


@dataclass(frozen=True, slots=True)
class Key:
    """What a typed key stands for: one setting (`option`), or one choice for one model (`model`, `choice`)."""

    option: dataclasses.Field[Any] | None = None
    model: str = ""
    choice: ModelOption | None = None

    def __str__(self) -> str:
        if self.choice is not None:
            return f"models.{self.model}.{self.choice.key}"
        assert self.option is not None
        return str(self.option.metadata["key"])

    def parse(self, value: object, source: str) -> Any:
        """The value as it is used. Raises InvalidSetting naming key, value and source."""
        if self.choice is not None:
            return model_defaults.parse(self.model, self.choice, value, source)
        assert self.option is not None
        return parse(self.option, value, source)


def parse(option: dataclasses.Field[Any], value: object, source: str) -> Any:
    """The value of one setting. Raises InvalidSetting naming key, value and source."""
    try:
        return option.metadata["parse"](value)
    except ValueError as exc:
        key = option.metadata["key"]
        raise InvalidSetting(f"{key} = {value!r} (from {source}) is not valid: expected {exc}") from None


def find(text: str, options: Options) -> Key:
    """The setting called `text`: its key or field name in any case, or `models.NAME.KEY`. Raises InvalidSetting."""
    if text.startswith("models."):
        model, _, last = text.removeprefix("models.").rpartition(".")
        choice = model_defaults.find(last)
        if model and choice is not None:
            return Key(model=model, choice=choice)
        hint = "models.NAME.KEY with one of: " + ", ".join(o.key for o in model_defaults.MODEL_OPTIONS)
        raise InvalidSetting(f"no setting is called {text!r}", hint=hint)
    wanted = _letters(text)
    for option in options:
        if wanted in (_letters(option.metadata["key"]), _letters(option.name)):
            return Key(option)
    raise InvalidSetting(f"no setting is called {text!r}", hint=_nearest(text, options))


def document(path: Path, text: str | None = None) -> dict[str, object]:
    """The settings file as JSON, empty where there is none; `text` stands in for its text. Raises InvalidSetting."""
    if text is None:
        text = file.read(path)
    return file.decode(text, path) if text is not None else {}


def split(
    found: Mapping[str, object], path: Path, options: Options
) -> tuple[dict[str, object], dict[str, model_defaults.Values]]:
    """Raw values by field name, and what is chosen for models. Raises InvalidSetting for a key that is not known."""
    names = {o.metadata["key"]: o.name for o in options if o.name != "home"}
    unknown = sorted(set(found) - set(names) - {"models"})
    if unknown:
        raise InvalidSetting(f"{path} has the unknown key {unknown[0]!r}", hint=_nearest(unknown[0], options))
    raw = {names[key]: value for key, value in found.items() if key != "models"}
    return raw, model_defaults.read(found.get("models", {}), str(path))


def save(path: Path, changes: Mapping[str, object], options: Options) -> None:
    """Change the file by keys as `find` takes them, None removing one, and replace it in one step.

    Processes that save at once wait for each other. Raises InvalidSetting for a value that could not be loaded again,
    DiskError where the file cannot be written.
    """
    keys = [(key := find(name, options), _parsed(key, value)) for name, value in changes.items()]
    with file.locked(path):
        changed = document(path)
        split(changed, path, options)
        for key, value in keys:
            _change(changed, key, value)
        file.write(path, json.dumps(changed, indent=2, ensure_ascii=False) + "\n")


def _parsed(key: Key, value: object) -> object:
    """A value as it stands in the file."""
    if key.option is not None and key.option.name == "home":
        raise InvalidSetting("home cannot stand in the settings file: the file is in it", hint="set FOUNDRY_HOME")
    if value is None:
        return None
    parsed = key.parse(value, "the command line")
    if isinstance(parsed, Path):
        return str(parsed)
    return list(parsed) if isinstance(parsed, tuple) else parsed


def _change(found: dict[str, Any], key: Key, value: object) -> None:
    """One change of a document that was read. What is left empty goes."""
    if key.choice is None:
        _put(found, str(key), value)
        return
    models = found.setdefault("models", {})
    called = next((name for name in models if name.lower() == key.model.lower()), key.model)
    chosen = models.setdefault(called, {})
    _put(chosen, key.choice.key, value)
    if not chosen:
        del models[called]
    if not models:
        del found["models"]


def _put(place: dict[str, Any], key: str, value: object) -> None:
    if value is None:
        place.pop(key, None)
    else:
        place[key] = value


def _nearest(text: str, options: Options) -> str:
    """A hint with the three keys most like `text`."""
    from difflib import SequenceMatcher  # only a wrong key needs it

    keys = [o.metadata["key"] for o in options if o.name != "home"]
    like = {key: SequenceMatcher(None, _letters(text[:100]), _letters(key), autojunk=False).ratio() for key in keys}
    best = sorted(keys, key=lambda key: -like[key])[:3]
    return f"did you mean: {', '.join(best)}? See them all: foundry config list"


def _letters(text: str) -> str:
    return text.replace("_", "").replace("-", "").lower()
