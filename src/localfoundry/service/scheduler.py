"""Who may run, what is loaded, what has to go: decisions only. `service.py` carries them out and reports back.

The scheduler has no clock, no process and no socket: every call gets the time, and returns actions. Whoever carries
them out tells it what became of them, so that one sequence of events always leads to the same actions.

    phase       holds memory   takes work                      next
    loading     predicted      no, requests wait for it        ready (loaded) | gone (load_failed)
    ready       measured       up to its slots, then a queue   draining | stopping | gone (crashed)
    draining    measured       no; finishes what it has        stopping
    stopping    measured       no                              gone

Rules:
 1. A load begins only when its claim fits beside all claims, what other processes hold, and the reserve.
 2. Room is made by unloading idle models, least recently used first, then by draining busy ones that had their turn.
    A model is never stopped with work in flight, unless a person forces it. Pinned models stay.
 3. Loads are begun in the order of the oldest request that waits for them; the first in line is not overtaken by a
    smaller one. A busy model keeps its place for a turn (`TURN_S`, or twice its load), so that two models that are
    both wanted take turns and do not spend their time loading.
 4. A failed load changes nothing for the others. It is tried once more where memory was the cause and an idle model
    could be unloaded for it. Requests that have another plan by then, with another engine, are not refused for it.
 5. A model that fails again and again is left alone for a while, longer each time, and those who ask are told why.
 6. A request that has waited past its deadline is refused.
 7. A person can force a load that does not fit: idle models go for it, busy ones and pinned ones stay, and it begins.
    It counts in the ledger like any other, and is not unloaded merely because the ledger is overdrawn.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from localfoundry.service.decisions import (
    Action,
    Ask,
    Broken,
    Grant,
    Load,
    LoadPlan,
    NoRoom,
    Phase,
    QueueIsFull,
    Refuse,
    Resident,
    Stop,
    TooLate,
    Why,
)
from localfoundry.service.ledger import Budget, Bytes, Ledger

_LOAD_RETRY_S = (1.0, 2.0, 5.0, 15.0, 30.0)  # after so many failed loads: no new try before
_CRASH_RETRY_S = (0.0, 1.0, 2.0, 5.0)  # after so many crashes; one more and it is given up for `_GIVEN_UP_S`
_GIVEN_UP_S = 60.0
_STABLE_S = 60.0  # a model that ran for so long had no part in crashes before


@dataclass(slots=True)
class _Failure:
    """Loads and crashes in a row, and until when the model is left alone."""

    count: int
    until: float
    cause: Exception
    refuses: bool  # those who ask meanwhile are refused; else they wait


@dataclass(slots=True)
class Scheduler:
    """See the module. `queue_length`: requests that may wait for one model."""

    ledger: Ledger
    queue_length: int = 256
    residents: dict[str, Resident] = field(default_factory=dict)
    _queues: dict[str, deque[Ask]] = field(default_factory=dict)
    _running: dict[int, Resident] = field(default_factory=dict)
    _failures: dict[str, _Failure] = field(default_factory=dict)
    _tried_again: set[str] = field(default_factory=set)
    _decided_at: float = -math.inf

    # What happens

    def ask(self, ask: Ask, now: float) -> list[Action]:
        """A request arrives. It is granted, refused or kept; what became of it is in these actions or later ones."""
        queue = self._queues.get(ask.model)
        resident = self.residents.get(ask.model)
        if queue is None and resident is not None and resident.ready_for(ask):
            return [self._grant(ask, resident)]  # the way of nearly every request: it changes nothing else
        if queue is not None and len(queue) >= self.queue_length:
            return [Refuse(ask.number, QueueIsFull(len(queue)))]
        failure = self._failures.get(ask.model)
        if ask.explicit:
            self._failures.pop(ask.model, None)
        elif failure is not None and failure.refuses and now < failure.until and ask.model not in self.residents:
            return [Refuse(ask.number, Broken(failure.cause, failure.until - now))]
        self._queues.setdefault(ask.model, deque()).append(ask)
        return self._decide(now)

    def withdraw(self, number: int, model: str, now: float) -> list[Action]:
        """A request that still waits is no longer wanted. A load that it began goes on."""
        self._take(number, model)
        return self._decide(now)

    def release(self, number: int, now: float) -> list[Action]:
        """A granted request has ended."""
        resident = self._running.pop(number)
        resident.in_flight -= 1
        resident.last_used = now
        if not self._queues and resident.phase is Phase.READY and not resident.replaced:
            return []  # nobody waits, and nothing is to go
        return self._decide(now)

    def loaded(self, id: str, claim: Bytes, load_s: float, now: float) -> list[Action]:
        """The worker is ready; `claim` is what was measured."""
        resident = self.residents[id]
        resident.phase = Phase.READY
        resident.claim = claim
        resident.load_s = load_s
        resident.ready_at = resident.last_used = now
        self._tried_again.discard(id)
        failure = self._failures.get(id)
        if failure is not None and failure.refuses:
            del self._failures[id]
        if not resident.plan.retain:
            for other in self.residents.values():
                other.replaced |= other is not resident and other.evictable
        return self._decide(now)

    def load_failed(
        self, id: str, cause: Exception, *, memory: bool, now: float, others: Mapping[int, LoadPlan] | None = None
    ) -> list[Action]:
        """The worker did not become ready and is gone. `memory`: for want of it.

        `others`: what else could be done for requests that wait, by their number; the rest of them is refused.
        """
        retries = memory and self.could_make_room(id)
        del self.residents[id]
        actions: list[Action] = []
        if retries:
            self._tried_again.add(id)
            actions += [self._stop(r, Why.ROOM) for r in self._idle()]
            return actions + self._decide(now)
        self._tried_again.discard(id)
        if others:
            return self._replanned(id, cause, others) + self._decide(now)
        self._failures[id] = failure = self._failed_again(id, now, cause, _LOAD_RETRY_S, refuses=True)
        actions += [Refuse(a.number, Broken(cause, failure.until - now)) for a in self._queues.pop(id, ())]
        return actions + self._decide(now)

    def could_make_room(self, id: str) -> bool:
        """Whether a load that failed for want of memory would be tried once more, with idle models unloaded for it."""
        others = [r for r in self._idle() if r.id != id]
        return bool(others) and id not in self._tried_again

    def measured(self, id: str, claim: Bytes) -> None:
        """What a model holds now."""
        if id in self.residents:
            self.residents[id].claim = claim

    def gone(self, id: str, now: float, *, crash: Exception | None = None) -> list[Action]:
        """The process has ended and its memory is free; `crash`: it was not asked to."""
        resident = self.residents.pop(id)
        actions: list[Action] = []
        if crash is not None:
            if now - resident.ready_at >= _STABLE_S:
                self._failures.pop(id, None)
            known = self._failures.get(id)
            given_up = known is not None and known.count >= len(_CRASH_RETRY_S)
            waits = (_GIVEN_UP_S,) if given_up else _CRASH_RETRY_S
            self._failures[id] = failure = self._failed_again(id, now, crash, waits, refuses=given_up)
            if given_up:
                actions += [Refuse(a.number, Broken(crash, failure.until - now)) for a in self._queues.pop(id, ())]
        return actions + self._decide(now)

    def unload(self, id: str, now: float, *, force: bool = False) -> list[Action]:
        """A person wants it gone: drained first, or with `force` at once. One that is being loaded goes after that."""
        resident = self.residents.get(id)
        if resident is None or resident.phase is Phase.STOPPING:
            return []
        if resident.phase is Phase.LOADING:
            resident.replaced = True
            return []
        resident.phase, resident.why = Phase.DRAINING, Why.ASKED
        if force:
            return [self._stop(resident, Why.ASKED)]
        return self._decide(now)

    def observe(self, budgets: Mapping[str, Budget], now: float) -> list[Action]:
        """What the devices have, and what others hold of it, as of now."""
        self.ledger = Ledger(budgets)
        return self._decide(now)

    def tick(self, now: float) -> list[Action]:
        """Time has passed: call it at `next_tick`, or whenever."""
        return self._decide(now)

    # For whoever reports

    def waiting(self, id: str) -> int:
        """Requests that wait for a model."""
        return len(self._queues.get(id, ()))

    def waiting_for(self, id: str) -> list[int]:
        """Their numbers."""
        return [ask.number for ask in self._queues.get(id, ())]

    def queued(self) -> list[Ask]:
        """Every request that waits."""
        return [ask for queue in self._queues.values() for ask in queue]

    def claims(self) -> list[Bytes]:
        return [r.claim for r in self.residents.values()]

    def room(self, id: str, device: str) -> int:
        """Bytes that a load of this model could have if everything were unloaded that may be."""
        return self.ledger.free(self._fixed(id).values(), device)

    def next_tick(self) -> float | None:
        """When time alone will next change something after the last decision; None: nothing waits for it.

        It may have passed already: what was due between that decision and this question is not lost.
        """
        times = [ask.deadline for queue in self._queues.values() for ask in queue]
        times += [f.until for model, f in self._failures.items() if model in self._queues]
        wanted = any(model not in self.residents for model in self._queues)
        for r in self.residents.values():
            if r.phase is not Phase.READY or r.plan.pinned:
                continue
            if r.in_flight and (r.replaced or wanted):
                times.append(r.turn_ends)
            elif not r.in_flight and r.plan.ttl_s > 0:
                times.append(r.last_used + r.plan.ttl_s)
        return min((t for t in times if t > self._decided_at), default=None)

    # Deciding

    def _decide(self, now: float) -> list[Action]:
        self._decided_at = now
        return [*self._too_late(now), *self._refusals(), *self._grants(), *self._stops(now), *self._loads(now)]

    def _too_late(self, now: float) -> Iterator[Action]:
        for ask in [a for a in self.queued() if a.deadline <= now]:
            self._take(ask.number, ask.model)
            resident = self.residents.get(ask.model)
            yield Refuse(ask.number, TooLate(now - ask.arrived, resident.phase if resident else None))

    def _refusals(self) -> Iterator[Action]:
        """Everyone whose plan cannot be carried out whatever is unloaded."""
        for model in list(self._queues):
            resident = self.residents.get(model)
            for ask in list(self._queues[model]):
                waits = resident is None or not resident.takes(ask)
                if waits and not ask.plan.forced and not self._possible(ask.plan, without=model):
                    self._take(ask.number, model)
                    yield Refuse(ask.number, self._no_room(model, ask.plan))

    def _grants(self) -> Iterator[Action]:
        for model in list(self._queues):
            resident = self.residents.get(model)
            if resident is None:
                continue
            queue = self._queues[model]
            while queue and resident.ready_for(queue[0]):
                yield self._grant(queue.popleft(), resident)
            if not queue:
                del self._queues[model]

    def _stops(self, now: float) -> Iterator[Action]:
        for r in self.residents.values():
            if r.phase is Phase.READY:
                self._maybe_leave(r, now)
            if r.phase is Phase.DRAINING and r.in_flight == 0:
                yield self._stop(r, r.why)
        yield from self._stops_of_the_overdrawn(now)

    def _maybe_leave(self, r: Resident, now: float) -> None:
        """Set a ready model draining where its time has come."""
        queue = self._queues.get(r.id)
        if queue and not r.takes(queue[0]):  # wanted with another context
            r.phase, r.why = Phase.DRAINING, Why.REPLACED
        elif r.plan.pinned:
            return
        elif r.replaced and (r.in_flight == 0 or now >= r.turn_ends):
            r.phase, r.why = Phase.DRAINING, Why.REPLACED
        elif r.in_flight == 0 and r.plan.ttl_s > 0 and now >= r.last_used + r.plan.ttl_s:
            r.phase, r.why = Phase.DRAINING, Why.IDLE

    def _stops_of_the_overdrawn(self, now: float) -> Iterator[Action]:
        over = self.ledger.overdrawn(r.claim for r in self.residents.values() if r.phase is not Phase.STOPPING)
        for r in self._least_recent() if over else ():
            if r.in_flight == 0 and not r.plan.forced and now >= r.turn_ends and any(r.claim.get(d, 0) for d in over):
                yield self._stop(r, Why.ROOM)
                over = {d: size - r.claim.get(d, 0) for d, size in over.items() if size > r.claim.get(d, 0)}

    def _loads(self, now: float) -> Iterator[Action]:
        free = [model for model in self._queues if model not in self.residents and not self._held(model, now)]
        wanted = [self._queues[model][0] for model in free]
        for first in sorted(wanted, key=lambda ask: (ask.arrived, ask.number)):
            plan = next((a.plan for a in self._queues[first.model] if a.explicit), first.plan)
            if first.model in self._tried_again and self._being_freed():
                return
            forced = plan.forced and not self._possible(plan, without=first.model)
            if self.ledger.missing(plan.need, self.claims()):
                yield from self._make_room(plan, now, drain=not forced)
                if not forced or self._being_freed():
                    return  # rule 3: nobody overtakes
            plan = dataclasses.replace(plan, forced=forced)
            self.residents[first.model] = Resident(first.model, plan, plan.need)
            yield Load(first.model, plan)

    def _make_room(self, plan: LoadPlan, now: float, *, drain: bool) -> Iterator[Action]:
        """Stop idle models, then with `drain` set busy ones draining that had their turn."""

        def missing() -> dict[str, int]:
            staying = [r.claim for r in self.residents.values() if r not in freed]
            return self.ledger.missing(plan.need, staying)

        freed = self._being_freed()
        for busy, r in itertools.product((False, True), self._least_recent()):
            lack = missing()
            if not lack:
                return
            if busy is not (r.in_flight > 0) or not any(r.claim.get(d, 0) for d in lack):
                continue
            if not busy:
                yield self._stop(r, Why.ROOM)
            elif drain and now >= r.turn_ends:
                r.phase, r.why = Phase.DRAINING, Why.ROOM
            else:
                continue
            freed.append(r)

    def _no_room(self, id: str, plan: LoadPlan) -> NoRoom:
        fixed = self._fixed(id)
        lack = self.ledger.missing(plan.need, fixed.values())
        device = max(lack, key=lambda d: lack[d])
        pinned = {other: claim[device] for other, claim in fixed.items() if claim.get(device)}
        free, budget = self.ledger.free(fixed.values(), device), self.ledger.budgets.get(device)
        return NoRoom(device, plan.need[device], free, plan, pinned, budget.others if budget else 0)

    # Looking

    def _possible(self, plan: LoadPlan, *, without: str) -> bool:
        """Whether it fits when everything is unloaded that may be."""
        return not self.ledger.missing(plan.need, self._fixed(without).values())

    def _fixed(self, without: str) -> dict[str, Bytes]:
        """Claims that nobody but a person can end."""
        return {r.id: r.claim for r in self.residents.values() if r.plan.pinned and r.id != without}

    def _being_freed(self) -> list[Resident]:
        return [r for r in self.residents.values() if r.phase in (Phase.DRAINING, Phase.STOPPING)]

    def _idle(self) -> list[Resident]:
        return [r for r in self.residents.values() if r.evictable and r.in_flight == 0]

    def _least_recent(self) -> list[Resident]:
        return sorted((r for r in self.residents.values() if r.evictable), key=lambda r: (r.last_used, r.id))

    def _held(self, id: str, now: float) -> bool:
        failure = self._failures.get(id)
        return failure is not None and now < failure.until and not any(a.explicit for a in self._queues[id])

    # Changing

    def _grant(self, ask: Ask, resident: Resident) -> Grant:
        resident.in_flight += 1
        if ask.explicit:
            resident.plan = dataclasses.replace(resident.plan, ttl_s=ask.plan.ttl_s, pinned=ask.plan.pinned)
        self._running[ask.number] = resident
        return Grant(ask.number)

    def _stop(self, resident: Resident, why: Why) -> Stop:
        resident.phase = Phase.STOPPING
        return Stop(resident.id, why)

    def _replanned(self, id: str, cause: Exception, plans: Mapping[int, LoadPlan]) -> list[Action]:
        """Requests that wait for a model get their new plans; those that have none are refused."""
        refused: list[Action] = []
        for ask in list(self._queues.get(id, ())):
            if ask.number in plans:
                ask.plan = plans[ask.number]
            else:
                self._take(ask.number, id)
                refused.append(Refuse(ask.number, Broken(cause, 0)))
        return refused

    def _take(self, number: int, model: str) -> Ask | None:
        """Remove a request from its queue; None where it no longer waits."""
        queue = self._queues.get(model, deque())
        ask = next((a for a in queue if a.number == number), None)
        if ask is not None:
            queue.remove(ask)
            if not queue:
                del self._queues[model]
        return ask

    def _failed_again(
        self, id: str, now: float, cause: Exception, waits: tuple[float, ...], *, refuses: bool
    ) -> _Failure:
        count = self._failures[id].count + 1 if id in self._failures else 1
        return _Failure(count, now + waits[min(count, len(waits)) - 1], cause, refuses)
