"""The course of a search: files and engines first, then options one at a time, then all that helped, then proof.

    calibrate ─▶ files: 2 rounds ─▶ half: 3 more ─▶ guard of the best
              ─▶ options on it: 2 rounds ─▶ half: 3 more ─▶ together
              ─▶ proof in new rounds: default, file, all options, all but one ─▶ the simplest that is not shown worse

All that is compared is measured in turns, round by round, beside the default. A candidate that fails is out with its
reason. What there is no time for is not tried, and is said to be so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from localfoundry.bench.stats import Ratio
from localfoundry.errors import BudgetTooSmall, LoadFailed
from localfoundry.tuning import halving
from localfoundry.tuning.guard import Loss
from localfoundry.tuning.purpose import LOW_MEMORY, Purpose
from localfoundry.tuning.space import Option, Setting, combined, distinct

_SCREENING, _OPTIONS = 0.35, 0.5  # of the time that is left when each begins, at most
_LONGEST_LOOK_S = 300.0  # at the default, whatever the budget: to say which one would do
_MEMORY_GAIN = 1.02  # below that, less memory is not worth a profile


@dataclass(frozen=True, slots=True)
class Rounds:
    """What was measured of one setting: the figure of each whole round, and what it cost in seconds."""

    values: Mapping[int, float] = field(default_factory=dict)
    memory_bytes: int | None = None
    load_s: float = 0.0
    round_s: float = 0.0
    error: str | None = None


class Bed(Protocol):
    """Where settings are loaded and asked; `now` and deadlines are seconds of one clock.

    `together`: rounds of the bench that count as one, from the next measuring on.
    """

    together: int

    def now(self) -> float: ...

    def told(self, what: str) -> None:
        """Hears in a few words what comes next."""

    async def measure(
        self, settings: Sequence[Setting], rounds: int, stage: str, deadline_s: float
    ) -> dict[Setting, Rounds]:
        """All in turns, with prompts of this stage alone; less rounds where the deadline came. Raises Stopped."""
        ...

    async def loss(self, base: Setting, candidate: Setting, deadline_s: float) -> Loss:
        """What the answers of a candidate are worth beside those of the base. Raises Stopped."""
        ...


class Stopped(Exception):
    """Ctrl-C: what was measured is kept."""


@dataclass(slots=True)
class Tried:
    """A setting and all that is known of it. `ratio` is over the default, of the last stage it was in."""

    setting: Setting
    stage: str = ""
    ratio: Ratio | None = None
    value: float | None = None
    memory_bytes: int | None = None
    loss: Loss | None = None
    out: str | None = None


@dataclass(slots=True)
class Worth:
    """What one choice in the winner is worth: the winner over itself without it."""

    choice: str
    ratio: Ratio


@dataclass(slots=True)
class Outcome:
    base: Setting
    tried: dict[Setting, Tried] = field(default_factory=dict)
    winner: Setting | None = None
    worth: list[Worth] = field(default_factory=list)
    not_tried: list[str] = field(default_factory=list)
    stopped: bool = False
    proof_rounds: int = 0


class Search:
    """One search; `run` once, and read `outcome` whatever became of it."""

    def __init__(
        self, bed: Bed, base: Setting, purpose: Purpose, files: Sequence[Setting],
        options: Callable[[Setting], list[Option]], budget_s: float, slower: float = 0.1,
        most_rounds: int = halving.MOST_ROUNDS,
    ) -> None:  # fmt: skip
        """`files`: other ways to start from; `slower`: how much slower less memory may be; `most_rounds`: of proof."""
        self.outcome = Outcome(base)
        self._bed, self._base, self._purpose, self._slower = bed, base, purpose, slower
        self._files = [one for one in distinct([base, *files]) if one != base]
        self._options = options
        self._most_rounds = max(most_rounds, halving.LEAST_ROUNDS)
        self._budget_s = budget_s
        self._ends = bed.now() + budget_s
        self._cost = (0.0, 0.0)
        self._losses: dict[frozenset[str], Loss] = {}

    async def run(self) -> Outcome:
        """Raises BudgetTooSmall, LoadFailed where the default itself cannot be measured."""
        try:
            await self._calibrate()
            leader = await self._best_file()
            gains = await self._gains(leader)
            await self._prove(leader, gains)
        except Stopped:
            self.outcome.stopped = True
        return self.outcome

    @property
    def _left_s(self) -> float:
        return self._ends - self._bed.now()

    @property
    def _proof_s(self) -> float:
        """The least that the proof takes: one candidate beside the default."""
        load_s, round_s = self._cost
        return 2 * (load_s + (halving.LEAST_ROUNDS + 1) * round_s)

    async def _calibrate(self) -> None:
        self._bed.told("the default, to see how long a round takes")
        found = await self._measured([self._base], 1, "calibration", 1.0)
        one = found[self._base]
        if one.error is not None or not one.values:
            raise LoadFailed(f"{self._base.version} cannot be measured as it is loaded now: {one.error or 'no answer'}",
                             hint=f"foundry model run {self._base.version}", param="model")  # fmt: skip
        self._bed.together = halving.together(self._budget_s, one.round_s)
        self._cost = one.load_s, one.round_s * self._bed.together
        smallest = halving.smallest_s(self._cost)
        if self._budget_s < smallest:
            seconds = int(smallest) + 1
            raise BudgetTooSmall(
                f"a budget of {self._budget_s:.0f} s is too small: the default takes {one.load_s:.1f} s to load and "
                f"{self._cost[1]:.1f} s a round, so comparing one other way with it takes {seconds} s",
                hint=f"--budget {seconds}s", param="budget",
            )  # fmt: skip

    async def _best_file(self) -> Setting:
        """The fastest file and engine that the guard lets through, or the default."""
        gains = await self._halved(self._base, self._files, "files", _SCREENING)
        for setting in sorted((s for s in gains if gains[s] > 1), key=lambda s: -gains[s]):
            if await self._guarded(setting):
                return setting
        return self._base

    async def _gains(self, leader: Setting) -> list[tuple[Option, float]]:
        options = {leader.plus(option): option for option in self._options(leader)}
        gains = await self._halved(leader, [*options], "options", _OPTIONS)
        return [(options[setting], gain) for setting, gain in gains.items() if gain > 1]

    async def _halved(
        self, base: Setting, candidates: Sequence[Setting], stage: str, share: float
    ) -> dict[Setting, float]:
        """How many times better than `base`, of those that were not dropped on the way."""
        free_s = max(self._left_s - self._proof_s, 0.0)
        ends_s = min(max(free_s * share, halving.screening_s(self._cost)), free_s)
        taken = halving.affordable(candidates, ends_s, self._cost, halving.SCREEN_ROUNDS)
        self.outcome.not_tried += [setting.label for setting in candidates if setting not in taken]
        gains: dict[Setting, float] = {}
        pooled: dict[Setting, dict[int, float]] = {}
        for number, rounds in enumerate((halving.SCREEN_ROUNDS, halving.SECOND_ROUNDS)):
            if not taken:
                break
            self._bed.told(f"{stage}: {len(taken)} ways, {rounds} rounds")
            found = await self._measured([base, *taken], rounds, f"{stage}-{base.label}-{number}", share)
            for setting, one in found.items():  # rounds of both rungs together, under numbers of their own
                pooled.setdefault(setting, {}).update({number * 100 + n: value for n, value in one.values.items()})
            compared = {s: halving.compared(pooled[s], pooled[base]) for s in taken if found[s].error is None}
            now = {s: self._gain(s, ratio) for s, ratio in compared.items() if ratio is not None}
            gains = {s: gain for s, gain in (gains | now).items() if self.outcome.tried[s].out is None}
            taken = halving.survivors(now, above=1.0)
            if self._left_s - self._proof_s < free_s - ends_s:
                break
        return gains

    async def _prove(self, leader: Setting, gains: Sequence[tuple[Option, float]]) -> None:
        """New rounds of the candidates that could win, and of the winner without each of its choices."""
        best = combined(leader, gains)
        less = [best.without(option.dimension) for option in best.options if option not in leader.options]
        most = max(gains, key=lambda one: one[1], default=None)
        alone = [leader.plus(most[0])] if most else []
        chosen = [s for s in distinct([best, leader, *alone, *less]) if s != self._base]
        if not chosen:
            return
        reserve = self._left_s * (1 - halving.GUARD)
        costs = [self._cost] * (len(chosen) + 1)
        while len(chosen) > 1 and halving.rounds_in(reserve, costs, halving.LEAST_ROUNDS) < halving.LEAST_ROUNDS:
            self.outcome.not_tried.append(f"{chosen.pop().label} once more, for what each choice is worth")
            costs.pop()
        rounds = max(halving.rounds_in(reserve, costs, self._most_rounds), halving.LEAST_ROUNDS)
        self._bed.told(f"proof: {len(chosen)} ways beside the default, {rounds} rounds")
        found = await self._measured([self._base, *chosen], rounds, "proof", 1.0)
        self.outcome.proof_rounds = rounds
        values = {setting: one.values for setting, one in found.items() if one.error is None}
        for setting in self._ranked(values, chosen):
            if await self._guarded(setting):
                self.outcome.winner = setting
                self._weigh(setting, values)
                return

    def _ranked(self, values: Mapping[Setting, Mapping[int, float]], chosen: Sequence[Setting]) -> list[Setting]:
        """Those shown to be better than the default: the best first, behind what is simpler and not shown worse."""
        gains = {s: self._gain(s, self.outcome.tried[s].ratio) for s in chosen if s in values and self._wins(s)}
        ranked = sorted(gains, key=lambda s: -gains[s])
        if not ranked:
            return []
        best = ranked[0]
        as_good = [
            s for s in ranked
            if len(s.options) < len(best.options) and self._purpose.name != LOW_MEMORY
            and not halving.better(halving.compared(values[best], values[s]))
        ]  # fmt: skip
        as_good.sort(key=lambda s: len(s.options))
        return as_good + [s for s in ranked if s not in as_good]

    def _gain(self, setting: Setting, ratio: Ratio | None) -> float:
        """How many times better: in memory where that is what counts, and it is not too slow for it."""
        if ratio is None:
            return 0.0
        if self._purpose.name != LOW_MEMORY:
            return ratio.value
        mine, base = self.outcome.tried[setting].memory_bytes, self.outcome.tried[self._base].memory_bytes
        return base / mine if mine and base and ratio.value >= 1 - self._slower else 0.0

    def _wins(self, setting: Setting) -> bool:
        ratio = self.outcome.tried[setting].ratio
        if self._purpose.name != LOW_MEMORY:
            return halving.better(ratio)
        enough = ratio is not None and ratio.n >= halving.LEAST_ROUNDS and ratio.interval is not None
        fast = enough and ratio is not None and ratio.interval is not None and ratio.interval.low >= 1 - self._slower
        return fast and self._gain(setting, ratio) > _MEMORY_GAIN

    def _weigh(self, winner: Setting, values: Mapping[Setting, Mapping[int, float]]) -> None:
        """What each choice was worth, as far as the winner was measured without it."""
        start = winner.bare
        if start != self._base and winner != start:
            self._add_worth(f"{start.label} instead of {self._base.label}", values.get(start), values.get(self._base))
        elif winner == start:
            self._add_worth(f"{start.label} instead of {self._base.label}", values[winner], values.get(self._base))
        for option in winner.options:
            self._add_worth(option.label, values[winner], values.get(winner.without(option.dimension)))

    def _add_worth(self, choice: str, with_it: Mapping[int, float] | None, without: Mapping[int, float] | None) -> None:
        ratio = halving.compared(with_it, without) if with_it and without else None
        if ratio is not None:
            self.outcome.worth.append(Worth(choice, ratio))

    async def _guarded(self, setting: Setting) -> bool:
        """Whether the answers of a setting are shown to be within the bound; asked once for what changes answers."""
        tried = self.outcome.tried[setting]
        if setting.changes_answers == self._base.changes_answers:
            tried.loss = Loss.none()
            return True
        known = self._losses.get(setting.changes_answers)
        if known is None:
            self._bed.told(f"guard: answers of {setting.label} beside the default's")
            known = await self._bed.loss(
                self._base, setting, self._bed.now() + max(self._left_s * halving.GUARD * 2, 5.0)
            )
            self._losses[setting.changes_answers] = known
        tried.loss = known
        if not known.within:
            tried.out = known.words
        return known.within

    async def _measured(
        self, settings: Sequence[Setting], rounds: int, stage: str, share: float
    ) -> dict[Setting, Rounds]:
        """Measure, and note what is now known of each."""
        least_s = 1.0 if self._cost[1] else _LONGEST_LOOK_S
        ends = self._ends if stage == "proof" else self._bed.now() + max(self._left_s * share, least_s)
        found = await self._bed.measure(settings, rounds, stage, ends)
        base = found[settings[0]].values
        for setting, one in found.items():
            tried = self.outcome.tried.setdefault(setting, Tried(setting))
            tried.stage, tried.out = stage.split("-")[0], one.error or tried.out
            tried.memory_bytes = max(one.memory_bytes or 0, tried.memory_bytes or 0) or None
            tried.value = sorted(one.values.values())[len(one.values) // 2] if one.values else tried.value
            if settings[0] == self._base:
                tried.ratio = halving.compared(one.values, base) or tried.ratio
        return found
