"""A bound on how long answers may take, and how many keep it: `ttft=1s,itl=100ms,latency=5s`."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from localfoundry.bench.request import Sample
from localfoundry.errors import InvalidRequest

_PART = re.compile(r"(ttft|itl|latency)=(\d{1,6}(?:\.\d{1,6})?)(ms|s)")


class Slo(msgspec.Struct, frozen=True):
    """A service level objective; None does not bound."""

    ttft_s: float | None = None
    itl_s: float | None = None
    latency_s: float | None = None

    def kept_by(self, sample: Sample) -> bool | None:
        """Whether one request kept every bound; None where the server did not tell what it takes to know.

        A request that failed, or was not answered in time, kept nothing.
        """
        if sample.error is not None:
            return False
        # An answer of one token has no time between tokens, and so cannot be too slow in it.
        if self.itl_s is not None and sample.itl_s is None and sample.completion_tokens is None:
            return None
        bounds = ((self.ttft_s, sample.ttft_s), (self.itl_s, sample.itl_s), (self.latency_s, sample.latency_s))
        return all(bound is None or value is None or value <= bound for bound, value in bounds)

    def share_kept(self, samples: Sequence[Sample]) -> float | None:
        """Goodput as a share: requests within the bounds / all requests, failed ones included; None where not known."""
        kept = [self.kept_by(sample) for sample in samples]
        return None if not kept or None in kept else sum(map(bool, kept)) / len(kept)


def parse_slo(text: str) -> Slo:
    """Raises InvalidRequest with the accepted form."""
    found: dict[str, float] = {}
    for part in text.replace(" ", "").lower().split(","):
        match = _PART.fullmatch(part)
        if match is None or f"{match[1]}_s" in found:
            raise InvalidRequest(
                f"{part!r} is no bound on the time of an answer; write for example ttft=1s,itl=100ms,latency=5s",
                param="slo",
            )
        found[f"{match[1]}_s"] = float(match[2]) / (1000 if match[3] == "ms" else 1)
    return Slo(**found)
