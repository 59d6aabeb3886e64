"""The services behind a comparison or an evaluation: the one in use, and one for each other way of loading a model.

A service holds a model once, so the same file with another context or another number of threads runs in a service of
its own, which is started for the comparison and ended with it. All are there at the same time, which is what lets
candidates be measured in turns; each takes memory of its own. Where that is not there, models follow one another.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import msgspec

from localfoundry.bench.candidates import Candidate
from localfoundry.chat.target import Target
from localfoundry.cli import context, engine_choice
from localfoundry.cli.bench_local import Loaded, OwnService
from localfoundry.cli.bench_run import service_with
from localfoundry.client import ServiceClient
from localfoundry.config import Settings
from localfoundry.errors import InsufficientMemory
from localfoundry.results.rows import CandidateRow


class Services:
    """Where each local candidate is loaded, by label. Made by `opened`."""

    def __init__(self, loaded: Mapping[str, Loaded], models: Mapping[str, str]) -> None:
        """`models`: the model of each label."""
        self._loaded = loaded
        self._models = models

    def target(self, candidate: Candidate) -> Target:
        return self._loaded[candidate.label].target

    def client(self, candidate: Candidate) -> ServiceClient:
        """Of the service that the candidate is loaded in."""
        return self._loaded[candidate.label].client()

    async def load(self, candidate: Candidate) -> float:
        """Loaded anew; seconds until it was ready. Raises what the service says."""
        try:
            return await self._loaded[candidate.label].load(candidate)
        except InsufficientMemory:
            await self._make_room(candidate)
            return await self._loaded[candidate.label].load(candidate)

    async def ready(self, candidate: Candidate, *, alone: bool) -> None:
        """Loaded, whether it was before or not; `alone`: idle models may go for it. Raises what the service says."""
        loaded = self._loaded[candidate.label]
        try:
            await loaded.ready(candidate, retain=bool(loaded.accounts) and not alone)
        except InsufficientMemory:
            await self._make_room(candidate)
            await loaded.ready(candidate, retain=False)

    async def resident(self) -> set[str]:
        """Labels of the models that are loaded now."""
        found = set()
        for loaded in {id(one): one for one in self._loaded.values()}.values():
            models = await loaded.resident()
            found |= {label for label, one in self._loaded.items() if one is loaded and self._models[label] in models}
        return found

    async def _make_room(self, candidate: Candidate) -> None:
        """Unload what was loaded in the other services: none of them can do that for another."""
        mine = self._loaded[candidate.label]
        for loaded in {id(one): one for one in self._loaded.values() if one is not mine}.values():
            await loaded.unload()

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
        found = engine_choice.first(given, manifest, candidate.settings) if manifest else None
        known_version = found is not None and engine_choice.is_by(found.engine.name, account["engine"])
        return msgspec.structs.replace(
            row, engine_version=engine_choice.version_words(given, found) if found and known_version else None,
            engine=account["engine"], quantization=account["quantization"], file_sha256=account["sha256"],
            model_id=account["id"], context=account["context"], format=manifest.format if manifest else None,
            threads=_threads(candidate),
        )  # fmt: skip


@contextlib.asynccontextmanager
async def opened(given: Settings, candidates: Sequence[Candidate], quiet: bool) -> AsyncIterator[Services]:
    """Every service running, and the models on the disk; own services end with it. Raises as pulls and starts do."""
    local = [c for c in candidates if c.endpoint is None]
    loaded: dict[str, Loaded] = {}
    own: list[OwnService] = []
    try:
        if local:
            state = await asyncio.to_thread(service_with, given, local, quiet)
            loaded = dict.fromkeys((candidate.label for candidate in local), Loaded(state))
        for candidate in (c for c in local if c.settings):
            own.append(OwnService(given, {_id(given, candidate): _choices(candidate)}))
            loaded[candidate.label] = Loaded(await own[-1].state())
        yield Services(loaded, {candidate.label: candidate.model for candidate in local})
    finally:
        for service in own:
            try:
                await service.stop()
            finally:
                service.remove()


def _id(given: Settings, candidate: Candidate) -> str:
    manifest = context.cached(given, candidate.model)
    return manifest.id if manifest else candidate.model


def _threads(candidate: Candidate) -> int | None:
    count = candidate.settings.get("threads")
    return count if isinstance(count, int) else None


def _choices(candidate: Candidate) -> dict[str, object]:
    """As the settings file of a service has them."""
    found: dict[str, object] = {}
    if "context" in candidate.settings:
        found["context"] = candidate.settings["context"]
    if "engine" in candidate.settings:
        found["engine"] = candidate.settings["engine"]
    if "threads" in candidate.settings:
        count = str(candidate.settings["threads"])
        found["engineArguments"] = ["--threads", count, "--threads-batch", count]
    return found
