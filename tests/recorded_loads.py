"""The loads of the real engine that `benchmarks/fit.py` recorded, and what is predicted for them now."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from localfoundry.fit import Load, Memory, memory
from localfoundry.formats.shape import ModelShape

FILE = Path(__file__).parent / "fit" / "loads.json"


@dataclass(frozen=True)
class Recorded:
    file: str
    shape: ModelShape
    load: Load
    buffers: dict[str, int]
    resident: int

    @property
    def predicted(self) -> Memory:
        return memory(self.shape, self.load)

    @property
    def error(self) -> float:
        """Relative to what was measured."""
        return self.predicted.total / self.resident - 1


@lru_cache
def loads() -> tuple[Recorded, ...]:
    kept: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    shapes = {name: msgspec.convert(shape, ModelShape) for name, shape in kept["shapes"].items()}
    return tuple(
        Recorded(one["file"], shapes[one["file"]], load_of(one["options"]), one["buffers"], one["resident"])
        for one in kept["loads"]
    )


def load_of(options: dict[str, Any]) -> Load:
    return Load(
        options["context"],
        options["parallel"],
        options["cache"],
        options["cache"],
        options["flash_attention"] != "disabled",
        options["embeddings"],
    )
