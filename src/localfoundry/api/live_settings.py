"""A running service takes over changes of its settings file, where a change is safe while it runs.

The file is looked at before each request, so that a script that sets something and then asks gets what it set; once a
second, for what acts without a request; and on SIGHUP. Flags and environment of the start keep winning over it. A file
that is wrong changes nothing and is told once; the settings from before stay. Settings that shape what was made at the
start (port, folders) wait for the next one: each says so in its declaration (`live` in config.py).
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from localfoundry import config
from localfoundry.config import Settings
from localfoundry.errors import InvalidSetting
from localfoundry.service.service import Service

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0


class LiveSettings:
    """Keeps `service.settings` what the file says. `load` reads the settings as the start did, the file anew."""

    def __init__(self, service: Service, load: Callable[[], Settings]) -> None:
        self.service = service
        self.problem: str | None = None  # why the file, as it is now, is not in force
        self.waiting: tuple[str, ...] = ()  # keys that are to change at the next start
        self._load = load
        self._stamp: tuple[int, ...] | None = None

    async def watch(self) -> None:
        """Look for changes until cancelled."""
        self.reload()  # what was changed while the service started
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self.refresh()

    def refresh(self) -> None:
        """Take over what the file says where it is not the one that was read last. Costs one `stat`. Never raises."""
        if self._look() != self._stamp:
            self.reload()

    def reload(self) -> None:
        """Read the file again and take over what may change now. Never raises."""
        self._stamp = self._look()
        try:
            wanted = self._load()
        except InvalidSetting as exc:
            self.problem = exc.message
            log.warning("the settings stay as they were: %s", exc.message)
            return
        self.problem = None
        settings, changed, self.waiting = taken_over(self.service.settings, wanted)
        if changed:
            self.service.reload(settings)
            logging.getLogger().setLevel(settings.logging_level)
            log.info("settings in force now: %s", ", ".join(changed))
        if self.waiting:
            log.warning("settings that wait for a restart of the service: %s", ", ".join(self.waiting))

    def _look(self) -> tuple[int, ...] | None:
        try:
            stat = self.service.settings.file.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino


class Refreshed:
    """ASGI middleware: every request is answered by the settings file as it is when the request comes."""

    def __init__(self, app: ASGIApp, live: LiveSettings) -> None:
        self.app = app
        self.live = live

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.live.refresh()
        await self.app(scope, receive, send)


def taken_over(now: Settings, wanted: Settings) -> tuple[Settings, tuple[str, ...], tuple[str, ...]]:
    """The settings to go on with; the keys that change by that; the keys that would need a start.

    Pure. What is not declared `live` keeps its value.
    """
    different = [o for o in config.options() if getattr(now, o.name) != getattr(wanted, o.name)]
    waiting = tuple(o.metadata["key"] for o in different if not o.metadata["live"])
    kept = {o.name: getattr(now, o.name) for o in different if not o.metadata["live"]}
    changed = tuple(o.metadata["key"] for o in different if o.metadata["live"])
    if now.models != wanted.models:
        changed += ("models",)
    return dataclasses.replace(wanted, **kept), changed, waiting
