"""Streams of server-sent events as engines write them: cut at event boundaries, valid UTF-8, ended properly.

This is the path of every token, so nothing here parses an event: a block of whole events is searched for a few byte
patterns, which in JSON can stand only where they are meant, since quotes inside a string are escaped.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

from localfoundry.api.faults import EngineSaid
from localfoundry.errors import EngineError

END = b"\n\n"
DONE = b"data: [DONE]\n\n"
NOTHING = b"data: null\n\n"  # llama.cpp's first event of a completion of several prompts; clients fail on it
_ERROR = b'data: {"error"'
_LARGEST_EVENT = 16_000_000


async def whole_events(blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Blocks cut at event boundaries, so that a stream which breaks off never ends inside an event.

    Raises EngineError for an event that does not end.
    """
    rest = bytearray()
    async for block in blocks:
        if rest:
            if END not in rest[-1:] + block:  # not joined for every block: that costs the square of the event's size
                rest += block
                if len(rest) > _LARGEST_EVENT:
                    raise EngineError(f"the engine sent an event of more than {_LARGEST_EVENT} bytes")
                continue
            block = bytes(rest) + block
            rest.clear()
        if not block.endswith(END):  # rare: engines write whole events
            end = block.rfind(END) + 1
            end = end + 1 if end else 0
            rest += block[end:]
            block = block[:end]
        if block:
            yield block
    if rest:
        yield bytes(rest)


def is_comment(events: bytes) -> bool:
    """Whether a block says only that the connection lives: llama.cpp writes one every 30 s, also when it is stuck."""
    return events[:1] == b":" and b"\ndata:" not in events


def valid_utf8(events: bytes) -> bytes:
    """The same, with what is not UTF-8 replaced; whole events hold whole characters."""
    try:
        events.decode()
    except UnicodeDecodeError:
        return events.decode("utf-8", "replace").encode()
    return events


def before_error(events: bytes) -> bytes | None:
    """What a block holds before an error event; None where there is none."""
    at = events.find(_ERROR)
    return None if at < 0 else events[:at]


def said_in(events: bytes) -> EngineSaid:
    """The first error event of a block."""
    at = events.index(_ERROR)
    line = events[at + len(b"data: ") :].split(b"\n", 1)[0]
    try:
        return EngineSaid(json.loads(line)["error"])
    except (ValueError, KeyError, TypeError):
        return EngineSaid(None)


def closing(body: dict[str, object]) -> bytes:
    """The end of a stream that failed: an error event and `[DONE]`."""
    return b"data: " + json.dumps(body).encode() + END + DONE
