"""Measuring against a server whose clock is known and which can be told to fail."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from bench.clock_server import ClockServer, Script
from localfoundry.bench import report
from localfoundry.bench.candidates import Candidate
from localfoundry.bench.outcome import Measurement, Outcome
from localfoundry.bench.plan import Plan
from localfoundry.bench.prompts import prompt
from localfoundry.bench.request import Sample
from localfoundry.bench.run import Watch, measure
from localfoundry.chat.target import Target
from localfoundry.errors import InvalidRequest, LoadFailed

DEADLINE_S = 60


class Seen(Watch):
    """Hands each sample on."""

    def __init__(self, told: Callable[[Sample], None]) -> None:
        self._told = told

    def sample(self, sample: Sample) -> None:
        self._told(sample)


async def measured(scripts: dict[str, Script], *candidates: Candidate, rounds: int = 2) -> Measurement:
    listed = candidates or tuple(Candidate(name, name) for name in scripts)
    async with ClockServer(scripts).running() as server, asyncio.timeout(DEADLINE_S):
        return await measure(Target(server.url), listed, plan=Plan(rounds=rounds))


def only(result: Measurement) -> Outcome:
    assert len(result.outcomes) == 1
    return result.outcomes[0]


async def test_the_clock_that_was_set_is_the_clock_that_is_reported() -> None:
    """Arithmetic is checked exactly on the recorded stamps; agreement with the server's own stamps within 100 ms,
    which is for a machine that does other work meanwhile."""
    script = Script(tokens=11, ttft_s=0.1, gap_s=0.03)
    async with ClockServer({"m": script}).running() as server, asyncio.timeout(DEADLINE_S):
        result = await measure(Target(server.url), [Candidate("m", "m")], plan=Plan(rounds=3))
    samples = only(result).samples
    assert [sample.round for sample in samples] == [1, 2, 3]
    for sample, record in zip(samples, server.of("m")[1:], strict=True):
        assert sample.ttft_s is not None
        assert sample.itl_s is not None
        assert sample.first_token_s is not None
        assert sample.last_token_s is not None
        assert sample.ttft_s == sample.first_token_s - sample.sent_s
        assert sample.itl_s == (sample.last_token_s - sample.first_token_s) / 10
        assert sample.decode_tps == 1 / sample.itl_s
        assert sample.prefill_tps == 40 / sample.ttft_s
        assert sample.ttft_s == pytest.approx(record.writes[0] - record.received, abs=0.1)
        assert sample.itl_s * 10 == pytest.approx(record.writes[-1] - record.writes[0], abs=0.1)
        assert sample.done_s >= sample.last_token_s
        assert (sample.chunks, sample.completion_tokens) == (11, 11)


async def test_tokens_are_counted_by_the_server_and_not_by_chunks() -> None:
    """vLLM's benchmark once took one chunk for one token: four at a time looked four times slower."""
    result = await measured({"m": Script(tokens=12, tokens_per_chunk=4, gap_s=0.01)})
    for sample in only(result).samples:
        assert (sample.chunks, sample.completion_tokens) == (3, 12)
        assert sample.itl_s is not None
        assert sample.last_token_s is not None
        assert sample.first_token_s is not None
        assert sample.itl_s == (sample.last_token_s - sample.first_token_s) / 11


async def test_reasoning_counts_as_first_token_but_not_as_answer() -> None:
    result = await measured({"m": Script(tokens=4, reasoning_chunks=2, gap_s=0.02)})
    for sample in only(result).samples:
        assert sample.ttft_s is not None
        assert sample.ttfa_s is not None
        assert sample.chunk_times_s[0] == sample.first_token_s
        assert sample.chunk_times_s[2] == sample.first_answer_s
        assert sample.ttfa_s > sample.ttft_s
        assert sample.answer == "word word "


async def test_cached_tokens_are_reported_and_taken_out_of_prefill() -> None:
    scripts = {
        "usage": Script(cached_tokens=30),
        "timings": Script(timings={"cache_n": 10, "prompt_per_second": 512.5, "predicted_per_second": 99.5}),
    }
    for_usage, for_timings = (await measured(scripts)).outcomes
    for sample in for_usage.samples:
        assert sample.ttft_s is not None
        assert (sample.cached_tokens, sample.prefill_tps) == (30, 10 / sample.ttft_s)
    for sample in for_timings.samples:
        assert sample.cached_tokens == 10
        assert (sample.engine_prefill_tps, sample.engine_decode_tps) == (512.5, 99.5)


async def test_without_usage_nothing_is_made_up() -> None:
    for sample in only(await measured({"m": Script(usage=False)})).samples:
        assert sample.error is None
        assert sample.ttft_s is not None
        assert (sample.completion_tokens, sample.itl_s, sample.decode_tps, sample.prefill_tps) == (None,) * 4


