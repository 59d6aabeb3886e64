"""`foundry eval` from the command line, over the real service with fake models, and with the starter model."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness import Foundry, wait_until
from localfoundry import config
from localfoundry.bench import energy
from localfoundry.cli import eval_run, main
from localfoundry.instance import ServiceState
from localfoundry.results import evidence
from localfoundry.results.db import FILE_NAME, Results

ITEMS = 12


def suite_of(folder: Path, max_tokens: int = 1) -> str:
    """The last word of each prompt is the right answer, so a model that echoes solves all of it."""
    items = "".join(
        f"  - {{id: i{n}, prompt: say {n}, max_tokens: {max_tokens}, checks: [{{contains: '{n}'}}], "
        f"answer: '{n}', wrong: [x]}}\n"
        for n in range(ITEMS)
    )
    file = folder / "mine.yaml"
    file.write_text(f"suite: mine\nlanguage: en\nitems:\n{items}")
    return str(file)


def results_of(home: Path) -> list[dict[str, Any]]:
    """Items of the newest run of this home, as far as they are written."""
    if not (home / "foundry" / FILE_NAME).exists():
        return []
    with Results(home / "foundry" / FILE_NAME) as results:
        runs = results.runs("eval")
        return [json.loads(row.raw) for row in results.items(runs[-1].id)] if runs else []


def test_models_are_compared_and_every_answer_is_kept(
    foundry: Foundry, fake_model: Callable[..., str], isolated: Path
) -> None:
    right, wrong = fake_model("right", echo=True), fake_model("wrong", answer="0")
    done = foundry.ok("eval", right, wrong, "--suite", suite_of(isolated))
    rows = [line.split() for line in done.out.splitlines() if line.startswith("mine  ")]
    assert [(row[2], row[3], row[4]) for row in rows] == [(right, "12/12", "100%"), (wrong, "1/12", "8%")]
    assert f"mine (en): {right} solves more than {wrong}, by 92%" in done.out
    assert "unavailable" in rows[0]
    assert len(results_of(isolated)) == 2 * ITEMS


def test_twins_show_no_difference_and_json_holds_everything(
    foundry: Foundry, fake_model: Callable[..., str], isolated: Path
) -> None:
    a, b = fake_model("a", echo=True), fake_model("b", echo=True)
    file = suite_of(isolated)
    document = foundry.ok("eval", a, b, "--suite", file, "--items", "4", "--json").json
    assert [(score["model"], score["passed"], score["n"]) for score in document["scores"]] == [(a, 4, 4), (b, 4, 4)]
    assert [pair["shown"] for pair in document["differences"]] == [False]
    assert len(document["results"]) == 8
    assert [row["engine"] for row in document["candidates"]] == ["fake", "fake"]
    assert document["run"]["machine"]["memory_bytes"] > 0
    assert not document["interrupted"]


TWOFOLD: dict[str, Any] = {"architecture": "twofold", "on": {"fake": {"answer": "0"}, "fake2": {"echo": True}}}


def test_each_engine_s_answers_are_asked_for_kept_and_weighed_apart(
    foundry: Foundry, fake_model: Callable[..., str], isolated: Path
) -> None:
    model = fake_model("both", **TWOFOLD)
    file = suite_of(isolated)
    document = foundry.ok("eval", model, f"{model}@engine=fake2", "--suite", file, "--json").json
    assert {row["label"]: row["engine"] for row in document["candidates"]} == {
        model: "fake",
        f"{model}@engine=fake2": "fake2",
    }
    assert [score["passed"] for score in document["scores"]] == [1, ITEMS]
    asked = foundry.ok("eval", model, "--engine", "fake2", "--suite", file, "--items", "2", "--json").json
    assert [(row["label"], row["engine"]) for row in asked["candidates"]] == [(f"{model}@engine=fake2", "fake2")]
    known = evidence.known(isolated / "foundry").of(model_id=f"{model}:1")
    assert sorted((a.engine, a.share.count, a.share.n) for a in known.accuracy) == [("fake", 1, 12), ("fake2", 12, 12)]
    assert foundry("eval", model, "--engine", "fake3", "--suite", file).code == 2
    twice = foundry("eval", f"{model}@engine=fake2", model, "--engine", "fake2", "--suite", file)
    assert twice.code == 2 and "the same candidate" in twice.err


def test_a_run_is_not_continued_by_another_engine(
    foundry: Foundry, fake_model: Callable[..., str], isolated: Path
) -> None:
    model = fake_model("both", **TWOFOLD)
    line = ("eval", model, "--suite", suite_of(isolated))
    foundry.ok(*line)
    with closing(sqlite3.connect(isolated / "foundry" / FILE_NAME)) as results, results:
        results.execute("DELETE FROM item WHERE item = 'i3'")
    foundry.ok("config", "set", f"models.{model}.engine", "fake2")
    foundry.ok("model", "unload", model)
    refused = foundry(*line, "--resume")
    assert refused.code == 2
    assert "both was run by fake when the run to resume was asked, and is run by fake2 now" in refused.err
    assert len(results_of(isolated)) == ITEMS - 1
    foundry.ok("config", "set", f"models.{model}.engine", "fake")
    foundry.ok("model", "unload", model)
    foundry.ok(*line, "--resume")
    assert len(results_of(isolated)) == ITEMS


class Steps:
    """10 J more at each reading."""

    name = "RAPL"
    readings = 0

    def joules(self) -> float:
        self.readings += 1
        return 10.0 * self.readings


@pytest.mark.usefixtures("service")
def test_energy_is_read_around_each_item_and_told_per_solved_task(
    fake_model: Callable[..., str], isolated: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(energy, "IDLE_S", 0)
    monkeypatch.setattr(eval_run, "open_meter", lambda clock: energy.Meter([Steps()], lambda: 0.0))
    model = fake_model("right", echo=True)
    assert main.run(["eval", model, "--suite", suite_of(isolated), "--items", "3"]) == 0
    assert [result["energy_j"] for result in results_of(isolated)] == [10, 10, 10]
    (row,) = (line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("mine "))
    assert (row[3], row[-1]) == ("3/3", "10"), "s per solved stands before it"
    with Results(isolated / "foundry" / FILE_NAME) as results:
        assert results.runs("eval")[-1].protocol["energy"] == "RAPL"


def test_a_model_that_cannot_be_loaded_is_told_and_spares_the_others(
    foundry: Foundry, fake_model: Callable[..., str], isolated: Path
) -> None:
    good, bad = fake_model("good", echo=True), fake_model("bad", fail_load="no such tensor")
    done = foundry.ok("eval", good, bad, "--suite", suite_of(isolated))
    assert "12 without an answer" in done.out
    assert "no such tensor" in done.err
    assert [r["passed"] for r in results_of(isolated) if r["model"] == good] == [True] * ITEMS
    assert foundry("eval", bad, "--suite", suite_of(isolated)).code == 1


def test_any_endpoint_can_be_asked(foundry: Foundry, fake_model: Callable[..., str], isolated: Path,
                                   service: ServiceState) -> None:  # fmt: skip
    model = fake_model("right", echo=True)
    file = suite_of(isolated)
    there = ("--endpoint", f"{service.url}/v1", "--model", model)
    done = foundry.ok("eval", "--suite", file, *there, "--label", "there", "--items", "3")
    assert " 3/3 " in done.out and " there " in done.out
    refused = foundry("eval", "--suite", file, *there, "--api-key-env", "NO_SUCH_KEY")
    assert refused.code == 2
    assert "NO_SUCH_KEY, for the key of 127.0.0.1, is not set" in refused.err
    assert "export NO_SUCH_KEY=" in refused.err


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to one process there")
def test_ctrl_c_keeps_what_was_measured_and_resume_goes_on(
    foundry: Foundry, fake_model: Callable[..., str], isolated: Path
) -> None:
    slow = fake_model("slow", echo=True, tokens_per_second=10)
    line = ["eval", slow, "--suite", suite_of(isolated, max_tokens=3)]
    process = subprocess.Popen(
        [foundry.executable, *line], env=dict(os.environ), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_until(lambda: len(results_of(isolated)) >= 2, 60, "no items were asked")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    kept = [r["item"] for r in results_of(isolated)]
    assert process.returncode == 130
    assert 2 <= len(kept) < ITEMS
    assert f"{len(kept)}/{len(kept)}" in out
    assert "--resume goes on" in err
    foundry.ok(*line, "--resume")
    assert [r["item"] for r in results_of(isolated)] == [f"i{n}" for n in range(ITEMS)]
    other = foundry(*line, "--resume", "--seed", "7")
    assert other.code == 2
    assert "no earlier run" in other.err


def test_a_killed_run_keeps_every_item_and_goes_on(
    foundry: Foundry, fake_model: Callable[..., str], isolated: Path
) -> None:
    """The kill comes when the machine lets it; the third answer (i4) takes five minutes, and never comes before it."""
    slow = fake_model("slow", echo=True, tokens_per_second=10)
    file = Path(suite_of(isolated))
    file.write_text(file.read_text().replace("say 4, max_tokens: 1", "say 4, max_tokens: 3000"))
    line = ["eval", slow, "--suite", str(file), "--items", "6", "--timeout", "600"]
    process = subprocess.Popen([foundry.executable, *line], env=dict(os.environ), stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: len(results_of(isolated)) >= 2, 60, "no items were asked")
    finally:
        process.kill()
        process.wait()
    before = results_of(isolated)
    assert [result["item"] for result in before] == ["i0", "i2"]
    foundry.ok("model", "unload", slow, "--force")
    foundry.ok("cache", "remove", slow, "--yes")
    fake_model("slow", echo=True, tokens_per_second=100_000)
    document = foundry.ok(*line, "--resume", "--json").json
    assert document["results"][: len(before)] == before and len(document["results"]) == 6
    with Results(isolated / "foundry" / FILE_NAME) as results:
        (run,) = results.runs("eval")
    assert run.id == document["run"]["id"] and run.status == "finished"


def test_a_run_is_evidence_is_shared_and_its_answers_can_be_rated(
    foundry: Foundry, fake_model: Callable[..., str], isolated: Path
) -> None:
    """The one file of results is what evidence, sharing and rating read; a suite of one's own is no exception."""
    models = fake_model("right", echo=True), fake_model("wrong", answer="0")
    document = foundry.ok("eval", *models, "--suite", suite_of(isolated), "--items", "6", "--json").json
    row = document["candidates"][0]
    (found,) = evidence.known(config.load().home).of(file_sha256=row["file_sha256"], task="mine").accuracy
    assert (found.share.count, found.share.n, found.source) == (6, 6, "measured here")
    shared = isolated / "models.json"
    foundry.ok("results", "export", str(shared))
    (run,) = json.loads(shared.read_text())["runs"]
    assert {task["label"]: len(task["passed"]) for task in run["tasks"]} == {"right": 6, "wrong": 1}
    assert "say 1" not in shared.read_text(), "prompts and answers stay here"
    rate = ["rate", *models, "--run", document["run"]["id"], "--criteria", "accuracy", "--rater", "ann"]
    rated = foundry.ok(*rate, stdin="1\n" * 6)
    assert "6 votes by ann are kept; 0 are left" in rated.err
    assert "say 0" in rated.out


