"""What an answer to a request for bytes means: a pure decision on status and headers, before one byte is kept.

    200 to a request for all       take it from the start
    200 to a request for a part    one stream from the start: never appended
    206 that fits                  go on
    206 that does not fit          refused; the second time, start over without asking for a part
    206 with another ETag or size  the file changed: start over
    416                            the partial cannot be right: start over
    401, 403, 404 from the source  SourceRefused
    400 to 410 from elsewhere      the address we were sent to has expired: ask the source again
    407                            the proxy: SourceRefused
    408, 429, 5xx                  wait as told, or ever longer, and try again

`download.py` does what is decided here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from localfoundry.errors import ChecksumMismatch, SourceError, SourceRefused

_EXPIRED = {400, 401, 403, 404, 410}
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class Again(Exception):
    """This try failed and another may not. `wait_s` None: back off; otherwise wait so long.

    restart: what is there cannot be used. wrong_range: the answer was to a question that nobody asked.
    """

    def __init__(
        self, reason: str, wait_s: float | None = None, *, restart: bool = False, wrong_range: bool = False
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wait_s = wait_s
        self.restart = restart
        self.wrong_range = wrong_range


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for, of whom, and what is known of the file.

    Bytes from `start` to before `end` (None: to the end), where `total` (None: unknown) make the file; `promised` is
    the plan's size. `moved`: the answer is from an address that the source redirected to.
    """

    name: str
    origin: str  # the source, for messages
    page: str | None  # where terms can be accepted
    start: int
    end: int | None
    total: int | None
    promised: int | None
    etag: str | None
    moved: bool
    retry_after_cap_s: float

    @property
    def is_all(self) -> bool:
        return self.start == 0 and self.end in (None, self.total)


@dataclass(frozen=True, slots=True)
class Delivery:
    """The body that follows: bytes from `start` to before `end` (None: unknown) of a file of `total` bytes."""

    start: int
    end: int | None
    total: int | None
    etag: str | None
    is_all: bool  # a 200: the file from its first byte


def judge(asked: Asked, status: int, headers: Mapping[str, str]) -> Delivery | None:
    """What follows the headers; None where the file of unknown size turns out to be complete.

    headers: with lower-case names. Raises Again, SourceRefused, SourceError and ChecksumMismatch (another size).
    """
    if status == 200:
        return _all(asked, headers)
    if status == 206:
        return _part(asked, headers)
    if status == 416:
        _refuse_beyond(asked, headers)
        return None
    if asked.moved and status in _EXPIRED:
        raise Again(f"the address {asked.origin} sent us to has expired (HTTP {status})", 0.0)
    if status in (408, 429) or status >= 500:
        wait = retry_after(headers.get("retry-after", ""), asked.retry_after_cap_s)
        raise Again(f"{asked.origin} answers HTTP {status}", wait)
    if status == 407:
        raise SourceRefused(f"the proxy wants credentials for {asked.origin}", hint="look at HTTPS_PROXY")
    if status in (401, 403):
        raise SourceRefused(
            f"{asked.origin} refuses to deliver {asked.name} (HTTP {status})",
            hint=f"accept the terms at {asked.page}, then set HF_TOKEN (or: hf auth login)" if asked.page else None,
        )
    if status in (404, 410):
        raise SourceRefused(f"{asked.origin} has no {asked.name} (HTTP {status})")
    raise SourceError(f"{asked.origin} answers HTTP {status}, which makes no sense for a download")


def retry_after(text: str, cap_s: float) -> float | None:
    """Seconds to wait, from either form of `Retry-After`, at most `cap_s`; None where it says nothing readable."""
    from datetime import UTC, datetime
    from email.utils import parsedate_to_datetime

    text = text.strip()
    if text.isascii() and text.isdecimal():
        return min(float(text[:9]), cap_s)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return min(max((moment.astimezone(UTC) - datetime.now(UTC)).total_seconds(), 0.0), cap_s)


def _all(asked: Asked, headers: Mapping[str, str]) -> Delivery:
    _refuse_encoding(asked, headers)
    total = _length(headers)
    if total is None:
        total = asked.promised
    _refuse_size(asked, total)
    return Delivery(0, total, total, headers.get("etag"), True)


def _part(asked: Asked, headers: Mapping[str, str]) -> Delivery:
    _refuse_encoding(asked, headers)
    given, etag = headers.get("content-range", ""), headers.get("etag")
    match = _CONTENT_RANGE.fullmatch(given)
    if match is None:
        raise Again(f"{asked.origin} sent a range without a readable Content-Range ({given[:80]!r})", wrong_range=True)
    first, last = int(match[1]), int(match[2])
    total = None if match[3] == "*" else int(match[3])
    length = _length(headers)
    _refuse_size(asked, total)
    if (asked.total and total and asked.total != total) or (etag and asked.etag and etag != asked.etag):
        raise Again(f"the file at {asked.origin} has changed; starting over", 0.0, restart=True)
    wanted = total if asked.end is None else asked.end
    if first != asked.start or last < first or (wanted is not None and last != wanted - 1):
        raise Again(f"{asked.origin} sent the range {given} where {_words(asked)} were asked for", wrong_range=True)
    if length is not None and length != last - first + 1:
        raise Again(f"{asked.origin} sent {length} bytes as the range {given}", wrong_range=True)
    return Delivery(first, last + 1, asked.total if total is None else total, etag, False)


def _refuse_beyond(asked: Asked, headers: Mapping[str, str]) -> None:
    """416: either the file of unknown length is whole, or what is here cannot be the start of it."""
    match = re.fullmatch(r"bytes \*/(\d+)", headers.get("content-range", ""))
    if match and asked.total is None and int(match[1]) == asked.start > 0:
        return
    if asked.is_all:
        raise SourceError(f"{asked.origin} answers HTTP 416 to a request for the whole of {asked.name}")
    raise Again(f"{asked.origin} says that the partial cannot be right (HTTP 416); starting over", 0.0, restart=True)


def _words(asked: Asked) -> str:
    return f"bytes {asked.start}-{'' if asked.end is None else asked.end - 1}"


def _length(headers: Mapping[str, str]) -> int | None:
    text = headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdecimal() else None


def _refuse_encoding(asked: Asked, headers: Mapping[str, str]) -> None:
    encoding = headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise SourceError(f"{asked.origin} sends {asked.name} as {encoding}, which was not asked for")


def _refuse_size(asked: Asked, total: int | None) -> None:
    if total is not None and asked.promised is not None and total != asked.promised:
        raise ChecksumMismatch(
            f"{asked.name} from {asked.origin} has {total} bytes, but {asked.promised} were promised",
            hint="the source has changed, or a proxy answered in its place",
        )
