"""`foundry config`: the settings file read, changed and edited. Alone it prints what is in force, as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from localfoundry import config
from localfoundry.cli import context, output
from localfoundry.cli.main import LazyGroup
from localfoundry.config import Settings, model_defaults
from localfoundry.config.keys import Key
from localfoundry.errors import UsageError

_ALLOW_MINUS = {"ignore_unknown_options": True}  # a value may be `-1`


@click.group("config", cls=LazyGroup, lazy={"edit": "config_edit:edit"}, invoke_without_command=True)
@context.json_option
@click.pass_context
def config_group(ctx: click.Context, as_json: bool) -> None:
    """The settings. Alone, it prints those that are in force, as JSON."""
    if ctx.invoked_subcommand is None:
        from localfoundry.cli.service import settings_document

        output.document(settings_document(context.settings()))


@config_group.command("get")
@click.argument("key")
@context.json_option
def get(key: str, as_json: bool) -> None:
    """Print the value of KEY: a setting, or `models.NAME.KEY`; `models.NAME` and `models` print all that is chosen."""
    given = context.settings()
    value = _models(given, key) if key.startswith("models") else None
    if value is None:
        value = _value(given, config.find_key(key))
    if as_json or isinstance(value, dict | list):
        output.document(value)
    else:
        output.data(_words(value))


@config_group.command("set", context_settings=_ALLOW_MINUS)
@click.argument("words", nargs=-1, metavar="KEY VALUE | KEY=VALUE...")
@click.option("--unset", "unset", multiple=True, metavar="KEY", help="Take KEY out of the file; may be given again.")
def set_values(words: tuple[str, ...], unset: tuple[str, ...]) -> None:
    """Change the settings file; a running service takes over what it can at once."""
    changes = {key: str(value) for key, value in _pairs(words)} | dict.fromkeys(unset)
    if not changes:
        raise UsageError("nothing to set", hint="foundry config set KEY VALUE   (keys: foundry config list)")
    given = context.settings()
    keys = {name: config.find_key(name) for name in changes}
    for name, key in keys.items():
        _check_model(given, key, changes[name])
    config.save(given.file, changes)
    _tell(context.settings(), list(keys.values()))


@config_group.command("list")
@context.json_option
def list_settings(as_json: bool) -> None:
    """List every setting: value, where it comes from, when a change takes effect, what it means."""
    given = context.settings()
    rows = [*_setting_rows(given), *_model_rows(given)]
    if as_json:
        output.document(rows)
        return
    columns = ("key", "value", "source", "unit", "takes_effect", "meaning")
    output.table(
        [c.replace("_", " ").capitalize() for c in columns], [[_words(row[c]) for c in columns] for row in rows]
    )


@config_group.command("path")
def path() -> None:
    """Print where the settings file is, or would be."""
    output.data(str(context.usable_settings().file))


def _pairs(words: tuple[str, ...]) -> list[tuple[str, str]]:
    """`KEY VALUE`, or any number of `KEY=VALUE`."""
    if len(words) == 2 and "=" not in words[0]:
        return [(words[0], words[1])]
    for word in words:
        if "=" not in word or word.startswith("-"):
            raise UsageError(f"{word!r} is not KEY=VALUE", hint="foundry config set KEY VALUE")
    return [(key, value) for key, _, value in (word.partition("=") for word in words)]


def _value(given: Settings, key: Key) -> Any:
    """The value in force, as JSON has it; None where nothing is chosen."""
    if key.choice is not None:
        value = given.models.get(key.model.lower(), {}).get(key.choice.name)
    else:
        assert key.option is not None
        value = getattr(given, key.option.name)
    return list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value


def _models(given: Settings, key: str) -> dict[str, Any] | None:
    """What is chosen for all models (`models`) or for one (`models.NAME`); None where the key is of another kind."""
    chosen = {name: model_defaults.by_key(values) for name, values in given.models.items()}
    return chosen if key == "models" else chosen.get(key.removeprefix("models.").lower())


def _setting_rows(given: Settings) -> list[dict[str, Any]]:
    return [
        {
            "key": option.metadata["key"],
            "value": _value(given, Key(option)),
            "source": given.sources.get(option.name, "default"),
            "unit": option.metadata["unit"],
            "takes_effect": takes_effect(Key(option)),
            "meaning": option.metadata["help"],
        }
        for option in config.options()
    ]


def _model_rows(given: Settings) -> list[dict[str, Any]]:
    return [
        {
            "key": f"models.{name}.{option.key}",
            "value": model_defaults.by_key(values)[option.key],
            "source": "file",
            "unit": option.unit,
            "takes_effect": option.takes_effect,
            "meaning": option.help,
        }
        for name, values in given.models.items()
        for option in model_defaults.MODEL_OPTIONS
        if option.name in values
    ]


def takes_effect(key: Key) -> str:
    """When a running service goes by a change of the file."""
    if key.choice is not None:
        return key.choice.takes_effect
    assert key.option is not None
    return {True: "now", "load": "next load", False: "restart"}[key.option.metadata["live"]]


def _words(value: Any) -> str:
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, bool | list) else str(value)


def _check_model(given: Settings, key: Key, value: str | None) -> None:
    """Say at once what a load would say later: a model of no known name, an argument that its engine refuses."""
    if key.choice is None or value is None:
        return
    if context.cached(given, key.model) is None and context.catalog(given).find(key.model) is None:
        output.note(f"note: no model is called {key.model} so far; see: foundry model list")
    if key.choice.name == "engine_arguments":
        from localfoundry.engines import choice, engines

        engine = choice.named(given.defaults_for((key.model,)).engine or choice.ARGUMENTS_OF, engines())
        engine.check_arguments(key.parse(value, "the command line"), key.model, given)


def _tell(given: Settings, keys: list[Key]) -> None:
    """What was set, and when it counts."""
    from localfoundry import instance

    running = instance.running(given) is not None
    when = {
        "now": "in force within a second",
        "next request": "in force from the next request on",
        "next load": "in force when a model is loaded next",
        "restart": "needs `foundry service restart`",
    }
    for key in keys:
        value = _value(given, key)
        shown = f"{key} = {_words(value)}" if value is not None else f"{key} is not set"
        output.data(f"{shown} ({when[takes_effect(key)]})" if running else shown)
        if key.option is not None and given.sources.get(key.option.name) == "environment":
            output.note(f"note: {key.option.metadata['env']} in the environment wins over the file")
