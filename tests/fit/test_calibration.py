"""Measurements correct predictions: how far, for whom, and kept within bounds."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfoundry.fit.calibration import MAX_OF_A_KIND, Calibration, Note, Subject, note_load, note_speed
from localfoundry.fit.interval import Interval

HERE = Subject("engine 1", "this machine", "Q4_K", "model-a")
PREDICTED = Interval(100.0, 50.0, 200.0)


def test_a_measurement_here_moves_the_estimate_and_says_so(tmp_path: Path) -> None:
    calibration = Calibration(tmp_path / "calibration.json")
    assert calibration.corrected("decode", PREDICTED, HERE) == PREDICTED
    note_speed(calibration, HERE, "decode", predicted=100, measured=80)
    found = calibration.corrected("decode", PREDICTED, HERE)
    assert (found.value, found.source) == (pytest.approx(80), "measured here")
    assert found.high - found.low < PREDICTED.high - PREDICTED.low
    assert Calibration(tmp_path / "calibration.json").corrected("decode", PREDICTED, HERE) == found


def test_another_model_of_the_same_kernel_learns_less(tmp_path: Path) -> None:
    calibration = Calibration(tmp_path / "calibration.json")
    note_speed(calibration, HERE, "decode", 100, 80)
    own = calibration.corrected("decode", PREDICTED, HERE)
    kin = calibration.corrected("decode", PREDICTED, Subject("engine 1", "this machine", "Q4_K", "model-b"))
    assert (kin.value, kin.source) == (pytest.approx(80), "predicted")
    assert kin.high - kin.low > own.high - own.low


@pytest.mark.parametrize(
    "other",
    [
        Subject("engine 2", "this machine", "Q4_K", "model-a"),
        Subject("engine 1", "another machine", "Q4_K", "model-a"),
        Subject("engine 1", "this machine", "Q8_0", "model-b"),
    ],
)
def test_another_engine_machine_or_kernel_learns_nothing(tmp_path: Path, other: Subject) -> None:
    calibration = Calibration(tmp_path / "calibration.json")
    note_speed(calibration, HERE, "decode", 100, 80)
    assert calibration.corrected("decode", PREDICTED, other) == PREDICTED


def test_what_others_measured_is_called_that_until_it_is_measured_here(tmp_path: Path) -> None:
    calibration = Calibration(tmp_path / "calibration.json")
    theirs = Subject("engine 1", "another machine", "Q4_K", "model-a")
    note_speed(calibration, theirs, "decode", 100, 50, here=False)
    assert calibration.corrected("decode", PREDICTED, HERE).source == "measured by others"
    note_speed(calibration, HERE, "decode", 100, 80)
    assert calibration.corrected("decode", PREDICTED, HERE).source == "measured here"


def test_a_load_corrects_memory_and_time(tmp_path: Path) -> None:
    calibration = Calibration(tmp_path / "calibration.json")
    note_load(calibration, HERE, predicted_bytes=100, measured_bytes=105, predicted_s=1.0, measured_s=2.0)
    assert calibration.corrected("memory", PREDICTED, HERE).value == pytest.approx(105)
    assert calibration.corrected("load", PREDICTED, HERE).value == pytest.approx(200)


def test_a_note_that_comes_while_another_thread_asks_does_not_break_the_answer(tmp_path: Path) -> None:
    class Interrupted(Calibration):
        def _correction(self, quantity, subject):  # type: ignore[no-untyped-def]
            found = super()._correction(quantity, subject)
            note_speed(self, HERE, "decode", 100, 50)
            return found

    calibration = Interrupted(tmp_path / "calibration.json")
    note_speed(calibration, HERE, "decode", 100, 80)
    assert calibration.corrected("decode", PREDICTED, HERE).value == pytest.approx(80)
    assert calibration.corrected("decode", PREDICTED, HERE).value == pytest.approx(65), "the next one knows both"


@given(ratios=st.lists(st.floats(0.001, 1000), min_size=1, max_size=60))
def test_the_file_is_bounded_and_nonsense_is_left_out(
    tmp_path_factory: pytest.TempPathFactory, ratios: list[float]
) -> None:
    path = tmp_path_factory.mktemp("home") / "calibration.json"
    calibration = Calibration(path)
    calibration.add(*(Note("decode", "e", "m", "k", "s", ratio) for ratio in ratios))
    sane = [ratio for ratio in ratios if 0.02 <= ratio <= 50.0]
    found = calibration.corrected("decode", PREDICTED, Subject("e", "m", "k", "s"))
    assert path.exists() == bool(sane)
    newest = sane[-MAX_OF_A_KIND:]
    if newest:
        assert min(newest) * 99 <= found.value <= max(newest) * 101


@pytest.mark.parametrize("content", [b"", b"{", b'{"version": 1, "notes": [{"quantity": "colour"}]}', b"\xff\xfe"])
def test_a_damaged_file_is_begun_anew(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "calibration.json"
    path.write_bytes(content)
    calibration = Calibration(path)
    assert calibration.corrected("decode", PREDICTED, HERE) == PREDICTED
    note_speed(calibration, HERE, "decode", 100, 80)
    assert Calibration(path).corrected("decode", PREDICTED, HERE).source == "measured here"


def test_two_writers_lose_nothing_of_each_other(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    one, two = Calibration(path), Calibration(path)
    note_speed(one, HERE, "decode", 100, 80)
    note_speed(two, HERE, "prefill", 100, 60)
    both = Calibration(path)
    assert both.corrected("decode", PREDICTED, HERE).value == pytest.approx(80)
    assert both.corrected("prefill", PREDICTED, HERE).value == pytest.approx(60)