def test_a_results_file_that_is_damaged_or_closed_is_told_and_costs_no_run(
    foundry: Foundry, fake_model: Callable[..., str], isolated: Path
) -> None:
    line = ["eval", fake_model("right", echo=True), "--suite", suite_of(isolated), "--items", "3"]
    file = config.load().home / FILE_NAME
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"no database at all" * 100)
    damaged = foundry.ok(*line)
    assert "is damaged" in damaged.err and "set aside as results.db.damaged-" in damaged.err
    assert len(results_of(isolated)) == 3
    for part in file.parent.glob(f"{FILE_NAME}*"):
        part.unlink()
    file.mkdir()
    closed = foundry.ok(*line)
    assert "what is measured is not kept" in closed.err
    assert " 3/3 " in closed.out
    assert foundry(*line, "--resume").code != 0


def test_a_suite_is_checked_by_its_own_key(foundry: Foundry, isolated: Path) -> None:
    good = Path(suite_of(isolated))
    assert foundry.ok("eval", "--check", str(good)).out == "mine (en): 12 items, 0 faults\n"
    bad = isolated / "bad.yaml"
    bad.write_text(good.read_text().replace("wrong: [x]", "wrong: ['0']", 1).replace("answer: '3'", "answer: '4'"))
    done = foundry("eval", "--check", str(bad))
    assert done.code == 1
    assert "i0: wrong answer 1 passes" in done.out
    assert "i3: the reference answer fails" in done.out
    bad.write_text(good.read_text().replace("prompt: say 5", "promt: say 5"))
    refused = foundry("eval", "--check", str(bad))
    assert refused.code == 2
    assert "bad.yaml: item 6 (i5): Object contains unknown field promt" in refused.err


