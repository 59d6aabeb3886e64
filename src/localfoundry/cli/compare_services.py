"""The services behind a comparison: the one in use, and one more for each other way of loading a model.

A service holds a model once, so the same file with another context or another number of threads runs in a service of
its own, which is started for the comparison and ended with it. All are there at the same time, which is what lets
candidates be measured in turns; each takes memory of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import msgspec

from localfoundry.bench.candidates import Candidate, Target
from localfoundry.cli import context
from localfoundry.cli.bench_local import Loaded, OwnService
from localfoundry.cli.bench_run import service_with
from localfoundry.config import Settings
from localfoundry.instance import ServiceState
from localfoundry.quality.ask import Endpoint, Heard
from localfoundry.results.rows import CandidateRow


class Services:
    """Where each local candidate is loaded, by label. Made by `opened`."""

    def __init__(self, loaded: Mapping[str, Loaded], states: Mapping[str, ServiceState]) -> None:
        self._loaded = loaded
        self.states = states
        self._ready: set[str] = set()

    def target(self, candidate: Candidate) -> Target:
        return self._loaded[candidate.label].target

    async def load(self, candidate: Candidate) -> float:
        """Seconds until it was ready. Raises what the service says."""
        took = await self._loaded[candidate.label].load(candidate)
        self._ready.add(candidate.label)
        return took

    def is_loaded(self, candidate: Candidate) -> bool:
        return candidate.label in self._ready

    def memory_bytes(self, candidate: Candidate) -> int | None:
        known = self._loaded.get(candidate.label)
        return known.memory_bytes(candidate) if known else None

    def memory_of(self, candidate: Candidate) -> dict[str, int]:
        return self._loaded[candidate.label].memory_of(candidate.model)

    def described(self, row: CandidateRow, candidate: Candidate, given: Settings) -> CandidateRow:
        """The row with what the service told when it loaded the model."""
        known = self._loaded.get(candidate.label)
        account: Mapping[str, Any] | None = known.accounts.get(candidate.model) if known else None
        if account is None:
            return row
        manifest = context.cached(given, candidate.model)
        return msgspec.structs.replace(
            row, engine=account["engine"], quantization=account["quantization"], file_sha256=account["sha256"],
            model_id=account["id"], context=account["context"], format=manifest.format if manifest else None,
            threads=candidate.settings.get("threads"),
        )  # fmt: skip


@contextlib.asynccontextmanager
async def opened(given: Settings, candidates: Sequence[Candidate], quiet: bool) -> AsyncIterator[Services]:
    """Every service running, and the models on the disk; own services end with it. Raises as pulls and starts do."""
    local = [c for c in candidates if c.endpoint is None]
    states: dict[str, ServiceState] = {}
    loaded: dict[str, Loaded] = {}
    own: list[OwnService] = []
    try:
        if local:
            state = await asyncio.to_thread(service_with, given, local, quiet)
            usual = Loaded(state)
            for candidate in local:
                states[candidate.label], loaded[candidate.label] = state, usual
        for candidate in (c for c in local if c.settings):
            own.append(OwnService(given, {_id(given, candidate): _choices(candidate)}))
            states[candidate.label] = await own[-1].state()
            loaded[candidate.label] = Loaded(states[candidate.label])
        yield Services(loaded, states)
    finally:
        for service in own:
            try:
                await service.stop()
            finally:
                service.remove()


def _id(given: Settings, candidate: Candidate) -> str:
    manifest = context.cached(given, candidate.model)
    return manifest.id if manifest else candidate.model


def _choices(candidate: Candidate) -> dict[str, object]:
    """As the settings file of a service has them."""
    found: dict[str, object] = {}
    if "context" in candidate.settings:
        found["context"] = candidate.settings["context"]
    if "threads" in candidate.settings:
        count = str(candidate.settings["threads"])
        found["engineArguments"] = ["--threads", count, "--threads-batch", count]
    return found


class Routed:
    """Endpoints behind one: a request goes where the candidate that it names as its model is asked."""

    def __init__(self, routes: Mapping[str, tuple[Endpoint, Candidate]]) -> None:
        self._routes = routes

    async def ask(self, body: Mapping[str, Any]) -> Heard:
        endpoint, candidate = self._routes[body["model"]]
        asked = {**body, "model": candidate.model, **candidate.parameters}
        return await endpoint.ask({name: value for name, value in asked.items() if value is not None})
