"""What is loaded, what goes, who waits: decisions in a made-up time, with nothing behind them.

The state machine at the end plays any sequence of requests, loads, failures, exits and other processes' use of memory
against the scheduler, and holds what must hold after every step.
"""

from __future__ import annotations

import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

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
    Stop,
    TooLate,
    Why,
)
from localfoundry.service.ledger import CPU, Budget, Ledger
from localfoundry.service.scheduler import Scheduler

GIB = 2**30
NUMBERS = itertools.count(1)
FAULT = RuntimeError("the tensor is crooked")


def scheduler(gib: float = 10, queue_length: int = 256) -> Scheduler:
    return Scheduler(Ledger({CPU: Budget(int(gib * GIB))}), queue_length)


def plan(gib: float = 1, **options: object) -> LoadPlan:
    values: dict[str, object] = {"context": 8192, "retain": True, "slots": 2, **options}
    return LoadPlan(need={CPU: int(gib * GIB)}, **values)  # type: ignore[arg-type]


def want(model: str, now: float = 0, wish: LoadPlan | None = None, **options: object) -> Ask:
    values: dict[str, object] = {"deadline": now + 100, **options}
    return Ask(next(NUMBERS), model, wish or plan(), now, **values)  # type: ignore[arg-type]


def load(scheduler: Scheduler, model: str, now: float = 0, wish: LoadPlan | None = None) -> int:
    """Load a model with one request in flight, and return the request's number."""
    ask = want(model, now, wish)
    actions = scheduler.ask(ask, now)
    assert Load(model, ask.plan) in actions
    assert Grant(ask.number) in scheduler.loaded(model, ask.plan.need, 0.1, now)
    return ask.number


def idle(scheduler: Scheduler, model: str, now: float = 0, wish: LoadPlan | None = None) -> None:
    assert scheduler.release(load(scheduler, model, now, wish), now) == []


def stops(actions: list[Action]) -> list[str]:
    return [a.id for a in actions if isinstance(a, Stop)]


# Loading


def test_the_first_request_loads_and_is_granted_when_that_is_done() -> None:
    it = scheduler()
    first, second = want("a"), want("a")
    assert it.ask(first, 0) == [Load("a", first.plan)]
    assert it.ask(second, 0) == []
    assert it.loaded("a", {CPU: GIB}, 0.1, 1) == [Grant(first.number), Grant(second.number)]


def test_more_requests_than_slots_wait_in_order() -> None:
    it = scheduler()
    first = load(it, "a")
    second, third, fourth = want("a"), want("a"), want("a")
    assert it.ask(second, 1) == [Grant(second.number)]
    assert it.ask(third, 1) == it.ask(fourth, 1) == []
    assert it.waiting("a") == 2
    assert it.release(first, 2) == [Grant(third.number)]


def test_a_full_queue_refuses() -> None:
    it = scheduler(queue_length=1)
    load(it, "a")
    it.ask(want("a"), 0)
    it.ask(want("a"), 0)
    late = want("a")
    assert it.ask(late, 0) == [Refuse(late.number, QueueIsFull(1))]


def test_a_request_that_waits_past_its_deadline_is_refused_and_says_for_what() -> None:
    it = scheduler()
    ask = want("a", deadline=5)
    it.ask(ask, 0)
    assert it.next_tick() == 5
    assert it.tick(5) == [Refuse(ask.number, TooLate(5, Phase.LOADING))]
    assert it.next_tick() is None


def test_a_deadline_is_kept_by_whatever_happens_after_it() -> None:
    """Something else may happen in the moment between the deadline and the timer that was set for it."""
    it = scheduler()
    ask = want("a", deadline=5)
    it.ask(ask, 0)
    assert it.observe({CPU: Budget(4 * GIB)}, 5.001) == [Refuse(ask.number, TooLate(5.001, Phase.LOADING))]


def test_a_request_that_is_withdrawn_leaves_its_load_alone() -> None:
    it = scheduler()
    ask = want("a")
    it.ask(ask, 0)
    assert it.withdraw(ask.number, "a", 0) == []
    assert it.loaded("a", {CPU: GIB}, 0.1, 1) == []
    assert it.residents["a"].phase is Phase.READY


# Making room


