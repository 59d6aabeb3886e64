"""The service: owns every loaded model. One event loop, one owner, no shared state.

Requests take a lease on a model and give it back; a model with leases is never unloaded. A model that is not loaded is
loaded by the first request for it, and everyone else who wants it waits for that same load. Switching models is done by
one task at a time, in the order of asking.

The service forwards to workers and imports no engine; HTTP is in `api/`, processes in `process.py`, decisions in
`scheduler.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from localfoundry import engines
from localfoundry.catalog.lookup import Catalog
from localfoundry.config import Settings
from localfoundry.engines.base import Endpoint, Engine, LoadRequest, WorkerCommand
from localfoundry.errors import (
    InvalidRequest,
    LoadFailed,
    ModelNotCached,
    ServiceStopping,
    UnknownModel,
)
from localfoundry.service import scheduler
from localfoundry.service.events import Listener, ModelEvent
from localfoundry.service.process import Worker, new_endpoint
from localfoundry.store import adopted
from localfoundry.store.manifest import Manifest
from localfoundry.store.space import note_use
from localfoundry.store.store import Store

log = logging.getLogger(__name__)

DEFAULT_CONTEXT = 8192
_STOP_GRACE_S = 5.0
_MOST_RESOLVED = 1000  # spellings of names that are remembered


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What a caller may ask of a load; None takes the setting. `retain` keeps the other models loaded."""

    retain: bool = False
    ttl_s: int | None = None
    context: int | None = None


@dataclass(slots=True)
class LoadedModel:
    """A model with a ready worker, and how it came to be."""

    manifest: Manifest
    worker: Worker
    command: WorkerCommand
    context: int
    ttl_s: int
    load_s: float
    engine_load_s: float | None
    memory: dict[str, int]
    last_used: float = field(default_factory=time.monotonic)
    in_flight: int = 0
    draining: bool = False
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def id(self) -> str:
        return self.manifest.id

    def lease(self, count: int = 1) -> None:
        self.in_flight += count
        if self.in_flight:
            self.idle.clear()

    def for_scheduler(self) -> scheduler.Loaded:
        return scheduler.Loaded(self.id, self.in_flight, self.last_used, self.ttl_s)


@dataclass(slots=True)
class _Load:
    """A load under way and how many wait for it: each of them has a lease the moment it is done."""

    task: asyncio.Task[LoadedModel]
    waiting: int = 0


