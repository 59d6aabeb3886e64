"""Wishes: what is typed is read or refused in clear words, and held against prospects."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advice.candidates import ROOM, made
from localfoundry.advice.misses import misses
from localfoundry.advice.wishes import Wishes, read, read_ram
from localfoundry.errors import UsageError

TASKS = ("chat", "code", "embeddings")
LICENSES = ("apache-2.0", "llama3.2")


def wishes(task: str = "chat", **more: Any) -> Wishes:
    return read(task, TASKS, LICENSES, **more)


def test_everything_at_once() -> None:
    found = wishes("Code", min_speed="10 tokens/s", max_ttft="500ms", license="Permissive", context="8k", language="DA")
    assert found == Wishes(task="code", min_speed=10, max_ttft_s=0.5, license="permissive", context=8192, language="da")
    assert found.options() == "--task code --license permissive --ctx 8192 --min-speed 10 --max-ttft 500ms --lang da"


@pytest.mark.parametrize(("text", "value"), [("2s", 2.0), ("2", 2.0), ("1.5", 1.5), ("250 ms", 0.25), ("1min", 60.0)])
def test_times_to_the_first_token(text: str, value: float) -> None:
    assert wishes(max_ttft=text).max_ttft_s == value


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("min_speed", ["0", "-5", "fast", "nan", "inf", "1e3", "10 km/h", "", "9" * 400]),
        ("max_ttft", ["0", "-1s", "soon", "nan", "2 parsecs", "", "9" * 400, "999h"]),
        ("context", ["0", "-8k", "8q", "", "1.5", "9" * 400, "99m"]),
        ("license", ["", "none-such", "permissiv", "x" * 10_000]),
        ("language", ["", "danish!", "d", "1"]),
    ],
)
def test_nonsense_is_refused_with_option_value_and_what_to_type(option: str, values: list[str]) -> None:
    for value in values:
        with pytest.raises(UsageError) as caught:
            wishes(**{option: value})
        assert len(caught.value.message) < 400, caught.value.message
        assert (caught.value.hint or "").startswith("foundry recommend --")


def test_an_unknown_task_names_those_there_are() -> None:
    with pytest.raises(UsageError, match="chat, code, embeddings"):
        wishes("poetry")


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    for option in ("min_speed", "max_ttft", "license", "context", "language"):
        try:
            wishes(**{option: text})
        except UsageError:
            continue
    with contextlib.suppress(UsageError):
        assert read_ram(text) > 0


@pytest.mark.parametrize(
    "text", ["8", "0", "-8GB", "lots", "8 elephants", "nan", "1e400GB", "9999999TB", "", "9" * 5000]
)
def test_a_memory_that_no_machine_has_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_ram(text)
    assert len(caught.value.message) < 300


def test_a_bare_number_of_memory_is_taken_for_what_it_says_and_the_unit_is_asked_for() -> None:
    with pytest.raises(UsageError, match="8 is 8 B") as caught:
        read_ram("8")
    assert caught.value.hint == "foundry recommend --ram 8GB"


@pytest.mark.parametrize(
    ("name", "passes"), [("mit", True), ("Apache-2.0", True), ("bsd-3-clause", True), ("llama3.2", False),
                         ("gemma", False), ("cc-by-nc-4.0", False), ("", False), (None, False)],
)  # fmt: skip
def test_permissive_is_a_list_and_what_is_not_known_is_not_on_it(name: str | None, passes: bool) -> None:
    found = misses(wishes(license="permissive"), made("a", license=name))
    assert (not found) == passes
    if name is None:
        assert "not known" in found[0].words


@pytest.mark.parametrize(
    ("asked", "facts", "words"),
    [
        ({"min_speed": "30"}, {}, "20 tokens/s predicted (18 to 22) (asked: at least 30 tokens/s)"),
        (
            {"min_speed": "30"},
            {"speed": None, "why_unknown": "the bandwidth"},
            "not known (asked: at least 30 tokens/s; missing: the bandwidth)",
        ),
        ({"max_ttft": "500ms"}, {}, "first token after 1.0 s predicted (900 ms to 1.1 s) (asked: at most 500 ms)"),
        ({"context": "64k"}, {}, "it was trained for 32768 tokens (asked: 65536 tokens)"),
        ({"context": "64k"}, {"trained_context": None}, "not known (asked: 65536 tokens)"),
        ({}, {"memory": 9e9}, "it needs 9.0 GB predicted (8.1 GB to 9.9 GB) with 8192 tokens (8.0 GB can be had)"),
        ({}, {"memory": None}, "not known (missing: the shape of it)"),
        ({}, {"format": "onnx"}, "no engine here runs onnx files (asked: a model that runs)"),
        ({}, {"tasks": ("code",)}, "it is for code (asked: chat)"),
    ],
)
def test_a_miss_says_what_is_there_and_what_was_asked(asked: dict[str, str], facts: dict[str, Any], words: str) -> None:
    from dataclasses import replace

    found = misses(replace(wishes(**asked), room_bytes=ROOM), made("a", **facts))
    assert [miss.words for miss in found] == [words]


def test_what_is_here_already_needs_no_room_on_the_disk() -> None:
    asked = Wishes(room_bytes=ROOM, disk_bytes=5)
    assert [miss.key for miss in misses(asked, made("a"))] == ["disk"]
    assert not misses(Wishes(room_bytes=ROOM, disk_bytes=5, here=frozenset({"a:1"})), made("a"))


def test_a_model_that_only_reads_is_held_to_the_speed_of_reading() -> None:
    asked = wishes("embeddings", min_speed="100")
    assert not misses(asked, made("a", tasks=("embeddings",), decode=None))
