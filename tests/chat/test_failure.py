"""What an answer other than 200 means, whatever stands in it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfoundry.chat.failure import LONGEST_WAIT_S, Failure, of_status

ADDRESS = "https://models.test/v1/chat/completions"


def failure(status: int, body: bytes = b"", **headers: str) -> Failure:
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    request = httpx2.Request("POST", ADDRESS, headers={"authorization": "Bearer k"})
    return of_status(httpx2.Response(status, headers=told, request=request), body)


@pytest.mark.parametrize(
    ("later", "wait_s"),
    [("0", 0), ("60", 60), ("61", None), ("9" * 400, None), ("soon", None), ("-1", None), ("", None)],
)
def test_a_server_that_names_a_time_is_waited_for_within_a_bound(later: str, wait_s: float | None) -> None:
    assert failure(429, retry_after=later).wait_s == wait_s
    assert failure(503, retry_after=later).wait_s == wait_s
    assert failure(500, retry_after=later).wait_s is None


def test_the_time_may_be_a_date() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 0 < (failure(429, retry_after=soon).wait_s or 0) <= 30
    assert failure(429, retry_after="Wed, 21 Oct 2015 07:28:00 GMT").wait_s == 0
    late = failure(429, b"{}", retry_after=format_datetime(datetime.now(UTC) + timedelta(days=2), usegmt=True))
    assert late.wait_s is None and f"{LONGEST_WAIT_S:.0f} s are waited at most" in late.words


@pytest.mark.parametrize(
    ("status", "lasting", "final"),
    [(400, False, False), (413, False, False), (422, False, False), (401, True, True), (403, True, True),
     (404, True, True), (302, True, True), (407, True, True), (429, True, False),
     (500, True, False), (503, True, False)],
)  # fmt: skip
def test_a_status_speaks_against_the_prompt_the_endpoint_or_for_good(status: int, lasting: bool, final: bool) -> None:
    found = failure(status, b'{"error": {"message": "no"}}', location="https://elsewhere.test/")
    assert (found.lasting, found.final) == (lasting, final)


_TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60)


@given(st.sampled_from([301, 401, 404, 429, 503, 599]), st.binary(max_size=200), _TEXT, _TEXT)
def test_whatever_is_sent_becomes_one_bounded_failure(status: int, body: bytes, later: str, location: str) -> None:
    try:
        found = failure(status, body, retry_after=later, location=location)
    except httpx2.InvalidURL:  # a redirect to nowhere, which whoever asks makes a failure of
        assert status == 301
        return
    assert found.words.startswith(f"HTTP {status}: ") and len(found.words) < 1500
    assert found.wait_s is None or 0 <= found.wait_s <= LONGEST_WAIT_S
