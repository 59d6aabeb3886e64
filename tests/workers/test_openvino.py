"""The OpenVINO worker as a process, over a tiny model: the library is the real one, its answers are random bytes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harness import wait_until
from localfoundry.engines.openvino import ARCHITECTURES, OpenVino
from localfoundry.errors import LoadFailed
from localfoundry.workers.openvino import batch_tokens
from workers import tiny_model
from workers.openvino_process import CONTEXT, LOAD_S, Process
from workers.scripted import TOOLS


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("openvino")
    made = Process(folder, tiny_model.write(folder / "tiny.gguf", template=TOOLS))
    yield made.ready()
    made.stop()


def text(answer: Any) -> str:
    return str(answer["choices"][0]["text"])


def test_an_answer_and_its_counts(tiny: Process) -> None:
    answer = tiny.complete(ignore_eos=True)
    assert answer["usage"]["completion_tokens"] == 12
    assert answer["usage"]["prompt_tokens"] == len(tiny.post("/tokenize", content="a sane hat")["tokens"])
    assert answer["choices"][0]["finish_reason"] == "length"
    account = OpenVino().account(tiny.log.read_text())
    assert account.load_s is not None
    # 2 layers * 2 heads * (16 values, their scales) * keys and values, for 18 blocks of 32 tokens
    assert account.memory["kv_cache"] > 2 * 2 * 2 * 16 * CONTEXT


def test_bytes_stream_as_they_are_answered_plainly(tiny: Process) -> None:
    """Random tokens are mostly bytes that are no character, and sometimes are."""
    for seed in range(10):
        fields = {"seed": seed, "temperature": 2.0, "max_tokens": 24, "top_p": 1.0, "top_k": 0, "min_p": 0.0}
        for _ in range(2):  # the first one makes the prompt known, which changes sums in the last place
            plain = tiny.complete(**fields, prompt=f"{seed} hats")
        streamed = "".join(event["choices"][0]["text"] for event in tiny.stream(**fields, prompt=f"{seed} hats"))
        assert streamed == text(plain)


def test_a_seed_gives_the_same_answer_alone_and_among_others(tiny: Process) -> None:
    def say(seed: int) -> str:
        return text(tiny.complete(seed=seed, temperature=1.5, ignore_eos=True))

    say(0)
    alone = [say(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(say, range(4))) == alone
    assert len(set(alone)) == 4
    assert len({text(tiny.complete(temperature=1.5, ignore_eos=True)) for _ in range(3)}) > 1, "a seed was made up"


def test_a_prompt_that_is_known_is_counted_as_cached(tiny: Process) -> None:
    prompt = [5 + n % 200 for n in range(100)]
    usages = [tiny.complete(prompt=prompt, max_tokens=1)["usage"]["prompt_tokens_details"] for _ in range(2)]
    assert [one["cached_tokens"] for one in usages] == [0, 96]


def test_the_context_is_refused_with_counts_and_never_cut(tiny: Process) -> None:
    error = tiny.complete(400, prompt="\x01" * 3000)["error"]
    assert (error["type"], error["n_prompt_tokens"], error["n_ctx"]) == ("exceed_context_size_error", 3000, CONTEXT)
    full = tiny.complete(prompt=[7] * (CONTEXT - 6), max_tokens=1000, ignore_eos=True)
    assert full["usage"]["total_tokens"] == CONTEXT
    assert full["choices"][0]["finish_reason"] == "length"


def test_requests_that_together_need_more_than_the_context_are_all_answered(tiny: Process) -> None:
    def one(number: int) -> Any:
        return tiny.complete(prompt=[number + 5] * 120, max_tokens=60, ignore_eos=True)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(one, range(8)))
    assert [answer["usage"]["completion_tokens"] for answer in answers] == [60] * 8


def test_a_client_that_goes_away_frees_its_place(tiny: Process) -> None:
    events = tiny.stream(max_tokens=480, ignore_eos=True)
    next(events)
    assert not tiny.idle()
    events.close()  # type: ignore[attr-defined]
    wait_until(tiny.idle, 5, "it still generates")
    tokens = re.findall(r"stop processing: n_tokens = (\d+)", tiny.log.read_text())
    assert int(tokens[-1]) < 400, "it was not stopped: it came to its end"


_SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "blue"]}, "n": {"type": "integer", "minimum": 3, "maximum": 12},
                   "word": {"type": "string", "pattern": "^[a-c]{2,4}$"}, "day": {"type": "string", "format": "date"}},
    "required": ["colour", "n", "word", "day"],
    "additionalProperties": False,
}  # fmt: skip


def test_a_schema_is_kept(tiny: Process) -> None:
    messages = [{"role": "user", "content": "x"}]
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": _SCHEMA}}
    answer = tiny.post("/v1/chat/completions", messages=messages, response_format=wanted, max_tokens=200)
    said = json.loads(answer["choices"][0]["message"]["content"])
    assert said.keys() == {"colour", "n", "word", "day"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", said["day"])
    assert said["colour"] in ("red", "blue")
    assert 3 <= said["n"] <= 12
    assert re.fullmatch("[a-c]{2,4}", said["word"])


def test_a_tool_that_must_be_called_is_called(tiny: Process) -> None:
    """By random weights, so that nothing but the grammar can have brought it about."""
    parameters = {
        "type": "object",
        "properties": {"n": {"type": "integer", "maximum": 9, "minimum": 0}},
        "required": ["n"],
    }
    tools = [{"type": "function", "function": {"name": name, "parameters": parameters}} for name in ("look", "leave")]
    for choice in ("required", {"type": "function", "function": {"name": "leave"}}):
        body = {
            "messages": [{"role": "user", "content": "x"}],
            "tools": tools,
            "tool_choice": choice,
            "max_tokens": 150,
        }
        said = tiny.post("/v1/chat/completions", **body)["choices"][0]
        (call,) = said["message"]["tool_calls"]
        assert call["function"]["name"] in (("look", "leave") if choice == "required" else ("leave",))
        assert 0 <= json.loads(call["function"]["arguments"])["n"] <= 9
        assert said["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nosuch"},
        {"type": "object", "properties": {"a": {"type": "nosuch"}}},
        {"not": {}},
        {"type": "string", "pattern": "(?=a)b"},
        {"$ref": "#/nowhere"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
        {"type": "array", "minItems": 3, "maxItems": 1},
        {"enum": []},
        {"type": "string", "pattern": "a+", "maxLength": 3},
        {"type": "string", "format": "nosuch"},
        {"type": "object", "required": ["a"]},
        {"type": "object", "properties": {"a": {}}, "anyOf": [{"required": ["a"]}]},
        {"type": "array", "uniqueItems": True},
    ],
    ids=json.dumps,
)
def test_a_schema_that_the_grammar_would_refuse_never_reaches_it(tiny: Process, schema: dict[str, Any]) -> None:
    """The pipeline computes nothing ever again after one that did."""
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    body = {"messages": [{"role": "user", "content": "x"}], "response_format": wanted, "max_tokens": 4}
    assert tiny.post("/v1/chat/completions", 400, **body)["error"]["message"].startswith("response_format")
    assert tiny.complete()["usage"]["completion_tokens"]


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": ["string", "null"]},
        {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 3},
        {"anyOf": [{"type": "integer"}, {"type": "boolean"}]},
        {"oneOf": [{"const": "a"}, {"const": 1}]},
        {"$ref": "#/$defs/a", "$defs": {"a": {"type": "string", "maxLength": 3}}},
        {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["next"]},
        {"type": "object", "additionalProperties": {"type": "integer"}},
        {"type": "string", "pattern": r"^\d{2}-[a-z]+(x|y)?$"},
        {"type": "number"},
        {"enum": ["ø", 1, None, True]},
    ],
    ids=json.dumps,
)
def test_every_form_of_schema_that_is_let_through_is_taken(tiny: Process, schema: dict[str, Any]) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    body = {"messages": [{"role": "user", "content": "x"}], "response_format": wanted, "max_tokens": 6}
    assert tiny.post("/v1/chat/completions", **body)["choices"]


def test_log_probabilities(tiny: Process) -> None:
    told = tiny.complete(logprobs=0, max_tokens=3, ignore_eos=True)["choices"][0]["logprobs"]["content"]
    assert len(told) == 3
    assert all(one["logprob"] <= 0 for one in told)
    assert "logprobs" in tiny.complete(400, logprobs=2)["error"]["message"]
    first = tiny.complete(logprobs=5, max_tokens=1, temperature=0)["choices"][0]["logprobs"]["content"][0]
    top = [one["logprob"] for one in first["top_logprobs"]]
    assert (len(top), top) == (5, sorted(top, reverse=True))
    assert first["top_logprobs"][0]["id"] == first["id"]
    alone = tiny.complete(logprobs=0, max_tokens=1, temperature=0)["choices"][0]["logprobs"]["content"][0]
    assert (alone["id"], alone["logprob"]) == (first["id"], pytest.approx(first["logprob"], abs=1e-4))
    assert "logit_bias" in tiny.complete(400, logit_bias={"5": 3})["error"]["message"]


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """Without a cache of prefixes, and with parts of 64 tokens."""
    folder = tmp_path_factory.mktemp("forgetful")
    arguments = ("--prefix-cache", "NO", "--batch-size", "64")
    made = Process(folder, tiny_model.write(folder / "tiny.gguf", template=TOOLS), arguments=arguments)
    yield made.ready()
    made.stop()


def test_a_prompt_is_scored_as_its_tokens_are_told_one_by_one(forgetful: Process) -> None:
    """In several parts, again and again, and with other work about: the library, left alone with that, skips tokens or
    makes scores up."""
    prompt = [5 + 7 * n % 200 for n in range(150)]
    with ThreadPoolExecutor(2) as pool:
        others = [pool.submit(forgetful.complete, ignore_eos=True) for _ in range(2)]
        scored = [forgetful.complete(prompt=prompt, echo=True, max_tokens=0, logprobs=0) for _ in range(3)]
        assert all(other.result()["usage"]["completion_tokens"] == 12 for other in others)
    told = scored[0]["choices"][0]["logprobs"]["content"]
    assert [one["id"] for one in told] == prompt and told[0]["logprob"] is None
    assert scored[0]["usage"]["completion_tokens"] == 0
    for answer in scored[1:]:
        again = answer["choices"][0]["logprobs"]["content"]
        assert [one["logprob"] for one in again[1:]] == pytest.approx([one["logprob"] for one in told[1:]], abs=0.01)
    off = []
    for place in range(1, len(prompt), 4):
        top = forgetful.complete(prompt=prompt[:place], logprobs=64, max_tokens=1, temperature=0)
        alone = {one["id"]: one["logprob"] for one in top["choices"][0]["logprobs"]["content"][0]["top_logprobs"]}
        if prompt[place] in alone:
            off.append(abs(told[place]["logprob"] - alone[prompt[place]]))
    # Rounding differs with what is computed together; scores of other tokens would be off by 3 and more.
    assert len(off) > 8 and sorted(off)[len(off) * 3 // 4] < 0.6
    assert forgetful.complete(prompt=prompt, max_tokens=1)["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


def test_with_a_cache_of_prefixes_prompts_are_not_scored(tiny: Process) -> None:
    assert "echo" in tiny.complete(400, echo=True, max_tokens=0, logprobs=0)["error"]["message"]


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0}, {"top_p": 0}, {"top_p": 0.5, "top_k": 3, "min_p": 0.1}, {"top_k": -1}, {"top_k": 10**6},
        {"repeat_penalty": 1.3, "presence_penalty": -2, "frequency_penalty": 2}, {"temperature": 1e-6},
        {"seed": -5}, {"seed": 2**63 - 1}, {"n": 4}, {"stop": ["e", "t"]}, {"max_tokens": -1, "stop": "a"},
        {"prompt": [[5, 6], [7]]}, {"prompt": "\x00"}, {"prompt": "<|im_end|>"},
    ],
    ids=str,
)  # fmt: skip
def test_options_at_their_edges_are_taken(tiny: Process, fields: dict[str, Any]) -> None:
    assert tiny.complete(**fields)["usage"]["completion_tokens"] >= 1


def test_a_long_prompt_beside_a_stream_does_not_starve_it(tmp_path: Path) -> None:
    """Its prompt is computed in parts, and the stream goes on between them."""
    process = Process(tmp_path, tiny_model.write(tmp_path / "tiny.gguf"), arguments=("--batch-size", "32"))
    try:
        process.ready()
        events = process.stream(max_tokens=150, ignore_eos=True)
        next(events)
        with ThreadPoolExecutor(1) as pool:
            long = pool.submit(process.complete, prompt=[9] * 100, max_tokens=1)
            seen = 0
            for _ in events:
                seen += 1
                if long.done():
                    break
        assert long.result()["usage"]["prompt_tokens"] == 100
        assert seen >= 3, "the stream stood still while the prompt was computed"
    finally:
        process.stop()


@pytest.mark.parametrize(
    ("weight_bytes", "cores", "tokens"),
    [(145_000_000, 2, 256), (1_200_000_000, 2, 96), (8_500_000_000, 2, 64), (8_500_000_000, 32, 192), (1, 1, 256)],
)
def test_parts_of_prompts_are_smaller_for_larger_models(weight_bytes: int, cores: int, tokens: int) -> None:
    """A step keeps every stream waiting."""
    assert batch_tokens(weight_bytes, cores) == tokens


# Loads that fail


def test_what_the_list_of_architectures_says_is_what_the_library_says(tmp_path: Path) -> None:
    """Asked in one process: it costs a second for each."""
    files = [
        str(tiny_model.write(tmp_path / f"{name}.gguf", name)) for name in (*sorted(ARCHITECTURES), "gemma3", "phi3")
    ]
    program = (
        "import sys, openvino_genai as g\n"
        "s = g.SchedulerConfig(); s.num_kv_blocks = 4\n"
        "for path in sys.argv[1:]:\n"
        "    try: g.ContinuousBatchingPipeline(path, s, 'CPU'); print('ok')\n"
        "    except RuntimeError as exc: print(str(exc).split()[-4:])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *files], capture_output=True, text=True, timeout=LOAD_S, check=False
    )
    said = done.stdout.splitlines()
    assert said[: len(ARCHITECTURES)] == ["ok"] * len(ARCHITECTURES), done.stdout + done.stderr
    assert all("architecture" in line for line in said[len(ARCHITECTURES) :]), said


def test_loads_that_fail_say_why(tmp_path: Path) -> None:
    good = tiny_model.write(tmp_path / "tiny.gguf")
    (tmp_path / "empty").mkdir()
    cases = [
        (tiny_model.write(tmp_path / "gemma3.gguf", "gemma3"), "CPU", "Unsupported model architecture 'gemma3'"),
        (tmp_path / "empty", "CPU", ""),
        (good, "GPU", "OpenVINO finds no device GPU here; it finds CPU; "),
        (good, "NPU", "OpenVINO finds no device NPU here; it finds CPU; the kernel shows no NPU (driver intel_vpu)"),
    ]
    for number, (path, device, words) in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        process = Process(folder, path, device)
        try:
            said = process.ended()
            assert said
            assert words in said
            assert "/" not in said.replace(str(path), ""), said
        finally:
            process.stop()


def test_a_file_that_is_cut_short_never_reaches_the_library(tmp_path: Path) -> None:
    """It reads what is not there as weights, and answers nonsense."""
    path = tmp_path / "cut.gguf"
    path.write_bytes(tiny_model.write(tmp_path / "tiny.gguf").read_bytes()[:60_000])
    with pytest.raises(LoadFailed, match=r"corrupted or incomplete.*60,000"):
        Process(tmp_path, path)


def test_it_ends_with_the_pipe_to_the_service(tmp_path: Path) -> None:
    process = Process(tmp_path, tiny_model.write(tmp_path / "tiny.gguf"))
    try:
        process.ready()
        assert process.process.stdin is not None
        process.process.stdin.close()
        assert process.process.wait(10) == 1
    finally:
        process.stop()
