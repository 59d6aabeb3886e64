"""What one setting says next to prompts, each asked once: the likeliest tokens, or the scores of a whole passage."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence

from localfoundry.cli.tune_services import TuneServices
from localfoundry.client import ServiceClient
from localfoundry.errors import FoundryError
from localfoundry.quality import fidelity, probe
from localfoundry.quality.fidelity import Position
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

    async def ask(self, rows: Mapping[Row, Prompt]) -> None:
        """Have positions asked whose passage was not scored. Raises NoLogprobs, and what the service reports."""
        wanted = {prompt: row.target for row, prompt in rows.items() if self._scores.get(row.chunk) is None}
        await self.after(wanted)

    def position(self, row: Row, prompt: Prompt) -> Position:
        """One that was scored or asked, and how far it is from the reference."""
        scores = self._scores.get(row.chunk)
        if scores is not None:
            return fidelity.by_score(row, scores[row.position - 1])
        return fidelity.compare(row, self._top[prompt])

    async def after(self, prompts: Mapping[Prompt, int | None]) -> list[Distribution]:
        """The likeliest tokens after each prompt, and the given one. Raises as `ask`."""
        new = [(prompt, target) for prompt, target in prompts.items() if prompt not in self._top]
        async with self._services.client(self.setting.label) as client:
            found = await probe.beside([probe.top(client, self.setting.version, *one) for one in new])
        self._top |= zip((prompt for prompt, _ in new), found, strict=True)
        return [self._top[prompt] for prompt in prompts]
