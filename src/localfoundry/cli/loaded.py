"""What is loaded, in words and columns: shared by `service ps`, `status` and `top`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from localfoundry.units import format_bytes, format_duration

if TYPE_CHECKING:
    from localfoundry.client import ServiceClient

COLUMNS = ("Alias", "Model ID", "Engine", "Device", "State", "Memory", "Context", "Running", "Waiting", "Tokens/s",
           "TTL left")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Told:
    """What a running service says of itself: `/foundry/ps` and `/foundry/stats`."""

    models: list[dict[str, Any]]
    stats: dict[str, Any]


async def ask(client: ServiceClient) -> Told:
    """Raises ServiceError, and what the service reports."""
    return Told(await client.get("/foundry/ps"), await client.get("/foundry/stats"))


def table(models: Sequence[Mapping[str, Any]]) -> tuple[Sequence[str], list[list[str]]]:
    """Columns and rows. Memory is the worker's, measured; tokens/s is that of the last few seconds."""
    return COLUMNS, [row(model) for model in models]


def row(model: Mapping[str, Any]) -> list[str]:
    return [
        model["alias"],
        model["id"],
        model["engine"],
        model["device"],
        model["state"],
        format_bytes(model["memory"]["process"]),
        str(model["context"]),
        str(model["requests_running"]),
        str(model["requests_waiting"]),
        f"{model['tokens_per_s']:.1f}",
        _time_left(model),
    ]


def _time_left(model: Mapping[str, Any]) -> str:
    if model["pinned"]:
        return "pinned"
    if not model["ttl_s"]:
        return "stays"
    left_s = model["ttl_left_s"]
    return "in use" if left_s is None else format_duration(left_s)


def in_words(model: Mapping[str, Any]) -> str:
    """`phi-4-mini:1 (ready, 2.8 GB)`."""
    return f"{model['id']} ({model['state']}, {format_bytes(model['memory']['process'])})"


def ledger(memory: Mapping[str, int]) -> str:
    """One line: what models were granted, of how much, and what else there is."""
    return (
        f"{format_bytes(memory['claimed'])} of {format_bytes(memory['limit'])} granted to models, "
        f"{format_bytes(memory['others'])} used by others, {format_bytes(memory['reserve'])} kept free"
    )


def why(loaded: Mapping[str, Any]) -> str:
    """Of a model that is loaded: `phi-4-mini:1 runs in openvino (CPU) because …; not llama.cpp: …`."""
    words = f"{loaded['id']} runs in {loaded['engine']} on {loaded['device']}, because {loaded['engine_reason']}"
    for one in loaded["engines_left_out"]:
        words += f"; not {one['engine']}: {one['why']}"
    return words
