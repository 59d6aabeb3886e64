"""`foundry rate`: the real command on two fake models, by lines, by keys of a terminal, and with a judge."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.terminal import Terminal
from harness import Foundry
from localfoundry import config
from localfoundry.cli import rate_desk
from localfoundry.cli.plain import plain
from localfoundry.results.db import FILE_NAME, Results
from localfoundry.results.rows import CandidateRow, ItemRow, Run, VoteRow, new_id

_AT = "2026-10-01T10:00:00.000+00:00"


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    path = tmp_path / "prompts.txt"
    path.write_text("What is rain?\nWhat is snow?\nWhat is hail?\n")
    return str(path)


@pytest.fixture
def models(fake_model: Callable[..., str]) -> tuple[str, str]:
    evil = "alpha-1 \x1b]0;owned\x07\x1b[2Jevil"
    return fake_model("alpha-1", answer=evil), fake_model("bravo-2", answer="good")


@pytest.fixture
def answered() -> tuple[str, str, str]:
    """A run that kept answers of two models to eight prompts; its id and their names. No service is needed."""
    name, labels = new_id(), ("alpha-1", "bravo-2")
    with Results(config.load().home / FILE_NAME) as results:
        results.begin(Run(name, "eval", _AT), [CandidateRow(name, label, label) for label in labels])
        for item in range(8):
            for label, word in zip(labels, ("evil", "good"), strict=True):
                raw = f'{{"prompt": "What is {item}?", "answer": "{word} answer", "seconds": 2, "ttft_s": 0.1}}'
                results.add_item(ItemRow(name, label, "own", f"i{item}", "en", None, raw))
        results.finish(name)
    return name, *labels


def _votes() -> list[VoteRow]:
    with Results(config.load().home / FILE_NAME) as results:
        return results.votes()


def _prefer(shown: str, word: str) -> list[str]:
    """The keys that vote for the answer that holds `word` in each pair of a transcript."""
    pairs = re.findall(r"--- Answer 1 ---\n(.*?)\n\n--- Answer 2 ---\n", shown, re.DOTALL)
    return ["1" if word in first else "2" for first in pairs]


def test_two_models_are_asked_rated_blind_and_the_votes_are_kept(
    foundry: Foundry, models: tuple[str, str], prompts: str
) -> None:
    line = ["rate", *models, "--prompts", prompts, "--criteria", "accuracy", "--rater", "ann", "--max-tokens", "8"]
    peek = foundry.ok(*line, stdin="q\n", timeout=90)
    assert peek.out.count("--- Answer 1 ---") == 1
    assert _votes() == []
    rated = foundry.ok(*line, stdin="1\n=\n2\n")
    assert [v.choice == "tie" for v in _votes()] == [False, True, False]
    assert "3 votes by ann are kept; 0 are left" in rated.err
    before_results = rated.out.partition("accuracy: 3 votes")[0]
    assert not re.search("alpha|bravo", before_results), "a name was shown while votes were given"
    assert "\x1b" not in rated.out and "\x07" not in rated.out
    assert "evil" in rated.out
    assert "ann has voted on every pair" in foundry.ok(*line, stdin="").err


def test_a_rater_who_quits_goes_on_later_where_it_ended(foundry: Foundry, answered: tuple[str, str, str]) -> None:
    run, a, b = answered
    line = ["rate", a, b, "--run", run, "--rater", "ann", "--criteria", "clarity"]
    first = foundry.ok(*line, stdin="1\n1\n1\nq\n")
    assert "3 votes by ann are kept; 5 are left" in first.err
    second = foundry.ok(*line, stdin="1\n" * 5)
    assert "5 votes by ann are kept; 0 are left" in second.err
    shown = re.findall(r"What is \d\?", first.out.rpartition("[4/")[0] + second.out)
    assert len(shown) == len(set(shown)) == 8


def test_undo_takes_the_last_vote_back_and_skip_leaves_one_open(
    foundry: Foundry, answered: tuple[str, str, str]
) -> None:
    run, a, b = answered
    line = ["rate", a, b, "--run", run, "--rater", "ann", "--criteria", "clarity"]
    done = foundry.ok(*line, stdin="u\n1\ns\nu\n2\nx\nq\n")
    (only,) = _votes()
    assert only.choice != only.shown_first, "the second answer, as voted after the undo"
    assert "no vote of this sitting to undo" in done.err
    assert "'x' is none of the keys" in done.err
    assert "1 votes by ann are kept; 7 are left" in done.err


def test_with_json_standard_output_is_the_document_alone(foundry: Foundry, answered: tuple[str, str, str]) -> None:
    run, a, b = answered
    done = foundry.ok("rate", a, b, "--run", run, "--criteria", "clarity", "--json", stdin="=\nq\n")
    assert done.json["people"][0]["ranking"]["ties"] == 1
    assert "--- Answer 1 ---" in done.err


def test_the_better_model_wins_by_the_words_and_not_by_its_place(
    foundry: Foundry, answered: tuple[str, str, str]
) -> None:
    run, a, b = answered
    line = ["rate", a, b, "--run", run, "--criteria", "accuracy"]
    for rater in ("ann", "bob"):
        seen = foundry.ok(*line, "--rater", rater, stdin="s\n" * 8)
        foundry.ok(*line, "--rater", rater, stdin="\n".join(_prefer(seen.out, "good")) + "\n")
    told = foundry.ok("rate", a, b, "--results")
    assert "winner: bravo-2" in told.out
    assert "always chose the same" in told.out
    (verdict,) = foundry.ok("rate", "--results", "--json").json["people"]
    assert verdict["ranking"]["winner"] == b
    assert verdict["raters"] == ["ann", "bob"]
    assert verdict["shown_first"]["count"] == 8, "each stood first half of the time"


def test_there_is_no_winner_on_few_votes_and_it_says_how_many_more(
    foundry: Foundry, answered: tuple[str, str, str]
) -> None:
    run, a, b = answered
    line = ["rate", a, b, "--run", run, "--rater", "ann", "--criteria", "accuracy"]
    seen = foundry.ok(*line, stdin="s\n" * 8)
    keys = _prefer(seen.out, "good")[:4]
    told = foundry.ok(*line, stdin="\n".join(keys) + "\nq\n").out
    assert re.search(r"no winner yet: about \d+ more votes between bravo-2 and alpha-1", told)


def test_the_times_are_shown_without_names_and_after_the_other_votes(
    foundry: Foundry, answered: tuple[str, str, str]
) -> None:
    run, a, b = answered
    told = foundry.ok("rate", a, b, "--run", run, "--criteria", "speed,clarity", stdin="=\n=\nq\n").out
    shown = told.partition("clarity: 1 votes")[0]
    assert shown.index("clarity:") < shown.index("1: first word after 100 ms, all of it after 2.0 s")
    assert not re.search("alpha|bravo", shown)


def test_a_judge_is_asked_in_both_orders_and_stands_apart(
    foundry: Foundry, fake_model: Callable[..., str], answered: tuple[str, str, str]
) -> None:
    run, a, b = answered
    judge = fake_model("judge", answer="VERDICT: 1", tokens_per_second=50_000)
    line = ["rate", a, b, "--run", run, "--judge", judge, "--criteria", "clarity,speed", "--json"]
    found = foundry.ok(*line, timeout=90).json
    assert found["people"] == []
    (verdict,) = found["judges"]
    assert verdict["criterion"] == "clarity", "speed is not a judge's"
    assert (verdict["itself"]["share"]["count"], verdict["itself"]["share"]["n"]) == (8, 8)
    assert verdict["ranking"]["winner"] is None
    assert len(_votes()) == 16
    foundry.ok(*line)
    assert len(_votes()) == 16, "asked again although every verdict is there"


def test_a_judge_without_a_verdict_is_counted_and_votes_nothing(
    foundry: Foundry, fake_model: Callable[..., str], answered: tuple[str, str, str]
) -> None:
    run, a, b = answered
    mute = fake_model("mute", answer="hm", tokens_per_second=50_000)
    told = foundry.ok("rate", a, b, "--run", run, "--judge", mute, "--criteria", "clarity", timeout=90)
    assert "16 times mute gave no verdict" in told.err
    assert _votes() == []


def test_a_judge_behind_a_dead_address_is_an_error_and_its_key_is_told_nowhere(
    foundry: Foundry, answered: tuple[str, str, str]
) -> None:
    run, a, b = answered
    line = ["rate", a, b, "--run", run, "--judge", "gpt", "--judge-endpoint", "http://127.0.0.1:9/v1"]
    assert (
        "the environment variable JUDGE_KEY, for the key of 127.0.0.1, is not set"
        in foundry(*line, "--judge-key-env", "JUDGE_KEY").err
    )
    failed = foundry(*line, "--judge-key-env", "JUDGE_KEY", env={"JUDGE_KEY": "sk-topsecret"})
    assert failed.code == 5
    assert "the judge gpt cannot be asked" in failed.err
    assert "topsecret" not in failed.err + failed.out


def test_a_model_that_fails_is_left_out_and_the_others_are_rated(
    foundry: Foundry, fake_model: Callable[..., str], models: tuple[str, str], prompts: str
) -> None:
    broken = fake_model("broken-3", fail_load="no such tensor")
    line = ["rate", *models, broken, "--prompts", prompts, "--criteria", "clarity", "--max-tokens", "4"]
    told = foundry.ok(*line, stdin="=\n=\n=\n", timeout=90)
    assert "6 of 9 pairs are left out: an answer failed" in told.err
    assert {(v.a, v.b) for v in _votes()} == {models}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["one"], "at least 2"),
        (["a", "a"], "at least 2"),
        (["a", "b", "--criteria", "charm"], "'charm' is no criterion"),
        (["a", "b", "--criteria", ","], "no criterion is given"),
        (["a", "b", "--suite", "nope"], "no suite is called 'nope'"),
        (["a", "b", "--rater", "judge:x"], "cannot name a rater"),
        (["a", "b", "--run", "nope"], "no run is called"),
    ],
)
def test_what_cannot_be_rated_is_refused_in_words(foundry: Foundry, arguments: list[str], words: str) -> None:
    refused = foundry("rate", *arguments)
    assert refused.code == 2
    assert words in refused.err


def test_keys_of_a_terminal_need_no_enter_and_none_is_lost(answered: tuple[str, str, str]) -> None:
    """Keys typed ahead were thrown away each time that the terminal was switched. Ctrl-C keeps the votes."""
    run, a, b = answered
    with Terminal("rate", a, b, "--run", run, "--rater", "ann", "--criteria", "clarity", columns=140) as terminal:
        terminal.expect(r"Answer 1 +Answer 2")
        terminal.expect("q quit")
        terminal.type("111")
        terminal.expect(r"\[4/8\]")
        terminal.expect("q quit")
        terminal.type("\x1b[A")
        terminal.type("1")
        terminal.expect(r"\[5/8\]")
        terminal.expect("q quit")
        terminal.type("\x03")
        assert terminal.process.wait(10) == 130
    assert len(_votes()) == 4


# What is shown


def test_nothing_of_an_answer_reaches_the_terminal_as_a_command() -> None:
    hostile = "a\x1b[31mred\x1b]0;title\x07b\x1bPq\x1b\\c\x9b31md\x00\x7f\u202eevil\u2066\r\ne\rf\ud800\U000e0041"
    shown = plain(hostile)
    assert all(one.isprintable() or one == "\n" for one in shown)
    assert "title" not in shown
    assert "evil" in shown


@given(st.text())
def test_whatever_a_model_writes_only_printable_text_is_left(text: str) -> None:
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]", plain(text))


def test_text_in_any_language_stays_as_it_is() -> None:
    text = "Blåbærgrød – naïve\tقهوة 日本語 👩‍💻\n"
    assert plain(text) == text


@given(st.text(), st.text(), st.integers(120, 200))
def test_side_by_side_no_line_is_wider_than_the_terminal(first: str, second: str, room: int) -> None:
    from rich.cells import cell_len

    for line in rate_desk.laid_out(plain(first), plain(second), room):
        assert cell_len(line) <= room


def test_side_by_side_both_answers_are_whole() -> None:
    first, second = " ".join(f"a{n}" for n in range(300)), " ".join(f"b{n}" for n in range(200))
    words = " ".join(rate_desk.laid_out(first, second, 130)).split()
    assert [w for w in words if w in set(first.split())] == first.split()
    assert [w for w in words if w in set(second.split())] == second.split()
