"""Measurements as evidence for a recommendation: whose they are, and of which machine."""

from __future__ import annotations

import msgspec
import pytest

from localfoundry.advice import quality
from localfoundry.advice.measured import Measured
from localfoundry.catalog.model import Variant
from localfoundry.results import outliers
from localfoundry.results.evidence import Known
from localfoundry.results.models_json import Candidate
from results.shared_runs import SHA, around, run, tasks

MINE = Variant("m", 1, "gguf", sha256=SHA)
OTHER = Variant("n", 1, "gguf", sha256="cd" * 32)


def test_scores_are_evidence_for_the_task_in_the_suite_that_is_asked_for() -> None:
    measured = Measured(Known(here=(tasks(1, ["i0", "i1", "i2"], ["i3"]),)))
    (found,) = measured.quality("m", MINE, "code", "chat")
    assert (found.task, found.suite, found.score, found.n, found.source) == ("code", "chat", 0.75, 4, "measured here")
    assert found.corner is not None and found.corner[0] < 0.75 < found.corner[1]
    assert measured.quality("m", MINE, "code", "code") == []
    assert measured.quality("n", OTHER, "chat", "chat") == []


def test_scores_of_a_suite_that_was_changed_in_between_are_not_compared() -> None:
    """The second model solved all of an easier suite of the same name, which says nothing against the first."""
    first = tasks(1, ["i0", "i1"], ["i2"], content="a1" * 32)
    second = msgspec.structs.replace(
        tasks(2, ["i0", "i1", "i2"], [], content="b2" * 32),
        candidates=(Candidate("m", "n", model_id="org/n:1", file_sha256=OTHER.sha256),),
    )
    measured = Measured(Known(here=(first, second)))
    found = [*measured.quality("m", MINE, "chat", "chat"), *measured.quality("n", OTHER, "chat", "chat")]
    assert [e.score for e in found] == [pytest.approx(2 / 3), 1.0]
    counted = [quality.Known(found, "chat").of(e.alias, e.variant or "") for e in found]
    assert sum(e is not None for e in counted) == 1


def test_a_speed_counts_on_the_same_kind_of_machine_and_here_before_others() -> None:
    here, there = run(1, around(0.01, 1)), run(2, around(0.02, 2))
    machine = outliers.machine_words(here.machine)
    both = Measured(Known(here=(here,), others=(there,)))
    own = both.decode(MINE, machine)
    assert own is not None and own.source == "measured here"
    assert own.low <= own.value <= own.high and own.value == pytest.approx(100, rel=0.05)
    others = Measured(Known(others=(there,))).decode(MINE, machine)
    assert others is not None and others.source == "measured by others" and others.value == pytest.approx(50, rel=0.05)
    assert both.decode(MINE, "another processor, 2 threads, 8 GiB") is None
    assert both.decode(OTHER, machine) is None


def test_the_latest_run_counts_and_what_cannot_be_right_does_not() -> None:
    runs = tuple(run(n, around(0.01, n)) for n in (1, 2, 3))
    odd = run(4, around(0.02, 4))
    machine = outliers.machine_words(odd.machine)
    assert Measured(Known(others=(odd,))).decode(MINE, machine) is not None
    found = Measured(Known(others=(*runs, odd))).decode(MINE, machine)
    assert found is not None and found.value == pytest.approx(100, rel=0.05), "the last one is an outlier"
    assert found == Measured(Known(others=(odd, *reversed(runs)))).decode(MINE, machine)
    assert all(part for part in msgspec.structs.astuple(found))
