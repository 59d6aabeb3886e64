"""What is measured and in which order: plans, their prompts, files of prompts, bounds."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import msgspec
import pytest

from localfoundry.bench.candidates import Candidate
from localfoundry.bench.plan import Condition, Plan, rounds_of
from localfoundry.bench.request import Sample
from localfoundry.bench.scenarios import SCENARIOS
from localfoundry.bench.slo import Slo, parse_slo
from localfoundry.chat.target import Target
from localfoundry.errors import InvalidRequest
from localfoundry.prompts import file
from localfoundry.prompts.file import MAX_PROMPTS

M = Candidate("m", "m")
COURSE_DA = [
    "Forklar kvantecomputing på en enkel måde.",
    "Skriv en Python-funktion til at sortere en liste.",
    "Hvad er fordele og ulemper ved fjernarbejde?",
    "Opsummer fordelene ved edge AI.",
]


def read_prompts(path: Path) -> tuple[str, ...]:
    return tuple(entry.prompt for entry in file.read(path, file.Entry))


def text(plan: Plan, condition: Condition, number: int, seq: int, twin: int = 0, candidate: Candidate = M) -> str:
    messages = plan.question(candidate, condition, number, seq, twin).body["messages"]
    assert isinstance(messages, list)
    return str(messages[0]["content"])


@pytest.mark.parametrize("name", list(SCENARIOS))
def test_every_prompt_of_a_scenario_is_led_by_another_number(name: str) -> None:
    """A prefix cache must not answer for the model, at no load and in no round; the texts behind are the same."""
    plan = Plan(scenarios=(name,), concurrency=(1, 4), rates=(2.0,), duration_s=3)
    places = [(c, number, seq) for c in plan.conditions() for number in (1, 2) for seq in range(plan.requests(c))]
    texts = [text(plan, *place) for place in places]
    assert len({one[:9] for one in texts}) == len(texts)
    assert all(one[:9].isdigit() and one[9:11] == ". " for one in texts)
    again = msgspec.convert(msgspec.to_builtins(plan), Plan)
    assert [text(again, *place) for place in places] == texts, "a plan that was kept asks the same"
    other = msgspec.structs.replace(plan, nonce="other")
    assert [text(other, *place)[11:] for place in places] == [one[11:] for one in texts]
    assert all(text(other, *place)[:9] != one[:9] for place, one in zip(places, texts, strict=True))


def test_scenarios_have_the_length_they_say() -> None:
    for scenario in SCENARIOS.values():
        if not scenario.texts and scenario.name != "code":
            words = len(text(Plan(scenarios=(scenario.name,)), Condition(scenario.name, "en"), 1, 0).split())
            assert words == pytest.approx(scenario.words, rel=0.1), scenario.name
    shorter = Candidate("m", "m", prompt_words=300)
    assert len(text(Plan(), Condition("long-prompt", "en"), 1, 0, candidate=shorter).split()) == 300


def test_the_course_asks_its_four_questions_in_both_languages() -> None:
    plan = Plan(scenarios=("course",))
    assert [c.language for c in plan.conditions()] == ["da", "en"]
    danish = plan.conditions()[0]
    assert plan.requests(danish) == 4
    assert [text(plan, danish, 1, seq)[11:] for seq in range(4)] == COURSE_DA
    assert [c.language for c in Plan(scenarios=("course", "chat"), languages=("da",)).conditions()] == ["da"]


def test_structured_output_carries_its_schema() -> None:
    body = Plan().question(M, Condition("structured", "en"), 1, 0, 0).body
    assert json.loads(json.dumps(body))["response_format"]["json_schema"]["strict"] is True


def test_a_null_takes_a_field_out() -> None:
    candidate = Candidate("m", "m", parameters={"max_tokens": None, "max_completion_tokens": 8})
    body = Plan().question(candidate, Condition("chat", "en"), 1, 0, 0).body
    assert "max_tokens" not in body
    assert body["max_completion_tokens"] == 8


def test_levels_are_stages_and_conditions_are_interleaved_inside() -> None:
    plan = Plan(scenarios=("chat", "code"), concurrency=(4, 1), rates=(1.0,), rounds=2)
    assert [[c.key for c in stage] for stage in plan.stages()] == [
        ["chat/en/c=1", "code/en/c=1"], ["chat/en/c=4", "code/en/c=4"], ["chat/en/rate=1", "code/en/rate=1"],
    ]  # fmt: skip
    order = [(number, c.scenario) for number, c in rounds_of(plan, plan.stages()[0])]
    assert order == [(0, "chat"), (0, "code"), (1, "chat"), (1, "code"), (2, "chat"), (2, "code")]


def test_arrivals_are_the_same_for_everyone_and_look_like_a_poisson_process() -> None:
    plan = Plan(rates=(5.0,), duration_s=400, nonce="a")
    condition = plan.conditions()[-1]
    arrivals = plan.arrivals(condition, 1)
    assert arrivals == msgspec.structs.replace(plan, nonce="b").arrivals(condition, 1)
    assert arrivals != plan.arrivals(condition, 2)
    assert len(arrivals) == 2000
    assert arrivals == sorted(arrivals)
    gaps = [b - a for a, b in itertools.pairwise(arrivals)]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(0.2, rel=0.02)
    # Of an exponential distribution a share of 1 - 1/e lies under the mean; of evenly spaced arrivals half would.
    assert sum(gap < mean for gap in gaps) / len(gaps) == pytest.approx(0.632, abs=0.03)


@pytest.mark.parametrize(
    "plan",
    [
        Plan(rounds=0), Plan(concurrency=(0,)), Plan(concurrency=()), Plan(rates=(1e9,)), Plan(rates=(-1.0,)),
        Plan(scenarios=("poetry",)), Plan(languages=("fr",)), Plan(scenarios=("own",)),
    ],
)  # fmt: skip
def test_a_plan_that_cannot_be_carried_out_is_refused(plan: Plan) -> None:
    with pytest.raises(InvalidRequest):
        plan.check()


def test_prompts_from_a_file(tmp_path: Path) -> None:
    lines, objects = tmp_path / "p.txt", tmp_path / "p.jsonl"
    lines.write_bytes("\ufeffForklar æbler.\n\n  Second  \r\n".encode())
    objects.write_text('{"prompt": "one\\ntwo", "tag": 1}\n{"prompt": "three"}\n')
    assert read_prompts(lines) == ("Forklar æbler.", "Second")
    assert read_prompts(objects) == ("one\ntwo", "three")
    plan = Plan(scenarios=("own",), own_prompts=read_prompts(objects))
    [condition] = plan.conditions()
    assert plan.requests(condition) == 2
    assert text(plan, condition, 1, 1).endswith(". three")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.txt", b"good\nb\xffd\n", "line 2 of p.txt is not UTF-8: invalid start byte at byte 2"),
        ("p.jsonl", b'{"prompt": "a"}\n{"text": "b"}\n', "line 2 of p.jsonl is not an object with a `prompt`"),
        ("p.jsonl", b'{"prompt": 3}\n', "line 1 of p.jsonl"),
        ("p.jsonl", b'{"prompt": " "}\n', "has 0 characters"),
        ("p.txt", b"\n\n", "holds no prompt"),
        ("p.txt", b"x" * 400_001, "has 400,001 characters; 1 to 400,000 are possible"),
        ("p.txt", b"x\n" * (MAX_PROMPTS + 1), "more than 1,000 prompts"),
        ("p.txt", b"x" * 20_000_001, "larger than 20,000,000 bytes"),
    ],
)
def test_a_file_of_prompts_that_cannot_be_used_is_refused_by_line(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidRequest) as refused:
        read_prompts(tmp_path / name)
    assert said in refused.value.message


def test_a_file_of_prompts_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read_prompts(tmp_path / "nothing.txt")


def test_bounds() -> None:
    assert parse_slo("ttft=1s, itl=100ms,latency=5s") == Slo(1.0, 0.1, 5.0)
    for wrong in ("", "ttft", "ttft=1", "ttft=1s,ttft=2s", "speed=1s", "ttft=-1s"):
        with pytest.raises(InvalidRequest, match="no bound"):
            parse_slo(wrong)


def test_what_keeps_a_bound() -> None:
    slo = Slo(ttft_s=1.0, itl_s=0.1)
    quick = Sample("m", "m", 1, 0, 2, 0.5, 0.5, 0.9, completion_tokens=5)
    one_token = Sample("m", "m", 1, 0, 2, 0.5, 0.5, 0.5, completion_tokens=1)
    slow = Sample("m", "m", 1, 0, 2, 0.5, 0.5, 1.5, completion_tokens=5)
    failed = Sample("m", "m", 1, 0, 2, error="cut")
    uncounted = Sample("m", "m", 1, 0, 2, 0.5, 0.5, 0.9)
    kept = [slo.kept_by(sample) for sample in (quick, one_token, slow, failed, uncounted)]
    assert kept == [True, True, False, False, None]
    assert slo.share_kept([quick, slow, failed, one_token]) == 0.5
    assert slo.share_kept([quick, uncounted]) is None
    assert Slo(ttft_s=1.0).share_kept([uncounted]) == 1.0
    late = msgspec.structs.replace(quick, due_s=-1.0)
    assert not slo.kept_by(late), "time counts from when the request was due"


@pytest.mark.parametrize(
    "url",
    ["localhost:8000", "ftp://x", "http://", "https://me:secret@host/v1", "https://host/v1?key=secret", "http://a:b"],
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Target(url)
    assert "secret" not in refused.value.message


def test_costs_are_tokens_times_prices() -> None:
    sample = Sample("m", "m", 1, 0, 2, prompt_tokens=1000, completion_tokens=500)
    assert Candidate("m", "m", price_in=0.15, price_out=0.6).cost(sample) == pytest.approx(0.00045)
    assert Candidate("m", "m").cost(sample) is None
    assert Candidate("m", "m", price_in=1.0).cost(Sample("m", "m", 1, 0, 2)) is None
