"""What is chosen for a model, in the requests that do not say otherwise."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.server import Server, text_of
from harness import wait_until
from localfoundry.api.defaults import with_defaults
from localfoundry.config.model_defaults import ModelDefaults

HELLO = {"role": "user", "content": "hello"}
CHOSEN = ModelDefaults(system="be brief", sampling={"temperature": 0.2, "max_tokens": 5, "seed": 7, "stop": ["x"]})


def test_only_what_was_left_out_is_filled_in() -> None:
    asked = {"model": "m", "messages": [HELLO], "temperature": 0, "stop": None}
    filled = with_defaults(asked, CHOSEN, chat=True)
    assert filled == {
        "model": "m", "temperature": 0, "stop": ["x"], "max_tokens": 5, "seed": 7,
        "messages": [{"role": "system", "content": "be brief"}, HELLO],
    }  # fmt: skip
    assert asked == {"model": "m", "messages": [HELLO], "temperature": 0, "stop": None}


@pytest.mark.parametrize(
    ("said", "not_filled"),
    [
        ({"max_completion_tokens": 9}, "max_tokens"),
        ({"max_tokens": 9}, "max_completion_tokens"),
        ({"random_seed": 1}, "seed"),
    ],
)
def test_a_field_that_goes_by_two_names_is_said_by_either(said: dict[str, int], not_filled: str) -> None:
    filled = with_defaults({"messages": [HELLO], **said}, CHOSEN, chat=True)
    assert not_filled not in filled
    assert filled.items() >= said.items()


@pytest.mark.parametrize("role", ["system", "developer"])
def test_the_clients_own_system_prompt_stays_alone(role: str) -> None:
    messages = [HELLO, {"role": role, "content": "be verbose"}]
    assert with_defaults({"messages": messages}, CHOSEN, chat=True)["messages"] == messages


def test_a_plain_completion_has_no_system_prompt() -> None:
    assert "messages" not in with_defaults({"prompt": "x"}, CHOSEN, chat=False)


_values = st.none() | st.floats(0, 1) | st.integers(1, 9)
_fields = st.sampled_from(["temperature", "max_tokens", "max_completion_tokens", "seed", "random_seed", "stop", "user"])


@given(st.dictionaries(_fields, _values), st.booleans())
def test_nothing_that_a_client_says_is_changed(said: dict[str, Any], chat: bool) -> None:
    asked = {"messages": [HELLO], **said}
    before = copy.deepcopy(asked)
    filled = with_defaults(asked, CHOSEN, chat=chat)
    assert asked == before
    assert {k: v for k, v in filled.items() if said.get(k) is not None} == {
        k: v for k, v in said.items() if v is not None
    }
    assert with_defaults(filled, CHOSEN, chat=chat) == filled


def test_over_http(server: Server) -> None:
    """By alias, name or id; plain and streamed; the count of tokens includes the system prompt."""
    assert len(text_of(server.chat("fake")).split()) == 16
    before = server.chat("fake")["usage"]["prompt_tokens"]
    (manifest,) = server.store.manifests()
    chosen = {manifest.alias: {"maxTokens": 9, "system": "two words"}, manifest.id: {"maxTokens": 3}}
    server.settings.file.write_text(json.dumps({"models": chosen}))
    try:
        wait_until(lambda: len(text_of(server.chat("fake")).split()) == 3, 5, "the choices are not in force")
        for name in (manifest.alias, manifest.name, manifest.id):
            assert len(text_of(server.chat(name)).split()) == 3
        assert server.chat("fake")["usage"]["prompt_tokens"] == before + 2
        assert len(text_of(server.chat("fake", max_tokens=4)).split()) == 4
        assert len(text_of(server.chat("fake", max_completion_tokens=4)).split()) == 4
        with server.streaming("fake") as lines:
            assert sum('"content"' in line for line in lines) == 3
        assert server.error("phi-4-mni", 404)["code"] == "model_not_found"
    finally:
        server.settings.file.unlink()
    wait_until(lambda: len(text_of(server.chat("fake")).split()) == 16, 5, "the choices are still in force")
