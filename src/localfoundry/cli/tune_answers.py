"""What one setting says next to prompts, each asked once: the likeliest tokens, or the scores of a whole passage."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence

from localfoundry.cli.tune_services import TuneServices
from localfoundry.client import ServiceClient
from localfoundry.errors import FoundryError
from localfoundry.quality import probe
from localfoundry.quality.probe import NoLogprobs
from localfoundry.quality.reference import Row
from localfoundry.tuning.space import Setting

Prompt = tuple[int, ...] | str
Distribution = dict[int, float]  # log probability by token


class Answers:
    """Of a setting that has a service. Use `scoring` as an async context manager around `score`."""

    def __init__(self, services: TuneServices, setting: Setting) -> None:
        self.setting = setting
        self._services = services
        self._scorer: ServiceClient | None = None
        self._top: dict[Prompt, Distribution] = {}
        self._scores: dict[int, list[float] | None] = {}  # of a passage's tokens from its second one on

    @contextlib.asynccontextmanager
    async def scoring(self) -> AsyncIterator[None]:
        """While it lasts there is a service that scores passages, where the engine does that and memory allows it."""
        async with contextlib.AsyncExitStack() as stack:
            with contextlib.suppress(FoundryError):
                self._scorer = await stack.enter_async_context(self._services.scoring(self.setting))
            try:
                yield
            finally:
                self._scorer = None

    async def score(self, number: int, passage: Sequence[int]) -> None:
        """Have a passage's tokens scored, where the engine does that; where it fails, they are asked one by one."""
        if self._scorer is None or number in self._scores:
            return
        self._scores[number] = None
        with contextlib.suppress(FoundryError, NoLogprobs):
            self._scores[number] = await probe.scores(self._scorer, self.setting.version, passage)

    def scored(self, row: Row) -> float | None:
        """The log probability of the token that follows, where its passage was scored."""
        scores = self._scores.get(row.chunk)
        return None if scores is None else scores[row.position - 1]

    async def ask(self, prompts: Sequence[Prompt]) -> list[Distribution]:
        """The likeliest tokens after each. Raises NoLogprobs, and what the service reports."""
        new = [prompt for prompt in prompts if prompt not in self._top]
        async with self._services.client(self.setting.label) as client:
            found = await probe.beside([probe.top(client, self.setting.version, prompt) for prompt in new])
        self._top |= zip(new, found, strict=True)
        return [self._top[prompt] for prompt in prompts]

    def follows(self, row: Row, prompt: Prompt) -> float | None:
        """The log probability of the token that follows, as far as it was told."""
        scored = self.scored(row)
        return self._top.get(prompt, {}).get(row.target) if scored is None else scored
