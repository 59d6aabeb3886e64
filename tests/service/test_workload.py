"""What a model is used for, seen by its requests."""

from __future__ import annotations

import pytest

from localfoundry.service.workload import LOOKED_AT, MANY, Workload


@pytest.mark.parametrize(
    ("at_once", "profile"),
    [
        ([1] * LOOKED_AT, "chat"),
        ([MANY] * LOOKED_AT, "throughput"),
        ([MANY - 1] * LOOKED_AT, "chat"),
        ([1, MANY] * (LOOKED_AT // 2), "chat"),  # half is not most
        ([MANY] * (LOOKED_AT - 1), None),  # not enough to tell
        ([MANY] * LOOKED_AT + [1] * LOOKED_AT, "chat"),  # older ones count no more
    ],
)
def test_most_of_the_last_requests_say_it(at_once: list[int], profile: str | None) -> None:
    seen = Workload()
    for number in at_once:
        seen.note("model:1", number)
    assert seen.profile("model:1") == profile
    assert seen.profile("other:1") is None
