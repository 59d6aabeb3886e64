"""What `soak.py` does to the service while it is asked: loads, switches, unloads, and workers killed or stopped.

A fault is remembered with the time from which, and until when, requests for that model may be hit by it. Whatever else
fails was not provoked. Only processes are killed that are children of the service under test.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import psutil
from mix import Mix, Wrong, good
from wire import send

HANG_TIMEOUT_S = 10
_GONE_WITHIN_S = 60.0  # a stopped worker: the timeout, up to four of them where it had computed, and a beat
_AFTERMATH_S = 2.0  # until the service has seen the end of a process, requests still get to it
_LOOK_EVERY_S = 0.05


@dataclass
class Fault:
    """A worker ended by us. `until_s` is None while it may still hit requests. Times by time.perf_counter."""

    what: str
    model: str
    began_s: float
    until_s: float | None = None


@dataclass
class Disturber:
    """See the module. `service_pid`: whose children the workers must be."""

    mix: Mix
    service_pid: int
    models: tuple[str, ...]
    faults: list[Fault] = field(default_factory=list)

    def provoked(self, model: str, began_s: float) -> bool:
        """Whether a request for this model, begun then and ended now, can have been hit by a fault."""
        return any(f.model == model and (f.until_s is None or began_s <= f.until_s) for f in self.faults)

    async def loaded(self) -> list[dict[str, Any]]:
        reply = await send(self.mix.target, "GET", "/foundry/ps")
        found = json.loads(reply.body)
        assert isinstance(found, list)
        return found

    # Loads and unloads, as requests: whoever calls judges what they raise

    async def load(self, model: str, *, retain: bool) -> None:
        report = good(await self.mix.post("/foundry/load", {"model": model, "retain": retain}))
        if report["state"] != "ready":
            raise Wrong(f"{model} is loaded and {report['state']}")

    async def unload(self, model: str) -> None:
        """Drained: answers in flight are given to their end."""
        found = good(await self.mix.post("/foundry/unload", {"model": model}))
        if not isinstance(found.get("unloaded"), bool):
            raise Wrong(f"unload of {model}: {found}")

    async def switch(self, model: str) -> None:
        """Loaded anew without keeping the others, which go when they have answered what they began."""
        await self.unload(model)
        await self.load(model, retain=False)

    async def step(self, model: str) -> None:
        match self.mix.draw.randrange(4):
            case 0:
                await self.unload(model)
            case 1:
                await self.load(model, retain=True)
            case _:
                await self.switch(model)

    # Faults

    async def kill(self) -> None:
        await self._end("killed", signal.SIGKILL)

    async def stop(self) -> None:
        """A worker that hangs: it must be found and replaced. Raises Wrong where it is still there after a minute."""
        await self._end("stopped", signal.SIGSTOP)

    async def _end(self, what: str, how: signal.Signals) -> None:
        children = {child.pid for child in psutil.Process(self.service_pid).children()}
        ready = [m for m in await self.loaded() if m["state"] == "ready" and m["pid"] in children]
        if not ready:
            return
        victim = self.mix.draw.choice(ready)
        fault = Fault(what, victim["alias"], time.perf_counter())
        self.faults.append(fault)
        os.kill(victim["pid"], how)
        try:
            await self._gone(fault, victim["pid"])
        finally:
            fault.until_s = time.perf_counter() + _AFTERMATH_S

    async def _gone(self, fault: Fault, pid: int) -> None:
        deadline = time.perf_counter() + _GONE_WITHIN_S
        while psutil.pid_exists(pid):
            if time.perf_counter() > deadline:
                os.kill(pid, signal.SIGKILL)
                late = f"still there after {_GONE_WITHIN_S:.0f} s"
                raise Wrong(f"the worker of {fault.model} that was {fault.what} is {late}")
            await asyncio.sleep(_LOOK_EVERY_S)

    def report(self, began_s: float) -> list[dict[str, Any]]:
        return [
            asdict(f) | {"began_s": f.began_s - began_s, "until_s": (f.until_s or 0) - began_s} for f in self.faults
        ]
