"""The values that the scheduler takes and gives: requests, models that hold memory, refusals and actions."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from localfoundry.engines.choice import LeftOut
from localfoundry.service.ledger import Bytes
from localfoundry.service.tuned import FAILED_AS

TURN_S = 0.5
_LONGEST_TURN_S = 30.0


class Phase(enum.Enum):
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"


class Why(enum.Enum):
    """Why a model is stopped."""

    ASKED = "unloaded"
    IDLE = "expired"
    ROOM = "evicted"
    REPLACED = "replaced"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """How a model would be loaded.

    `slots`: requests it is given at once, `parallel`: those it answers at once; `ttl_s` 0: never unloaded for being
    idle; `engine_arguments`: a person's own, for the engine. `runs`: the id of the version whose file the engine gets,
    its own or a re-encoding; where that has to be made first, `reencode_to` is its tensor type.
    """

    need: Bytes
    context: int
    largest_context: int | None = None  # tokens that would fit this machine; None: not known
    usual_context: int = 0  # tokens it would have had with memory enough; more than `context` where that was cut
    slots: int = 8
    parallel: int = 8
    ttl_s: float = 600.0
    pinned: bool = False
    retain: bool = False  # leave the other models loaded
    engine_arguments: tuple[str, ...] = ()
    keep_state: bool = False  # save its conversations when it is unloaded for another one
    forced: bool = False  # load although it does not fit; of one that is loaded: it did not
    engine: str = ""
    engine_reason: str = ""
    tuned: bool = False  # by a saved profile
    build: str | None = None  # of llama.cpp, in place of the one that the settings say
    draft: str | None = None  # the id of the model that guesses ahead for it, in the same process
    device: str = "CPU"
    one_stream: bool = False  # for one conversation at a time, though `parallel` may come
    runs: str = ""
    reencode_to: str | None = None
    left_out: tuple[LeftOut, ...] = ()  # engines that were not taken
    failed: tuple[LeftOut, ...] = ()  # engines that were tried for this very load, and why they gave up

    @property
    def tried_as(self) -> str:
        """What it is called where it fails or does not fit: without the profile its engine may do."""
        return FAILED_AS if self.tuned else self.engine


@dataclass(slots=True, eq=False)
class Ask:
    """One request for a model. `explicit`: a person asks for the load itself; the last three: with exactly these."""

    number: int
    model: str
    plan: LoadPlan
    arrived: float
    deadline: float
    explicit: bool = False
    context: int | None = None
    engine: str | None = None
    device: str | None = None


@dataclass(slots=True, eq=False)
class Resident:
    """A model that holds memory."""

    id: str
    plan: LoadPlan
    claim: Bytes
    phase: Phase = Phase.LOADING
    in_flight: int = 0
    last_used: float = 0.0
    ready_at: float = 0.0
    load_s: float = 0.0
    replaced: bool = False  # another model was loaded in its place
    why: Why = Why.ASKED

    @property
    def turn_ends(self) -> float:
        return self.ready_at + min(max(TURN_S, 2 * self.load_s), _LONGEST_TURN_S)

    @property
    def evictable(self) -> bool:
        return self.phase is Phase.READY and not self.plan.pinned

    def ready_for(self, ask: Ask) -> bool:
        """Whether it can begin with this request now; a load that is asked for needs no place."""
        free = ask.explicit or self.in_flight < self.plan.slots
        return self.phase is Phase.READY and free and self.takes(ask)

    def takes(self, ask: Ask) -> bool:
        """Whether what is loaded is what was asked for; another context, engine or device means loading again."""
        plan = self.plan
        asked = ((ask.context, plan.context), (ask.engine, plan.engine), (ask.device, plan.device))
        return all(wanted is None or wanted == has for wanted, has in asked)


# Why a request is refused


@dataclass(frozen=True, slots=True)
class QueueIsFull:
    length: int


@dataclass(frozen=True, slots=True)
class TooLate:
    waited_s: float
    phase: Phase | None  # of the model it waited for


@dataclass(frozen=True, slots=True)
class NoRoom:
    """`free` is what is left when everything that may be unloaded is; `pinned` is what a person could unload."""

    device: str
    need: int
    free: int
    plan: LoadPlan
    pinned: Mapping[str, int]
    others: int = 0  # bytes that other programs hold


@dataclass(frozen=True, slots=True)
class Broken:
    cause: Exception
    retry_s: float  # 0: nothing is tried by itself


Refusal = QueueIsFull | TooLate | NoRoom | Broken


# Actions


@dataclass(frozen=True, slots=True)
class Load:
    """Start a worker; report with `loaded` or `load_failed`."""

    id: str
    plan: LoadPlan


@dataclass(frozen=True, slots=True)
class Stop:
    """End the worker; report with `gone` when its memory is free."""

    id: str
    why: Why


@dataclass(frozen=True, slots=True)
class Grant:
    """The request may be sent to its model now; `release` it at its end."""

    number: int


@dataclass(frozen=True, slots=True)
class Refuse:
    number: int
    why: Refusal


Action = Load | Stop | Grant | Refuse
