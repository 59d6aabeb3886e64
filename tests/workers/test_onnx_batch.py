"""The ONNX backend over a small graph of random weights: what a request gets does not depend on what runs beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx as library
import onnxruntime
import pytest

import tiny_onnx
from localfoundry.workers import onnx
from localfoundry.workers.generation import Grammar, Progress, Refused, Sampling
from localfoundry.workers.onnx_batch import Batch

GREEDY = Sampling(24, temperature=0)
WARM = Sampling(24, temperature=1.5, top_k=0, top_p=1.0, min_p=0.0, seed=11)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_onnx.write(tmp_path_factory.mktemp("onnx") / "tiny")


@pytest.fixture
def fresh(folder: Path) -> Iterator[Callable[..., Batch]]:
    def make(context: int = tiny_onnx.CONTEXT, parallel: int = 4) -> Batch:
        return onnx.load(folder, context, parallel, threads=1)

    yield make


class Run:
    """Requests through a backend to their ends: all that each was given."""

    def __init__(self, backend: Batch) -> None:
        self.backend = backend
        self.given: dict[int, list[Progress]] = {}

    def start(self, prompt: Sequence[int], sampling: Sampling = GREEDY) -> int:
        number = len(self.given) + 1
        self.given[number] = []
        self.backend.start(number, prompt, sampling)
        return number

    def step(self) -> None:
        for one in self.backend.step():
            self.given[one.request].append(one)

    def finish(self) -> None:
        steps = 0
        while self.backend.busy:
            self.step()
            steps += 1
            assert steps < 2000, "the requests do not end"

    def tokens(self, number: int) -> list[int]:
        return [token for one in self.given[number] for token in one.tokens]

    def alone(self, prompt: Sequence[int], sampling: Sampling = GREEDY) -> list[int]:
        number = self.start(prompt, sampling)
        self.finish()
        return self.tokens(number)


def prompts(count: int, length: int = 40) -> list[list[int]]:
    random = np.random.default_rng(3)
    return [random.integers(0, 256, length + 3 * number).tolist() for number in range(count)]


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "drawn"])
def test_an_answer_is_the_same_whatever_runs_beside_it(fresh: Callable[..., Batch], sampling: Sampling) -> None:
    """Requests come in the middle of others, some are cancelled, rows are used again and move together."""
    asked = prompts(7)
    alone = [Run(fresh()).alone(prompt, sampling) for prompt in asked]
    run = Run(fresh())
    numbers = [run.start(prompt, sampling) for prompt in asked[:3]]
    victim = run.start(prompts(9)[-1], replace(WARM, max_tokens=200))
    for _ in range(4):
        run.step()
    run.backend.cancel(victim)
    numbers += [run.start(prompt, sampling) for prompt in asked[3:]]
    run.finish()
    assert [run.tokens(number) for number in numbers] == alone
    heard = len(run.given[victim])
    assert 1 <= heard <= 4


def test_a_prompt_in_parts_is_the_same_prompt(fresh: Callable[..., Batch], monkeypatch: pytest.MonkeyPatch) -> None:
    """And what runs beside it gets a token in every step."""
    (prompt,) = prompts(1, 300)
    whole = Run(fresh()).alone(prompt)
    run = Run(fresh())
    monkeypatch.setattr("localfoundry.workers.onnx_batch._STEP_S", 0.0)
    beside = run.start(prompts(1)[0], replace(GREEDY, max_tokens=30, ignore_eos=True))
    for _ in range(4):
        run.step()
    number = run.start(prompt)
    before = len(run.given[beside])
    steps = 0
    while not run.given[number]:
        run.step()
        steps += 1
    assert steps >= len(prompt) // 32
    assert len(run.given[beside]) - before == steps
    run.finish()
    assert run.tokens(number) == whole


def test_a_row_remembers_and_the_answer_does_not_change(fresh: Callable[..., Batch]) -> None:
    run = Run(fresh())
    (prompt,) = prompts(1)
    first = run.alone(prompt)
    again = run.alone(prompt)
    assert first == again
    assert [run.given[number][0].cached for number in (1, 2)] == [0, len(prompt) - 2]
    longer = [*prompt, *first, 65, 66, 67]
    continued = run.alone(longer)
    assert run.given[3][0].cached == len(prompt) + len(first) - 1
    assert continued == Run(fresh()).alone(longer)


def test_a_beginning_is_copied_from_a_row_that_runs(fresh: Callable[..., Batch]) -> None:
    run = Run(fresh())
    (prompt,) = prompts(1)
    busy = run.start(prompt, replace(GREEDY, max_tokens=60, ignore_eos=True))
    run.step()
    other = [*prompt[:30], 1, 2, 3]
    number = run.start(other)
    run.finish()
    assert run.given[number][0].cached == 30
    assert run.tokens(number) == Run(fresh()).alone(other)
    assert len(run.tokens(busy)) == 60


def test_requests_that_together_need_more_than_the_context_are_all_answered(fresh: Callable[..., Batch]) -> None:
    """The last ones give way and come back; and what rows remembered is given up for a prompt that needs all."""
    run = Run(fresh(context=200, parallel=3))
    long = replace(WARM, max_tokens=120, ignore_eos=True)
    numbers = [run.start(prompt, long) for prompt in prompts(3, 40)]
    waits = 0
    while run.backend.busy:
        run.step()
        waits += bool(run.backend._waiting)
    assert waits > 50
    assert [len(run.tokens(number)) for number in numbers] == [120] * 3
    assert [run.given[number][-1].finish for number in numbers] == ["length"] * 3
    assert run.alone(prompts(1, 190)[0], replace(GREEDY, max_tokens=9, ignore_eos=True))


def test_a_prompt_waits_for_memory_and_is_served(fresh: Callable[..., Batch]) -> None:
    backend = fresh(context=200, parallel=2)
    run = Run(backend)
    first = run.start(prompts(1, 100)[0], replace(GREEDY, max_tokens=50, ignore_eos=True))
    run.step()
    second = run.start(prompts(2, 120)[1], replace(GREEDY, max_tokens=20, ignore_eos=True))
    run.finish()
    assert [run.given[number][-1].finish for number in (first, second)] == ["length", "length"]


def test_biases_penalties_and_ends(fresh: Callable[..., Batch]) -> None:
    run = Run(fresh())
    (prompt,) = prompts(1)
    assert run.alone(prompt, replace(GREEDY, max_tokens=5, logit_bias={66: 100})) == [66] * 5
    kept_apart = run.alone(prompt, replace(GREEDY, max_tokens=200, logit_bias={66: 100}, frequency_penalty=2.0))
    assert len(set(kept_apart)) > 1
    ended = run.alone(prompt, replace(GREEDY, logit_bias={tiny_onnx.END: 100}))
    assert ended == [tiny_onnx.END]
    assert run.given[3][-1].finish == "stop"
    on = run.alone(prompt, replace(GREEDY, logit_bias={tiny_onnx.END: 100}, ignore_eos=True))
    assert len(on) == GREEDY.max_tokens
    assert tiny_onnx.END not in on
    with pytest.raises(Refused, match="logit_bias: 9999 is no token"):
        run.start(prompt, replace(GREEDY, logit_bias={9999: 1}))


def test_log_probabilities_are_of_what_was_computed(fresh: Callable[..., Batch]) -> None:
    run = Run(fresh())
    number = run.start(prompts(1)[0], replace(GREEDY, top_logprobs=3))
    run.finish()
    for one in run.given[number]:
        (token,), (logprob,), (top,) = one.tokens, one.logprobs, one.top
        assert top[0] == (token, logprob)
        assert len(top) == 3
        assert logprob < 0
        assert sum(np.exp(p) for _, p in top) <= 1


def test_a_grammar_holds_the_answer(fresh: Callable[..., Batch]) -> None:
    schema = {
        "type": "object", "required": ["a", "b"], "additionalProperties": False,
        "properties": {"a": {"type": "integer", "maximum": 99}, "b": {"enum": ["x", "y"]}},
    }  # fmt: skip
    backend = fresh()
    run = Run(backend)
    grammar = Grammar(json.dumps(schema), "<tool_call>\n", "\n</tool_call>")
    for seed in range(5):
        tokens = run.alone(prompts(1)[0], Sampling(400, temperature=0.5, seed=seed, grammar=grammar))
        text = b"".join(backend.vocabulary.pieces[token] for token in tokens).decode()
        answer = json.loads(text.removeprefix("<tool_call>\n").removesuffix("\n</tool_call>"))
        assert answer["a"] <= 99
        assert answer["b"] in ("x", "y")
        assert run.given[seed + 1][-1].finish == "stop"


def test_the_head_sees_the_last_token_only_and_gives_the_same(folder: Path, fresh: Callable[..., Batch]) -> None:
    """Against the untouched graph, for a whole prompt at once."""
    (prompt,) = prompts(1)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    given = {"input_ids": np.array([prompt]), "attention_mask": np.ones((1, len(prompt)), np.int64)}
    for layer in range(tiny_onnx.LAYERS):
        for kind in ("key", "value"):
            empty = np.zeros((1, tiny_onnx.KV_HEADS, 0, tiny_onnx.HEAD_DIM), np.float32)
            given[f"past_key_values.{layer}.{kind}"] = empty
    (logits,) = session.run(["logits"], given)
    ours = fresh()._graph.prefill(0, prompt, 0)
    np.testing.assert_allclose(ours, logits[0, -1], atol=1e-5)


def test_tokens_are_bytes_and_marks_are_read_in_a_text(fresh: Callable[..., Batch]) -> None:
    backend = fresh()
    text = "naïve 東京 🙂\n"
    tokens = backend.encode(f"<|im_start|>{text}<|im_end|>", True)
    assert tokens[0] == tiny_onnx.START
    assert tokens[-1] == tiny_onnx.END
    assert b"".join(backend.vocabulary.pieces[token] for token in tokens) == text.encode()
    assert backend.vocabulary.ends == {tiny_onnx.END}
    assert backend.encode("", True) == []


def _weights_at(folder: Path, place: str) -> None:
    """The graph's weights in a file beside it, and then said to be somewhere else."""
    model = library.load(folder / "model.onnx")
    options = {"save_as_external_data": True, "location": "weights.data", "size_threshold": 100}
    library.save_model(model, folder / "model.onnx", **options)
    (folder / "weights.data").rename(folder.parent / "elsewhere")
    model = library.load(folder / "model.onnx", load_external_data=False)
    for entry in (entry for tensor in model.graph.initializer for entry in tensor.external_data):
        entry.value = place if entry.key == "location" else entry.value
    library.save_model(model, folder / "model.onnx")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (lambda folder: (folder / "model.onnx").unlink(), "model.onnx is missing in"),
        (lambda folder: _config(folder, "filename", None), "names no graph"),
        (lambda folder: _config(folder, "filename", "../tiny/model.onnx"), "a graph that is not in the model's folder"),
        (lambda folder: _config(folder, "filename", "/etc/passwd"), "a graph that is not in the model's folder"),
        (lambda folder: _weights_at(folder, "../elsewhere"), "escapes model directory"),
        (lambda folder: _weights_at(folder, "/etc/passwd"), "Absolute path not allowed"),
        (lambda folder: _weights_at(folder, "gone.data"), "gone.data"),
        (lambda folder: (folder / "model.onnx").write_bytes(b"\x00\x01nonsense"), "model.onnx is not a graph"),
        (lambda folder: (folder / "genai_config.json").write_text("{"), "genai_config.json cannot be read"),
        (lambda folder: _config(folder, "num_hidden_layers", 3), "no past_key_values.2.key"),
        (lambda folder: _config(folder, "num_hidden_layers", 1), "takes past_key_values.1.key"),
        (lambda folder: _config(folder, "session_options", {"provider_options": [{"cuda": {}}]}), "is made for cuda"),
        (lambda folder: _config(folder, "session_options", [1]), "genai_config.json: session_options is no object"),
        (lambda folder: _config(folder, "session_options", {"provider_options": "cuda"}), "provider_options is no"),
        (lambda folder: _config(folder, "inputs", ["ids"]), "genai_config.json: inputs is no object"),
        (lambda folder: _config(folder, "inputs", {"input_ids": {}}), "named by something that is no text"),
        (lambda folder: (folder / "genai_config.json").write_text('{"model": [1]}'), "model is no object"),
        (lambda folder: (folder / "genai_config.json").write_text('{"model": {"eos_token_id": -5}}'), "eos_token_id"),
        (lambda folder: (folder / "genai_config.json").write_text("[" * 100_000), "json cannot be read: it is nested"),
        (lambda folder: (folder / "tokenizer.json").write_text("[" * 100_000), "tokenizer.json cannot be read: it is"),
        (lambda folder: (folder / "chat_template.jinja").write_bytes(b"\xff\xfe"), "chat_template.jinja is no text"),
        (lambda folder: _config(folder, "num_key_value_heads", None), None),
    ],
)
def test_a_folder_that_is_not_right_is_refused_in_words(
    tmp_path: Path, spoil: Callable[[Path], None], words: str | None
) -> None:
    folder = tiny_onnx.write(tmp_path / "tiny")
    spoil(folder)
    if words is None:  # the graph itself says it
        assert onnx.load(folder, 64, 1)
        return
    with pytest.raises(Exception, match=words):
        onnx.load(folder, 64, 1)


