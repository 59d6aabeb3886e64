"""The services that settings are tried in: each its own, apart from the one in use, whose models they read.

A service holds a version once, so every way of loading it is a service with a home of its own. They are all there for a
rung, to be measured in turns, as far as memory goes; those that the next rung does not need end before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Collection
from types import TracebackType

import msgspec

from localfoundry.bench.candidates import Candidate
from localfoundry.chat.target import Target
from localfoundry.cli.bench_local import Loaded, OwnService
from localfoundry.client import ServiceClient
from localfoundry.config import Settings
from localfoundry.engines import choice, engines, llama_builds
from localfoundry.errors import ServiceError
from localfoundry.instance import ServiceState
from localfoundry.tuning.space import Setting

log = logging.getLogger(__name__)


class _Running:
    def __init__(self, service: OwnService, state: ServiceState) -> None:
        self.service, self.state = service, state
        self.loaded = Loaded(state)


class TuneServices:
    """By the label of a setting. Use as an async context manager; nothing is left of them afterwards."""

    def __init__(self, given: Settings) -> None:
        self._given = given
        self._own: list[OwnService] = []
        self._running: dict[str, _Running] = {}

    async def __aenter__(self) -> TuneServices:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end(self._own)

    async def keep(self, settings: Collection[Setting]) -> None:
        """Have a service for each of these, and for no other."""
        wanted = {setting.label for setting in settings}
        gone = [self._running.pop(label).service for label in [*self._running] if label not in wanted]
        await self._end(gone)
        new = {
            s.label: OwnService(llama_builds.chosen(self._given, s.build), {s.version: _choices(s)})
            for s in settings
            if s.label not in self._running
        }
        self._own += new.values()
        states = await asyncio.gather(*(service.state() for service in new.values()))
        for (label, service), state in zip(new.items(), states, strict=True):
            self._running[label] = _Running(service, state)

    async def load(self, candidate: Candidate) -> float:
        """Seconds that the load took. Raises what the service says: memory that is short, or why it cannot be."""
        loaded = self._running[candidate.label].loaded
        await loaded.ready(candidate, retain=True)
        return float(loaded.accounts[candidate.model]["load_s"])

    def client(self, label: str) -> ServiceClient:
        return ServiceClient(self._running[label].state)

    @contextlib.asynccontextmanager
    async def scoring(self, setting: Setting) -> AsyncIterator[ServiceClient | None]:
        """A service of its own with the model loaded so that it scores whole prompts; None: the engine does not.

        Raises what the load reports: memory that is short.
        """
        how = choice.named(setting.engine, engines()).scoring
        if how is None:
            yield None
            return
        loaded = msgspec.structs.replace(setting.plain, arguments=(*setting.arguments, *how))
        service = OwnService(llama_builds.chosen(self._given, setting.build), {setting.version: _choices(loaded)})
        self._own.append(service)
        try:
            async with ServiceClient(await service.state()) as client:
                await client.post("/foundry/load", {"model": setting.version})
                yield client
        finally:
            await self._end([service])

    def target(self, label: str) -> Target:
        return self._running[label].loaded.target

    def pids(self) -> list[int]:
        """Of the services and their workers."""
        found = [one.state.pid for one in self._running.values()]
        return found + [account["pid"] for one in self._running.values() for account in one.loaded.accounts.values()]

    def memory_bytes(self, candidate: Candidate) -> int | None:
        """What its worker has in memory now, mapped weights included; None where the system does not tell."""
        import psutil

        account = self._running[candidate.label].loaded.accounts.get(candidate.model)
        try:
            return None if account is None else int(psutil.Process(account["pid"]).memory_info().rss)
        except psutil.Error:
            return None

    async def _end(self, services: Collection[OwnService]) -> None:
        """End them all at once, each whatever becomes of the others. Cancelled, it leaves them for the next try."""
        await asyncio.shield(asyncio.gather(*(self._end_one(service) for service in [*services])))

    async def _end_one(self, service: OwnService) -> None:
        try:
            await service.stop()
        except ServiceError as exc:  # it did not end in time: the others are to end all the same
            log.warning("%s", exc)
        if service in self._own:
            service.remove()
            self._own.remove(service)


def _choices(setting: Setting) -> dict[str, object]:
    """As the settings file of a service has them."""
    found: dict[str, object] = {"engine": setting.engine, "engineArguments": list(setting.words)}
    return found | ({"parallel": setting.slots} if setting.slots else {})
