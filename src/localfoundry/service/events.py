"""What happens to models in the service, as values: told to whoever listens (logs, metrics)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelEvent:
    """One event. `kind`: loaded, load_failed, fell_back (the engine could not load it, and the next one is tried),
    unloaded (asked for), evicted (for the room), expired (idle), replaced (by another model), crashed or hung.

    `seconds`: how long a load took. `reason`: words for a person.
    """

    kind: str
    model: str
    seconds: float = 0.0
    reason: str = ""


Listener = Callable[[ModelEvent], None]