def test_other_attention_and_longer_contexts_are_refused(tmp_path: Path, folder: Path) -> None:
    other = tiny_onnx.write(tmp_path / "other", attention="MultiHeadAttention")
    with pytest.raises(onnx.Unsupported, match="no GroupQueryAttention"):
        onnx.load(other, 64, 1)
    with pytest.raises(onnx.Unsupported, match=r"on CPU, not on NPU; ONNX Runtime has .*CPUExecutionProvider"):
        onnx.check_device("NPU")
    with pytest.raises(onnx.Unsupported, match="a context of 600 tokens is more than the 512"):
        onnx.load(folder, 600, 1)


def test_a_second_rotary_cache_is_never_taken_for_rows_that_need_the_first(tmp_path: Path, folder: Path) -> None:
    """It would be taken for all rows as soon as one of them is long."""
    two = tiny_onnx.write(tmp_path / "two", short_until=128)
    with pytest.raises(onnx.Unsupported, match="a context of at most 128 tokens can be had, not 129"):
        onnx.load(two, 129, 2)
    (prompt,) = prompts(1)
    assert Run(onnx.load(two, 128, 2)).alone(prompt) == Run(onnx.load(folder, 128, 2)).alone(prompt)


def _config(folder: Path, key: str, value: object) -> None:
    path = folder / "genai_config.json"
    config = json.loads(path.read_text())
    config["model"]["decoder"][key] = value
    path.write_text(json.dumps(config))
