"""Continuous batching over a decoder's graph on the processor: who has which row, and what a step computes.

A step computes parts of prompts, as many tokens as take about a fifth of a second, and then one token of every request
whose prompt is done, all in one batch. Rows of a batch are neighbours; one that lies between them and does not take
part is computed for nothing, so requests move together as soon as nobody waits for the place.

A row remembers its tokens when its request ends. The next request begins behind the longest beginning that any row
has: in that row where it goes on with it, else in a copy. Memory is counted in tokens that rows have held, `context`
for all; rows that only remember give theirs back first, and then the request that came last waits.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from localfoundry.workers.drawing import Draws, logprobs
from localfoundry.workers.generation import Finish, Progress, Refused, Sampling
from localfoundry.workers.onnx_folder import Tokens
from localfoundry.workers.onnx_graph import Graph

_STEP_S = 0.2  # of prompts in one step: streams beside them wait as long
_SMALLEST_PART = 32  # tokens: smaller parts are computed at a poor rate
_FIRST_PART = 128  # before the rate is known
# Parts of at least two tokens give the same numbers however a prompt is cut; one alone goes through another kernel,
# whose rounding differs: an answer would depend on what a row remembers.
_LAST_PART = 2
_ADVANCE = 64  # tokens; so that two requests do not take each other's memory back and forth


@dataclass(slots=True)
class _Run:
    request: int
    sampling: Sampling
    tokens: list[int]  # prompt and answer
    prompt: int
    draws: Draws
    matcher: Any = None  # follows the answer where a grammar holds it
    row: int = -1
    done: int = 0  # tokens whose keys and values are there
    given: int = 0  # tokens that it had when it got its row: they are computed in parts
    cached: int | None = None

    @property
    def ready(self) -> bool:
        """Its prompt is done: one token is to be computed, the last one drawn."""
        return self.done == len(self.tokens) - 1 and self.done >= self.given


@dataclass(slots=True)
class _Row:
    run: _Run | None = None
    kept: list[int] = field(default_factory=list)  # tokens that a row without a request remembers
    held: int = 0  # the most tokens that it has had memory for
    used: float = 0.0  # when it was last given up

    @property
    def tokens(self) -> list[int]:
        return self.kept if self.run is None else self.run.tokens[: self.run.done]


class Batch:
    """`generation.Backend` over a graph."""

    name = "onnx"
    options = frozenset({
        "top_p", "top_k", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty", "ignore_eos",
        "logit_bias", "logprobs", "top_logprobs", "grammar",
    })  # fmt: skip

    def __init__(self, graph: Graph, tokens: Tokens, template: str | None, context: int, parallel: int) -> None:
        self.context = context
        self.parallel = parallel
        self.vocabulary = tokens.vocabulary
        self.template = template
        self._graph = graph
        self._tokens = tokens
        self._rows = [_Row() for _ in range(parallel)]
        self._waiting: deque[_Run] = deque()
        self._rate = _FIRST_PART / _STEP_S  # tokens of prompts a second

    def encode(self, text: str, special: bool) -> list[int]:
        return self._tokens.encode(text, special)

    def start(self, request: int, prompt: Sequence[int], sampling: Sampling) -> None:
        for token in sampling.logit_bias:
            if not 0 <= token < self._graph.vocabulary:
                raise Refused(
                    f"logit_bias: {token} is no token of this model; the last is {self._graph.vocabulary - 1}"
                )
        never = sorted(self.vocabulary.ends) if sampling.ignore_eos else []
        matcher = self._tokens.matcher(sampling.grammar) if sampling.grammar else None
        run = _Run(request, sampling, list(prompt), len(prompt), Draws(sampling, prompt, never), matcher)
        self._waiting.append(run)

    def cancel(self, request: int) -> None:
        for run in (*self._waiting, *self._running()):
            if run.request == request:
                self._forget(run)

    @property
    def busy(self) -> bool:
        return bool(self._waiting) or any(row.run for row in self._rows)

    def step(self) -> list[Progress]:
        self._spare_memory()
        self._admit()
        return self._decode() + self._prefill()

    def embed(self, prompts: Sequence[Sequence[int]]) -> list[list[float]]:
        raise Refused("this model does not support embeddings: its graph ends in logits")

    def account(self) -> dict[str, int]:
        """Bytes by purpose, once every row is full."""
        return {"kv_cache": self._graph.rows.token_bytes * self.context}

    def _running(self) -> list[_Run]:
        return [row.run for row in self._rows if row.run is not None]

    def _forget(self, run: _Run) -> None:
        if run.row < 0:
            self._waiting.remove(run)
        else:
            row = self._rows[run.row]
            row.kept, row.run, row.used = run.tokens[: run.done], None, time.monotonic()

    # Computing

    def _decode(self) -> list[Progress]:
        """A token for each request whose prompt is done."""
        self._close_gap()
        ready = [run for run in self._running() if run.ready]
        if not ready:
            return []
        first, last = ready[0].row, ready[-1].row
        tokens, totals = [], []
        for row in self._rows[first : last + 1]:
            takes_part = row.run is not None and row.run.ready
            tokens.append(row.run.tokens[-1] if row.run is not None and takes_part else 0)
            totals.append(len(row.tokens) + 1)
        logits = self._graph.decode(first, tokens, totals)
        for run in ready:
            run.done += 1
        return [self._drawn(run, logits[run.row - first]) for run in ready]

    def _prefill(self) -> list[Progress]:
        """Parts of prompts, those that came first before the others."""
        news = []
        budget = max(int(self._rate * _STEP_S) // _SMALLEST_PART, 1) * _SMALLEST_PART
        for run in sorted(self._running(), key=_age):
            left = run.given - run.done
            if left <= 0 or budget < min(left, _SMALLEST_PART):
                continue
            size = min(left, budget)
            size -= 0 if left - size >= _LAST_PART or left == size else _LAST_PART - 1
            part = run.tokens[run.done : run.done + size]
            began = time.perf_counter()
            logits = self._graph.prefill(run.row, part, run.done)
            if len(part) >= _SMALLEST_PART:
                self._rate += (len(part) / (time.perf_counter() - began) - self._rate) / 4
            run.done += len(part)
            budget -= len(part)
            if run.done == run.given:
                news.append(self._drawn(run, logits))
        return news

    def _drawn(self, run: _Run, logits: np.ndarray) -> Progress:
        """The next token of a request's answer."""
        wanted = run.sampling.top_logprobs
        told, top = logprobs(logits, wanted) if wanted is not None else (None, [])
        token = run.draws.draw(logits, None if run.matcher is None else run.matcher.allowed(logits.size))
        run.tokens.append(token)
        finish = self._finish(run, token)
        if finish is not None:
            self._forget(run)
        if told is None:
            return Progress(run.request, (token,), finish, cached=run.cached)
        return Progress(run.request, (token,), finish, (float(told[token]),), (top,), run.cached)

    def _finish(self, run: _Run, token: int) -> Finish | None:
        if run.matcher is not None and not run.matcher.goes_on_after(token):
            return "stop"
        if token in self.vocabulary.ends and not run.sampling.ignore_eos:
            return "stop"
        return "length" if len(run.tokens) - run.prompt >= run.sampling.max_tokens else None

    # Rows and memory

    def _admit(self) -> None:
        """Give rows to those who wait, first come first served."""
        while self._waiting and any(row.run is None for row in self._rows):
            run = self._waiting[0]
            number = self._place(run)
            if not self._make_room(number, self._wanted(run)):
                return
            self._waiting.popleft()
            row = self._rows[number]
            run.row, run.given = number, len(run.tokens)
            run.done = max(min(_common(row.kept, run.tokens), run.given - _LAST_PART), 0)
            run.cached = run.done if run.cached is None else run.cached
            row.run, row.kept, row.held = run, [], max(row.held, len(run.tokens) + 1)

    def _place(self, run: _Run) -> int:
        """A free row that remembers as much of the prompt's beginning as any row does."""
        shares = [_common(row.tokens, run.tokens) for row in self._rows]
        source = max(range(len(shares)), key=shares.__getitem__)
        shared, found = shares[source], self._rows[source]
        if found.run is None and shared and 2 * shared >= len(found.kept):
            return source  # the request goes on with what the row remembers
        free = [number for number, row in enumerate(self._rows) if row.run is None]
        place = min(free, key=lambda number: (bool(self._rows[number].kept), self._rows[number].used, number))
        row = self._rows[place]
        if place != source:
            if row.held > 2 * (len(run.tokens) + run.sampling.max_tokens):
                self._release(place)
            self._graph.rows.copy(source, place, shared)
            row.kept, row.held = run.tokens[:shared], max(row.held, shared)
        return place

    def _make_room(self, number: int, tokens: int) -> bool:
        """Whether the row can have so many tokens; rows that only remember give up their memory, the oldest first."""
        row = self._rows[number]
        while sum(one.held for one in self._rows if one is not row) + max(row.held, tokens) > self.context:
            idle = [n for n, one in enumerate(self._rows) if one.run is None and one.held and n != number]
            if idle:
                self._release(min(idle, key=lambda n: self._rows[n].used))
            elif row.run is None and row.held > tokens:
                self._release(number)
            else:
                return False
        return True

    def _wanted(self, run: _Run) -> int:
        """Tokens that a request needs memory for to begin; one that had to give way wants to come further this time."""
        drawn = len(run.tokens) - run.prompt
        return len(run.tokens) + 1 + (min(_ADVANCE, run.sampling.max_tokens - drawn - 1) if drawn else 0)

    def _spare_memory(self) -> None:
        """Before each request grows by a token: where there is no memory for all, the last ones give way.

        They wait in front, and are computed again when there is room: answers are given whole, only later. One alone
        always has room, as prompt and answer together are within the context.
        """
        for run in sorted(self._running(), key=_age):
            row = self._rows[run.row]
            while row.run is run and not self._make_room(run.row, run.done + 1):
                last = max(self._running(), key=_age)
                self._forget(last)
                last.row, last.done = -1, 0
                self._waiting.appendleft(last)
            row.held = max(row.held, run.done + 1) if row.run is run else row.held

    def _release(self, number: int) -> None:
        self._graph.rows.release(number)
        self._rows[number].kept, self._rows[number].held = [], 0

    def _close_gap(self) -> None:
        """Move the last request of the batch into a free row among the others, unless somebody waits for that row."""
        ready = [run.row for run in self._running() if run.ready]
        free = [number for number in range(min(ready, default=0), max(ready, default=0)) if not self._rows[number].run]
        if self._waiting or not free:
            return
        here, there = self._rows[free[0]], self._rows[ready[-1]]
        run = there.run
        assert run is not None
        self._graph.rows.swap(free[0], ready[-1], max(run.done, len(here.kept)))
        there.held, here.held = max(there.held, len(here.kept)), max(here.held, run.done + 1)
        there.run, there.kept, there.used = None, here.kept, here.used
        here.run, here.kept, run.row = run, [], free[0]


def _age(run: _Run) -> int:
    return run.request  # numbers grow


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts begin with alike."""
    length = min(len(one), len(other))
    for place in range(length):
        if one[place] != other[place]:
            return place
    return length
