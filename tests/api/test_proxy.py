"""Cutting a stream of events at its boundaries."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

from hypothesis import given
from hypothesis import strategies as st

from localfoundry.api.sse import whole_events

_event = st.builds(
    lambda lines: b"\n".join(b"data: " + line for line in lines) + b"\n\n",
    st.lists(st.binary(max_size=12).map(lambda b: b.replace(b"\n", b" ")), min_size=1, max_size=3),
)


async def _pieces(stream: bytes, cuts: list[int]) -> AsyncIterator[bytes]:
    places = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    for start, end in itertools.pairwise(places):
        yield stream[start:end]


def _through(stream: bytes, cuts: list[int]) -> list[bytes]:
    async def collect() -> list[bytes]:
        return [block async for block in whole_events(_pieces(stream, cuts))]

    return asyncio.run(collect())


@given(st.lists(_event, max_size=8), st.lists(st.integers(0, 200), max_size=12))
def test_any_split_of_a_stream_leaves_in_whole_events(stream: list[bytes], cuts: list[int]) -> None:
    """A block that ended inside an event would be glued to the error event that follows when the worker dies there."""
    blocks = _through(b"".join(stream), cuts)
    assert b"".join(blocks) == b"".join(stream)
    assert all(block.endswith(b"\n\n") for block in blocks)


@given(st.lists(_event, min_size=1, max_size=4), st.lists(st.integers(0, 200), max_size=12))
def test_a_stream_that_ends_without_a_boundary_loses_nothing(stream: list[bytes], cuts: list[int]) -> None:
    text = b"".join(stream) + b"data: tail"
    assert b"".join(_through(text, cuts)) == text


def test_a_stream_that_breaks_inside_an_event_drops_that_event() -> None:
    async def breaking() -> AsyncIterator[bytes]:
        yield b"data: 1\n\ndata: 2\n\ndata: half of"
        raise ConnectionError

    async def collect() -> list[bytes]:
        seen = []
        try:
            async for block in whole_events(breaking()):
                seen += [block]
        except ConnectionError:
            return seen
        raise AssertionError

    assert asyncio.run(collect()) == [b"data: 1\n\ndata: 2\n\n"]
