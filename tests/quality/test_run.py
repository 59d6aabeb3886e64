"""Runs over a server that answers as it is told: what is asked, what is kept, and what a failure costs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import msgspec
import pytest

from localfoundry.bench.energy import open_meter
from localfoundry.chat.target import Target
from localfoundry.errors import InvalidRequest
from localfoundry.quality import suite
from localfoundry.quality.ask import Endpoint, Metered, Route, Routed
from localfoundry.quality.record import Record
from localfoundry.quality.results import ItemResult, Plan, Protocol, SuiteRun, latest, read_items
from localfoundry.quality.run import GIVE_UP_AFTER, Group, evaluate
from localfoundry.quality.score import scores
from localfoundry.quality.suite import Suite
from localfoundry.results.db import FILE_NAME, Results, now
from localfoundry.results.rows import CandidateRow, Run, new_id
from quality.answering_server import AnsweringServer, Say, parrot

DEADLINE_S = 60
SUITE = """
suite: mine
language: en
tools:
  - {name: f, description: does it, parameters: {type: object, properties: {x: {type: integer}}}}
items:
""" + "".join(
    f"  - {{id: i{n}, prompt: 'say {n}', max_tokens: 9, checks: [{{exact: '{n}'}}], answer: '{n}', wrong: [x]}}\n"
    for n in range(6)
)


def mine(text: str = SUITE) -> Suite:
    return suite.decode(text.encode(), "mine.yaml")


def plan_of(*models: str, given: Suite | None = None) -> Plan:
    chosen = given or mine()
    return Plan(models, (SuiteRun(chosen.name, chosen.language, chosen.sha256, tuple(i.id for i in chosen.items)),))


class Kept:
    def __init__(self) -> None:
        self.results: list[ItemResult] = []

    def record(self, result: ItemResult) -> None:
        self.results.append(result)


async def asked(
    answer: Callable[[dict[str, Any]], Say],
    *models: str,
    given: Suite | None = None,
    done: Collection[tuple[str, str, str, str]] = (),
    timeout_s: float = 30,
) -> tuple[list[ItemResult], AnsweringServer]:
    kept, server = Kept(), AnsweringServer(answer)
    chosen = given or mine()
    async with (
        server.running(),
        asyncio.timeout(DEADLINE_S),
        Endpoint(Target(f"{server.url}/v1/", secret="k"), timeout_s) as endpoint,
    ):
        cut = await evaluate(endpoint, plan_of(*models, given=chosen), [chosen], [Group(models)], kept, done=done)
    assert not cut
    return kept.results, server


async def test_items_are_asked_in_turns_and_all_models_are_asked_the_same() -> None:
    results, server = await asked(parrot, "a", "b")
    assert [(r.item, r.model) for r in results] == [(f"i{n}", m) for n in range(6) for m in "ab"]
    assert {r.suite_sha256 for r in results} == {mine().sha256}
    assert all(r.passed and r.tokens == 5 and r.prompt_tokens == 11 and r.ttft_s is not None for r in results)
    assert all(0 < (r.ttft_s or 0) <= r.seconds for r in results)
    a, b = ([{k: v for k, v in body.items() if k != "model"} for body in server.bodies[i::2]] for i in (0, 1))
    assert a == b
    assert {(body["temperature"], body["seed"], body["max_tokens"], body["stream"]) for body in a} == {(0, 42, 9, True)}
    assert "tools" not in a[0]
    assert server.requests[0].headers["authorization"] == "Bearer k"


async def test_a_wrong_answer_keeps_its_reasons_and_its_text() -> None:
    results, _ = await asked(lambda body: Say("0"), "a")
    assert [r.passed for r in results] == [True] + [False] * 5
    assert results[1].failures == ("exact: not exactly '1': '0'",)
    assert results[1].answer == "0"
    assert results[1].error is None


async def test_reasoning_is_taken_off_before_the_checks_and_counts_for_the_first_token() -> None:
    def think(body: dict[str, Any]) -> Say:
        return Say(f"<think>9 or so</think>\n{parrot(body).text}", reasoning="let me see: 9")

    results, _ = await asked(think, "a")
    assert all(r.passed for r in results)
    assert "<think>" in results[0].answer, "the results keep what was said"


async def test_tools_are_offered_and_their_calls_put_together() -> None:
    text = SUITE.split("items:")[0] + (
        "items:\n  - {id: t, prompt: go, tools: [f], checks: [{tool_calls: [{name: f, arguments: {x: 4}}]}]}\n"
    )
    results, server = await asked(lambda body: Say(calls=(("f", '{"x": 4}'),)), "a", given=mine(text))
    assert results[0].passed, results[0].failures
    assert json.loads(results[0].calls) == [{"name": "f", "arguments": {"x": 4}}]
    assert server.bodies[0]["tools"][0]["function"]["name"] == "f"
    broken, _ = await asked(lambda body: Say(calls=(("f", '{"x": '),)), "a", given=mine(text))
    assert broken[0].failures == ("tool_calls: the arguments of f are no JSON object",)


@pytest.mark.parametrize(
    ("say", "words"),
    [
        (Say(status=503, error="no model"), "HTTP 503: no model"),
        (Say("1", cut=True), ""),
        (Say("1", error="the worker ended"), "the worker ended"),
    ],
)
async def test_a_model_that_always_fails_becomes_failed_items_and_is_soon_left_alone(say: Say, words: str) -> None:
    results, server = await asked(lambda body: say if body["model"] == "bad" else parrot(body), "bad", "good")
    bad, good = ([r for r in results if r.model == m] for m in ("bad", "good"))
    assert all(r.passed for r in good)
    assert len(bad) == 6
    assert all(not r.passed and words in (r.error or "") for r in bad)
    assert all(r.error for r in bad)
    assert [(r.error or "").startswith("not asked: ") for r in bad] == [False] * GIVE_UP_AFTER + [True] * 3
    assert sum(body["model"] == "bad" for body in server.bodies) <= 2 * GIVE_UP_AFTER


async def test_a_prompt_that_is_refused_speaks_against_itself_only() -> None:
    """The prompt is too long for the context: the next, shorter one is asked all the same."""
    results, server = await asked(lambda body: Say(status=400, error="the prompt has 9000 tokens"), "a")
    assert len(server.bodies) == 6
    assert all(r.error == "HTTP 400: the prompt has 9000 tokens" for r in results)


async def test_a_model_that_hangs_costs_its_timeout_a_few_times() -> None:
    results, _ = await asked(lambda body: Say("1", hang=True), "a", timeout_s=0.2)
    assert results[0].error == "no complete answer within 0.2 s"
    assert results[0].answer == "1", "what came is kept"
    assert (results[5].error or "").startswith("not asked")


async def test_a_server_that_asks_to_come_back_is_asked_again() -> None:
    told: list[int] = []

    def busy(body: dict[str, Any]) -> Say:
        told.append(1)
        return Say(status=429, retry_after="0") if len(told) % 2 else parrot(body)

    results, _ = await asked(busy, "a")
    assert all(r.passed for r in results)


async def test_no_server_is_an_error_of_each_item() -> None:
    server = AnsweringServer(parrot)
    async with server.running():
        url = server.url
    kept = Kept()
    async with Endpoint(Target(url)) as endpoint:
        await evaluate(endpoint, plan_of("a"), [mine()], [Group(("a",))], kept)
    assert len(kept.results) == 6
    assert all(r.error for r in kept.results)


async def test_an_endless_answer_is_cut_off() -> None:
    results, _ = await asked(lambda body: Say(reasoning="x" * 500_000), "a")
    assert "longer than 400,000 characters" in (results[0].error or "")


async def test_a_model_that_cannot_be_loaded_is_not_asked() -> None:
    async def prepare() -> dict[str, str]:
        return {"b": "it could not be loaded: too large"}

    kept, server = Kept(), AnsweringServer(parrot)
    async with server.running(), Endpoint(Target(server.url)) as endpoint:
        groups = [Group(("a",)), Group(("b",), prepare)]
        await evaluate(endpoint, plan_of("a", "b"), [mine()], groups, kept)
    assert [r.passed for r in kept.results] == [True] * 6 + [False] * 6
    assert kept.results[-1].error == "not asked: it could not be loaded: too large"
    assert {body["model"] for body in server.bodies} == {"a"}


def kept_run(results: Results, plan: Plan) -> Record:
    protocol: dict[str, object] = msgspec.to_builtins(Protocol(plan))
    run = Run(new_id(), "eval", now(), protocol=protocol)
    return Record.begin(results, run, [CandidateRow(run.id, model, model) for model in plan.models])


async def test_a_cancelled_run_keeps_what_it_has_and_goes_on_later(tmp_path: Path) -> None:
    plan = plan_of("a")
    server = AnsweringServer(parrot)

    async def work(record: Record, stop_after: int | None) -> bool:
        task = asyncio.current_task()
        assert task is not None
        count = 0

        def told(_: ItemResult) -> None:
            nonlocal count
            count += 1
            if count == stop_after:
                task.cancel()

        async with Endpoint(Target(server.url)) as endpoint:
            return await evaluate(endpoint, plan, [mine()], [Group(("a",))], record, done=record.done, on_result=told)

    async with server.running(), asyncio.timeout(DEADLINE_S):
        with Results(tmp_path / FILE_NAME) as results:
            assert await asyncio.create_task(work(kept_run(results, plan), 2))
        with Results(tmp_path / FILE_NAME) as results:
            run = latest(results, plan)
            assert [r.item for r in read_items(results, run.id)] == ["i0", "i1"]
            again = Record.resume(results, run)
            assert not await asyncio.create_task(work(again, None))
            assert again.items == read_items(results, run.id)
    assert [r.item for r in again.items] == [f"i{n}" for n in range(6)]
    assert len(server.bodies) <= 7, "no more than the one that was cut off is asked twice"


def test_only_a_run_of_the_same_plan_is_continued(tmp_path: Path) -> None:
    with Results(tmp_path / FILE_NAME) as results:
        results.begin(Run(new_id(), "eval", now(), protocol={"candidates": []}))
        record = kept_run(results, plan_of("a"))
        assert latest(results, plan_of("a")).id == record.run.id
        for other in (plan_of("b"), plan_of("a", given=mine(SUITE.replace("say 1", "tell 1")))):
            with pytest.raises(InvalidRequest, match="no earlier run"):
                latest(results, other)


def test_the_last_result_of_an_item_counts_and_what_has_no_answer_is_not_done(tmp_path: Path) -> None:
    def result(**how: Any) -> ItemResult:
        return ItemResult(suite="s", language="en", item="i", model="m", **how)

    with Results(tmp_path / FILE_NAME) as results:
        record = kept_run(results, plan_of("m"))
        record.record(result(passed=False, error="broke"))
        assert record.done == set()
        record.record(result(passed=True))
        assert record.done == {("s", "en", "i", "m")}
        assert read_items(results, record.run.id) == record.items == [result(passed=True)]


def test_a_file_that_fails_on_the_way_costs_the_rest_its_place_and_not_the_run(tmp_path: Path) -> None:
    with Results(tmp_path / FILE_NAME) as results:
        record = kept_run(results, plan_of("m"))
        results.remove_run(record.run.id)  # a row without its run is refused
        for item in "ab":
            record.record(ItemResult(suite="s", language="en", item=item, model="m", passed=True))
        assert [r.item for r in record.items] == ["a", "b"]
        assert record.problem is not None and not record.kept


def counted(folder: Path, energy_uj: int) -> None:
    zone = folder / "intel-rapl:0"
    zone.mkdir(exist_ok=True)
    for name, text in (("name", "package-0"), ("energy_uj", str(energy_uj)), ("max_energy_range_uj", "262143328850")):
        (zone / name).write_text(text)


async def test_energy_of_each_item_is_read_less_idle_and_counted_per_solved_task(tmp_path: Path) -> None:
    """A tree of counters as recorded: 5 J for each answer, which takes 1 s, and 2 W all the time."""
    now_s, spent_uj = 0.0, 0

    def passes(seconds: float, uj: int) -> None:
        nonlocal now_s, spent_uj
        now_s, spent_uj = now_s + seconds, spent_uj + uj + int(seconds * 2e6)
        counted(tmp_path, spent_uj)

    def say(body: dict[str, Any]) -> Say:
        passes(1, 5_000_000)
        return parrot(body) if body["messages"][-1]["content"] in ("say 0", "say 1") else Say("x")

    counted(tmp_path, 0)
    meter = open_meter(lambda: now_s, tmp_path)
    before = meter.read()
    passes(4, 0)
    meter.note_idle(before, meter.read())
    kept, server = Kept(), AnsweringServer(say)
    async with server.running(), Endpoint(Target(server.url)) as endpoint:
        asked = Routed({"a": Route(Metered(endpoint, meter), "a"), "far": Route(endpoint, "far", remote=True)})
        await evaluate(asked, plan_of("a", "far"), [mine()], [Group(("a", "far"))], kept)
    assert [r.energy_j for r in kept.results if r.model == "a"] == [pytest.approx(5)] * 6
    assert [r.energy_j for r in kept.results if r.model == "far"] == [None] * 6
    own, far = scores(kept.results)
    assert own.joules_per_solved == pytest.approx(6 * 5 / 2), "failures cost too"
    assert own.seconds_per_solved == pytest.approx(sum(r.seconds for r in kept.results if r.model == "a") / 2)
    assert far.joules_per_solved is None


async def test_what_was_not_asked_took_no_energy(tmp_path: Path) -> None:
    """A model that is given up still has its joules per solved task, of all that was asked."""
    counted(tmp_path, 0)
    answers = 0

    def say(body: dict[str, Any]) -> Say:
        nonlocal answers
        answers += 1
        counted(tmp_path, answers * 3_000_000)
        return parrot(body) if answers == 1 else Say(status=401)

    meter = open_meter(lambda: 0.0, tmp_path)
    kept, server = Kept(), AnsweringServer(say)
    async with server.running(), Endpoint(Target(server.url)) as endpoint:
        await evaluate(Metered(endpoint, meter), plan_of("a"), [mine()], [Group(("a",))], kept)
    assert [r.energy_j for r in kept.results] == [3, 3, 0, 0, 0, 0]
    assert scores(kept.results)[0].joules_per_solved == 6


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest, match="not an http address"):
        Endpoint(Target(url))