async def test_rounds_are_interleaved_and_the_warm_up_is_thrown_away() -> None:
    async with ClockServer({"a": Script(), "b": Script()}).running() as server, asyncio.timeout(DEADLINE_S):
        seen: list[tuple[str, int]] = []
        result = await measure(
            Target(server.url),
            [Candidate("a", "a"), Candidate("b", "b")],
            plan=Plan(rounds=2),
            watch=Seen(lambda sample: seen.append((sample.label, sample.round))),
        )
    assert [record.body["model"] for record in server.records] == ["a", "b"] * 3
    assert seen == [(label, number) for number in range(3) for label in "ab"]
    assert [len(outcome.samples) for outcome in result.outcomes] == [2, 2]
    assert {record.connection for record in server.records} == {1}, "a new connection would be timed as the model's"


async def test_prompts_are_distinct_and_the_same_for_every_candidate() -> None:
    async with ClockServer({"a": Script(), "b": Script()}).running() as server, asyncio.timeout(DEADLINE_S):
        listed = [Candidate("a", "a"), Candidate("a long", "a", max_tokens=9), Candidate("b", "b")]
        result = await measure(Target(server.url), listed, plan=Plan(rounds=2))
    asked = [record.body["messages"][0]["content"] for record in server.records]
    first, twin, other = asked[0::3], asked[1::3], asked[2::3]
    assert first == other
    assert len(set(first + twin)) == 6, "a twin with the same prompt would be answered from the other's cache"
    assert [text.split(maxsplit=1)[1] for text in first] == [text.split(maxsplit=1)[1] for text in twin]
    assert [record.body["max_tokens"] for record in server.of("a")] == [64, 9] * 3
    assert first[1] == prompt(result.plan.nonce, result.plan.seed, 1)
    assert all(record.body["stream_options"] == {"include_usage": True} for record in server.records)


def test_prompts_have_the_length_asked_for_and_lead_with_nine_digits() -> None:
    for words in (20, 60, 400):
        text = prompt("n", 42, 3, words=words)
        assert len(text.split()) == words
        assert text[:9].isdigit()
        assert text[9] == "."
    assert prompt("n", 42, 3) != prompt("m", 42, 3)


async def test_own_prompt_and_parameters_reach_the_server() -> None:
    async with ClockServer({"m": Script()}).running() as server, asyncio.timeout(DEADLINE_S):
        candidate = Candidate("m", "m", prompt="Explain edge AI.", parameters={"ignore_eos": True, "temperature": 0.5})
        await measure(Target(f"{server.url}/v1/"), [candidate], plan=Plan(rounds=1))
    body = server.records[1].body
    assert (body["ignore_eos"], body["temperature"]) == (True, 0.5)
    assert body["messages"][0]["content"].endswith(" Explain edge AI.")
    assert body["messages"][0]["content"][:9].isdigit()


@pytest.mark.parametrize(
    ("script", "words", "chunks"),
    [
        (Script(status=503), "HTTP 503: no model bad", 0),
        (Script(cut_after=2), "after 2 chunks", 2),
        (Script(end_after=2), "after 2 chunks: the stream ended before the answer did", 2),
        (Script(error_after=3), "after 3 chunks: the worker ended", 3),
        (Script(garbage_after=1), "after 1 chunks: the server sent what is not a chat completion chunk", 1),
        (Script(tokens=0), "the answer holds no token", 0),
    ],
)
async def test_a_failure_is_reported_and_the_others_go_on(script: Script, words: str, chunks: int) -> None:
    bad, good = (await measured({"bad": script, "good": Script()})).outcomes
    assert bad.error is not None
    assert words in bad.error
    assert [(sample.round, sample.chunks) for sample in bad.samples] == [(0, chunks)], "the failed request is kept"
    assert bad.good == []
    assert good.error is None
    assert [sample.round for sample in good.good] == [1, 2]


async def test_a_model_that_hangs_costs_its_timeout_once() -> None:
    async with ClockServer({"bad": Script(hang_after=1), "good": Script()}).running() as server:
        async with asyncio.timeout(DEADLINE_S):
            listed = [Candidate("bad", "bad"), Candidate("good", "good")]
            result = await measure(Target(server.url), listed, plan=Plan(rounds=2, timeout_s=0.5))
        assert len(server.of("bad")) == 1
    assert result.outcomes[0].error == "no complete answer within 0.5 s"
    assert len(result.outcomes[1].good) == 2


async def test_a_kept_connection_that_the_server_closed_is_no_failure_of_the_model() -> None:
    """llama.cpp's server does it between requests: a model that had done nothing wrong was reported as failed."""
    async with ClockServer({"m": Script(drops="kept", ttft_s=0.05)}).running() as server, asyncio.timeout(DEADLINE_S):
        result = await measure(Target(server.url), [Candidate("m", "m")], plan=Plan(rounds=3))
    assert only(result).error is None
    assert server.dropped == 3
    assert len(server.of("m")) == 4


async def test_a_server_that_never_answers_is_reported() -> None:
    async with ClockServer({"m": Script(drops="all")}).running() as server, asyncio.timeout(DEADLINE_S):
        result = await measure(Target(server.url), [Candidate("m", "m")])
    assert (only(result).error or "").startswith("before the first token: ")
    assert server.dropped == 2