def test_a_pattern_that_is_none_is_found_before_any_model_is_asked(foundry: Foundry, isolated: Path) -> None:
    file = Path(suite_of(isolated))
    file.write_text(file.read_text().replace("checks: [{contains: '5'}]", "checks: [{regex: '(5'}]"))
    done = foundry("eval", "no-such-model", "--suite", str(file))
    assert done.code == 2
    assert "item i5: the pattern '(5' is not valid" in done.err


def test_packs_are_listed(foundry: Foundry) -> None:
    packs = foundry.ok("eval", "--list", "--json").json
    assert {(pack["suite"], pack["language"]) for pack in packs} >= {("chat", "da"), ("tools", "en")}
    assert all(pack["items"] >= 20 for pack in packs)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ((), "no model was named"),
        (("m", "--suite", "poetry"), "there is no pack 'poetry'"),
        (("m", "--lang", "en,xx"), "names a language that no pack has"),
        (("m", "m"), "named twice"),
        (("m", "--suite", "chat,chat"), "two suites are called chat en"),
        (("m", "--suite", "./none.yaml"), "none.yaml cannot be read"),
    ],
)
def test_what_cannot_be_asked_is_refused(foundry: Foundry, line: tuple[str, ...], words: str) -> None:
    done = foundry("eval", *line)
    assert done.code == 2
    assert words in done.err


