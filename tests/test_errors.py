"""The tree of errors: complete, distinct, drawn as it is, and told apart by clients that retry."""

from __future__ import annotations

import inspect
import re

import pytest

from localfoundry import errors
from localfoundry.errors import ContextLengthExceeded, FoundryError, ModelNotCached, ServiceNotRunning

# What OpenAI clients send again by themselves.
RETRIED = {408, 409, 429, *range(500, 600)}
PASSING = {"service_error", "engine_error", "rate_limit_error"}


def tree() -> list[type[FoundryError]]:
    found: list[type[FoundryError]] = [FoundryError]
    for kind in found:  # grows while it is walked
        found += [sub for sub in kind.__subclasses__() if sub.__module__ == errors.__name__]
    return found


def drawn() -> dict[str, tuple[int, str]]:
    """Class to status and parent, as the drawing at the top of the module has them."""
    above: dict[int, str] = {0: "FoundryError"}
    rows: dict[str, tuple[int, str]] = {}
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^([ │]*)[├└]── (\w+) +(\d{3})\b", line)
        if found:
            depth = len(found[1]) // 4
            above[depth] = found[2]
            rows[found[2]] = (int(found[3]), above[depth - 1])
    return rows


def test_every_class_stands_in_the_drawing_where_it_is_in_the_tree() -> None:
    assert drawn() == {kind.__name__: (kind.status, kind.__bases__[0].__name__) for kind in tree()[1:]}


def test_every_class_of_the_module_is_in_the_tree() -> None:
    defined = {
        name for name, value in vars(errors).items() if inspect.isclass(value) and value.__module__ == errors.__name__
    }
    assert defined == {kind.__name__ for kind in tree()}


def test_codes_are_distinct_and_words() -> None:
    codes = [kind.code for kind in tree()]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes)


@pytest.mark.parametrize("kind", tree(), ids=lambda kind: kind.__name__)
def test_a_class_says_when_it_occurs_and_how_it_ends(kind: type[FoundryError]) -> None:
    own = vars(kind).get("__doc__")
    assert own
    assert len(own) > 20
    assert kind.status in {400, 401, 403, 404, 408, 413, 429, 431, 500, 503, 504}
    assert 1 <= kind.exit_code <= 6
    if kind.type not in PASSING and kind is not FoundryError:
        assert kind.status not in RETRIED, "a permanent failure must not be sent again by clients"


def test_what_will_not_get_better_is_not_retried() -> None:
    assert errors.LoadFailed.status not in RETRIED


def test_the_openai_form() -> None:
    body = FoundryError("what", hint="foundry --help", param="model").to_openai()
    expected = {"message": "what", "type": "server_error", "param": "model", "code": "error", "hint": "foundry --help"}
    assert body == {"error": expected}
    assert FoundryError("what").to_openai() == {
        "error": {"message": "what", "type": "server_error", "param": None, "code": "error"}
    }


def test_errors_that_word_themselves() -> None:
    assert "No OpenAIService provider found for modelName x" in ModelNotCached("x").message
    assert ServiceNotRunning().hint == "foundry service start"
    long = ContextLengthExceeded(9000, 4096, "m")
    assert "9000" in long.message
    assert "4096" in long.message
    assert "--ctx 9256" in str(long.hint)
    error = long.to_openai()["error"]
    assert isinstance(error, dict)
    assert (error["prompt_tokens"], error["context_length"]) == (9000, 4096)
    assert "8192 tokens are the most" in str(ContextLengthExceeded(9000, 4096, "m", largest=8192).hint)
