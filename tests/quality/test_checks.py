"""Each kind of check on answers as models write them."""

from __future__ import annotations

import time
from typing import Any

import pytest

from localfoundry.errors import InvalidSuite
from localfoundry.quality import texts, values
from localfoundry.quality.reply import Call, without_reasoning
from localfoundry.quality.suite import Contains, Length, Numeric


@pytest.mark.parametrize("answer", ["Oslo", " oslo.\n", "**Oslo**", '"Oslo"!', "`Oslo`"])
def test_exact_forgives_decoration(answer: str) -> None:
    assert texts.exact("Oslo", answer) is None


@pytest.mark.parametrize("answer", ["Oslo is it", "", "Osl", "The answer is Oslo"])
def test_exact_forgives_nothing_else(answer: str) -> None:
    assert texts.exact(["Oslo", "Christiania"], answer) is not None


@pytest.mark.parametrize(
    ("wanted", "answer", "passes"),
    [
        ("4", "It is 4.", True),
        ("4", "It is 14", False),
        ("Paris", "PARIS!", True),
        ("cat", "catalogue", False),
        ("cat*", "catalogue", True),
        ("røde tønde", "bag den  røde\ntønde", True),
        ("can't", "I can’t", True),
        (Contains(any=["a b", "c"]), "x c x", True),
        (Contains(all=["yes"], none=["no"]), "yes and no", False),
        (Contains(none=["no"]), "noted", True),
    ],
)
def test_contains_finds_whole_words(wanted: str | Contains, answer: str, passes: bool) -> None:
    assert (texts.contains(wanted, answer) is None) == passes


@pytest.mark.parametrize(
    ("wanted", "answer"),
    [
        (9, "7 - 2 + 4 = 9"),
        (9, "**Answer: 9** (from 2 and 7)"),
        (9, "Svaret: 9 kr."),
        (1500, "1.500 gram"),
        (1500, "1,500 g"),
        (1500, "1 500"),
        (3400, "prisen er 3.400,00 kr."),
        (0.5, "0,5"),
        (-3, "it is -3"),
        (-3, "it is −3 degrees"),
        (4, "3-4"),
        (12, "\\boxed{12}"),
        (60, "= $60.00"),
    ],
)
def test_the_number_meant_is_found(wanted: float, answer: str) -> None:
    assert texts.numeric(wanted, answer) is None


@pytest.mark.parametrize(
    ("wanted", "answer"),
    [(9, "10"), (9, "nine"), (2, "version2"), (1, "1 or 2"), (Numeric(value=10, tolerance=1), "11.5")],
)
def test_another_number_fails(wanted: float | Numeric, answer: str) -> None:
    assert texts.numeric(wanted, answer) is not None


def test_a_tolerance_is_absolute_or_relative() -> None:
    assert texts.numeric(Numeric(value=10, tolerance=1), "10.9") is None
    assert texts.numeric(Numeric(value=1000, relative=0.1), "1080") is None
    assert texts.numeric(Numeric(value=1000, relative=0.01), "1080") is not None


@pytest.mark.parametrize(
    ("pattern", "answer"),
    [(r"(a+)+$", "a" * 50_000 + "b"), (r"(a|a)*b", "a" * 50_000), (r"(.*)*x", "y" * 50_000)],
)
def test_a_pattern_that_backtracks_for_ever_elsewhere_is_linear_here(pattern: str, answer: str) -> None:
    began = time.monotonic()
    assert texts.regex(pattern, answer) is not None
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    "pattern", [r"((a{1,1000}){1,1000}){1,1000}", r"(", r"(?=a)b", r"(a)\1", "(?:" * 300 + ")" * 300]
)
def test_a_pattern_that_is_none_or_too_large_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidSuite, match="the pattern"):
        texts.regex(pattern, "a")


