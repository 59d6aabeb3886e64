"""Arguments that a person adds to the ONNX engine for one model: one, and every other one is refused by name."""

from __future__ import annotations

import re
from collections.abc import Sequence

from localfoundry.errors import InvalidSetting

_MOST_THREADS = 1024


def words(arguments: Sequence[str], model: str) -> list[str]:
    """`--threads N` or `--threads=N`, as the worker takes it. Raises InvalidSetting naming what cannot be used."""
    given = list(arguments)
    found: list[str] = []
    while given:
        flag, equals, value = given.pop(0).partition("=")
        if flag != "--threads":
            raise _wrong(model, f"onnx has no argument {flag!r}", "possible: --threads")
        if not equals:
            value = given.pop(0) if given else ""
        if not re.fullmatch(r"\d{1,4}", value) or not 1 <= int(value) <= _MOST_THREADS:
            raise _wrong(model, f"--threads {value!r} is not valid: expected a whole number from 1 to {_MOST_THREADS}")
        found = ["--threads", value]
    return found


def _wrong(model: str, what: str, hint: str | None = None) -> InvalidSetting:
    return InvalidSetting(f"engineArguments of {model}: {what}", hint=hint or "foundry config list", param="model")
