"""Ways out of a load that does not fit: each is computed, fits by the upper end of its interval, and is a command."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from localfoundry.advice.prospects import Prospect
from localfoundry.advice.ways_out import room_of, unloading, ways_out
from localfoundry.fit.interval import Interval

MB = 1_000_000


def one(alias: str, variant: str, mb: float, context: int = 8192, spread: float = 0.1, task: str = "chat") -> Prospect:
    return Prospect(
        alias=alias, variant=f"{variant}:1", format="gguf", quantization="Q4_K_M", tasks=(task,), license=None,
        disk_bytes=None, context=context, trained_context=8192, largest_context=None,
        memory=Interval(mb * MB, mb * (1 - spread) * MB, mb * (1 + spread) * MB), fit="never", decode=None,
        prefill=None, first_token_s=None, load_s=None,
    )  # fmt: skip


WANTED = one("big", "big-q8", 900)


def test_the_three_ways_are_the_best_of_what_fits() -> None:
    advice = ways_out(
        WANTED,
        one("big", "big-q8", 480, context=1024),
        [
            one("big", "big-q4", 400), one("big", "big-q2", 200), one("big", "big-q6", 700), one("big", "big-q8", 100),
            one("small", "small-q8", 300), one("tiny", "tiny-q8", 100), one("coder", "coder-q8", 450, task="code"),
        ],
        500 * MB,
    )  # fmt: skip
    assert [(way.kind, way.command, way.need_bytes) for way in advice.ways] == [
        ("context", "foundry model run big-q8:1 --ctx 1024", 480 * MB),
        ("variant", "foundry model run big-q4:1 --ctx 8192", 400 * MB),
        ("model", "foundry model run small --ctx 8192", 300 * MB),
    ]
    assert advice.missing == ()
    assert advice.lines()[2].startswith("foundry model run small --ctx 8192")
    assert advice.lines()[2].endswith("# smaller model for chat: needs 300.0 MB")


def test_a_way_that_does_not_exist_says_so() -> None:
    advice = ways_out(WANTED, None, [one("small", "small-q8", 600)], 500 * MB)
    assert advice.ways == ()
    assert advice.missing == (
        "no smaller context of big-q8:1 fits",
        "no smaller variant of big that fits is known",
        "no smaller model for chat that fits is known",
    )


def test_a_long_context_counts_more_than_a_large_model() -> None:
    advice = ways_out(WANTED, None, [one("a", "a", 450, context=512), one("b", "b", 300)], 500 * MB)
    assert advice.ways[0].model == "b"


def test_what_might_not_fit_is_not_advised() -> None:
    """Its value would, the upper end of its interval would not."""
    unsure = one("small", "small", 480, spread=0.3)
    assert ways_out(WANTED, None, [unsure], 500 * MB).ways == ()
    assert ways_out(WANTED, None, [replace(unsure, memory=None)], 500 * MB).ways == ()


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 2000), st.integers(256, 8192))), st.integers(0, 2000))
def test_whatever_is_advised_fits(others: list[tuple[str, int, int]], room: int) -> None:
    known = [one("big" if name == "a" else name, f"{name}{mb}", mb, tokens) for name, mb, tokens in others]
    advice = ways_out(WANTED, None, known, room * MB)
    for way in advice.ways:
        assert any(p.memory and p.memory.value == way.need_bytes and p.memory.high <= room * MB for p in known)
    assert len(advice.ways) + len(advice.missing) == 3


def test_unloading_takes_the_fewest_and_smallest_pinned_models() -> None:
    pinned = {"a:1": 300, "b:1": 500, "c:1": 400}
    cheapest, everything = unloading(pinned, 350), unloading(pinned, 1100)
    assert cheapest is not None and cheapest.command == "foundry model unload c:1"
    assert everything is not None and everything.command == "foundry model unload --all"
    assert unloading(pinned, 1300) is None
    assert unloading({}, 1) is None
    assert unloading({"a:1": 300}, 301) is None


def test_the_room_leaves_some_for_what_others_take_meanwhile() -> None:
    assert 0.9 * 10**9 < room_of(10**9) < 10**9
    assert room_of(-5) == 0
