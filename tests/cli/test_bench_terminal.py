"""`foundry bench` on a real terminal: one line that says how far it is and how long it will take, and Ctrl-C."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

import pytest

if sys.platform == "win32":
    pytest.skip("there are no pseudo-terminals", allow_module_level=True)

from cli.terminal import Terminal
from harness import Foundry
from localfoundry import config
from localfoundry.results.db import FILE_NAME, Results

ROUNDS, TOKENS, CLOCK = 40, 20, 50.0  # an answer takes 0.4 s by the fake engine's clock
LINE = r"(\d{1,2})/41, about (?:(\d+) min )?([\d.]+) s left  m: chat c=1, round \d+ of 40"


def left(found: re.Match[str]) -> float:
    return 60 * float(found[2] or 0) + float(found[3])


@pytest.mark.usefixtures("foundry")
def test_the_line_of_progress_moves_with_the_time_that_is_left_and_ctrl_c_keeps_what_was_measured(
    fake_model: Callable[..., str],
) -> None:
    fake_model("m", tokens_per_second=CLOCK)
    with Terminal("bench", "m", "--rounds", str(ROUNDS), "--max-tokens", str(TOKENS), columns=120) as screen:
        screen.expect(r"0/41  m: chat c=1, warm-up")
        first = last = screen.expect(LINE)
        seen = [int(first[1])]
        while left(last) >= left(first) or len(seen) < 4:
            last = screen.expect(LINE)
            seen.append(int(last[1]))
            # Never less than the clock needs for what is left: an estimate, and one of this measurement.
            assert left(last) >= 0.9 * (41 - seen[-1]) * (TOKENS - 1) / CLOCK
        assert seen == list(range(seen[0], seen[0] + len(seen))), "it is told after every answer"
        assert screen.interrupted() == 130
        assert "\n" not in screen.text[screen.text.index("0/41") : last.start()], "it is one line, written over"
        assert screen.raw.count("\r\x1b[K") == 1, "and taken away at the end"
        assert "to go on: foundry bench run --resume" in screen.text
        assert "Model Comparison Results:" in screen.text
    with Results(config.load().home / FILE_NAME) as results:
        [run] = results.runs("bench")
        assert run.status == "interrupted"
        kept = results.samples(run.id)
    assert len(kept) >= seen[-1] - 1, "the warm-up is thrown away, every other answer is kept"
    assert [sample.round for sample in kept] == list(range(1, len(kept) + 1))


def test_without_a_terminal_no_line_is_written_over(foundry: Foundry, fake_model: Callable[..., str]) -> None:
    fake_model("m", tokens_per_second=2000)
    done = foundry.ok("bench", "m", "--rounds", "2", "--max-tokens", "4")
    assert "\r" not in done.err + done.out and "\x1b" not in done.err + done.out
