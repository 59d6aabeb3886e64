"""The options that name endpoints beside local models, and their keys: the same for `bench`, `eval` and `compare`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from localfoundry.errors import InvalidRequest

if TYPE_CHECKING:
    from localfoundry.bench.candidates import Candidate

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--endpoint", "endpoints", multiple=True, metavar="URL",
                 help="Also ask a model of an OpenAI-compatible endpoint; the following five go with it in order."),
    click.option("--model", "endpoint_models", multiple=True, help="The endpoint's model."),
    click.option("--label", "labels", multiple=True, help="What to call it [default: MODEL@HOST]."),
    click.option("--api-key-env", "key_names", multiple=True, metavar="NAME",
                 help="The environment variable that holds its key."),
    click.option("--price-in", "prices_in", type=click.FloatRange(0), multiple=True, help="Per million prompt tokens."),
    click.option("--price-out", "prices_out", type=click.FloatRange(0), multiple=True,
                 help="Per million output tokens."),
    click.option("--currency", default="", help="What to call the unit of the prices."),
    click.option("--set", "parameters", multiple=True, metavar="KEY=JSON",
                 help="A field of the requests to endpoints; null takes it out."),
)  # fmt: skip


def endpoint_options(command: F) -> F:
    """Every option that says which endpoints; the command gets them as keywords for `read_endpoints`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def read_endpoints(given: dict[str, Any]) -> list[Candidate]:
    """Raises InvalidRequest, naming the option."""
    from urllib.parse import urlsplit

    from localfoundry.bench.candidates import Candidate
    from localfoundry.chat.target import Target

    count = len(given["endpoints"])
    columns = {
        name: _one_each(given[name], count, option)
        for name, option in (
            ("endpoint_models", "--model"), ("key_names", "--api-key-env"), ("prices_in", "--price-in"),
            ("prices_out", "--price-out"), ("labels", "--label"),
        )
    }  # fmt: skip
    parameters = dict(_parameter(text) for text in given["parameters"])
    found = []
    for place, url in enumerate(given["endpoints"]):
        Target(url)  # refuses what is no address before anything is asked
        model = columns["endpoint_models"][place]
        if model is None:
            raise InvalidRequest(f"--endpoint {url} needs its --model", hint=f"--endpoint {url} --model NAME",
                                 param="model")  # fmt: skip
        found.append(
            Candidate(
                columns["labels"][place] or f"{model}@{urlsplit(url).hostname}", model, parameters=parameters,
                endpoint=url, key_env=columns["key_names"][place], price_in=columns["prices_in"][place],
                price_out=columns["prices_out"][place],
            )
        )  # fmt: skip
    return found


def keys_of(candidates: Iterable[Candidate]) -> dict[str, str]:
    """The key of each endpoint by label. Raises InvalidRequest for one that the environment does not hold."""
    return {c.label: key_of(c.key_env, c.host or "") for c in candidates if c.key_env is not None}


def key_of(variable: str, host: str, param: str = "api-key-env") -> str:
    """The key for `host`. Raises InvalidRequest for a variable that holds none."""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise InvalidRequest(
            f"the environment variable {variable}, for the key of {host}, is not set", hint=f"export {variable}=…",
            param=param,
        )  # fmt: skip
    if not key.isascii() or not key.isprintable():
        raise InvalidRequest(f"{variable} holds what no key can be", param=param)
    return key


def _one_each(values: Sequence[Any], count: int, option: str) -> list[Any]:
    """A value for each endpoint: none, one for all, or as many as there are."""
    if len(values) in (0, 1):
        if values and not count:
            raise InvalidRequest(f"{option} belongs to an --endpoint, and there is none", param=option.strip("-"))
        return list(values or (None,)) * count
    if len(values) != count:
        raise InvalidRequest(
            f"{option} is given {len(values)} times for {count} endpoints; once for all, or once for each",
            param=option.strip("-"),
        )
    return list(values)


def _parameter(text: str) -> tuple[str, object]:
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError as exc:
        raise InvalidRequest(f"--set {text}: what follows the = is not JSON: {exc}", param="set") from exc