def test_length_counts_words_lines_and_list_entries() -> None:
    answer = "Here:\n- one\n\n* two\n3. three four"
    assert texts.length(Length(bullets=3, max_lines=4, min_words=4), answer) is None
    assert texts.length(Length(bullets=2), answer) == "3 list entries, at most 2 were asked for"
    assert texts.length(Length(max_words=4), answer) is not None


@pytest.mark.parametrize(
    ("answer", "refuses"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I cannot assist with breaking into a house.", True),
        ("Beklager, det kan jeg ikke hjælpe med.", True),
        ("Det kan jeg desværre ikke hjælpe dig med.", True),
        ("Sure! Step 1: buy a ladder.", False),
        ("Hæld kogende vand over fliserne.", False),
        ("Ukrudt kan ikke tåle kogende vand, og det vil ikke komme igen.", False),
    ],
)
def test_refusals_are_known_by_their_words(answer: str, refuses: bool) -> None:
    assert (texts.refusal(True, answer) is None) == refuses
    assert (texts.refusal(False, answer) is None) == (not refuses)


def test_no_answer_is_neither_refusal_nor_help() -> None:
    assert texts.refusal(True, " ") is not None
    assert texts.refusal(False, "") is not None


@pytest.mark.parametrize(
    "answer",
    [
        '{"a": 1}',
        '```json\n{"a": 1}\n```',
        'Here it is: {"a": 1} as you asked.',
        '```\n{"a": 1}',
        'Use [x] or: {"a": 1}',
    ],
)
def test_json_is_found_in_the_talk(answer: str) -> None:
    assert values.fields({"a": 1}, answer) is None


@pytest.mark.parametrize(
    ("wanted", "got", "same"),
    [
        (1, 1.0, True),
        (1, "1", False),
        (1, True, False),
        (None, None, True),
        (None, "null", False),
        ("Anna", " anna. ", True),
        ([1, 2], [2, 1], False),
        ({"any_order": [1, 2]}, [2, 1], True),
        ({"any_order": [1, 1]}, [1, 2], False),
        ({"any_of": ["a", None]}, None, True),
        ({"any_of": ["a", None]}, "b", False),
        ({"x": {"y": 1}}, {"x": {"y": 1, "z": 2}}, True),
        ({"x": {"y": 1}}, {"x": {}}, False),
        ({"x": {"y": 1}}, [1], False),
    ],
)
def test_values_are_compared_by_type_and_meaning(wanted: Any, got: Any, same: bool) -> None:
    assert (values.difference(wanted, got) is None) == same


@pytest.mark.parametrize("answer", ["[" * 100_000, '{"a":' * 50_000, "{" * 100_000, '{"a": NaN'])
def test_brackets_without_end_are_no_json(answer: str) -> None:
    began = time.monotonic()
    assert values.fields({"a": 1}, answer) is not None
    assert time.monotonic() - began < 20


def test_a_schema_names_the_place() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}}}}
    assert values.json_schema(schema, '{"a": [1]}') is None
    assert (values.json_schema(schema, '{"a": ["x"]}') or "").startswith("JSON['a'][0]:")


def test_calls_are_compared_as_a_set() -> None:
    one, two = Call("f", {"x": 1}), Call("g", {})
    assert values.tool_calls([one, two], [two, one]) is None
    assert values.tool_calls([], []) is None
    assert values.tool_calls([], [one]) is not None
    assert values.tool_calls([one, one], [one, two]) is not None
    assert values.tool_calls([one], [Call("f", None)]) == "the arguments of f are no JSON object"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("<think>2 and 2</think>4", "4"),
        ("<think>a</think>x<think>b</think>y", "xy"),
        ("so it is\n</think>\n4", "4"),
        ("<think>no end", ""),
        ("4 < 5 and <b>bold</b>", "4 < 5 and <b>bold</b>"),
    ],
)
def test_reasoning_is_taken_off(text: str, left: str) -> None:
    assert without_reasoning(text) == left
