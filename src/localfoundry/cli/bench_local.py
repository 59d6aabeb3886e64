"""Local models for a bench: loaded side by side in the running service, or started cold in a service of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localfoundry import config, instance
from localfoundry.bench.candidates import Candidate
from localfoundry.chat.target import Target
from localfoundry.client import ServiceClient, authorization, trust
from localfoundry.config import Settings
from localfoundry.engines import llama_builds
from localfoundry.errors import FoundryError, ServiceError

if TYPE_CHECKING:
    from localfoundry.instance import ServiceState

_STOP_S = 15.0


def target_of(state: ServiceState) -> Target:
    """The service as the owner of this account reaches it."""
    return Target(state.url, headers=authorization(state), verify=trust(state), proxied=False)


class Loaded:
    """Models that were loaded for a measurement, as the service told of them, by model name."""

    def __init__(self, state: ServiceState) -> None:
        self._state = state
        self.target = target_of(state)
        self.accounts: dict[str, dict[str, Any]] = {}
        self.service_pid = state.pid

    def client(self) -> ServiceClient:
        return ServiceClient(self._state)

    async def load(self, candidate: Candidate) -> float:
        """Seconds until it was ready. The first one makes room, the others stay beside it, to be measured in turns.

        A model that was loaded already would have no load time: it is loaded anew.
        """
        async with ServiceClient(self._state) as client:
            await client.post("/foundry/unload", {"model": candidate.model})
            wish: dict[str, object] = {"model": candidate.model, "retain": bool(self.accounts)}
            if "engine" in candidate.settings:
                wish["engine"] = candidate.settings["engine"]
            account = await client.post("/foundry/load", wish)
        self.accounts[candidate.model] = account
        return float(account["load_s"])

    async def ready(self, candidate: Candidate, *, retain: bool) -> None:
        """Loaded, whether it was before or not; `retain`: the others stay as far as memory goes."""
        async with ServiceClient(self._state) as client:
            wish = {"model": candidate.model, "retain": retain}
            self.accounts[candidate.model] = await client.post("/foundry/load", wish)

    async def resident(self) -> set[str]:
        """Those of the models loaded here that still are."""
        async with ServiceClient(self._state) as client:
            ids = {entry["id"] for entry in await client.get("/foundry/ps")}
        return {model for model, account in self.accounts.items() if account["id"] in ids}

    async def unload(self) -> None:
        """All that was loaded here."""
        resident = await self.resident()
        async with ServiceClient(self._state) as client:
            for model in resident:
                await client.post("/foundry/unload", {"model": model})

    def memory_bytes(self, candidate: Candidate) -> int | None:
        """Private memory of its worker now; None for an endpoint, and where the system does not tell."""
        import psutil

        account = self.accounts.get(candidate.model)
        if candidate.endpoint is not None or account is None:
            return None
        try:
            return int(psutil.Process(account["pid"]).memory_full_info().uss)
        except (psutil.Error, OSError):
            return None

    def memory_of(self, model: str) -> dict[str, int]:
        """The engine's own account: weights, KV cache, compute buffers, in bytes."""
        memory = self.accounts.get(model, {}).get("memory", {})
        return {name: int(value) for name, value in memory.items() if isinstance(value, int)}


class OwnService:
    """A service with a home of its own, which this may start and stop: the one in use goes on undisturbed.

    It has the settings and the models of the other, and its build of llama.cpp, which is kept in the other's home. It
    listens on this machine alone, and wants no key. It stops with this process, also when that is killed: it reads from
    a pipe whose other end is only here.
    """

    def __init__(self, given: Settings, models: Mapping[str, Mapping[str, object]] | None = None) -> None:
        """`models`: settings of single models, over those of the other service."""
        self._home = Path(tempfile.mkdtemp(prefix="foundry-bench-"))
        with contextlib.suppress(FileNotFoundError):
            shutil.copy(given.file, self._home / "settings.json")
        if models:
            self._choose(models)
        flags = {
            "home": str(self._home), "cache_dir": str(given.models_dir), "host": "127.0.0.1", "port": 0,
            "llama_server": str(llama_builds.server(given)[0] or llama_builds.BUNDLED),
        }  # fmt: skip
        environment = {name: value for name, value in os.environ.items() if name != "FOUNDRY_REQUIRE_KEY"}
        self._settings = config.load(flags, environment)
        self._starting: asyncio.Future[tuple[ServiceState, bool]] | None = None
        self._lifeline: int | None = None

    def _choose(self, models: Mapping[str, Mapping[str, object]]) -> None:
        path = self._home / "settings.json"
        document: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
        known = document.setdefault("models", {})
        for name, choices in models.items():
            known[name] = {**known.get(name, {}), **choices}
        path.write_text(json.dumps(document), "utf-8")

    async def start(self) -> Target:
        return target_of(await self.state())

    async def state(self) -> ServiceState:
        """Started, and how it is reached."""
        self._starting = asyncio.ensure_future(asyncio.to_thread(self._start))
        state, _ = await asyncio.shield(self._starting)
        return state

    def _start(self) -> tuple[ServiceState, bool]:
        its_end, self._lifeline = os.pipe()
        try:
            return instance.start(self._settings, lifeline=its_end)
        finally:
            os.close(its_end)

    async def stop(self) -> None:
        if self._starting is not None:
            # Ctrl-C may come in the middle of a start, which goes on in its thread all the same.
            with contextlib.suppress(FoundryError):
                await self._starting
        await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        state = instance.running(self._settings)
        if state is None:
            return
        os.kill(state.pid, signal.SIGTERM)
        if not instance.wait_stopped(self._settings, self._settings.drain_timeout_s + _STOP_S):
            raise ServiceError(f"the service of the bench, process {state.pid}, did not end in time")

    def remove(self) -> None:
        """Its home goes; what was measured is elsewhere. A service that did not stop before stops now."""
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None
        shutil.rmtree(self._home, ignore_errors=True)
