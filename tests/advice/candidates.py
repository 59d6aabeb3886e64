"""Prospects made up for tests: everything is known of them and they pass, unless something else is said."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from localfoundry.advice.glance import Fit
from localfoundry.advice.prospects import Prospect
from localfoundry.advice.quality import Evidence
from localfoundry.fit.interval import Interval

ROOM = 8_000_000_000


def about(value: float, spread: float = 0.1) -> Interval:
    return Interval(value, value * (1 - spread), value * (1 + spread))


def made(name: str, *, speed: float | None = 20.0, first: float | None = 1.0, memory: float | None = 2e9,
         disk: int | None = 10**9, spread: float = 0.1, **more: Any) -> Prospect:  # fmt: skip
    """`memory` decides the fit, in 8 GB that a load could have."""
    fit: Fit = "unknown" if memory is None else "fits" if memory <= ROOM else "never"
    facts: dict[str, Any] = {
        "alias": name, "variant": f"{name}:1", "format": "gguf", "quantization": "Q4_K_M", "tasks": ("chat",),
        "license": "apache-2.0", "disk_bytes": disk, "context": 8192, "trained_context": 32768,
        "largest_context": 32768, "memory": memory and about(memory, spread), "fit": fit,
        "decode": speed and about(speed, spread), "prefill": about(500.0),
        "first_token_s": first and about(first, spread), "load_s": about(1.0),
        "why_unknown": "" if memory else "the shape of it",
    }  # fmt: skip
    return Prospect(**(facts | more))


def measured(name: str, score: float, half: float = 0.02, **more: Any) -> Evidence:
    facts: dict[str, Any] = {"task": "chat", "source": "measured here", "n": 100, "suite": "chat-en", "language": "en"}
    return Evidence(alias=name, score=score, low=max(score - half, 0), high=min(score + half, 1), **(facts | more))


NAMES = [f"model-{letter}" for letter in "abcdefghijklmnop"]
_FIGURE = st.sampled_from([0.5, 1.0, 2.0, 4.0, 8.0, 16.0])
_FEW_NOT_KNOWN = st.sampled_from([None, 0.5, 0.5, 1.0, 1.0, 2.0, 2.0, 4.0, 8.0, 16.0])


@st.composite
def prospects(draw: st.DrawFn) -> list[Prospect]:
    """Up to 16, coarse figures so that some dominate others, some of them not known."""
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=len(NAMES)))
    return [
        made(
            name,
            speed=draw(_FEW_NOT_KNOWN),
            first=draw(_FEW_NOT_KNOWN),
            memory=draw(_FEW_NOT_KNOWN.map(lambda gigabytes: gigabytes and gigabytes * 1e9)),
            disk=draw(_FIGURE.map(lambda gigabytes: int(gigabytes * 1e9))),
            spread=draw(st.sampled_from([0.0, 0.1, 0.5])),
            license=draw(st.sampled_from([None, "mit", "gemma"])),
            tasks=draw(st.sampled_from([("chat",), ("code",), ("chat", "code")])),
            trained_context=draw(st.sampled_from([None, 2048, 32768])),
        )
        for name in names
    ]


@st.composite
def evidence(draw: st.DrawFn) -> list[Evidence]:
    """At most one for each name."""
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=len(NAMES)))
    return [measured(name, draw(st.sampled_from([0.2, 0.5, 0.8])), draw(st.sampled_from([0.0, 0.05, 0.2])))
            for name in names]  # fmt: skip
