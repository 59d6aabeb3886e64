"""Rounds of the bench as rounds of a search."""

from __future__ import annotations

import pytest

from localfoundry.cli import tune_bed


def test_rounds_that_count_together_have_the_mean_of_their_times() -> None:
    """One answer a second and three a second are two answers in 4/3 seconds; a round that is not whole is none."""
    found = tune_bed._means({1: 1.0, 2: 3.0, 3: 2.0, 4: None, 5: 5.0, 6: 5.0, 7: 1.0}, 2)
    assert found == {1: pytest.approx(1.5), 3: 5.0}
    assert tune_bed._means({1: 1.0, 3: 2.0}, 1) == {1: 1.0, 3: 2.0}
