"""Guesses from what the text has said before (`--prompt-lookup`): the same answers in fewer steps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import wait_until
from localfoundry import config
from localfoundry.engines.base import Endpoint, LoadRequest
from localfoundry.engines.openvino import OpenVino
from localfoundry.errors import InvalidSetting
from localfoundry.workers import openvino
from localfoundry.workers.generation import Progress, Sampling
from workers import tiny_model
from workers.openvino_process import CONTEXT, Process

PERIOD = [9, 30, 77, 9, 41]
SCHEMA = {"type": "array", "items": {"enum": ["sea", "hat"]}, "minItems": 12, "maxItems": 12}


@pytest.fixture(scope="module")
def lookup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("lookup")
    arguments = ("--prompt-lookup", "4", "--dynamic-quantization", "0", "--cache-type", "f32")
    made = Process(folder, tiny_model.write(folder / "tiny.gguf"), arguments=arguments, parallel=1)
    yield made.ready()
    made.stop()


def test_answers_are_the_same_in_fewer_steps(tmp_path: Path) -> None:
    """In f32 sums differ too little to matter. A penalty below zero has a random model say the same again."""
    exact = openvino.defaults() | {"DYNAMIC_QUANTIZATION_GROUP_SIZE": 0, "KV_CACHE_PRECISION": "f32"}
    model = tiny_model.write(tmp_path / "tiny.gguf")
    plain = openvino.OpenVino(model, CONTEXT, 1, "CPU", exact)
    guessing = openvino.OpenVino(model, CONTEXT, 1, "CPU", exact | {"lookup": 4})
    steps = {}
    for number, (penalty, tokens, to_the_end) in enumerate(
        [(0.0, 120, True), (-2.0, 120, True), (1.0, 60, True), (0.0, 120, False), (-2.0, 2, True)], 1
    ):
        sampling = Sampling(tokens, temperature=0, frequency_penalty=penalty, ignore_eos=to_the_end)
        expected, usual = _run(plain, number, PERIOD * 4, sampling)
        found, steps[number] = _run(guessing, number, PERIOD * 4, sampling)
        assert found == expected, sampling
        assert steps[number] <= usual
    assert steps[2] < 100, "nothing was ever guessed"


def _run(backend: openvino.OpenVino, number: int, prompt: list[int], sampling: Sampling) -> tuple[list[int], int]:
    backend.start(number, prompt, sampling)
    news: list[Progress] = []
    steps = 0
    while backend.busy:
        news += backend.step()
        steps += 1
    return [token for one in news for token in one.tokens], steps


def test_counts_ends_and_log_probabilities_are_right(lookup: Process) -> None:
    answer = lookup.complete(prompt=PERIOD * 8, max_tokens=50, ignore_eos=True, temperature=0, logprobs=0)
    assert answer["usage"]["completion_tokens"] == 50
    assert len(answer["choices"][0]["logprobs"]["content"]) == 50
    full = lookup.complete(prompt=[7] * (CONTEXT - 6), max_tokens=1000, ignore_eos=True, temperature=0)
    assert full["usage"]["total_tokens"] == CONTEXT
    for seed in range(12):  # nothing of what was guessed behind an end is told
        one = lookup.complete(prompt=PERIOD * 6, seed=seed, temperature=2.0, top_k=0, top_p=1, min_p=0, max_tokens=80)
        text = one["choices"][0]["text"]
        assert one["usage"]["completion_tokens"] <= 80
        assert "<|" not in text


def test_a_schema_is_kept(lookup: Process) -> None:
    """Words of a list come again, so that they are guessed while the grammar holds them."""
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    messages = [{"role": "user", "content": "x"}]
    answer = lookup.post("/v1/chat/completions", messages=messages, response_format=wanted, max_tokens=300)
    said = json.loads(answer["choices"][0]["message"]["content"])
    assert len(said) == 12 and set(said) <= {"sea", "hat"}


def test_a_client_that_goes_away_frees_the_place(lookup: Process) -> None:
    events = lookup.stream(max_tokens=400, ignore_eos=True)
    next(events)
    events.close()  # type: ignore[attr-defined]
    wait_until(lookup.idle, 20, "it still generates")
    assert lookup.complete(ignore_eos=True)["usage"]["completion_tokens"] == 12


def test_what_it_cannot_tell_beside_guesses_is_refused(lookup: Process) -> None:
    error = lookup.complete(400, logprobs=5, max_tokens=1, temperature=0)["error"]
    assert "the most is 0" in error["message"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"parallel": 4}, "needs a model that answers one request at a time, not 4"),
        ({"parallel": 1, "tasks": ("embeddings",)}, "is for models that write text"),
    ],
)
def test_where_it_cannot_be_it_is_refused_before_the_load(fields: dict[str, Any], words: str) -> None:
    """Requests that share memory are computed again where it runs short; with guesses the library breaks there."""
    known = {"model_id": "m:1", "model_path": Path("/m"), "endpoint": Endpoint(path="/x"), "context": 512}
    with pytest.raises(InvalidSetting, match=words):
        request = LoadRequest(**known, **fields, engine_arguments=("--prompt-lookup", "4"))  # type: ignore[arg-type]
        OpenVino().command(request, config.load(environ={}))
