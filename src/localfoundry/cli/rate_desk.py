"""Where a person votes: two answers without names, one key for each criterion. Lines on a pipe do the same as keys.

Every vote is in the results before the next question is asked, so leaving at any moment, also by Ctrl-C, loses nothing.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence

from localfoundry.cli import output
from localfoundry.cli.keys import keys
from localfoundry.cli.plain import plain
from localfoundry.quality.blind import blind
from localfoundry.quality.ratings import QUESTIONS, TIE, Answer, Pairing, vote
from localfoundry.results.db import Results, now
from localfoundry.units import format_duration

_KEYS = "1 first, 2 second, = tie, s skip, u undo, q quit"
_SIDE_BY_SIDE = 120  # characters of a terminal, from which two columns are easy to read
_GAP = 4

Step = tuple[Pairing, str]


class Desk:
    """One sitting of one rater."""

    def __init__(
        self, results: Results, run: str, rater: str, names: Sequence[str],
        answers: Callable[[Pairing], tuple[Answer, Answer]],
        say: Callable[..., None] = output.data,
    ) -> None:  # fmt: skip
        """`names` are taken out of what is shown; `answers` gives the two of a pairing in the order to show them."""
        self._say = say
        self._results = results
        self._run = run
        self._rater = rater
        self._names = names
        self._answers = answers
        self._read: Callable[[], str] = lambda: "q"
        self._given: dict[int, int] = {}  # vote ids by the place of the step they decided

    def sit(self, steps: Sequence[Step]) -> int:
        """Go through `steps` until they or the rater's patience end; the number of votes that were given."""
        with keys() as read:
            self._read = read
            self._go_through(steps)
        return len(self._given)

    def _go_through(self, steps: Sequence[Step]) -> None:
        place, shown = 0, None
        while place < len(steps):
            pairing, criterion = steps[place]
            if pairing is not shown:
                self._show(pairing, place, len(steps))
                shown = pairing
            key = self._asked(pairing, criterion)
            if key == "q":
                break
            if key == "u":
                place = self._undo(place)
            elif key == "s":
                place += 1
            else:
                choice = {"1": pairing.first, "2": pairing.second}.get(key, TIE)
                row = vote(self._run, pairing, self._rater, criterion, choice, now())
                self._given[place] = self._results.add_vote(row)
                place += 1

    def _undo(self, place: int) -> int:
        """Back to the last step that was voted on in this sitting; its vote is gone."""
        before = [earlier for earlier in self._given if earlier < place]
        if not before:
            output.note("There is no vote of this sitting to undo.")
            return place
        last = max(before)
        self._results.remove_vote(self._given.pop(last))
        return last

    def _show(self, pairing: Pairing, place: int, total: int) -> None:
        first, second = (plain(blind(answer.answer, self._names)).strip() for answer in self._answers(pairing))
        self._say()
        self._say(f"[{place + 1}/{total}] {plain(pairing.question.prompt)}")
        for line in laid_out(first, second, _room()):
            self._say(line)

    def _asked(self, pairing: Pairing, criterion: str) -> str:
        if criterion == "speed":
            for number, answer in enumerate(self._answers(pairing), 1):
                self._say(f"{number}: {_times(answer)}")
        self._say(f"{criterion}: {QUESTIONS[criterion]}  ({_KEYS}) ", end="")
        while True:
            key = self._read()
            if key in ("1", "2", "=", "s", "u", "q"):
                self._say(key if output.interactive() else "")
                return key
            output.note(f"{plain(key)[:20]!r} is none of the keys: {_KEYS}")


def laid_out(first: str, second: str, room: int | None) -> list[str]:
    """Two answers as lines: side by side in `room` characters where they are enough, else one above the other."""
    if room is None or room < _SIDE_BY_SIDE:
        return ["", "--- Answer 1 ---", first, "", "--- Answer 2 ---", second, ""]
    width = (room - _GAP) // 2
    columns = [[f"Answer {number}", "", *_wrapped(text, width)] for number, text in enumerate((first, second), 1)]
    height = max(map(len, columns))
    left, right = (column + [""] * (height - len(column)) for column in columns)
    return ["", *(f"{a}{' ' * (width - _cells(a) + _GAP)}{b}".rstrip() for a, b in zip(left, right, strict=True)), ""]


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of at most `width` cells: characters that take two cells count as two."""
    lines: list[str] = []
    for line in text.expandtabs(4).splitlines():
        for part in textwrap.wrap(line, width, drop_whitespace=False) or [""]:
            while _cells(part) > width:
                end = next(end for end in range(len(part), 0, -1) if _cells(part[:end]) <= width)
                lines.append(part[:end])
                part = part[end:]
            lines.append(part)
    return lines


def _cells(text: str) -> int:
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _room() -> int | None:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _times(answer: Answer) -> str:
    first = "first word unknown" if answer.ttft_s is None else f"first word after {format_duration(answer.ttft_s)}"
    whole = "" if answer.seconds is None else f", all of it after {format_duration(answer.seconds)}"
    return first + whole
