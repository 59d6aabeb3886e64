"""The conversation on a real terminal, and the same command where there is none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from cli.terminal import Terminal
from harness import Foundry, wait_until

PROMPT = r"^>"


def counters(foundry: Foundry) -> dict[str, Any]:
    """The fake worker's own count of tokens made and answers under way."""
    path = foundry.ok("service", "ps", "--json").json["models"][0]["socket"]
    with httpx2.Client(transport=httpx2.HTTPTransport(uds=path)) as client:
        found: dict[str, Any] = client.get("http://worker/counters").json()
    return found


def test_a_conversation_and_its_commands(foundry: Foundry, fake_model: Callable[..., str], tmp_path: Path) -> None:
    fake_model("parrot", answer="polly")
    fake_model("crow", answer="caw")
    foundry.ok("config", "set", "models.parrot.system", "chosen words")
    saved = tmp_path / "talk.json"
    with Terminal("model", "run", "parrot", "--max-tokens", "3") as chat:
        chat.expect(r"^🟢 Model parrot loaded successfully$")
        chat.expect(r"^Interactive Chat\. Enter /\? or /help for help\.$")
        chat.enter("/stats")
        chat.expect(r"No answer yet")
        chat.enter("hello there")
        chat.expect(r"^polly polly polly")
        chat.enter("/stats")
        chat.expect(r"4 tokens in, 3 out, .* in all")
        chat.enter("/system")
        chat.expect(r"^System prompt: chosen words \(from the settings\)")
        chat.enter("/system be brief")
        chat.expect(r"^System prompt: be brief")
        chat.enter('"""one')
        chat.enter('two"""', prompt=r"^\.\.\.")
        chat.expect(r"^polly polly polly")
        chat.enter("/model crow")
        chat.expect(r"^Model: crow:1")
        chat.enter("and you")
        chat.expect(r"^caw caw caw")
        chat.enter(f"/save {saved}")
        chat.expect(r"^Saved 6 messages")
        chat.enter("/clear")
        chat.expect(r"forgotten")
        chat.enter("/dance")
        chat.expect(r"There is no /dance")
        chat.enter("/model nosuchmodel")
        chat.expect(r"error: no model is called 'nosuchmodel'")
        chat.enter("/help")
        chat.expect(r"^/clear +forget the conversation")
        chat.enter("/?")
        chat.expect(r"^/exit ")
        chat.enter("/exit")
        assert chat.ended() == 0
        assert "Traceback" not in chat.text
    talk = json.loads(saved.read_text())
    assert talk["model"] == "crow:1"
    assert talk["system"] == "be brief"
    assert [m["content"].strip() for m in talk["messages"]] == [
        "hello there", "polly polly polly", "one\ntwo", "polly polly polly", "and you", "caw caw caw",
    ]  # fmt: skip
    assert [m["id"] for m in foundry.ok("service", "ps", "--json").json["models"]] == ["crow:1"]


def test_ctrl_c_ends_the_answer_and_not_the_chat(foundry: Foundry, fake_model: Callable[..., str]) -> None:
    fake_model("slow", answer="tick", tokens_per_second=25)
    with Terminal("model", "chat", "slow", "--max-tokens", "5000") as chat:
        chat.enter("tell me everything")
        chat.expect(r"tick tick tick")
        assert counters(foundry)["running"] == 1
        chat.type("\x03")
        chat.expect(r"\[stopped\]")
        chat.expect(PROMPT)
        wait_until(lambda: counters(foundry)["running"] == 0, 5, "the worker went on after Ctrl-C")
        assert counters(foundry)["generated"] < 500
        chat.type("half a line")
        chat.expect("half a line")
        chat.type("\x03")
        chat.enter("/stats")
        chat.expect(r"in all")
        chat.expect(PROMPT)
        chat.type("\x04")
        assert chat.ended() == 0
        assert "Traceback" not in chat.text


def test_an_answer_that_breaks_off_leaves_the_chat_going(foundry: Foundry, fake_model: Callable[..., str]) -> None:
    fake_model("frail", crash_at=2)
    with Terminal("model", "run", "frail") as chat:
        chat.enter("hello")
        chat.expect(r"error: ")
        chat.expect(PROMPT)
        chat.type("\x04")
        assert chat.ended() == 0
        assert "Traceback" not in chat.text


def test_ctrl_c_during_a_single_answer_ends_with_130(foundry: Foundry, fake_model: Callable[..., str]) -> None:
    fake_model("slow", answer="tick", tokens_per_second=25)
    with Terminal("model", "run", "slow", "--prompt", "go on", "--max-tokens", "5000") as run:
        run.expect(r"tick tick")
        run.type("\x03")
        assert run.ended() == 130
        assert "Traceback" not in run.text
    wait_until(lambda: counters(foundry)["running"] == 0, 5, "the worker went on after Ctrl-C")


def test_what_is_piped_in_is_one_prompt_and_only_the_answer_comes_out(
    foundry: Foundry, fake_model: Callable[..., str]
) -> None:
    fake_model("parrot", answer="polly")
    piped = foundry.ok("model", "run", "parrot", "--max-tokens", "3", stdin="say\nsomething\n/exit\n")
    assert piped.out.split() == ["polly"] * 3
    assert "loaded successfully" in piped.err
    asked = foundry.ok("run", "parrot", "--max-tokens", "2", "-p", "say something")
    assert asked.out.split() == ["polly"] * 2
    assert "\x1b" not in asked.out + asked.err
    nothing = foundry.ok("model", "run", "parrot", stdin="\n")
    assert nothing.out == ""


def test_an_answer_as_json(foundry: Foundry, fake_model: Callable[..., str]) -> None:
    fake_model("parrot", answer="polly")
    answer = foundry.ok("run", "parrot", "--max-tokens", "2", "-p", "one two three", "-o", "json").json
    assert answer["model"] == "parrot:1"
    assert answer["content"].split() == ["polly"] * 2
    counts = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    assert answer["usage"] == counts | {"prompt_tokens_details": {"cached_tokens": 0}}
    assert 0 < answer["ttftSeconds"] <= answer["totalSeconds"]


@pytest.mark.parametrize("variable", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colour_needs_a_terminal_that_wants_it(
    foundry: Foundry, fake_model: Callable[..., str], variable: dict[str, str]
) -> None:
    fake_model("parrot", answer="polly")
    with Terminal("model", "run", "parrot", "--verbose", "-p", "hi", "--max-tokens", "2", env=variable) as run:
        run.expect(r"polly polly")
        run.expect(r"first token")
        assert run.ended() == 0
        assert ("\x1b[" in run.raw) == (not variable)
