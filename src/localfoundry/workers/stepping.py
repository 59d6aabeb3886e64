"""Requests on their way through a backend: who runs, who waits, and the loop that computes one batch after the other.

A step is a callback of the event loop, and the next one is asked for as another callback: between two steps the loop
looks at every connection, so that a request that has come joins the next batch and one whose client has gone leaves
before it. `generation.py` says why there is no thread.
"""

from __future__ import annotations

import asyncio
import collections
import itertools
from collections.abc import Callable, Sequence
from typing import Protocol

from localfoundry.workers.generation import Backend, Progress, Refused, Sampling


class Job(Protocol):
    """One generation, and who is told of it."""

    prompt: Sequence[int]
    sampling: Sampling

    def progressed(self, news: Progress) -> None: ...

    def failed(self, error: Exception) -> None:
        """Refused: it never began. Anything else: the library broke."""
        ...


class Stepper:
    """Made inside the event loop that it runs in; `broken` is called when a step has raised, after every job's end."""

    def __init__(self, backend: Backend, broken: Callable[[Exception], None]) -> None:
        self.running: dict[int, Job] = {}
        self._backend = backend
        self._broken = broken
        self._waiting: collections.deque[Job] = collections.deque()
        self._numbers = itertools.count(1)
        self._loop = asyncio.get_running_loop()
        self._scheduled = False
        self._dead = False

    def submit(self, job: Job) -> None:
        """Have it run as soon as there is a place. It may fail before this returns to the event loop, never within."""
        self._waiting.append(job)
        self._schedule()

    def drop(self, job: Job) -> None:
        """End it wherever it is; it hears nothing more."""
        if job in self._waiting:
            self._waiting.remove(job)
            return
        for number, running in self.running.items():
            if running is job:
                del self.running[number]
                self._backend.cancel(number)
                self._schedule()
                return

    def _schedule(self) -> None:
        if not self._scheduled and not self._dead:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        try:
            self._admit()
            news = self._backend.step() if self._backend.busy else ()
        except Exception as exc:  # noqa: BLE001 the worker's top loop: no library is whole after this
            self._break(exc)
            return
        for one in news:
            job = self.running.get(one.request)
            if job is None:
                continue  # dropped by another one of this step
            if one.finish is not None:
                del self.running[one.request]
            job.progressed(one)
        if self._backend.busy or self._waiting:
            self._schedule()

    def _admit(self) -> None:
        while self._waiting and len(self.running) < self._backend.parallel and not self._wants_to_be_alone():
            job = self._waiting.popleft()
            number = next(self._numbers)
            try:
                self._backend.start(number, job.prompt, job.sampling)
            except Refused as refused:
                job.failed(refused)
            else:
                self.running[number] = job

    def _wants_to_be_alone(self) -> bool:
        """Whether a prompt is being scored, or is to be next: a library that scores it beside others (OpenVINO 2026.4)
        gives it scores of theirs."""
        if any(job.sampling.echo for job in self.running.values()):
            return True
        return self._waiting[0].sampling.echo and self._backend.busy

    def _break(self, exc: Exception) -> None:
        self._dead = True
        jobs = [*self.running.values(), *self._waiting]
        self.running.clear()
        self._waiting.clear()
        for job in jobs:
            job.failed(exc)
        self._broken(exc)
