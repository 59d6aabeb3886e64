"""The course's guide to choosing a model, as data: categories, tasks, minimum hardware, typical sizes.

Every figure here is the course's and is to be shown as such, beside what is estimated and measured for this machine;
nothing is computed from them. The names are those the course uses; `Catalog.find` resolves each of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

_FILE = Path(__file__).with_name("guide.json")


class Note(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model and what the course says it is good for."""

    model: str
    note: str


class Category(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Models of one size class."""

    name: Literal["small", "medium", "larger"]
    models: tuple[Note, ...]


class Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where to begin for a task, and where to go from there."""

    model: str
    role: Literal["start", "upgrade", "advanced", "alternative", "budget"]


class TaskGuide(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The choices for one use, in the course's order. `task` is the catalog's word for it."""

    name: str
    task: str
    choices: tuple[Choice, ...]


class MinimumHardware(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The least machine the course runs this model on."""

    model: str
    ram_bytes: int
    cpu: Literal["entry-level", "mid-range", "high-end"]


class TypicalSize(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a model takes on the disk, about."""

    model: str
    size_bytes: int


class RecommendedHardware(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A machine for working with several models."""

    ram_bytes: int
    notes: tuple[str, ...]


class Guide(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of it. `source` says whose figures these are and is printed with them."""

    source: str
    categories: tuple[Category, ...]
    tasks: tuple[TaskGuide, ...]
    hardware: tuple[MinimumHardware, ...]
    sizes: tuple[TypicalSize, ...]
    recommended_hardware: RecommendedHardware
    storage_notes: tuple[str, ...]

    def for_task(self, task: str) -> TaskGuide | None:
        """By the course's name (`general chat`) or the catalog's (`chat`), in any letter case."""
        wanted = task.strip().lower()
        return next((t for t in self.tasks if wanted in (t.name, t.task)), None)


def load_guide() -> Guide:
    """The built-in guide."""
    return msgspec.json.decode(_FILE.read_bytes(), type=Guide)