@pytest.mark.real_model
@pytest.mark.usefixtures("starter")
def test_the_starter_model_answers_items_of_the_packs(foundry: Foundry) -> None:
    """What it solves is its own affair; that it is asked, answers and is counted is ours."""
    line = ["eval", "smollm2-135m", "--suite", "chat,recall", "--lang", "en", "--items", "1", "--json"]
    document = foundry.ok(*line, timeout=110).json
    assert [(score["suite"], score["n"]) for score in document["scores"]] == [("chat", 1), ("recall", 1)]
    for result in document["results"]:
        assert result["error"] is None
        assert result["tokens"] > 0
        assert result["answer"]
    assert 200 < document["results"][1]["prompt_tokens"] < 400, "a haystack of about 250 tokens, and the question"


def test_models_that_do_not_fit_together_follow_one_another(
    foundry: Foundry, fake_model: Callable[..., str], isolated: Path
) -> None:
    """Asked in turns they would be loaded anew for every item."""
    most = int(psutil.virtual_memory().available * 0.6)
    models = [fake_model(name, echo=True, memory_bytes=most, takes_bytes=most) for name in ("first", "second")]
    foundry.ok("eval", *models, "--suite", suite_of(isolated), "--items", "3")
    results = results_of(isolated)
    assert all(result["passed"] for result in results)
    order = [result["model"] for result in results]
    assert len(order) == 6
    assert len(set(order[:3])) == len(set(order[3:])) == 1
