"""The steps of a build, one after the other, each finished for good before the next: an interrupted build goes on.

    <work>/<n>-<name>.part/   being made; thrown away by the next attempt
    <work>/<n>-<name>/        whole
    <work>/<n>-<name>.json    its key, written last: without it the folder counts for nothing

A key holds what the step depends on: its options, the versions of its tools, and the key of the step before it; the
first one's has the SHA-256 sums of the source. So a step is taken over only where nothing that made it has changed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from localfoundry.build.child import Ended
from localfoundry.store import disk
from localfoundry.store.progress import Progress


@dataclass(frozen=True, slots=True)
class Stage:
    """A step: `make` fills an empty folder from the folder before it, and tells what that took."""

    name: str
    words: str  # what it makes, for a person
    options: Mapping[str, str]
    tools: Mapping[str, str]
    make: Callable[[Path, Path], Ended]


class Made(msgspec.Struct, frozen=True):
    """What is kept of a finished step."""

    key: str
    seconds: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Built:
    """The last folder, the key that stands for all of it, and each step with what it took; `kept`: from before."""

    folder: Path
    key: str
    steps: tuple[tuple[str, Made], ...]
    kept: tuple[str, ...]

    @property
    def seconds(self) -> float:
        return sum(made.seconds for _, made in self.steps)


def key_of(*parts: object) -> str:
    """A key over values that JSON can hold."""
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()


def run(work: Path, source: Path, source_key: str, stages: Sequence[Stage], progress: Progress) -> Built:
    """Carry out what is not there yet. Blocking. Raises what a step raises; finished ones stay."""
    folder, key = source, source_key
    steps: list[tuple[str, Made]] = []
    kept = []
    for number, stage in enumerate(stages, 1):
        key = key_of(stage.name, stage.options, stage.tools, key)
        target = work / f"{number}-{stage.name}"
        made = _finished(target, key)
        if made is None:
            progress.note(f"step {number} of {len(stages)}: {stage.words}")
            made = _make(stage, folder, target, key)
        else:
            progress.note(f"step {number} of {len(stages)}: {stage.words}: there from before")
            kept.append(stage.name)
        steps.append((stage.name, made))
        folder = target
    return Built(folder, key, tuple(steps), tuple(kept))


def _marker(target: Path) -> Path:
    return target.with_name(f"{target.name}.json")


def _finished(target: Path, key: str) -> Made | None:
    try:
        made = msgspec.json.decode(_marker(target).read_bytes(), type=Made)
    except (OSError, msgspec.MsgspecError):
        return None
    return made if made.key == key and target.is_dir() else None


def _make(stage: Stage, source: Path, target: Path, key: str) -> Made:
    part = target.with_name(f"{target.name}.part")
    marker = _marker(target)
    disk.remove_file(marker)
    for old in (part, target):
        if os.path.lexists(old):
            disk.remove_tree(old)
    part.mkdir()
    took = stage.make(source, part)
    for path in sorted(part.rglob("*")):
        if path.is_file() and not path.is_symlink():
            disk.sync_file(path)
    part.rename(target)
    disk.sync_folder(target.parent)
    made = Made(key, round(took.seconds, 3), took.peak_bytes)
    disk.replace_bytes(marker, msgspec.json.encode(made))
    return made
