"""Arguments that a person adds to OpenVINO for one model: few, and every other one is refused by name.

Each sets one property of the plugin, or one of the worker's own; what they cost and bring is in docs/engines.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from localfoundry.errors import InvalidSetting


@dataclass(frozen=True, slots=True)
class Argument:
    """The property it sets, and how its value is read. ValueError says what was expected."""

    property: str
    value: Callable[[str], str]


def _whole(low: int, high: int) -> Callable[[str], str]:
    def value(text: str) -> str:
        if not re.fullmatch(r"\d{1,7}", text) or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return text

    return value


def _one_of(*words: str) -> Callable[[str], str]:
    def value(text: str) -> str:
        if text not in words:
            raise ValueError("one of " + ", ".join(words))
        return text

    return value


ARGUMENTS: dict[str, Argument] = {
    "--threads": Argument("INFERENCE_NUM_THREADS", _whole(1, 1024)),
    "--precision": Argument("INFERENCE_PRECISION_HINT", _one_of("f32", "bf16", "f16")),
    "--cache-type": Argument("KV_CACHE_PRECISION", _one_of("u8", "f16", "bf16", "f32")),
    "--dynamic-quantization": Argument("DYNAMIC_QUANTIZATION_GROUP_SIZE", _whole(0, 4096)),
    "--pinning": Argument("ENABLE_CPU_PINNING", _one_of("YES", "NO")),
    "--batch-size": Argument("batch", _whole(32, 8192)),
    "--prefix-cache": Argument("prefix_cache", _one_of("YES", "NO")),
    "--prompt-lookup": Argument("lookup", _whole(1, 16)),
    "--pooling": Argument("pooling", _one_of("mean", "cls", "last")),
}


def properties(arguments: Sequence[str], model: str) -> dict[str, str]:
    """`NAME VALUE` or `NAME=VALUE` as properties. Raises InvalidSetting naming what cannot be used."""
    words = list(arguments)
    found: dict[str, str] = {}
    while words:
        flag, equals, rest = words.pop(0).partition("=")
        argument = ARGUMENTS.get(flag)
        if argument is None:
            raise _wrong(model, f"openvino has no argument {flag!r}", f"possible: {', '.join(ARGUMENTS)}")
        given = rest if equals else (words.pop(0) if words else "")
        try:
            found[argument.property] = argument.value(given)
        except ValueError as exc:
            raise _wrong(model, f"{flag} {given!r} is not valid: expected {exc}") from None
    return found


def check_use(found: Mapping[str, str], model: str, tasks: Sequence[str], parallel: int) -> None:
    """Raise InvalidSetting for an argument that this load has no use for, or could not bear."""
    embeds = "embeddings" in tasks
    if "pooling" in found and not embeds:
        raise _wrong(model, "--pooling is for models that embed, and this one does not")
    if "lookup" not in found:
        return
    if embeds:
        raise _wrong(model, "--prompt-lookup is for models that write text, and this one embeds")
    if parallel > 1:
        why = f"--prompt-lookup needs a model that answers one request at a time, not {parallel}"
        # A request that has to make room for another is computed again; there the library fails a check of its own.
        raise _wrong(model, f"{why}: OpenVINO fails where requests with it share memory",
                     f"foundry config set models.{model.partition(':')[0]}.parallel 1")  # fmt: skip


def _wrong(model: str, what: str, hint: str | None = None) -> InvalidSetting:
    return InvalidSetting(f"engineArguments of {model}: {what}", hint=hint or "foundry config list", param="model")
