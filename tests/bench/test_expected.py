"""What was expected beside what a bench measured, and what is kept of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from harness import wait_until
from localfoundry.bench.candidates import Candidate
from localfoundry.bench.expected import compared, words
from localfoundry.bench.others import Others
from localfoundry.bench.outcome import Outcome
from localfoundry.bench.request import Sample
from localfoundry.fit import Load, Processor, decode, prefill
from localfoundry.fit.calibration import Calibration, Subject
from recorded_loads import loads

SHAPE = loads()[0].shape
LOAD = Load(2048)
PROCESSOR = Processor(32e9, 2)
SUBJECT = Subject("bundled 1", "here", "Q8_0", "sha")
PROMPT, ANSWER = 80, 64


def outcome(decodes: list[float], prefills: list[float], prompt: int = PROMPT, error: str | None = None) -> Outcome:
    samples = [
        Sample("m", "m", number, 0.0, 1.0, prompt_tokens=prompt, cached_tokens=4, completion_tokens=ANSWER,
               engine_decode_tps=decoding, engine_prefill_tps=reading, error=error)
        for number, (decoding, reading) in enumerate(zip(decodes, prefills, strict=True), 1)
    ]  # fmt: skip
    return Outcome(Candidate("m", "m"), samples=samples)


def test_both_rates_are_compared_at_the_depth_they_were_measured_at_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    predicted = decode(SHAPE, LOAD, PROCESSOR, PROMPT + ANSWER // 2).interval
    read = prefill(SHAPE, LOAD, PROCESSOR, PROMPT - 4).interval
    decoding, reading = compared(
        outcome([0.79 * predicted.value, 0.8 * predicted.value, 0.81 * predicted.value], [1.5 * read.value] * 3),
        SHAPE, LOAD, PROCESSOR, SUBJECT, path,
    )  # fmt: skip
    assert (decoding.quantity, decoding.predicted, decoding.source) == ("decode", predicted.value, "predicted")
    assert decoding.measured == pytest.approx(0.8 * predicted.value) and decoding.kept
    assert (reading.quantity, reading.predicted) == ("prefill", read.value)
    known = Calibration(path)
    corrected = known.corrected("decode", predicted, SUBJECT)
    assert (corrected.value, corrected.source) == (pytest.approx(0.8 * predicted.value), "measured here")
    assert known.corrected("prefill", read, SUBJECT).value == pytest.approx(1.5 * read.value)


def test_a_second_bench_expects_what_the_first_measured(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    run = outcome([40.0, 40.0], [200.0, 200.0])
    compared(run, SHAPE, LOAD, PROCESSOR, SUBJECT, path)
    again = compared(run, SHAPE, LOAD, PROCESSOR, SUBJECT, path)
    assert [one.source for one in again] == ["measured here", "measured here"]
    assert [one.predicted for one in again] == [pytest.approx(40.0), pytest.approx(200.0)]
    assert "expected 40.0 tok/s (28.0 to 52.0, measured here), measured here 40.0" in words(again[0])


def test_noise_failures_and_short_prompts_teach_nothing(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    noisy = compared(outcome([10.0, 40.0, 90.0], [1.0, 50.0, 400.0]), SHAPE, LOAD, PROCESSOR, SUBJECT, path)
    assert [one.kept for one in noisy] == [False, False]
    assert "too noisy to conclude, not kept" in words(noisy[0])
    assert compared(outcome([40.0], [200.0], error="it broke"), SHAPE, LOAD, PROCESSOR, SUBJECT, path) == []
    assert not path.exists()
    short = compared(outcome([40.0, 40.0], [200.0, 200.0], prompt=12), SHAPE, LOAD, PROCESSOR, SUBJECT, path)
    assert [one.quantity for one in short] == ["decode"]


def test_what_other_programs_slowed_down_teaches_nothing(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    run = outcome([40.0, 40.0], [200.0, 200.0])
    disturbed = compared(run, SHAPE, LOAD, PROCESSOR, SUBJECT, path, others=0.4)
    assert [one.kept for one in disturbed] == [False, False] and not path.exists()
    assert "other programs had 40% of the processor, not kept" in words(disturbed[0])


def test_others_are_those_that_are_not_ours() -> None:
    """Our own work is not counted, and neither is that of a program that belongs to the measurement."""
    spin = "import time\nend = time.perf_counter() + 30\nwhile time.perf_counter() < end: pass"
    before = Others()
    with subprocess.Popen([sys.executable, "-c", spin]) as worker:
        try:
            wait_until(lambda: psutil.Process(worker.pid).cpu_times().user > 0.3, 20, "it does not get the processor")
            without, known = before.share(), before.share([worker.pid])
        finally:
            worker.kill()
    assert without > known
