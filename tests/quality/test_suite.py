"""Reading suites: what is accepted, and that what is not is refused with file, item and field, at a bounded cost."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfoundry.errors import InvalidSuite
from localfoundry.quality import bounded_yaml, key, suite

GOOD = """
suite: mine
language: da
items:
  - id: one
    prompt: Svar nej.
    checks: [{exact: no}, {contains: {any: [no, off]}}]
    answer: no
    wrong: [yes]
"""
MOST_S = 20.0  # a refusal takes well under a second; the machine may be busy with something else


def refusal(text: str) -> str:
    with pytest.raises(InvalidSuite) as caught:
        suite.decode(text.encode(), "mine.yaml")
    assert caught.value.message.startswith("mine.yaml")
    return caught.value.message


def test_no_and_off_are_words() -> None:
    """In YAML 1.1 they are false, and an answer key that says `no` means something else."""
    item = suite.decode(GOOD.encode(), "mine.yaml").items[0]
    assert item.checks[0].exact == "no"
    assert item.answer == "no"
    assert key.item_faults(item) == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("exact: no", "exact: 4", "item 1 (one): checks[0].exact: Expected str | array | null, got int"),
        ("exact: no", "exakt: no", "item 1 (one): checks[0]: Object contains unknown field exakt"),
        ("exact: no", "exact: no, regex: a", "item 1 (one): checks[0] has 2 kinds"),
        ("{exact: no}", "{}", "item 1 (one): checks[0] has 0 kinds"),
        ("{any: [no, off]}", "{}", "item 1 (one): checks[1].contains asks for nothing"),
        ("prompt: Svar nej.", "about: x", "item 1 (one): Object contains unknown field about"),
        ("    prompt: Svar nej.\n", "", "item 1 (one): either `prompt` or `messages`"),
        ("Svar nej.", "Svar {haystack}", "item 1 (one): `haystack` and the mark"),
        ("prompt: Svar nej.", "prompt: x\n    tools: [hammer]", "item 1 (one): tools: the suite has no tool 'hammer'"),
        ("language: da", "language: xx", "language: Invalid enum value 'xx'"),
        ("id: one", "id: ../one", "item 1 (../one): id: Expected str matching regex"),
        ("prompt: Svar nej.", "prompt: x\n    max_tokens: 9999999", "item 1 (one): max_tokens: Expected int <= 100000"),
        ("suite: mine", "suite: mine\nsuite: yours", "line 3: the key 'suite' is there twice"),
        ("prompt: Svar nej.", "prompt: &a x", "anchors and aliases are not accepted"),
        ("prompt: Svar nej.", "prompt: !!python/object:os.system x", "tags are not accepted"),
        ("prompt: Svar nej.", "prompt: [", "line"),
    ],
)
def test_a_fault_is_named_with_item_and_field(old: str, new: str, words: str) -> None:
    assert old in GOOD
    assert words in refusal(GOOD.replace(old, new, 1))


def test_two_items_of_one_name_are_refused() -> None:
    assert "two items are called one" in refusal(GOOD + GOOD[GOOD.index("  - id") :])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x" * (bounded_yaml.MAX_BYTES + 1), "at most 512,000 are accepted"),
        ("[" * 100_000, "nested more than 24 deep"),
        ("".join(f"{' ' * depth}a:\n" for depth in range(400)), "nested more than 24 deep"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", "anchors and aliases"),
        ("- " * 200 + "a", "nested more than 24 deep"),
        ("[" + "1," * (bounded_yaml.MAX_VALUES + 5) + "]", "more than 100,000 values"),
        ("", "is empty"),
        ("a: 1\n---\nb: 2", "a second document begins"),
        ("? [a, b]\n: c", "a key is a plain word"),
        ("7", "Expected object, got int"),
        ("suite: \x00", ""),
        ("a: " + "9" * 5000, "Object contains unknown field a"),
    ],
)
def test_hostile_text_is_refused_at_a_bounded_cost(text: str, words: str) -> None:
    began = time.monotonic()
    assert words in refusal(text)
    assert time.monotonic() - began < MOST_S


@given(
    st.text(alphabet="ab:-[]{}&*!|>'\"# \n?,%@`~", max_size=60)
    | st.binary(max_size=40).map(lambda b: b.decode("latin-1"))
)
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidSuite):
        bounded_yaml.parse(text.encode(), "x.yaml")


def test_the_hash_is_of_what_is_asked_and_how_it_is_checked_and_of_nothing_else() -> None:
    def of(old: str = "", new: str = "") -> str:
        assert old in GOOD
        return suite.decode(GOOD.replace(old, new).encode(), "x").sha256

    same = [
        of("suite: mine", "# a comment\nabout: some words\nlicense: MIT\nsuite: mine"),
        of("    prompt: Svar nej.", "    level: 5\n    tags: [short]\n    prompt: 'Svar nej.'"),
        of("{exact: no}, {contains: {any: [no, off]}}", "{exact: no}, {contains: {any: [no, off], all: []}}"),
        of("answer: no", "answer: 'no.'"),
        of("    wrong: [yes]\n", ""),
    ]
    assert set(same) == {of()}
    other = [
        of("Svar nej.", "Svar nej"),
        of("exact: no", "exact: nej"),
        of("language: da", "language: en"),
        of("suite: mine", "suite: yours"),
        of("id: one", "id: two"),
        of("    prompt:", "    max_tokens: 9\n    prompt:"),
        of("items:", "tools: [{name: f, description: d, parameters: {}}]\nitems:"),
    ]
    assert len({of(), *other}) == len(other) + 1


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(InvalidSuite, match="cannot be read"):
        suite.load(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidSuite, match="is not UTF-8"):
        suite.load(tmp_path / "b.yaml")


def test_a_short_run_meets_easy_and_hard_items() -> None:
    items = suite.pack("reasoning", "en").items
    chosen = suite.spread(items, 6)
    assert len(chosen) == 6
    assert {item.level for item in chosen} >= {1, 2, 3, 4}
    assert suite.spread(items, 1000) == items


def test_a_key_that_does_not_fit_is_found() -> None:
    def faults(old: str, new: str) -> list[str]:
        return key.faults(suite.decode(GOOD.replace(old, new).encode(), "x"))

    assert "the reference answer fails" in faults("answer: no", "answer: maybe")[0]
    assert faults("wrong: [yes]", "wrong: [No.]") == ["one: wrong answer 1 passes"]
    assert "no reference answer" in faults("    answer: no\n", "")[0]
    assert "nothing shows that its checks can fail" in faults("    wrong: [yes]\n", "")[0]
    assert "is not valid" in faults("{exact: no}", "{regex: '(?=a)b'}")[0]
    assert "JSON Schema is not valid" in faults("{exact: no}", "{json_schema: {type: 7}}")[0]
    assert "JSON Schema is not valid" in faults("{exact: no}", "{json_schema: {$ref: 'http://127.0.0.1:9/x'}}")[0]
