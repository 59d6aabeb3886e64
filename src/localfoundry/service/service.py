"""The service: owns every loaded model. One event loop, one owner, no shared state.

Requests take a lease on a model and give it back. What is loaded, what goes and who waits is decided in `scheduler.py`;
this carries the decisions out and reports what became of them. HTTP is in `api/`, processes in `process.py`. The
service forwards to workers and imports no engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import shutil
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from pathlib import Path

from localfoundry.catalog.lookup import Catalog
from localfoundry.config import Settings
from localfoundry.errors import (
    FoundryError,
    LoadFailed,
    OutOfMemory,
    ServiceStopping,
    WorkerCrashed,
)
from localfoundry.service import conversations, health, loading, memory
from localfoundry.service.alternatives import Alternatives
from localfoundry.service.decisions import (
    Action,
    Ask,
    Grant,
    Load,
    LoadPlan,
    Phase,
    Refuse,
    Stop,
    Why,
)
from localfoundry.service.events import Listener, ModelEvent
from localfoundry.service.ledger import CPU, Ledger
from localfoundry.service.loading import LoadedModel
from localfoundry.service.names import Names
from localfoundry.service.planning import LoadOptions, Planner
from localfoundry.service.refusals import error_of
from localfoundry.service.scheduler import Scheduler
from localfoundry.store.manifest import Manifest
from localfoundry.store.store import Store

log = logging.getLogger(__name__)

_STOP_GRACE_S = 5.0


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
        self._state_dir = settings.home / "state"  # saved conversations; they end with the service
        self._names = Names(store, catalog)
        self._planner = Planner(store, settings.home)
        self._scheduler = Scheduler(Ledger({}), settings.queue_length)
        self._numbers = itertools.count(1)
        self._asking: dict[int, tuple[asyncio.Future[LoadedModel], Manifest]] = {}  # requests that wait
        self._manifests: dict[str, Manifest] = {}  # of models that are wanted or loaded
        self._models: dict[str, LoadedModel] = {}
        self._pids: dict[str, int] = {}  # of workers, from their start to their end
        self._ended: dict[str, asyncio.Event] = {}
        self._tasks: dict[asyncio.Task[None], str] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for: float | None = None
        self._closing = False
        self._drained = asyncio.Event()  # set when the last answer in flight ends while the service closes
        shutil.rmtree(self._state_dir, ignore_errors=True)

    def reload(self, settings: Settings) -> None:
        """Go on with other settings: at once for requests and timeouts, at their next load for models."""
        self.settings = settings
        self._scheduler.queue_length = settings.queue_length

    @property
    def _alternatives(self) -> Alternatives:
        return Alternatives(self.catalog, self._planner, self.settings)

    # For whoever reports

    @property
    def models(self) -> list[LoadedModel]:
        """Loaded models; those whose process is ending are none any more."""
        return [m for m in self._models.values() if m.resident.phase is not Phase.STOPPING]

    def waiting(self, model_id: str) -> int:
        """Requests that wait for a model: for its load, or for a free place."""
        return self._scheduler.waiting(model_id)

    def memory(self) -> dict[str, int]:
        """The ledger of main memory in bytes: `limit`, `others`, `reserve`, `claimed` and `free` for the next load."""
        self._observe()
        budget, claims = self._scheduler.ledger.budgets[CPU], self._scheduler.claims()
        return {
            "limit": budget.limit,
            "others": budget.others,
            "reserve": budget.reserve,
            "claimed": sum(claim.get(CPU, 0) for claim in claims),
            "free": max(self._scheduler.ledger.free(claims, CPU), 0),
        }

    def resolve(self, name: str) -> Manifest:
        """The cached version that a name stands for. Raises UnknownModel, ModelNotCached, InvalidRequest."""
        return self._names.resolve(name)

    def loaded(self, name: str) -> LoadedModel | None:
        """The loaded model of that name, if it is loaded. Raises as `resolve`."""
        wanted = self.resolve(name).id
        return next((model for model in self.models if model.id == wanted), None)

    # Using a model

    @contextlib.asynccontextmanager
    async def lease(self, name: str) -> AsyncIterator[LoadedModel]:
        """The model, loaded and kept loaded for as long as the lease is held.

        Raises UnknownModel, ModelNotCached, NotRunnable, LoadFailed, InsufficientMemory, QueueFull, QueueTimeout,
        WorkerCrashed, ServiceStopping.
        """
        manifest = self.resolve(name)
        with self.working():
            number, model = await self._granted(manifest, None)
            try:
                yield model
            finally:
                self._release(number)

    async def load(self, name: str, options: LoadOptions | None = None) -> LoadedModel:
        """Return the model once it is ready, loading it where it is not. Cancelling the caller does not stop a load.

        Raises as `lease`, and InvalidRequest for a context that cannot be.
        """
        manifest = self.resolve(name)
        with self.working():
            number, model = await self._granted(manifest, options or LoadOptions())
            self._release(number)
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

    async def unload(self, name: str, *, force: bool = False) -> bool:
        """Drain and unload one model; False where it was not loaded. With `force` answers in flight are cut.

        A name may mean another version by now than the one that was loaded under it: that one is then unloaded.
        """
        meant = self.resolve(name)
        model = self._scheduler.residents.get(meant.id)
        if model is None and meant.id.lower() != name.strip().lower():
            model = next(
                (r for r in self._scheduler.residents.values() if self._manifests[r.id].name == meant.name), None
            )
        if model is None:
            return False
        await self._unload(model.id, force=force)
        return True

    async def unload_all(self) -> int:
        loaded = list(self._scheduler.residents)
        await asyncio.gather(*(self._unload(model_id) for model_id in loaded))
        return len(loaded)

    async def _unload(self, model_id: str, *, force: bool = False) -> None:
        ended = self._ended.setdefault(model_id, asyncio.Event())
        self._perform(self._scheduler.unload(model_id, time.monotonic(), force=force))
        await ended.wait()

    async def close(self, drain_s: float = 0) -> None:
        """Stop taking work, wait up to `drain_s` for answers in flight, end every worker, remove the sockets."""
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        for future, _ in self._asking.values():
            if not future.done():
                future.set_exception(_stopping())
        self._asking.clear()
        loads = [task for task, what in self._tasks.items() if what == "load"]
        for task in loads:
            task.cancel()
        await asyncio.gather(*loads, return_exceptions=True)
        if any(m.in_flight for m in self.models):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(drain_s):
                    await self._drained.wait()
        await asyncio.gather(*(m.worker.stop(_STOP_GRACE_S) for m in self._models.values()))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for ended in self._ended.values():
            ended.set()
        shutil.rmtree(self._socket_dir, ignore_errors=True)
        shutil.rmtree(self._state_dir, ignore_errors=True)

    # Asking the scheduler

    async def _granted(self, manifest: Manifest, options: LoadOptions | None) -> tuple[int, LoadedModel]:
        """The number of a granted request and its model; `release` it. `options`: the load itself is asked for."""
        if self._closing:
            raise _stopping()
        number, now = next(self._numbers), time.monotonic()
        resident = self._scheduler.residents.get(manifest.id)
        if resident is not None and not options:
            plan = resident.plan  # the way of nearly every request
        else:
            if resident is None:
                self._observe()
            room = self._scheduler.room(manifest.id, CPU)
            asked = options or LoadOptions()
            # In a thread: of a version that is older than its manifest's shape, the file's header is read.
            plan = await asyncio.to_thread(self._planner.plan, manifest, asked, self.settings, resident, room)
            if self._closing:
                raise _stopping()
            self._manifests[manifest.id] = manifest
        ask = Ask(number, manifest.id, plan, now, now + self.settings.queue_timeout_s)
        if options is not None:
            ask.explicit, ask.context = True, options.context
        future: asyncio.Future[LoadedModel] = asyncio.get_running_loop().create_future()
        self._asking[number] = future, manifest
        self._perform(self._scheduler.ask(ask, time.monotonic()))  # planning took a moment
        try:
            return number, await future
        except asyncio.CancelledError:
            if self._asking.pop(number, None) is not None:
                self._perform(self._scheduler.withdraw(number, manifest.id, time.monotonic()))
            elif not future.cancelled() and future.exception() is None:
                self._release(number)
            raise

    def _release(self, number: int) -> None:
        self._perform(self._scheduler.release(number, time.monotonic()))
        if self._closing and not any(model.in_flight for model in self.models):
            self._drained.set()

    def _observe(self) -> None:
        """Tell the scheduler what the machine's memory is used for now."""
        settings = self.settings
        budget = memory.look(self._pids.values(), settings.memory_limit_bytes, settings.memory_reserve_bytes)
        self._perform(self._scheduler.observe({CPU: budget}, time.monotonic()))

    # Carrying its decisions out

    def _perform(self, actions: Sequence[Action]) -> None:
        if self._closing:
            return  # everything is being ended anyway
        for action in actions:
            match action:
                case Grant(number):
                    self._grant(number)
                case Refuse(number, why):
                    future, manifest = self._asking.pop(number)
                    if not future.done():
                        future.set_exception(error_of(why, manifest, self._alternatives))
                case Load(id, plan):
                    self._begin("load", self._load(self._manifests[id], plan))
                case Stop(id, reason):
                    self._begin("stop", self._stop(self._models[id], reason))
        self._watch()

    def _grant(self, number: int) -> None:
        future, manifest = self._asking.pop(number)
        if future.done():  # cancelled a moment ago
            self._release(number)
        else:
            future.set_result(self._models[manifest.id])

    def _begin(self, what: str, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks[task] = what
        task.add_done_callback(self._tasks.pop)

    def _watch(self) -> None:
        """Have the scheduler asked again when time alone changes something."""
        when = self._scheduler.next_tick()
        if when == self._armed_for:
            return
        self._armed_for = when
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if when is not None:
            self._timer = asyncio.get_running_loop().call_later(max(when - time.monotonic(), 0), self._tick)

    def _tick(self) -> None:
        self._armed_for = None
        self._perform(self._scheduler.tick(time.monotonic()))

    async def _load(self, manifest: Manifest, plan: LoadPlan) -> None:
        try:
            model = await self._ready(manifest, plan)
        except Exception as exc:
            self._failed(manifest.id, exc)
            if not isinstance(exc, FoundryError):
                raise  # a fault of ours: whoever waits has an answer, and the log shall have the traceback
            return
        model.worker.exited.add_done_callback(lambda _: self._exited(model))
        claim = self._planner.measure(model)
        self._tell(ModelEvent("loaded", manifest.id, model.load_s))
        log.info("loaded %s with %s in %.2f s", manifest.id, model.command.engine, model.load_s)
        if plan.usual_context > plan.context:
            log.warning("%s has a context of %d tokens: %d do not fit", manifest.id, plan.context, plan.usual_context)
        self._perform(self._scheduler.loaded(manifest.id, claim, model.load_s, time.monotonic()))
        self._begin("watch", self._watch_health(model))
        self._begin("learn", asyncio.to_thread(self._planner.learn, model, self.settings))

    async def _ready(self, manifest: Manifest, plan: LoadPlan) -> LoadedModel:
        """A worker that answers, with its conversations back. Where that fails, no process is left."""
        resident = self._scheduler.residents[manifest.id]
        state_dir = self._state_dir / f"{manifest.name}-{manifest.version}" if plan.keep_state else None
        file = self.store.main_file(manifest)
        request = loading.load_request(manifest, file, plan, self._socket_dir, state_dir)
        began = functools.partial(self._pids.__setitem__, manifest.id)
        model = await loading.start(self.store, self.settings, manifest, request, resident, began)
        self._models[manifest.id] = model
        try:
            await conversations.restore(model)
            if model.worker.exited.done():
                raise LoadFailed(f"the worker of {manifest.id} ended as soon as it was ready")
        except BaseException:
            await model.worker.stop(0)
            raise
        return model

    def _failed(self, model_id: str, exc: Exception) -> None:
        self._models.pop(model_id, None)
        self._tell(ModelEvent("load_failed", model_id, reason=str(exc)))
        log.warning("load of %s failed: %s", model_id, exc)
        short = isinstance(exc, OutOfMemory)
        actions = self._scheduler.load_failed(model_id, exc, memory=short, now=time.monotonic())
        self._has_ended(model_id)
        self._perform(actions)

    async def _stop(self, model: LoadedModel, why: Why) -> None:
        if why in (Why.ROOM, Why.REPLACED, Why.IDLE):
            await conversations.save(model)
        await model.worker.stop(_STOP_GRACE_S)
        self._models.pop(model.id, None)
        self._tell(ModelEvent(why.value, model.id))
        log.info("%s %s", why.value, model.id)
        self._gone(model)

    def _exited(self, model: LoadedModel) -> None:
        """A worker's process has ended; where that was asked for, `_stop` sees to it."""
        if self._closing or self._models.get(model.id) is not model or model.resident.phase is Phase.STOPPING:
            return
        del self._models[model.id]
        reason = model.worker.complaint or "it ended by itself" + loading.of_force(model.worker, model.resident.plan)
        self._tell(ModelEvent("hung" if model.worker.complaint else "crashed", model.id, reason=reason))
        crash = WorkerCrashed(
            f"the worker of {model.id} failed: {reason}", hint=f"foundry service logs {model.manifest.name}"
        )
        self._gone(model, crash)

    def _gone(self, model: LoadedModel, crash: WorkerCrashed | None = None) -> None:
        actions = self._scheduler.gone(model.id, time.monotonic(), crash=crash)
        self._has_ended(model.id)
        self._perform(actions)

    def _has_ended(self, model_id: str) -> None:
        self._pids.pop(model_id, None)
        ended = self._ended.pop(model_id, None)
        if ended is not None:
            ended.set()
        if not self._scheduler.waiting(model_id) and model_id not in self._scheduler.residents:
            self._manifests.pop(model_id, None)

    async def _watch_health(self, model: LoadedModel) -> None:
        """Ask for signs of life and measure, until the worker is gone."""
        while not model.worker.exited.done():
            await health.beat(model, self.settings.hang_timeout_s)
            self._scheduler.measured(model.id, self._planner.measure(model))
            self._observe()
            pause_s = health.next_beat_s(model, self.settings.hang_timeout_s)
            await asyncio.wait([model.worker.exited], timeout=pause_s)

    def _tell(self, event: ModelEvent) -> None:
        for listener in self.listeners:
            listener(event)


def _stopping() -> ServiceStopping:
    return ServiceStopping("the service is stopping and takes no new work", hint="foundry service start")
