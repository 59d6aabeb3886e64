"""`foundry key …`: API keys. A running service takes up every change by itself."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import click
import msgspec

from localfoundry.access.audit import Audit
from localfoundry.access.keys import SCOPES, Key, KeyFile, Scope
from localfoundry.cli import context, output
from localfoundry.config import Settings

_MOST = 1_000_000_000


@click.command()
@click.argument("name")
@click.option("--scope", "scopes", type=click.Choice(SCOPES), multiple=True, help="What it is for; default inference.")
@click.option("--requests-per-minute", type=click.IntRange(1, _MOST), help="At most so many requests.")
@click.option(
    "--tokens-per-minute", type=click.IntRange(1, _MOST), help="At most so many tokens, of prompt and answer."
)
@click.option("--model", "models", multiple=True, help="Only this model: an alias, a name or an id; several times.")
@click.option("--expires", type=click.IntRange(1, 36_500), help="Days until it stops working.")
@context.json_option
def create(
    name: str,
    scopes: tuple[Scope, ...],
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
    models: tuple[str, ...],
    expires: int | None,
    as_json: bool,
) -> None:
    """Make an API key. It is shown now and never again: only its hash is kept."""
    given = context.settings()
    key, secret = KeyFile(given.keys_file).create(
        name,
        scopes or ("inference",),
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        models=tuple(dict.fromkeys(_meant(given, model) for model in models)),
        expires_days=expires,
    )
    Audit(given.log_dir).record("key created", by="owner", key=key.name, scopes=key.scopes, models=key.models or None)
    if as_json:
        output.document({"key": secret, **_document(key)})
        return
    output.data(secret)
    output.note(f"The key {key.name}, for {_purpose(key)}. Keep it now: it is not shown again.")


@click.command("list")
@context.json_option
def list_keys(as_json: bool) -> None:
    """List the API keys. Their secrets are not kept."""
    keys = KeyFile(context.settings().keys_file).read()
    if as_json:
        output.document({"keys": [_document(key) for key in keys]})
    elif not keys:
        output.data("No API keys")
    else:
        rows = [
            [key.name, ", ".join(key.scopes), _limits(key), ", ".join(key.models) or "all", _end(key)] for key in keys
        ]
        output.table(["Name", "Scopes", "Limits", "Models", "Expires"], rows)


@click.command()
@click.argument("name")
def revoke(name: str) -> None:
    """Revoke an API key. A running service refuses it from the next request on."""
    given = context.settings()
    key = KeyFile(given.keys_file).revoke(name)
    Audit(given.log_dir).record("key revoked", by="owner", key=key.name)
    output.data(f"The key {key.name} is revoked")


def _meant(given: Settings, model: str) -> str:
    """The alias, name or id that the user's word stands for, so that other names of the model work too.

    Raises UnknownModel with the nearest names.
    """
    found = context.cached(given, model)
    if found is not None:
        words = {found.id.lower(): found.id, found.name.lower(): found.name}
        return words.get(model.lower(), found.alias)
    entry, variant = context.catalog(given).require(model)
    return variant.name if variant else entry.alias


def _document(key: Key) -> dict[str, object]:
    document: dict[str, object] = msgspec.to_builtins(key)
    del document["sha256"]
    return document | {"expired": key.expired(time.time())}


def _purpose(key: Key) -> str:
    parts = [" and ".join(key.scopes), _limits(key), f"only {', '.join(key.models)}" if key.models else ""]
    return ", ".join(part for part in parts if part)


def _limits(key: Key) -> str:
    limits = ((key.requests_per_minute, "requests/min"), (key.tokens_per_minute, "tokens/min"))
    return ", ".join(f"{limit} {unit}" for limit, unit in limits if limit)


def _end(key: Key) -> str:
    if key.expires_at is None:
        return "never"
    day = datetime.fromtimestamp(key.expires_at, UTC).strftime("%Y-%m-%d")
    return f"expired {day}" if key.expired(time.time()) else day