class Service:
    """See the module. `close` before the loop ends."""

    def __init__(self, settings: Settings, catalog: Catalog, store: Store, socket_dir: Path) -> None:
        """`socket_dir`: a private folder (mode 0700) with a short path, removed by `close`."""
        self.settings = settings
        self.catalog = catalog
        self.store = store
        self.started_at = time.time()
        self.last_request = time.monotonic()
        self.at_work = 0  # loads, answers and downloads under way
        self.listeners: list[Listener] = []
        self._socket_dir = socket_dir
        self._resolved: dict[str, Manifest] = {}  # of the store as it was at `_stamp`: every request asks
        self._stamp: tuple[object, ...] = ()
        self._models: dict[str, LoadedModel] = {}
        self._loads: dict[str, _Load] = {}
        self._switching = asyncio.Lock()  # first come, first served
        self._background: set[asyncio.Task[None]] = set()
        self._expiry: asyncio.TimerHandle | None = None
        self._closing = False

    @property
    def models(self) -> list[LoadedModel]:
        """Loaded models, for reporting."""
        return list(self._models.values())

    def resolve(self, name: str) -> Manifest:
        """The cached version that a name stands for: id, alias, other name, repository or imported path.

        Raises UnknownModel with the nearest names, or ModelNotCached.
        """
        if not name:
            raise InvalidRequest("model is empty", param="model", hint="foundry model list")
        stamp = self.store.stamp()
        if stamp != self._stamp or len(self._resolved) > _MOST_RESOLVED:
            self._stamp = stamp
            self._resolved.clear()
        if name not in self._resolved:
            self._resolved[name] = self._find(name)
        return self._resolved[name]

    def _find(self, name: str) -> Manifest:
        found = self.store.find(name)
        if found is not None:
            return found
        entry = self.catalog.find(name)
        if entry is not None:
            model, variant = entry
            cached = self.store.find(variant.id if variant else model.alias)
            if cached is not None:
                return cached
            raise ModelNotCached(name)
        self.catalog.require(name)
        raise UnknownModel(f"no model is called {name}", param="model")

    def loaded(self, name: str) -> LoadedModel | None:
        """The loaded model of that name, if it is loaded. Raises as `resolve`."""
        return self._models.get(self.resolve(name).id)

    @contextlib.asynccontextmanager
    async def lease(self, name: str) -> AsyncIterator[LoadedModel]:
        """The model, loaded and kept loaded for as long as the lease is held. Raises as `load`."""
        with self.working():
            model = await self._leased(name, None)
            try:
                yield model
            finally:
                self._release(model)

    async def load(self, name: str, options: LoadOptions | None = None) -> LoadedModel:
        """Return the model once it is ready, loading it where it is not. Cancelling the caller does not stop a load.

        Raises UnknownModel, ModelNotCached, NotRunnable, LoadFailed, ServiceStopping.
        """
        with self.working():
            model = await self._leased(name, options)
            self._release(model)
            return model

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """For as long as it lasts the service is not idle, so `idleTimeoutSeconds` does not stop it."""
        self.at_work += 1
        try:
            yield
        finally:
            self.at_work -= 1
            self.last_request = time.monotonic()

    async def _leased(self, name: str, options: LoadOptions | None) -> LoadedModel:
        """The model with one lease more; `_release` gives it back. Raises as `load`."""
        manifest = self.resolve(name)
        while True:
            if self._closing:
                raise _stopping()
            model = self._models.get(manifest.id)
            if model is None or model.draining or not self._suits(model, options):
                model = await self._wait_for(self._load_of(manifest, options or LoadOptions()))
            else:
                model.lease()
            if self._suits(model, options):
                if options is not None:
                    model.ttl_s = self.settings.model_ttl_s if options.ttl_s is None else options.ttl_s
                return model
            self._release(model)

    def _release(self, model: LoadedModel) -> None:
        model.in_flight -= 1
        model.last_used = time.monotonic()
        if model.in_flight == 0:
            model.idle.set()
            self._watch_expiry()

    def _load_of(self, manifest: Manifest, options: LoadOptions) -> _Load:
        """The load of that model which is under way, begun with these options where there is none."""
        load = self._loads.get(manifest.id)
        if load is None or load.task.done():
            load = _Load(asyncio.create_task(self._switch(manifest, options)))
            self._loads[manifest.id] = load
            load.task.add_done_callback(functools.partial(self._load_done, manifest.id, load))
        return load

    async def _wait_for(self, load: _Load) -> LoadedModel:
        """The model of a load, leased. Raises what the load raises."""
        load.waiting += 1
        try:
            return await asyncio.shield(load.task)
        except asyncio.CancelledError:
            if load.task.cancelled():
                raise _stopping() from None
            if not load.task.done():
                load.waiting -= 1
            elif load.task.exception() is None:
                self._release(load.task.result())
            raise

    def _load_done(self, model_id: str, load: _Load, task: asyncio.Task[LoadedModel]) -> None:
        if self._loads.get(model_id) is load:
            del self._loads[model_id]
        if not task.cancelled() and task.exception() is not None:
            log.warning("load of %s failed: %s", model_id, task.exception())

    def _suits(self, model: LoadedModel, options: LoadOptions | None) -> bool:
        """Whether what is loaded is what was asked for; another context means loading again."""
        return options is None or options.context is None or options.context == model.context

    async def _switch(self, manifest: Manifest, options: LoadOptions) -> LoadedModel:
        async with self._switching:
            model = await self._made_ready(manifest, options)
            # The next switch begins before those who waited for this one run. Without leases it unloaded the model
            # first, and two models that were wanted at once unloaded each other for ever.
            model.lease(self._loads[manifest.id].waiting)
            return model

    async def _made_ready(self, manifest: Manifest, options: LoadOptions) -> LoadedModel:
        present = self._models.get(manifest.id)
        if present is not None:
            if not present.draining and self._suits(present, options):
                return present
            await self._unload(present)
        loaded = [m.for_scheduler() for m in self._models.values()]
        for action in scheduler.make_room(loaded, manifest.id, retain=options.retain):
            other = self._models.get(action.id)
            if other is not None:
                await self._unload(other)
        return await self._start(manifest, options)

    async def _start(self, manifest: Manifest, options: LoadOptions) -> LoadedModel:
        engine = engines.choose(manifest.format)
        await asyncio.to_thread(adopted.check, self.store, manifest)
        context = self._context(manifest, options)
        endpoint = new_endpoint(self._socket_dir)
        request = LoadRequest(
            manifest.id, self.store.main_file(manifest), endpoint, context, self.settings.parallel, manifest.tasks
        )
        command = engine.command(request, self.settings)
        await asyncio.to_thread(note_use, self.store, manifest)
        started = time.monotonic()
        worker = await self._start_worker(engine, command, endpoint, manifest)
        load_s = time.monotonic() - started
        await worker.told(lambda words: engine.account(words).load_s is not None)
        account = engine.account(worker.start_log)
        model = LoadedModel(
            manifest=manifest,
            worker=worker,
            command=command,
            context=context,
            ttl_s=self.settings.model_ttl_s if options.ttl_s is None else options.ttl_s,
            load_s=load_s,
            engine_load_s=account.load_s,
            memory=account.memory,
        )
        model.idle.set()
        self._models[manifest.id] = model
        worker.exited.add_done_callback(lambda _: self._forget(model))
        self._watch_expiry()
        self._tell(ModelEvent("loaded", manifest.id, model.load_s))
        log.info("loaded %s with %s in %.2f s", manifest.id, command.engine, model.load_s)
        return model

    async def _start_worker(
        self, engine: Engine, command: WorkerCommand, endpoint: Endpoint, manifest: Manifest
    ) -> Worker:
        worker = await Worker.start(command, endpoint, self.settings.log_dir / f"worker-{manifest.name}.log")
        try:
            await worker.wait_ready(self.settings.load_timeout_s)
        except LoadFailed as exc:
            words = engine.complaint(worker.start_log)
            raise LoadFailed(
                f"{manifest.id}: {exc.message}" + (f". The engine says: {words}" if words else ""),
                hint=f"foundry service logs {manifest.name}",
                param="model",
            ) from exc
        except BaseException:
            await worker.stop(0)
            raise
        return worker

    def _context(self, manifest: Manifest, options: LoadOptions) -> int:
        """Tokens to load with. Raises InvalidRequest for more than the model was trained for."""
        limit = manifest.context_length
        wanted = options.context or self.settings.context_length
        if wanted and limit and wanted > limit:
            raise InvalidRequest(
                f"a context of {wanted} tokens is more than {manifest.alias} was trained for: {limit}",
                hint=f"foundry model run {manifest.alias} --ctx {limit}",
                param="context",
            )
        return wanted or min(limit or DEFAULT_CONTEXT, DEFAULT_CONTEXT)

    def _forget(self, model: LoadedModel) -> None:
        if self._models.get(model.id) is model:
            del self._models[model.id]

    async def unload(self, name: str) -> bool:
        """Drain and unload one model; False where it was not loaded.

        A name may mean another version by now than the one that was loaded under it: that one is then unloaded.
        """
        meant = self.resolve(name)
        model = self._models.get(meant.id)
        if model is None and meant.id.lower() != name.strip().lower():
            model = next((m for m in self._models.values() if m.manifest.name == meant.name), None)
        if model is None:
            return False
        await self._unload(model)
        return True

    async def unload_all(self) -> int:
        models = self.models
        await asyncio.gather(*(self._unload(model) for model in models))
        return len(models)

    async def _unload(self, model: LoadedModel) -> None:
        model.draining = True
        while model.in_flight and not model.worker.exited.done():
            waiting = asyncio.create_task(model.idle.wait())
            await asyncio.wait([waiting, model.worker.exited], return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
        self._forget(model)
        await model.worker.stop(_STOP_GRACE_S)
        self._tell(ModelEvent("unloaded", model.id))
        log.info("unloaded %s", model.id)

    def _tell(self, event: ModelEvent) -> None:
        for listener in self.listeners:
            listener(event)

    def _watch_expiry(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        when = scheduler.next_expiry(m.for_scheduler() for m in self._models.values() if not m.draining)
        if when is not None:
            delay = max(when - time.monotonic(), 0.0)
            self._expiry = asyncio.get_running_loop().call_later(delay, self._unload_expired)

    def _unload_expired(self) -> None:
        loaded = [m.for_scheduler() for m in self._models.values() if not m.draining]
        for action in scheduler.expired(loaded, time.monotonic()):
            log.info("unloading %s: idle", action.id)
            task = asyncio.create_task(self._unload(self._models[action.id]))
            self._background.add(task)
            task.add_done_callback(self._background.discard)
        self._watch_expiry()

    async def close(self, drain_s: float = 0) -> None:
        """Stop taking work, wait up to `drain_s` for answers in flight, end every worker, remove the sockets."""
        self._closing = True
        if self._expiry is not None:
            self._expiry.cancel()
        loads = [load.task for load in self._loads.values()]
        for task in loads:
            task.cancel()
        await asyncio.gather(*loads, return_exceptions=True)
        if drain_s > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(drain_s):
                    await asyncio.gather(*(m.idle.wait() for m in self.models))
        await asyncio.gather(*(m.worker.stop(_STOP_GRACE_S) for m in self.models))
        shutil.rmtree(self._socket_dir, ignore_errors=True)


def _stopping() -> ServiceStopping:
    return ServiceStopping("the service is stopping and takes no new work", hint="foundry service start")


def resident_bytes(pid: int) -> int | None:
    """Resident memory of a process; None when it is gone."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None
