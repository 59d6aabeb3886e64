"""What is measured, in which order, as a value: the same plan measures the same again, on another day or machine.

A stage is measured interleaved: round by round, in a round condition by condition, in a condition candidate by
candidate. Each concurrency is a stage of its own, since whether the next one is worth measuring depends on it; all
arrival rates are one stage together. So candidates are compared within minutes, and loads over the length of a stage.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator

import msgspec

from localfoundry.bench import scenarios
from localfoundry.bench.candidates import Candidate
from localfoundry.bench.prompts import mark
from localfoundry.bench.request import Question
from localfoundry.bench.scenarios import Scenario
from localfoundry.bench.slo import Slo
from localfoundry.errors import InvalidRequest

ROUNDS = 5
SEED = 42
TIMEOUT_S = 300.0
DURATION_S = 20.0
EACH = 2  # requests of a stream in one round, where there are several: half of them meet a server at work
MAX_CONCURRENCY = 1024
MAX_ARRIVALS = 100_000


class Condition(msgspec.Struct, frozen=True):
    """Under what a candidate is measured: the work, its language, and the load."""

    scenario: str
    language: str
    concurrency: int | None = 1
    rate: float | None = None

    @property
    def load(self) -> str:
        return f"c={self.concurrency}" if self.rate is None else f"rate={self.rate:g}"

    @property
    def key(self) -> str:
        return f"{self.scenario}/{self.language}/{self.load}"


COLD_START, SWITCH = Condition("cold", "en"), Condition("switch", "en")
COLD = (COLD_START, SWITCH)


class Plan(msgspec.Struct, frozen=True):
    """Everything that decides what is sent and when. The same `nonce` and `seed` give the same prompts again.

    `languages`: of scenarios that have several; empty takes all. `duration_s`: how long requests arrive in one round at
    one of `rates`. `own_prompts` are asked by the scenario `own`. Without `stream` only whole answers are timed.
    `cold` adds a start from nothing and a switch between models, see `cold.py`.
    """

    scenarios: tuple[str, ...] = ("chat",)
    languages: tuple[str, ...] = ()
    concurrency: tuple[int, ...] = (1,)
    rates: tuple[float, ...] = ()
    duration_s: float = DURATION_S
    rounds: int = ROUNDS
    seed: int = SEED
    nonce: str = msgspec.field(default_factory=lambda: secrets.token_hex(8))
    timeout_s: float = TIMEOUT_S
    slo: Slo | None = None
    own_prompts: tuple[str, ...] = ()
    currency: str = ""
    temperature: float = 0.0
    stream: bool = True
    cold: bool = False

    def check(self) -> None:
        """Raises InvalidRequest, naming the value, for what cannot be carried out."""
        if self.rounds < 1:
            raise InvalidRequest(f"{self.rounds} rounds; at least 1", param="rounds")
        if not self.concurrency and not self.rates:
            raise InvalidRequest("neither a concurrency nor a rate to measure at", param="concurrency")
        for level in self.concurrency:
            if not 1 <= level <= MAX_CONCURRENCY:
                raise InvalidRequest(f"concurrency {level}; 1 to {MAX_CONCURRENCY} are possible", param="concurrency")
        for rate in self.rates:
            if not 0 < rate * self.duration_s <= MAX_ARRIVALS:
                raise InvalidRequest(
                    f"rate {rate:g} for {self.duration_s:g} s; 1 to {MAX_ARRIVALS:,} requests are possible",
                    param="rate",
                )
        if not self.conditions():
            raise InvalidRequest(f"no scenario here speaks {', '.join(self.languages)}", param="language")

    def scenario(self, name: str) -> Scenario:
        return scenarios.find(name, self.own_prompts)

    def conditions(self) -> list[Condition]:
        """All, in the order in which they are measured."""
        return [condition for stage in self.stages() for condition in stage] + (list(COLD) if self.cold else [])

    def stages(self) -> list[list[Condition]]:
        """Concurrency levels upwards, each a stage, then all rates."""
        works = [
            (name, language)
            for name in dict.fromkeys(self.scenarios)
            for language in self.scenario(name).languages
            if not self.languages or language in self.languages or language == "own"
        ]
        closed = [[Condition(*work, level) for work in works] for level in sorted(set(self.concurrency))]
        opened = [Condition(*work, None, rate) for rate in sorted(set(self.rates)) for work in works]
        return [stage for stage in [*closed, opened] if stage]

    def requests(self, condition: Condition) -> int:
        """How many requests one round of a condition has."""
        if condition.rate is not None:
            return max(round(condition.rate * self.duration_s), 1)
        assert condition.concurrency is not None
        fixed = self.scenario(condition.scenario).prompts_in(condition.language)
        return fixed if condition.concurrency == 1 else max(fixed, EACH * condition.concurrency)

    def arrivals(self, condition: Condition, round_number: int) -> list[float]:
        """Seconds from the start of a round at which requests are due: a Poisson process, given how many come.

        The number is rate * duration, rounded, and the times are uniform: what a Poisson process is once its count is
        known. A random count would make rounds differ in load. The same for every candidate.
        """
        assert condition.rate is not None
        count = self.requests(condition)
        draw = random.Random(f"{self.seed}/arrivals/{condition.key}/{round_number}")
        return sorted(draw.uniform(0, self.duration_s) for _ in range(count))

    def question(self, candidate: Candidate, condition: Condition, round_number: int, seq: int, twin: int) -> Question:
        """The request at one place. `twin` counts candidates that share one model, which get another nonce."""
        scenario = self.scenario(condition.scenario)
        place = f"{condition.key}/{round_number}/{seq}"
        # The plainest place keeps the plain name: figures taken before there were conditions have the same prompts.
        plain = condition.key == "chat/en/c=1" and seq == 0
        digits = mark(self.nonce, str(round_number) if plain else place, twin)
        words = candidate.prompt_words
        text = candidate.prompt or scenario.text(condition.language, self.seed, round_number, seq, words)
        body: dict[str, object] = {
            "model": candidate.model,
            "messages": [{"role": "user", "content": f"{digits}. {text}"}],
            "max_tokens": candidate.max_tokens or scenario.tokens,
            "temperature": self.temperature,
            "seed": self.seed,
            "stream": self.stream,
            "stream_options": {"include_usage": True} if self.stream else None,
        }
        body |= scenario.parameters | candidate.parameters
        return Question(
            candidate.label, candidate.model, round_number, condition.scenario, condition.language, condition.load, seq,
            place, {name: value for name, value in body.items() if value is not None},
        )  # fmt: skip


def rounds_of(plan: Plan, stage: list[Condition]) -> Iterator[tuple[int, Condition]]:
    """The order inside a stage; round 0 is the warm-up."""
    for round_number in range(plan.rounds + 1):
        for condition in stage:
            yield round_number, condition