async def test_no_server_at_all_is_an_error_of_each_candidate() -> None:
    async with ClockServer({}).running() as server:
        url = server.url
    result = await measure(Target(url), [Candidate("a", "a"), Candidate("b", "b")])
    assert all(outcome.error and "before the first token" in outcome.error for outcome in result.outcomes)


async def test_models_are_loaded_once_each_and_a_load_that_fails_spares_the_others() -> None:
    loaded: list[str] = []

    async def load(candidate: Candidate) -> float | None:
        loaded.append(candidate.model)
        if candidate.model == "broken":
            raise LoadFailed("the engine refused the file")
        return 1.25

    async with ClockServer({"a": Script()}).running() as server, asyncio.timeout(DEADLINE_S):
        listed = [Candidate("a", "a"), Candidate("a long", "a"), Candidate("broken", "broken")]
        result = await measure(Target(server.url), listed, load, plan=Plan(rounds=1))
    assert loaded == ["a", "broken"]
    assert [outcome.load_s for outcome in result.outcomes] == [1.25, 1.25, None]
    assert [outcome.error for outcome in result.outcomes] == [None, None, "the engine refused the file"]
    assert server.of("broken") == []


async def test_what_has_no_memory_beside_the_others_is_measured_after_them_and_loaded_for_it_once() -> None:
    """In turns it would be loaded anew for every request, and each load was in the times of an answer."""
    loads: list[str] = []

    async def load(candidate: Candidate) -> float | None:
        loads.append(candidate.model)
        return 0.5

    async def resident() -> set[str]:
        return {loads[-1]}

    async with ClockServer({"a": Script(), "b": Script(), "c": Script()}).running() as server:
        async with asyncio.timeout(DEADLINE_S):
            listed = [
                Candidate("a", "a"), Candidate("a long", "a", max_tokens=9), Candidate("far", "c", endpoint=server.url),
                Candidate("b", "b"),
            ]  # fmt: skip
            result = await measure(Target(server.url), listed, load, resident=resident, plan=Plan(rounds=2))
    assert loads == ["a", "b", "a"]
    assert [outcome.apart for outcome in result.outcomes] == [True, True, False, False]
    assert [len(outcome.good) for outcome in result.outcomes] == [2] * 4
    assert [record.body["model"] for record in server.records] == ["c", "b"] * 3 + ["a", "a"] * 3
    notes = [row[-1] for row in report.table(result).rows]
    assert ["no memory beside them" in note for note in notes] == [True, True, False, False]


async def test_a_cancellation_keeps_what_was_measured() -> None:
    seen: list[Sample] = []
    task: asyncio.Task[Measurement]

    def cancel_in_round_two(sample: Sample) -> None:
        seen.append(sample)
        if (sample.round, sample.label) == (2, "a"):
            task.cancel()

    async with ClockServer({"a": Script(), "b": Script()}).running() as server, asyncio.timeout(DEADLINE_S):
        listed = [Candidate("a", "a"), Candidate("b", "b")]
        task = asyncio.create_task(
            measure(Target(server.url), listed, plan=Plan(rounds=50), watch=Seen(cancel_in_round_two))
        )
        result = await task
    assert result.interrupted
    assert [len(outcome.samples) for outcome in result.outcomes] == [2, 1]
    assert all(outcome.error is None for outcome in result.outcomes)
    assert result.wall_s > 0


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot send itself Ctrl-C there")
def test_ctrl_c_under_asyncio_run_returns_the_partial_result() -> None:
    """asyncio.run turns SIGINT into a cancellation of the main task; it must not come out as KeyboardInterrupt."""

    async def main() -> Measurement:
        async with ClockServer({"m": Script(tokens=5000, gap_s=0.01)}).running() as server:
            stop = asyncio.create_task(server.started.wait())
            stop.add_done_callback(lambda _: signal.raise_signal(signal.SIGINT))
            async with asyncio.timeout(DEADLINE_S):
                return await measure(Target(server.url), [Candidate("m", "m")])

    result = asyncio.run(main())
    assert result.interrupted
    assert result.outcomes[0].samples == []


@pytest.mark.parametrize(
    ("candidates", "rounds", "url"),
    [
        ([], 5, "http://127.0.0.1:9"),
        ([Candidate("a", "a"), Candidate("a", "b")], 5, "http://127.0.0.1:9"),
        ([Candidate("a", "a")], 0, "http://127.0.0.1:9"),
        ([Candidate("a", "a")], 5, "localhost:8000"),
    ],
)
async def test_what_cannot_be_measured_is_refused(candidates: list[Candidate], rounds: int, url: str) -> None:
    with pytest.raises(InvalidRequest):
        await measure(Target(url), candidates, plan=Plan(rounds=rounds))


async def test_a_measurement_survives_a_file(tmp_path: Path) -> None:
    result = await measured({"m": Script(cached_tokens=3)})
    file = tmp_path / "raw.json"
    file.write_bytes(msgspec.json.encode(result))
    assert msgspec.json.decode(file.read_bytes(), type=Measurement) == result
