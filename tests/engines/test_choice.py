"""Which engine runs a model: facts in, an ordered list with reasons out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfoundry import engines
from localfoundry.config.model_defaults import ENGINES
from localfoundry.engines import choice
from localfoundry.engines.base import Engine, ModelFacts
from localfoundry.engines.choice import Choice, Reencoding, Wish
from localfoundry.errors import InvalidRequest, NotRunnable

SMOL = ModelFacts("gguf", "llama", frozenset({"Q4_1", "F32"}))
PLAIN = ModelFacts("gguf", "llama", frozenset({"Q8_0", "F32"}))
QUICK = Reencoding("Q8_0", why_not=None)


@dataclass
class Stub:
    """An engine as far as the choice looks at it."""

    name: str
    formats: frozenset[str] = frozenset({"gguf"})
    devices: frozenset[str] = frozenset({"CPU"})
    saves_state: bool = False
    absent: str | None = None
    architectures: tuple[str, ...] = ("llama", "qwen2")
    heartbeat: str = field(default="/health")

    def missing(self) -> str | None:
        return self.absent

    def takes(self, facts: ModelFacts) -> str | None:
        known = facts.architecture is None or facts.architecture in self.architectures
        return None if known else f"architecture {facts.architecture} is not known to {self.name} 1.0"


LLAMA = Stub("llama.cpp", saves_state=True, architectures=("llama", "qwen2", "gemma3"))
OPENVINO = Stub("openvino", devices=frozenset({"CPU", "GPU", "NPU"}))
ONNX = Stub("onnx", frozenset({"onnx"}), absent="not installed: pip install 'localfoundry[onnx]'")
ALL = (LLAMA, OPENVINO, ONNX)


def badly(engine: str, kinds: Iterable[str]) -> str | None:
    return "it reads Q4_1 unfaithfully (top-1 77 %)" if engine == "openvino" and "Q4_1" in kinds else None


def choose(
    facts: ModelFacts = SMOL, reencoding: Reencoding = QUICK, among: tuple[Stub, ...] = ALL, **wish: object
) -> Choice:
    known: tuple[Engine, ...] = among  # type: ignore[assignment]
    made = {"openvino": reencoding}
    return choice.choose(facts, Wish(**wish), known, badly, made)  # type: ignore[arg-type]


def names(found: Choice) -> list[str]:
    return [candidate.engine.name for candidate in found.candidates]


def left_out(found: Choice) -> dict[str, str]:
    return {one.engine: one.why for one in found.left_out}


@pytest.fixture(autouse=True)
def on_x86(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")


def test_one_conversation_and_many_requests_have_orders_of_their_own() -> None:
    assert names(choose(profile="chat")) == ["llama.cpp", "openvino"]
    found = choose(profile="throughput")
    assert names(found) == ["openvino", "llama.cpp"]
    assert "many requests" in found.candidates[0].reason


def test_where_nothing_was_measured_the_order_is_that_of_one_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert names(choose(profile="throughput")) == ["llama.cpp", "openvino"]


def test_a_file_that_an_engine_reads_badly_is_run_as_a_re_encoding() -> None:
    first = choose(profile="throughput").candidates[0]
    assert first.reencode_to == "Q8_0"
    assert "reads Q4_1 unfaithfully (top-1 77 %)" in first.reason
    assert choose(PLAIN, profile="throughput").candidates[0].reencode_to is None
    assert [c.reencode_to for c in choose(profile="chat").candidates] == [None, "Q8_0"]


def test_without_room_for_the_re_encoding_the_engine_is_left_out_with_both_reasons() -> None:
    found = choose(
        reencoding=Reencoding("Q8_0", why_not="the disk has no room for a re-encoding"), profile="throughput"
    )
    assert names(found) == ["llama.cpp"]
    assert left_out(found) == {
        "openvino": "it reads Q4_1 unfaithfully (top-1 77 %), and the disk has no room for a re-encoding"
    }
    there = choose(reencoding=Reencoding("Q8_0", ready="smol-q8_0:1", why_not="never"), profile="throughput")
    assert names(there) == ["openvino", "llama.cpp"]
    assert (there.candidates[0].runs, there.candidates[0].reencode_to) == ("smol-q8_0:1", None)


def test_a_re_encoding_in_an_engines_own_form_is_taken_for_a_file_that_it_reads_well() -> None:
    own = Reencoding("Q8_0", ready="smol-ir:1", better=True)
    assert [c.runs for c in choose(PLAIN, own, profile="throughput").candidates] == ["smol-ir:1", None]
    assert choose(PLAIN, Reencoding("Q8_0", ready="smol-q8_0:1"), profile="throughput").candidates[0].runs is None


def test_an_architecture_that_an_engine_does_not_know() -> None:
    found = choose(ModelFacts("gguf", "gemma3"), profile="throughput")
    assert names(found) == ["llama.cpp"]
    assert left_out(found) == {"openvino": "architecture gemma3 is not known to openvino 1.0"}


def test_the_engine_of_a_format_that_is_not_installed_is_named_with_its_command() -> None:
    with pytest.raises(NotRunnable, match="onnx: not installed") as refused:
        choose(ModelFacts("onnx"))
    assert refused.value.hint == "pip install 'localfoundry[onnx]'"
    with pytest.raises(NotRunnable, match="formats that run: gguf"):
        choose(ModelFacts("safetensors"))


def test_an_engine_that_was_asked_for_is_the_only_candidate() -> None:
    found = choose(engine="OpenVINO")
    assert names(found) == ["openvino"]
    assert found.candidates[0].reason.startswith("it was asked for")


def test_an_engine_that_was_asked_for_and_cannot_says_why_and_which_can() -> None:
    with pytest.raises(NotRunnable, match=r"gemma3 is not known to openvino 1\.0; llama\.cpp can") as refused:
        choose(ModelFacts("gguf", "gemma3"), engine="openvino")
    assert refused.value.hint == "--engine llama.cpp"
    with pytest.raises(NotRunnable, match=r"it does not read gguf files; llama\.cpp and openvino can"):
        choose(engine="onnx")


def test_a_name_of_no_engine_gets_the_nearest() -> None:
    with pytest.raises(InvalidRequest, match="no engine is called 'openvno'") as refused:
        choose(engine="openvno")
    assert refused.value.hint == "did you mean: openvino, onnx?"
    assert refused.value.param == "engine"
    with pytest.raises(InvalidRequest) as refused:
        choose(engine="vllm9")
    assert "llama.cpp" in str(refused.value.hint)


def test_a_preferred_engine_comes_first_where_it_takes_the_model() -> None:
    assert names(choose(preferred="openvino", profile="chat")) == ["openvino", "llama.cpp"]
    assert names(choose(ModelFacts("gguf", "gemma3"), preferred="openvino")) == ["llama.cpp"]


def test_an_engine_that_failed_is_left_out_unless_it_is_asked_for() -> None:
    found = choose(PLAIN, profile="throughput", failed={"openvino": "the tensor is crooked"})
    assert names(found) == ["llama.cpp"]
    assert left_out(found) == {"openvino": "it could not load it: the tensor is crooked"}
    assert names(choose(PLAIN, engine="openvino", failed={"openvino": "the tensor is crooked"})) == ["openvino"]


def test_a_device_leaves_out_the_engines_that_never_run_on_it() -> None:
    found = choose(device="gpu", profile="chat")
    assert names(found) == ["openvino"]
    assert left_out(found) == {"llama.cpp": "it runs on CPU, not on gpu"}
    with pytest.raises(InvalidRequest, match="no engine here runs on TPU; devices that can be used: CPU, GPU, NPU"):
        choose(device="TPU")


def test_conversations_that_are_to_be_kept_want_an_engine_that_can() -> None:
    assert names(choose(profile="throughput", keep_state=True)) == ["llama.cpp", "openvino"]


def test_arguments_of_one_engine_are_not_given_to_another() -> None:
    found = choose(profile="throughput", arguments=("--cache-type-k", "q8_0"))
    assert names(found) == ["llama.cpp"]
    assert "engineArguments" in left_out(found)["openvino"]
    assert names(choose(engine="openvino", arguments=("--x",))) == ["openvino"]


def test_settings_know_the_engines_that_there_are() -> None:
    """The names are written down twice, because settings are below engines."""
    assert {engine.name for engine in engines.engines()} == set(ENGINES)
    assert set().union(*choice.ORDER.values()) <= set(ENGINES)


@given(
    st.sampled_from([SMOL, PLAIN, ModelFacts("gguf", "gemma3"), ModelFacts("gguf")]),
    st.builds(
        dict,
        profile=st.sampled_from(["auto", "chat", "throughput"]),
        preferred=st.sampled_from([None, "openvino", "llama.cpp", "onnx"]),
        keep_state=st.booleans(),
        failed=st.sampled_from([{}, {"openvino": "no"}, {"llama.cpp": "no"}]),
        arguments=st.sampled_from([(), ("-t", "1")]),
    ),
)
def test_every_engine_of_the_format_is_a_candidate_or_left_out_with_words(
    facts: ModelFacts, wish: dict[str, object]
) -> None:
    """Nobody has to ask why an engine was not taken, and none is both."""
    try:
        found = choose(facts, **wish)
    except NotRunnable as refused:
        assert "llama.cpp" in refused.message
        return
    assert sorted(names(found) + list(left_out(found))) == ["llama.cpp", "openvino"]
    assert all(one.why for one in found.left_out)
    assert all(candidate.reason for candidate in found.candidates)
