"""`foundry eval` over local models and endpoints that are not ours: costs, and whatever an endpoint may do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import Foundry, Result
from localfoundry import config
from localfoundry.results.db import FILE_NAME, Results
from quality.answering_server import AnsweringServer, Say, parrot

KEY = "sk-very-secret-0123456789"
ITEMS = 5


@pytest.fixture
def mine(isolated: Path) -> str:
    """The last word of each prompt is the right answer, so a model that echoes solves all of it."""
    items = "".join(
        f"  - {{id: i{n}, prompt: say {n}, max_tokens: 1, checks: [{{exact: '{n}'}}], answer: '{n}', wrong: [x]}}\n"
        for n in range(ITEMS)
    )
    file = isolated / "mine.yaml"
    file.write_text(f"suite: mine\nlanguage: en\nitems:\n{items}")
    return str(file)


async def evaluated(foundry: Foundry, *arguments: str, **env: str) -> Result:
    return await asyncio.to_thread(foundry, "eval", *arguments, env=env)


def results_of(document: dict[str, Any], model: str) -> list[dict[str, Any]]:
    return [result for result in document["results"] if result["model"] == model]


async def test_local_and_cloud_stand_in_one_table_with_what_a_solved_task_costs(
    foundry: Foundry, fake_model: Callable[..., str], mine: str
) -> None:
    """11 tokens in and 5 out for each item, at 1 and 10 per million; the other one solves a single item of five."""
    local = await asyncio.to_thread(fake_model, "local", echo=True)
    said = {"right": parrot, "wrong": lambda body: Say("0")}
    async with AnsweringServer(lambda body: said[body["model"]](body)).running() as server:
        line = [
            local, "--suite", mine, "--currency", "USD", "--api-key-env", "SOME_KEY", "--price-in", "1",
            "--price-out", "10", "--endpoint", f"{server.url}/v1", "--model", "right", "--label", "cloud",
            "--endpoint", server.url, "--model", "wrong", "--label", "cheap", "--set", "seed=null",
        ]  # fmt: skip
        done = await evaluated(foundry, *line, "--json", SOME_KEY=KEY)
        assert done.code == 0, done.err
        shown = await evaluated(foundry, *line, SOME_KEY=KEY)
    assert [(s["model"], s["passed"]) for s in done.json["scores"]] == [(local, 5), ("cloud", 5), ("cheap", 1)]
    each = (11 * 1 + 5 * 10) / 1e6
    costs = {cost["model"]: (cost["per_item"], cost["per_solved"]) for cost in done.json["costs"]}
    assert costs == {"cloud": pytest.approx((each, each)), "cheap": pytest.approx((each, 5 * each))}
    assert [r["model"] for r in done.json["results"]] == [local, "cloud", "cheap"] * ITEMS, "in turns"
    assert all("seed" not in body and body["max_tokens"] == 1 for body in server.bodies)
    assert {request.headers["authorization"] for request in server.requests} == {f"Bearer {KEY}"}
    assert "Cost/1,000 USD" in shown.out and "Cost per solved USD" in shown.out and "0.061" in shown.out
    assert KEY not in done.out + done.err + shown.out + shown.err
    for file in config.load().home.rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes(), file.name
    with Results(config.load().home / FILE_NAME) as results:
        rows = {row.label: row for row in results.candidates(results.run("last").id)}
    assert (rows["cloud"].endpoint_host, rows["cloud"].model, rows["cloud"].price_out) == ("127.0.0.1", "right", 10)
    assert rows[local].engine == "fake" and rows[local].endpoint_host is None


async def test_whatever_an_endpoint_does_is_a_result_and_the_others_go_on(
    foundry: Foundry, fake_model: Callable[..., str], mine: str
) -> None:
    asked: dict[str, int] = {}

    def say(body: dict[str, Any]) -> Say:
        model = body["model"]
        asked[model] = asked.get(model, 0) + 1
        match model:
            case "dies":
                return parrot(body) if asked[model] <= 2 else Say("1", cut=True)
            case "busy":
                return Say(status=429, retry_after="0") if asked[model] % 3 else parrot(body)
            case "later":
                return Say(status=429, retry_after="3600", error="no more today")
            case "closed":
                return Say(status=401, error=f"the key {KEY} is not known")
            case "page":
                return Say(page="<html>please log in</html>")
            case "gone":
                return Say(status=307, location="http://127.0.0.2:9/v1/chat/completions?token=abc")
        return Say(parrot(body).text, model="somebody-else")

    local = await asyncio.to_thread(fake_model, "local", echo=True)
    names = ("dies", "busy", "later", "closed", "page", "gone", "other")
    async with AnsweringServer(say).running() as server:
        places = [word for name in names for word in ("--endpoint", server.url, "--model", name, "--label", name)]
        done = await evaluated(foundry, local, "--suite", mine, *places, "--api-key-env", "K", "--json", K=KEY)
    assert done.code == 0, done.err
    document = done.json
    passed = {score["model"]: score["passed"] for score in document["scores"]}
    assert passed == {local: 5, "dies": 2, "busy": 5, "later": 0, "closed": 0, "page": 0, "gone": 0, "other": 5}
    errors = {name: [r["error"] or "" for r in results_of(document, name)] for name in names}
    assert "after 1 chunks: " in errors["dies"][2]
    assert asked["busy"] == 3 * ITEMS, "asked again as often as it takes, within bounds"
    assert "no more today; it asks to come back after 3600 s, and 60 s are waited at most" in errors["later"][0]
    assert asked["later"] == asked["page"] == 3, "after three in a row it is left alone"
    assert asked["closed"] == asked["gone"] == 1, "what is refused for good is not asked again"
    assert errors["closed"][0] == "HTTP 401: the key [key] is not known"
    assert errors["closed"][1].startswith("not asked: ")
    assert "a page of HTML" in errors["page"][0]
    assert "redirects to http://127.0.0.2:9/v1/chat/completions, which is not followed" in errors["gone"][0]
    assert "--endpoint http://127.0.0.2:9/v1" in errors["gone"][0] and "abc" not in json.dumps(document)
    assert {r["answered_as"] for r in results_of(document, "other")} == {"somebody-else"}
    assert {r["answered_as"] for r in results_of(document, local)} == {None}


async def test_an_endpoint_without_a_key_says_where_a_key_goes_and_names_who_answered(
    foundry: Foundry, mine: str
) -> None:
    def say(body: dict[str, Any]) -> Say:
        return Say(status=401, error="no key") if body["model"] == "a" else Say("0", model="other-7b")

    async with AnsweringServer(say).running() as server:
        done = await evaluated(foundry, "--suite", mine, "--endpoint", server.url, "--model", "a",
                               "--endpoint", server.url, "--model", "b")  # fmt: skip
    assert "a@127.0.0.1: HTTP 401: no key; --api-key-env NAME names the variable with a key" in done.err
    assert "b@127.0.0.1: the endpoint says that other-7b answered" in done.err


async def test_a_run_with_an_endpoint_goes_on_with_the_same_endpoint_only(foundry: Foundry, mine: str) -> None:
    broken = True

    def say(body: dict[str, Any]) -> Say:
        return Say(status=500) if broken and body["messages"][-1]["content"] == "say 3" else parrot(body)

    async with AnsweringServer(say).running() as server:
        line = ("--suite", mine, "--endpoint", server.url, "--model", "m", "--json")
        first = (await evaluated(foundry, *line)).json
        broken = False
        again = (await evaluated(foundry, *line, "--resume")).json
        other = await evaluated(foundry, *line, "--resume", "--price-in", "1")
    assert [score["passed"] for score in (*first["scores"], *again["scores"])] == [4, 5]
    assert again["run"]["id"] == first["run"]["id"]
    assert len(server.bodies) == ITEMS + 1
    assert other.code == 2 and "no earlier run" in other.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--endpoint", "http://127.0.0.1:9"], "needs its --model"),
        (["m", "--label", "x"], "--label belongs to an --endpoint"),
        (["m", "--endpoint", "http://h", "--model", "x", "--label", "m"], "two candidates are called 'm'"),
    ],
)
def test_an_endpoint_that_cannot_be_asked_is_refused_before_anything_starts(
    foundry: Foundry, mine: str, arguments: list[str], said: str
) -> None:
    found = foundry("eval", *arguments, "--suite", mine)
    assert found.code == 2
    assert said in found.err and found.out == ""