def test_idle_models_go_for_the_room_least_recently_used_first() -> None:
    it = scheduler(3)
    idle(it, "a", now=1)
    idle(it, "b", now=2)
    idle(it, "c", now=3)
    ask = want("d", wish=plan(2))
    assert it.ask(ask, 4) == [Stop("a", Why.ROOM), Stop("b", Why.ROOM)]
    assert it.gone("a", 5) == [], "not yet enough"
    assert it.gone("b", 5) == [Load("d", ask.plan)]


def test_a_busy_model_is_drained_when_its_turn_is_over_and_never_cut() -> None:
    it = scheduler(1)
    number = load(it, "a")
    ask = want("b")
    assert it.ask(ask, 0.1) == []
    assert it.next_tick() == 0.5
    assert it.tick(0.5) == []
    assert it.residents["a"].phase is Phase.DRAINING
    late = want("a")
    assert it.ask(late, 0.6) == [], "a model that is drained takes nothing new"
    assert it.release(number, 9) == [Stop("a", Why.ROOM)]
    assert it.gone("a", 10) == [Load("b", ask.plan)]


def test_two_models_that_are_both_wanted_take_turns() -> None:
    it = scheduler(1)
    a = load(it, "a")
    b = want("b")
    it.ask(b, 1)
    again = want("a", 1.1)
    it.ask(again, 1.1)
    assert stops(it.release(a, 2)) == ["a"]
    it.gone("a", 2)
    assert Grant(b.number) in it.loaded("b", {CPU: GIB}, 0.1, 3)
    assert it.residents["b"].phase is Phase.READY, "its turn has just begun"
    assert stops(it.release(b.number, 3.1)) == ["b"], "idle: nothing is lost"
    assert it.gone("b", 3.2) == [Load("a", again.plan)]


def test_a_smaller_one_does_not_overtake() -> None:
    it = scheduler(2)
    load(it, "a")
    it.ask(want("big", 1, plan(2)), 1)
    assert it.ask(want("small", 1.1, plan(0.5)), 1.1) == []


def test_a_pinned_model_stays() -> None:
    it = scheduler(1)
    idle(it, "a", wish=plan(1, pinned=True, ttl_s=1))
    ask = want("b")
    refusal = it.ask(ask, 99)
    assert refusal == [Refuse(ask.number, NoRoom(CPU, GIB, 0, ask.plan, {"a": GIB}))]
    assert it.tick(1000) == []


def test_what_can_never_fit_is_refused_at_once_and_changes_nothing() -> None:
    it = scheduler(2)
    idle(it, "a")
    ask = want("b", wish=plan(3))
    assert it.ask(ask, 1) == [Refuse(ask.number, NoRoom(CPU, 3 * GIB, 2 * GIB, ask.plan, {}))]
    assert it.residents["a"].phase is Phase.READY


def test_other_processes_and_the_reserve_count() -> None:
    it = scheduler()
    it.observe({CPU: Budget(10 * GIB, others=8 * GIB, reserve=GIB)}, 0)
    ask = want("a", wish=plan(1.5))
    assert isinstance(it.ask(ask, 0)[0], Refuse)
    assert isinstance(it.ask(want("a", wish=plan(1)), 0)[0], Load)


def test_memory_that_others_take_costs_idle_models() -> None:
    it = scheduler(4)
    idle(it, "a", now=0)
    idle(it, "b", now=1)
    assert it.observe({CPU: Budget(4 * GIB, others=int(1.9 * GIB), reserve=GIB)}, 9) == [], "the reserve is for that"
    assert it.observe({CPU: Budget(4 * GIB, others=int(2.5 * GIB), reserve=GIB)}, 9) == [Stop("a", Why.ROOM)]


