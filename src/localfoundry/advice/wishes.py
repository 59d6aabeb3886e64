"""What a person wishes of a model, and what is known of the machine; read from what was typed, or refused in words."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

from localfoundry.advice import licenses
from localfoundry.advice.figures import number, seconds
from localfoundry.errors import UsageError
from localfoundry.units import format_bytes, parse_bytes, parse_duration, parse_tokens

Key = Literal["task", "engine", "license", "context", "memory", "disk", "speed", "first token"]

_ALWAYS = ("task", "engine", "memory")
_LEAST_RAM = 64 * 2**20
_MOST_RAM = 2**50
_MOST_SPEED = 1e6  # tokens/s
_MOST_TTFT_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """None: not asked for. `min_speed` in tokens/s of one stream, `max_ttft_s` for a prompt of 512 tokens.

    `room_bytes` and `disk_bytes` are what the machine could give: those that the prospects were made for, or more.
    `language` takes no candidate away: it says which evidence of quality counts.
    """

    task: str = "chat"
    min_speed: float | None = None
    max_ttft_s: float | None = None
    license: str | None = None
    context: int | None = None
    language: str | None = None
    room_bytes: int | None = None
    disk_bytes: int | None = None
    here: frozenset[str] = frozenset()  # ids of versions that are on the disk already
    formats: frozenset[str] = frozenset({"gguf"})  # that an engine here runs

    @property
    def keys(self) -> tuple[Key, ...]:
        """The wishes that are there, in the order in which a candidate is held against them."""
        asked: dict[Key, object] = {
            "license": self.license, "context": self.context, "disk": self.disk_bytes, "speed": self.min_speed,
            "first token": self.max_ttft_s,
        }  # fmt: skip
        return tuple(key for key in get_args(Key) if key in _ALWAYS or asked.get(key) is not None)

    def words(self, key: Key) -> str:
        """One wish as it would be said; those of the command line as they would be typed."""
        match key:
            case "task":
                return f"--task {self.task}"
            case "engine":
                return "an engine here runs it"
            case "license":
                return f"--license {self.license}"
            case "context":
                return f"--ctx {self.context}"
            case "memory":
                tokens = f" with {self.context} tokens" if self.context else ""
                room = "what the machine can give" if self.room_bytes is None else format_bytes(self.room_bytes)
                return f"fits the memory ({room}){tokens}"
            case "disk":
                return f"fits the disk ({format_bytes(self.disk_bytes)} free)"
            case "speed":
                return f"--min-speed {number(self.min_speed or 0)}"
            case "first token":
                return f"--max-ttft {seconds(self.max_ttft_s or 0)}"

    def options(self) -> str:
        """What was asked, as it is typed; without what is known of the machine."""
        typed = [self.words(key) for key in self.keys if key not in ("engine", "memory", "disk")]
        return " ".join([*typed, *([f"--lang {self.language}"] if self.language else [])])


def read(
    task: str, known_tasks: Collection[str], known_licenses: Collection[str], *, min_speed: str | None = None,
    max_ttft: str | None = None, license: str | None = None, context: str | None = None, language: str | None = None,
) -> Wishes:  # fmt: skip
    """Wishes from what was typed. Raises UsageError naming option, value, what is accepted, and what to type."""
    return Wishes(
        task=_task(task, known_tasks),
        min_speed=None if min_speed is None else _speed(min_speed),
        max_ttft_s=None if max_ttft is None else _ttft(max_ttft),
        license=None if license is None else _license(license, known_licenses),
        context=None if context is None else _context(context),
        language=None if language is None else _language(language),
    )


def read_ram(text: str) -> int:
    """Bytes of memory that `--ram` says. Raises UsageError."""
    try:
        size = parse_bytes(_short(text))
    except ValueError as exc:
        raise UsageError(f"--ram: {_short(str(exc), 160)}", hint="foundry recommend --ram 8GB") from None
    if not _LEAST_RAM <= size <= _MOST_RAM:
        limit = "no model runs in less than 67.1 MB" if size < _LEAST_RAM else "the most is 1,126 TB"
        hint = f"foundry recommend --ram {text.strip()}GB" if text.strip().isdecimal() and size < 10_000 else None
        raise UsageError(f"--ram {_short(text)} is {format_bytes(size)}: {limit}",
                         hint=hint or "foundry recommend --ram 8GB")  # fmt: skip
    return size


def _task(text: str, known: Collection[str]) -> str:
    task = {"chat-completion": "chat", "general chat": "chat", "embedding": "embeddings"}.get(
        text.strip().lower(), text.strip().lower()
    )
    if task not in known:
        raise UsageError(f"no model here is for the task {_short(text)!r}; there are {', '.join(sorted(known))}",
                         hint="foundry recommend --task chat")  # fmt: skip
    return task


def _license(text: str, known: Collection[str]) -> str:
    name = text.strip().lower()
    if name not in {*licenses.CLASSES, *licenses.PERMISSIVE, *(there.lower() for there in known)}:
        there = ", ".join(sorted({*licenses.CLASSES, *(each.lower() for each in known)})[:20])
        raise UsageError(f"no model here has the licence {_short(text)!r}; there are {there}",
                         hint="foundry recommend --license permissive")  # fmt: skip
    return name


def _speed(text: str) -> float:
    matched = re.fullmatch(r"(-?\d{1,12}(?:\.\d{1,6})?)\s*(?:t/s|tps|tok/s|tokens/s)?", text.strip().lower())
    value = float(matched[1]) if matched else math.nan
    if not 0 < value <= _MOST_SPEED:
        raise UsageError(f"--min-speed {_short(text)!r} is not a speed; it is tokens per second, more than 0 and at "
                         f"most {_MOST_SPEED:,.0f}", hint="foundry recommend --min-speed 10")  # fmt: skip
    return value


def _ttft(text: str) -> float:
    stripped = text.strip().lower()
    milliseconds = re.fullmatch(r"(\d{1,9})\s*ms", stripped)
    try:
        bare = re.fullmatch(r"\d{1,6}(\.\d{1,3})?", stripped)
        value = int(milliseconds[1]) / 1000 if milliseconds else parse_duration(f"{stripped}s" if bare else stripped)
    except ValueError:
        value = math.nan
    if not 0 < value <= _MOST_TTFT_S:
        raise UsageError(f"--max-ttft {_short(text)!r} is not a time to the first token; write for example 500ms or "
                         "2s, at most 24h", hint="foundry recommend --max-ttft 2s")  # fmt: skip
    return value


def _context(text: str) -> int:
    try:
        return parse_tokens(_short(text))
    except ValueError as exc:
        raise UsageError(f"--ctx: {exc}", hint="foundry recommend --ctx 8k") from None


def _language(text: str) -> str:
    code = text.strip().lower()
    if not re.fullmatch(r"[a-z]{2,3}", code):
        raise UsageError(f"--lang {_short(text)!r} is not the code of a language; write its two or three letters",
                         hint="foundry recommend --lang da")  # fmt: skip
    return code


def _short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[:most]}…"
