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
from typing import NamedTuple

from localfoundry.catalog.lookup import Catalog
from localfoundry.config import Settings
from localfoundry.engines.choice import LeftOut
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
    TooLate,
    Why,
)
from localfoundry.service.events import Listener, ModelEvent
from localfoundry.service.ledger import CPU, Ledger
from localfoundry.service.loading import LoadedModel
from localfoundry.service.names import Names
from localfoundry.service.planning import LoadOptions, Planner
from localfoundry.service.preparation import Preparation
from localfoundry.service.reencoding import Making, Reencodings
from localfoundry.service.refusals import error_of
from localfoundry.service.scheduler import Scheduler
from localfoundry.store.manifest import Manifest
from localfoundry.store.store import Store

log = logging.getLogger(__name__)

_STOP_GRACE_S = 5.0


class _Asking(NamedTuple):
    """A request that waits, and what it asked of the load."""

    future: asyncio.Future[LoadedModel]
    manifest: Manifest
    options: LoadOptions


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
        self._reencodings = Reencodings(store)
        self.planner = Planner(store, settings.home, self._reencodings.failed)
        self._preparation = Preparation(self.planner, self._reencodings)
        self._scheduler = Scheduler(Ledger({}), settings.queue_length)
        self._numbers = itertools.count(1)
        self._asking: dict[int, _Asking] = {}  # requests that wait
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
        return Alternatives(self.catalog, self.planner, self.settings)

    # For whoever reports

    @property
    def models(self) -> list[LoadedModel]:
        """Loaded models; those whose process is ending are none any more."""
        return [m for m in self._models.values() if m.resident.phase is not Phase.STOPPING]

    @property
    def preparing(self) -> list[Making]:
        """Re-encodings that are made for loads."""
        return self._reencodings.under_way

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
            self.planner.workload.note(model.id, model.in_flight)
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
        cancelled = self._reencodings.cancel(meant.id)
        model = self._scheduler.residents.get(meant.id)
        if model is None and meant.id.lower() != name.strip().lower():
            model = next(
                (r for r in self._scheduler.residents.values() if self._manifests[r.id].name == meant.name), None
            )
        if model is None:
            return cancelled
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
        for asking in self._asking.values():
            if not asking.future.done():
                asking.future.set_exception(_stopping())
        self._asking.clear()
        await self._reencodings.close()
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
            plan = await self._planned(manifest, options or LoadOptions())
            if self._closing:
                raise _stopping()
            self._manifests[manifest.id] = manifest
        ask = Ask(number, manifest.id, plan, now, now + self.settings.queue_timeout_s)
        if options is not None:
            ask.explicit, ask.context = True, options.context
            ask.engine = plan.engine if options.engine else None
            ask.device = plan.device if options.device else None
        future: asyncio.Future[LoadedModel] = asyncio.get_running_loop().create_future()
        self._asking[number] = _Asking(future, manifest, options or LoadOptions())
        self._perform(self._scheduler.ask(ask, time.monotonic()))  # planning took a moment
        try:
            return number, await future
        except asyncio.CancelledError:
            if self._asking.pop(number, None) is not None:
                self._perform(self._scheduler.withdraw(number, manifest.id, time.monotonic()))
            elif not future.cancelled() and future.exception() is None:
                self._release(number)
            raise

    async def _planned(self, manifest: Manifest, options: LoadOptions, failed: Sequence[LeftOut] = ()) -> LoadPlan:
        """How it would be loaded; `failed`: engines that could not, of those that were tried for it."""

        def room() -> int:
            return self._scheduler.room(manifest.id, CPU)

        resident = self._scheduler.residents.get(manifest.id)
        try:
            return await self._preparation.plan(manifest, options, self.settings, resident, room, failed)
        except TimeoutError:
            raise error_of(TooLate(self.settings.queue_timeout_s, None), manifest, self._alternatives) from None
        except LoadFailed:
            if self._closing:
                raise _stopping() from None
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
                    asking = self._asking.pop(number)
                    if not asking.future.done():
                        asking.future.set_exception(error_of(why, asking.manifest, self._alternatives))
                case Load(id, plan):
                    self._begin("load", self._load(self._manifests[id], plan))
                case Stop(id, reason):
                    self._begin("stop", self._stop(self._models[id], reason))
        self._watch()

    def _grant(self, number: int) -> None:
        asking = self._asking.pop(number)
        if asking.future.done():  # cancelled a moment ago
            self._release(number)
        else:
            asking.future.set_result(self._models[asking.manifest.id])

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
            self._models.pop(manifest.id, None)
            passing = isinstance(exc, OutOfMemory)
            failed = (*plan.failed, LeftOut(plan.tried_as, loading.words_of(exc), passing=passing))
            self._failed(
                manifest.id,
                loading.of_all(exc, manifest.id, failed),
                failed,
                await self._others(manifest, plan, exc, failed),
            )
            if not isinstance(exc, FoundryError):
                raise  # a fault of ours: whoever waits has an answer, and the log shall have the traceback
            return
        model.worker.exited.add_done_callback(lambda _: self._exited(model))
        claim = self.planner.measure(model)
        self._tell(ModelEvent("loaded", manifest.id, model.load_s))
        log.info("loaded %s with %s in %.2f s", manifest.id, model.command.engine, model.load_s)
        self.planner.remember(manifest, [one for one in plan.failed if not one.passing])
        if plan.usual_context > plan.context:
            log.warning("%s has a context of %d tokens: %d do not fit", manifest.id, plan.context, plan.usual_context)
        self._perform(self._scheduler.loaded(manifest.id, claim, model.load_s, time.monotonic()))
        self._begin("watch", self._watch_health(model))
        self._begin("learn", asyncio.to_thread(self.planner.learn, model, self.settings))

    async def _ready(self, manifest: Manifest, plan: LoadPlan) -> LoadedModel:
        """A worker that answers, with its conversations back. Where that fails, no process is left."""
        assert plan.reencode_to is None, "the engine would read the file badly"
        resident = self._scheduler.residents[manifest.id]
        state_dir = self._state_dir / f"{manifest.name}-{manifest.version}" if plan.keep_state else None
        runs = manifest if plan.runs == manifest.id else self.resolve(plan.runs)
        request = loading.load_request(manifest, self.store.main_file(runs), plan, self._socket_dir, state_dir)
        began = functools.partial(self._pids.__setitem__, manifest.id)
        model = await loading.start(self.store, self.settings, manifest, runs, request, resident, began)
        self._models[manifest.id] = model
        try:
            await conversations.restore(model)
            if model.worker.exited.done():
                raise LoadFailed(f"the worker of {manifest.id} ended as soon as it was ready")
        except BaseException:
            await model.worker.stop(0)
            raise
        return model

    async def _others(
        self, manifest: Manifest, plan: LoadPlan, exc: Exception, failed: tuple[LeftOut, ...]
    ) -> dict[int, LoadPlan]:
        """What else could be done for requests that wait for a load that failed, by number: the next engine.

        None where an engine was asked for by name, where there is no other, and where nobody wants the model any more.
        """
        resident = self._scheduler.residents[manifest.id]
        if not isinstance(exc, LoadFailed):
            return {}
        if isinstance(exc, OutOfMemory) and self._scheduler.could_make_room(manifest.id):
            return {}
        plans: dict[int, LoadPlan] = {}
        tried: set[int] = set()
        while waiting := set(self._scheduler.waiting_for(manifest.id)) - tried:
            tried |= waiting
            for number in sorted(waiting):
                with contextlib.suppress(FoundryError, KeyError):  # no other engine; the request has gone
                    other = await self._planned(manifest, self._asking[number].options, failed)
                    if all(other.tried_as != one.engine for one in failed):
                        plans[number] = other
        return {} if resident.replaced else plans  # it was unloaded meanwhile

    def _failed(self, model_id: str, exc: Exception, failed: tuple[LeftOut, ...], others: dict[int, LoadPlan]) -> None:
        if others:
            following = next(iter(others.values())).engine
            reason = f"{failed[-1]}; trying {following}"
            self._tell(ModelEvent("fell_back", model_id, reason=reason))
            log.warning("load of %s: %s", model_id, reason)
        else:
            self._tell(ModelEvent("load_failed", model_id, reason=str(exc)))
            log.warning("load of %s failed: %s", model_id, exc)
        short = isinstance(exc, OutOfMemory)
        actions = self._scheduler.load_failed(model_id, exc, memory=short, now=time.monotonic(), others=others)
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
            self._scheduler.measured(model.id, self.planner.measure(model))
            self._observe()
            pause_s = health.next_beat_s(model, self.settings.hang_timeout_s)
            await asyncio.wait([model.worker.exited], timeout=pause_s)

    def _tell(self, event: ModelEvent) -> None:
        for listener in self.listeners:
            listener(event)


def _stopping() -> ServiceStopping:
    return ServiceStopping("the service is stopping and takes no new work", hint="foundry service start")