def test_devices_are_counted_apart() -> None:
    it = Scheduler(Ledger({CPU: Budget(GIB), "gpu:0": Budget(8 * GIB)}))
    on_gpu = LoadPlan(need={"gpu:0": 6 * GIB, CPU: GIB // 2}, context=8192, retain=True)
    idle(it, "a", wish=on_gpu)
    small = want("b", wish=plan(0.5))
    assert it.ask(small, 1) == [Load("b", small.plan)]
    assert stops(it.ask(want("c", wish=LoadPlan(need={"gpu:0": 4 * GIB}, context=8192)), 2)) == ["a"]


# One at a time


def test_without_retain_the_others_go_when_the_new_one_is_ready() -> None:
    it = scheduler()
    idle(it, "a")
    busy = load(it, "b", 0)
    ask = want("c", wish=plan(retain=False))
    assert it.ask(ask, 1) == [Load("c", ask.plan)]
    assert it.loaded("c", {CPU: GIB}, 0.1, 2) == [Grant(ask.number), Stop("a", Why.REPLACED)]
    assert it.residents["b"].phase is Phase.DRAINING
    assert it.release(busy, 3) == [Stop("b", Why.REPLACED)]


def test_a_load_that_fails_changes_nothing_for_the_others() -> None:
    it = scheduler()
    idle(it, "a")
    ask = want("b", wish=plan(retain=False))
    it.ask(ask, 1)
    assert it.load_failed("b", FAULT, memory=False, now=2) == [Refuse(ask.number, Broken(FAULT, 1.0))]
    assert it.residents["a"].phase is Phase.READY
    assert not it.residents["a"].replaced


def test_another_context_loads_again() -> None:
    it = scheduler()
    idle(it, "a")
    same = want("a", 1, explicit=True, context=8192)
    assert it.ask(same, 1) == [Grant(same.number)]
    other = want("a", 1, plan(context=512), explicit=True, context=512)
    assert it.ask(other, 1) == []
    assert it.release(same.number, 2) == [Stop("a", Why.REPLACED)]
    assert it.gone("a", 3) == [Load("a", other.plan)]


def test_a_context_that_cannot_fit_leaves_what_is_loaded() -> None:
    it = scheduler()
    idle(it, "a")
    other = want("a", 1, plan(11), explicit=True, context=999)
    assert isinstance(it.ask(other, 1)[0], Refuse)
    assert it.residents["a"].phase is Phase.READY


# Going


def test_an_idle_model_goes_after_its_time_to_live_and_a_busy_one_does_not() -> None:
    it = scheduler()
    number = load(it, "a", 0, plan(ttl_s=10))
    assert it.tick(50) == []
    it.release(number, 50)
    assert it.next_tick() == 60
    assert it.tick(59) == []
    assert it.tick(60) == [Stop("a", Why.IDLE)]


def test_a_timer_that_fires_early_is_set_again() -> None:
    """Timers are rounded to milliseconds, and the time may come between the decision and the question for the next."""
    it = scheduler()
    idle(it, "a", now=0, wish=plan(ttl_s=10))
    assert it.tick(9.9995) == []
    assert it.next_tick() == 10
    assert it.tick(10.2) == [Stop("a", Why.IDLE)]


def test_without_a_time_to_live_it_stays() -> None:
    it = scheduler()
    idle(it, "a", wish=plan(ttl_s=0))
    assert it.next_tick() is None
    assert it.tick(1e9) == []


def test_an_unload_drains_and_a_forced_one_does_not() -> None:
    it = scheduler()
    number = load(it, "a")
    assert it.unload("a", 1) == []
    assert it.unload("a", 1, force=True) == [Stop("a", Why.ASKED)]
    assert it.gone("a", 2) == []
    assert it.release(number, 3) == []


def test_a_model_that_is_unloaded_while_it_loads_goes_when_it_is_ready() -> None:
    it = scheduler()
    ask = want("a")
    it.ask(ask, 0)
    it.unload("a", 0)
    assert it.loaded("a", {CPU: GIB}, 0.1, 1) == [Grant(ask.number)]
    assert it.release(ask.number, 2) == [Stop("a", Why.REPLACED)]


# Failing


def test_a_load_that_failed_for_want_of_memory_is_tried_once_more_when_idle_models_are_gone() -> None:
    it = scheduler()
    idle(it, "a")
    idle(it, "b")
    ask = want("c")
    it.ask(ask, 1)
    assert stops(it.load_failed("c", FAULT, memory=True, now=2)) == ["a", "b"]
    assert it.gone("a", 3) == []
    assert it.gone("b", 3) == [Load("c", ask.plan)]
    assert it.load_failed("c", FAULT, memory=True, now=4) == [Refuse(ask.number, Broken(FAULT, 1.0))]


def test_where_nothing_can_be_freed_it_is_not_tried_again() -> None:
    it = scheduler()
    load(it, "a")
    ask = want("c")
    it.ask(ask, 1)
    assert it.load_failed("c", FAULT, memory=True, now=2) == [Refuse(ask.number, Broken(FAULT, 1.0))]


def test_a_model_that_does_not_load_is_left_alone_for_longer_each_time_but_a_person_may_try() -> None:
    it = scheduler()
    now, waits = 0.0, []
    for _ in range(4):
        it.ask(want("a", now), now)
        it.load_failed("a", FAULT, memory=False, now=now)
        asked = want("a", now)
        refusal = it.ask(asked, now)[0]
        assert isinstance(refusal, Refuse)
        assert isinstance(refusal.why, Broken)
        assert refusal.why.cause is FAULT
        waits.append(refusal.why.retry_s)
        now += refusal.why.retry_s
    assert waits == [1, 2, 5, 15]
    typed = want("a", now, explicit=True)
    it.load_failed("a", FAULT, memory=False, now=now) if it.residents else None
    assert it.ask(typed, now - 1) == [Load("a", typed.plan)]


def test_a_crash_is_made_good_by_the_next_request_with_growing_patience_until_it_is_given_up() -> None:
    it = scheduler()
    now = 0.0
    for pause in (0, 1, 2, 5):
        number = load(it, "a", now)
        waiting = want("a", now, plan(slots=1))
        it.residents["a"].plan = plan(slots=1)
        it.ask(waiting, now)
        actions = it.gone("a", now, crash=FAULT)
        it.release(number, now)
        if pause:
            assert actions == []
            assert it.next_tick() == now + pause
            actions = it.tick(now + pause)
        assert actions == [Load("a", waiting.plan)]
        now += pause
        it.loaded("a", {CPU: GIB}, 0.1, now)
        it.release(waiting.number, now)
        it.unload("a", now)
        it.gone("a", now)
    load(it, "a", now)
    assert it.gone("a", now, crash=FAULT) == []
    ask = want("a", now)
    assert it.ask(ask, now) == [Refuse(ask.number, Broken(FAULT, 60.0))]
    later = want("a", now + 60)
    assert it.ask(later, now + 60) == [Load("a", later.plan)]


def test_a_crash_after_a_long_time_counts_as_the_first() -> None:
    it = scheduler()
    for start in (0.0, 100.0, 200.0, 300.0, 400.0, 500.0):
        number = load(it, "a", start)
        it.gone("a", start + 90, crash=FAULT)
        it.release(number, start + 90)


# Any sequence


class AnySequence(RuleBasedStateMachine):
    """The scheduler against a world that may do anything; `processes` are the workers that hold memory."""

    MODELS = ("a", "b", "c", "d")

    @initialize(gib=st.integers(2, 8), queue=st.integers(1, 6))
    def begin(self, gib: int, queue: int) -> None:
        self.it = Scheduler(Ledger({CPU: Budget(gib * GIB, 0, GIB // 4)}), queue)
        self.now = 0.0
        self.processes: dict[str, str] = {}  # model -> loading | ready | stopping
        self.waiting: dict[int, Ask] = {}
        self.running: dict[int, str] = {}
        self.answers: dict[int, str] = {}

    def perform(self, actions: list[Action], forced: str | None = None) -> None:
        for action in actions:
            match action:
                case Load(model, wish):
                    assert model not in self.processes, "two workers of one model"
                    budget = self.it.ledger.budgets[CPU]
                    held = sum(r.claim[CPU] for r in self.it.residents.values() if r.id != model)
                    assert held + wish.need[CPU] + budget.others + budget.reserve <= budget.limit, "over the ledger"
                    self.processes[model] = "loading"
                case Stop(model, _):
                    assert self.processes[model] == "ready", f"{model} is {self.processes[model]}"
                    assert model == forced or model not in self.running.values(), "work in flight was cut"
                    self.processes[model] = "stopping"
                case Grant(number):
                    ask = self.waiting.pop(number)
                    assert self.processes[ask.model] == "ready"
                    self.running[number] = ask.model
                    self.answers[number] = "granted"
                case Refuse(number, _):
                    self.waiting.pop(number)
                    assert number not in self.answers
                    self.answers[number] = "refused"

    @rule(model=st.sampled_from(MODELS), half_gib=st.integers(1, 9), patience=st.sampled_from([1.0, 30.0, 1e6]),
          retain=st.booleans(), explicit=st.booleans(), context=st.sampled_from([None, 512, 8192]),
          pinned=st.sampled_from([False, False, False, True]))  # fmt: skip
    def ask(self, model: str, half_gib: int, patience: float, retain: bool, explicit: bool, context: int | None,
            pinned: bool) -> None:  # fmt: skip
        wish = LoadPlan(
            need={CPU: half_gib * GIB // 2},
            context=context or 8192,
            slots=2,
            ttl_s=20.0,
            pinned=pinned and explicit,
            retain=retain,
        )
        ask = Ask(next(NUMBERS), model, wish, self.now, self.now + patience, explicit, context if explicit else None)
        self.waiting[ask.number] = ask
        self.perform(self.it.ask(ask, self.now))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        ask = data.draw(st.sampled_from(sorted(self.waiting.values(), key=lambda a: a.number)))
        del self.waiting[ask.number]
        self.perform(self.it.withdraw(ask.number, ask.model, self.now))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.running)))
        del self.running[number]
        self.perform(self.it.release(number, self.now))

    def _some(self, data: st.DataObject, *states: str) -> str | None:
        some = sorted(model for model, state in self.processes.items() if state in states)
        return data.draw(st.sampled_from(some)) if some else None

    @rule(data=st.data(), more=st.sampled_from([0.5, 1.0, 1.0, 2.5]))
    def become_ready(self, data: st.DataObject, more: float) -> None:
        """What is measured may be more than what was predicted."""
        if model := self._some(data, "loading"):
            self.processes[model] = "ready"
            claim = {CPU: int(self.it.residents[model].claim[CPU] * more)}
            self.perform(self.it.loaded(model, claim, 0.3, self.now))

    @rule(data=st.data(), memory=st.booleans())
    def fail_to_load(self, data: st.DataObject, memory: bool) -> None:
        if model := self._some(data, "loading"):
            del self.processes[model]
            self.perform(self.it.load_failed(model, FAULT, memory=memory, now=self.now))

    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        if model := self._some(data, "ready"):
            self.process_ended(model, FAULT)

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        if model := self._some(data, "stopping"):
            self.process_ended(model)

    def process_ended(self, model: str, crash: Exception | None = None) -> None:
        self.processes.pop(model, None)
        cut = [number for number, used in self.running.items() if used == model]
        for number in cut:
            del self.running[number]
        self.perform(self.it.gone(model, self.now, crash=crash))
        for number in cut:
            self.perform(self.it.release(number, self.now))

    @rule(model=st.sampled_from(MODELS), force=st.booleans())
    def unload(self, model: str, force: bool) -> None:
        self.perform(self.it.unload(model, self.now, force=force), forced=model if force else None)

    @rule(gib=st.integers(0, 6))
    def others_use(self, gib: int) -> None:
        budget = self.it.ledger.budgets[CPU]
        self.perform(self.it.observe({CPU: Budget(budget.limit, gib * GIB // 2, budget.reserve)}, self.now))

    @rule(seconds=st.sampled_from([0.1, 1.0, 25.0, 70.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.perform(self.it.tick(self.now))
        assert all(ask.deadline > self.now for ask in self.waiting.values()), "a request waits past its deadline"

    @invariant()
    def both_agree(self) -> None:
        if not hasattr(self, "it"):
            return
        assert set(self.processes) == set(self.it.residents)
        assert {a.number for a in self.it.queued()} == set(self.waiting)
        for resident in self.it.residents.values():
            assert resident.in_flight == sum(model == resident.id for model in self.running.values())
        tick = self.it.next_tick()
        assert tick is None or tick > self.now

    def teardown(self) -> None:
        """When the world behaves, everyone who waits is answered, without waiting for a deadline."""
        if not hasattr(self, "it"):
            return
        for ask in self.waiting.values():
            ask.deadline = 1e12
        for _ in range(500):
            if not self.waiting:
                return
            for model, state in list(self.processes.items()):
                if state == "loading":
                    self.processes[model] = "ready"
                    self.perform(self.it.loaded(model, self.it.residents[model].claim, 0.1, self.now))
                elif state == "stopping":
                    self.process_ended(model)
            for number in list(self.running):
                del self.running[number]
                self.perform(self.it.release(number, self.now))
            tick = self.it.next_tick()
            if tick is not None and tick < 1e12:
                self.now = tick
                self.perform(self.it.tick(self.now))
        pytest.fail(f"nobody answers {self.waiting}; {self.it.residents}")


AnySequence.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestAnySequence = AnySequence.TestCase
