"""What is chosen for single models: read, refused by name, merged from the least to the most specific name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfoundry import config
from localfoundry.config import Settings, model_defaults
from localfoundry.config.model_defaults import MODEL_OPTIONS, ModelDefaults
from localfoundry.errors import InvalidSetting

NAMES = ("smollm2-135m", "smollm2-135m-instruct-q4_1", "smollm2-135m-instruct-q4_1:1")


def settings(models: object) -> Settings:
    return config.load(text=json.dumps({"models": models}))


def test_nothing_chosen() -> None:
    assert config.load().defaults_for(NAMES) == ModelDefaults()
    assert not settings({"other": {"system": "x"}}).defaults_for(NAMES).shape_requests


def test_the_most_specific_name_wins_choice_by_choice() -> None:
    made = settings(
        {
            NAMES[2]: {"context": 512, "pinned": False},
            NAMES[1]: {"context": 1024, "topP": 0.5, "engineArguments": ["--threads", "1"]},
            NAMES[0].upper(): {"context": 2048, "pinned": True, "temperature": 0, "stop": "end", "ttl": 0},
        }
    )
    assert made.defaults_for(NAMES) == ModelDefaults(
        context=512,
        ttl_s=0,
        pinned=False,
        sampling={"temperature": 0, "top_p": 0.5, "stop": ["end"]},
        engine_arguments=("--threads", "1"),
    )
    assert made.defaults_for(NAMES[:1]).pinned


def test_every_choice_fills_its_field() -> None:
    """A key that is read and then lost would be a choice without effect."""
    samples: dict[str, Any] = {
        "stop": ["a"],
        "engineArguments": ["-t", "1"],
        "system": "s",
        "pinned": True,
        "keepState": True,
        "engine": "onnx",
        "profile": "chat",
    }
    chosen = {option.key: samples.get(option.key, 1) for option in MODEL_OPTIONS}
    found = settings({"m": chosen}).defaults_for(("m",))
    for option in MODEL_OPTIONS:
        value = found.sampling.get(option.name) if option.sampling else getattr(found, option.name)
        assert value == (tuple(chosen[option.key]) if option.key == "engineArguments" else chosen[option.key])
    assert found.shape_requests


@pytest.mark.parametrize(
    ("models", "blamed"),
    [
        ({"phi-4-mini": {"temperature": 9}}, ("models.phi-4-mini.temperature", "9", "a number from 0 to 2")),
        ({"phi-4-mini": {"context": "many"}}, ("models.phi-4-mini.context", "'many'", "a whole number from 1")),
        ({"phi-4-mini": {"temprature": 1}}, ("models.phi-4-mini", "'temprature'")),
        ({"phi-4-mini": {"stop": [1]}}, ("models.phi-4-mini.stop", "a list of at most 16 texts")),
        ({"phi-4-mini": {"pinned": 2}}, ("models.phi-4-mini.pinned", "true or false")),
        ({"phi-4-mini": {"topP": True}}, ("models.phi-4-mini.topP", "True")),
        ({"phi-4-mini": {"engineArguments": "--a 'b"}}, ("engineArguments", "words of a command line")),
        ({"phi-4-mini": {"system": "\ud800"}}, ("models.phi-4-mini.system", "text")),
        ({"phi-4-mini": {"stop": ["\udc80"]}}, ("models.phi-4-mini.stop", "a list")),
        ({"phi-4-mini": 5}, ("models.phi-4-mini", "5", "an object of choices")),
        ({" ": {}}, ("models", "the name of a model")),
        ([], ("models", "an object of models")),
    ],
)
def test_what_is_wrong_is_named(isolated: Path, models: object, blamed: tuple[str, ...]) -> None:
    with pytest.raises(InvalidSetting) as refused:
        settings(models)
    for word in (*blamed, "settings.json"):
        assert word in refused.value.message


_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.dictionaries(st.text(max_size=5), st.dictionaries(st.sampled_from([o.key for o in MODEL_OPTIONS]), _anything))
)
def test_whatever_stands_there_is_taken_or_refused(models: dict[str, dict[str, object]]) -> None:
    try:
        chosen = model_defaults.read(models, "the file")
    except InvalidSetting as exc:
        assert "models" in exc.message
        return
    for name in models:
        model_defaults.merged(chosen, [name])


@given(st.sampled_from(MODEL_OPTIONS), st.text(max_size=12))
def test_text_of_a_command_line_is_taken_or_refused(option: model_defaults.ModelOption, text: str) -> None:
    """What is taken reads the same again from the file."""
    try:
        value = option.parse(text)
    except ValueError:
        return
    kept = json.loads(json.dumps(value))
    assert option.parse(kept) == value
