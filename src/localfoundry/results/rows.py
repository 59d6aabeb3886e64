"""The rows of the results file as frozen values. Times of day are ISO 8601 in UTC, durations seconds.

What only one kind of run needs stays JSON text in `raw`: whoever wrote it decodes it with its own type, and a reader
that does not know that type still has the columns. `msgspec` fills the structs, so a row of a wrong type is refused.
"""

from __future__ import annotations

import secrets
import time
from typing import Literal

import msgspec

Kind = Literal["bench", "eval", "rating", "import", "tune"]
Status = Literal["running", "finished", "interrupted", "failed"]

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # base 32 without the letters that are read as digits


def new_id(now_s: float | None = None) -> str:
    """A ULID: 48 bits of milliseconds, 80 random bits, as 26 letters and digits that sort by time."""
    milliseconds = int((time.time() if now_s is None else now_s) * 1000)
    number = (milliseconds & (2**48 - 1)) << 80 | secrets.randbits(80)
    return "".join(_CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))


class Run(msgspec.Struct, frozen=True):
    """One measurement or judgement. `protocol` is enough to do it again; `baseline` the name it was given, if any."""

    id: str
    kind: Kind
    started_at: str
    finished_at: str | None = None
    status: Status = "running"
    machine: dict[str, object] = {}
    protocol: dict[str, object] = {}
    versions: dict[str, object] = {}
    baseline: str | None = None


class CandidateRow(msgspec.Struct, frozen=True):
    """What was measured under a label: a local version, or an endpoint (then `endpoint_host`, and prices if told).

    Prices are per million tokens, in whatever currency the run's protocol names.
    """

    run: str
    label: str
    model: str
    model_id: str | None = None
    file_sha256: str | None = None
    engine: str | None = None
    engine_version: str | None = None
    quantization: str | None = None
    format: str | None = None
    context: int | None = None
    threads: int | None = None
    endpoint_host: str | None = None
    price_in: float | None = None
    price_out: float | None = None


class SampleRow(msgspec.Struct, frozen=True):
    """One request. `load` is `c=4` (four at a time) or `rate=2` (arrivals a second); `raw` a `bench.request.Sample`."""

    run: str
    label: str
    scenario: str
    language: str
    load: str
    round: int
    seq: int
    prompt_id: str
    ok: bool
    ttft_s: float | None
    ttfa_s: float | None
    itl_s: float | None
    latency_s: float
    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None
    raw: str


class ItemRow(msgspec.Struct, frozen=True):
    """One answer to an item of a suite, checked. `passed` is None where it could not be judged.

    `suite_sha256`: of the suite's content; None where it has none, or was not kept then.
    """

    run: str
    label: str
    suite: str
    item: str
    language: str
    passed: bool | None
    raw: str
    suite_sha256: str | None = None


class Timed(msgspec.Struct, frozen=True, array_like=True):
    """Of a sample what its times are made of, without the raw text. Fields are columns, in the order of reading."""

    label: str
    scenario: str
    language: str
    load: str
    ok: bool
    ttft_s: float | None
    ttfa_s: float | None
    itl_s: float | None
    latency_s: float
    prompt_tokens: int | None
    completion_tokens: int | None


class Judged(msgspec.Struct, frozen=True, array_like=True):
    """Of an item whether it was passed, without the raw text. Fields are columns, in the order of reading."""

    label: str
    suite: str
    language: str
    item: str
    passed: bool
    suite_sha256: str | None


class VoteRow(msgspec.Struct, frozen=True):
    """One judgement between the answers of `a` and `b` to one item. `choice` is the label preferred, or `tie`.

    `id` is given by the file when the vote is added.
    """

    run: str
    rater: str
    criterion: str
    suite: str
    item: str
    a: str
    b: str
    shown_first: str
    choice: str
    at: str
    id: int = 0
