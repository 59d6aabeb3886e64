"""Words of models on a terminal: nothing in them is a command to it, however they are cut into pieces."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from cli.terminal import Terminal
from harness import Foundry
from localfoundry.cli.plain import PlainStream, plain

# A colour, a window's name with either end, a cursor's move, a torn one, and a control character of one byte.
SEQUENCES = [
    "\x1b[31m",
    "\x1b]0;gone\x07",
    "\x1b]8;;http://x\x1b\\",
    "\x1b[2K",
    "\x1bc",
    "\x1b(B",
    "\x1b[?25",
    "\x9b1m",
]
WORDS = st.sampled_from([*SEQUENCES, "ord", "æ", " ", "\n", "\r\n", "\r", "\t", "m", "\u202e", "👩\u200d🔬", "\x1b"])


@given(st.lists(WORDS).map("".join), st.lists(st.integers(0, 80)))
def test_pieces_come_to_the_same_as_the_whole(text: str, cuts: list[int]) -> None:
    stream = PlainStream()
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[start:end] for start, end in itertools.pairwise(places)]
    assert "".join([*map(stream.feed, pieces), stream.end()]) == plain(text)


@given(st.lists(WORDS).map("".join))
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", plain(text))


def test_what_can_be_shown_is_shown_at_once_and_what_never_ends_is_not_held_for_ever() -> None:
    stream = PlainStream()
    assert stream.feed("one \x1b[3") == "one "
    assert stream.feed("1mtwo") == "�two"
    assert stream.feed("\x1b]0;") == ""
    shown = "".join(stream.feed("x" * 100) for _ in range(20))
    assert shown.startswith("�]0;x") and shown.count("x") == 2000


def test_an_answer_is_harmless_on_a_terminal_and_whole_in_a_pipe(
    foundry: Foundry, fake_model: Callable[..., str]
) -> None:
    said = "a\x1b]0;owned\x07b\x9bc"
    line = ("model", "run", fake_model("rogue", answer=said), "--prompt", "Say it", "--max-tokens", "2")
    assert foundry.ok(*line).out.count(said) == 2
    with Terminal(*line) as terminal:
        terminal.expect("a�b�c a�b�c")
        assert terminal.ended() == 0
        assert "owned" not in terminal.raw and "\x9b" not in terminal.raw
