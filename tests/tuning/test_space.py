"""What is proposed: words that the engine takes, one value for each dimension, and nothing that a person has chosen."""

from __future__ import annotations

import msgspec
import pytest

from localfoundry import config
from localfoundry.config.profiles import PURPOSES
from localfoundry.engines import choice, engines, openvino_arguments
from localfoundry.tuning import purpose, space
from localfoundry.tuning.space import Option, Setting


@pytest.mark.parametrize("name", ["llama.cpp", "openvino", "onnx", "fake"])
@pytest.mark.parametrize("wanted", PURPOSES)
@pytest.mark.parametrize("threads", [[1], [16, 8]])
def test_every_option_is_taken_by_its_engine(name: str, wanted: str, threads: list[int]) -> None:
    engine, settings = choice.named(name, engines()), config.load()
    found = space.options(Setting(name, "m:1", "Q8_0"), wanted, threads, 8, lambda _: True)
    assert found
    for option in found:
        engine.check_arguments(option.words, "m:1", settings)
        if name == "openvino":  # what it only refuses at the load
            properties = openvino_arguments.properties(option.words, "m:1")
            openvino_arguments.check_use(properties, "m:1", ("chat",), option.parallel or 8)
        assert option.words or option.parallel


def test_one_at_a_time_is_another_arithmetic_in_openvino_and_guessing_ahead_is_none() -> None:
    folder = Setting("openvino", "m:1", "Q8_0")
    [lookup] = [o for o in space.options(folder, "chat", [4], 1, lambda _: True) if o.value == "prompt lookup 5"]
    guessing = folder.plus(lookup)
    assert guessing.slots == 1
    assert guessing.changes_answers != folder.changes_answers
    assert guessing.plain.changes_answers == guessing.changes_answers
    assert (guessing.plain.words, guessing.plain.slots) == ((), 1)
    llama = Setting("llama.cpp", "m:1", "Q8_0")
    assert msgspec.structs.replace(llama, parallel=1).changes_answers == llama.changes_answers


def test_what_a_person_chose_and_what_the_engine_refuses_is_not_proposed() -> None:
    setting = Setting("llama.cpp", "m:1", "Q8_0", arguments=("--threads", "3"))
    found = space.options(setting, "chat", [4], 1, lambda changed: "q8_0" not in changed.words)
    assert {option.dimension for option in found} == {"speculation", "flash attention"}


def test_the_best_of_each_dimension_is_combined() -> None:
    one, two, other = Option("batch", "1"), Option("batch", "2"), Option("threads", "2")
    made = space.combined(Setting("e", "m:1", "f"), [(one, 1.1), (two, 1.2), (other, 1.05)])
    assert made.options == (two, other)
    assert made.without("batch").options == (other,)
    assert made.plus(one).options == (other, one)


@pytest.mark.parametrize("wanted", PURPOSES)
@pytest.mark.parametrize("name", ["llama.cpp", "openvino", "onnx", "fake"])
def test_a_draft_model_is_proposed_to_llama_cpp_for_one_request_at_a_time(name: str, wanted: str) -> None:
    setting = Setting(name, "m:1", "Q8_0")
    found = space.options(setting, wanted, [4], 1, lambda _: True, ["small:2"])
    values = [one.value for one in found if "draft" in one.value]
    drafted = name == "llama.cpp" and wanted in ("chat", "rewrite")
    assert values == (["draft small:2 x 4", "draft small:2 x 12"] if drafted else [])
    for option in found:
        if "draft" in option.value:
            choice.named(name, engines()).check_arguments(option.words, "m:1", config.load())


def test_as_many_threads_as_cores_are_the_default_and_not_tried() -> None:
    assert space.thread_counts(2, 2) == [1]
    assert space.thread_counts(16, 8) == [16]
    assert space.thread_counts(1, 1) == []


def test_each_purpose_is_one_that_is_kept() -> None:
    for name in PURPOSES:
        assert purpose.find(name).name == name
