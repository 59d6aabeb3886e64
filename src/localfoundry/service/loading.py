"""A model loaded: from a plan to a worker that is ready, with the engine's own account of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from localfoundry.config import Settings
from localfoundry.engines import choice, engines, llama_builds
from localfoundry.engines.base import Engine, LoadRequest, WorkerCommand
from localfoundry.engines.choice import LeftOut
from localfoundry.errors import FoundryError, LoadFailed, OutOfMemory
from localfoundry.service import drafts, memory
from localfoundry.service.decisions import LoadPlan, Phase, Resident
from localfoundry.service.ledger import CPU, Bytes
from localfoundry.service.process import Worker, new_endpoint
from localfoundry.service.rate import Rate
from localfoundry.service.sharing import Sharing
from localfoundry.store import adopted
from localfoundry.store.manifest import Manifest
from localfoundry.store.space import note_use
from localfoundry.store.store import Store
from localfoundry.units import format_bytes

# A worker may take this many times what was predicted, and so much more, before its allocations fail.
_LIMIT_FACTOR = 2
_LIMIT_EXTRA_BYTES = 2 * 2**30


@dataclass(slots=True, eq=False)
class LoadedModel:
    """A model with a ready worker, and how it came to be. `runs`: the version whose file it has, often the same."""

    manifest: Manifest
    runs: Manifest
    engine: Engine
    worker: Worker
    command: WorkerCommand
    resident: Resident  # what the scheduler knows of it
    load_s: float
    engine_load_s: float | None
    memory: dict[str, int]  # by purpose, as the engine states it
    state_dir: Path | None = None
    sharing: Sharing = field(default_factory=Sharing)  # the requests at it
    rate: Rate = field(default_factory=Rate)  # tokens, added as they pass
    last_beat: float = field(default_factory=time.monotonic)  # last sign of life
    last_processor_s: float = 0.0  # processor time that it had used then

    @property
    def id(self) -> str:
        return self.manifest.id

    @property
    def context(self) -> int:
        return self.resident.plan.context

    @property
    def ttl_s(self) -> float:
        return self.resident.plan.ttl_s

    @property
    def pinned(self) -> bool:
        return self.resident.plan.pinned

    @property
    def in_flight(self) -> int:
        return self.resident.in_flight

    @property
    def last_used(self) -> float:
        return self.resident.last_used

    @property
    def claim_bytes(self) -> int:
        """What the ledger counts it with, on all devices."""
        return sum(self.resident.claim.values())

    @property
    def state(self) -> str:
        """The word for a person: the phase, or what became of the worker."""
        return self.worker.state if self.resident.phase is Phase.READY else self.resident.phase.value

    def measure(self) -> Bytes:
        """What it holds now: its process, and at least the buffers that the engine has told of."""
        resident = memory.resident_bytes(self.worker.pid) or 0
        stated = sum(self.memory.values())
        return {**self.resident.claim, CPU: max(resident, stated)}


def load_request(
    manifest: Manifest, model_path: Path, plan: LoadPlan, socket_dir: Path, state_dir: Path | None
) -> LoadRequest:
    return LoadRequest(
        manifest.id, model_path, new_endpoint(socket_dir), plan.context, plan.parallel, manifest.tasks, state_dir,
        plan.engine_arguments, plan.device, plan.one_stream,
    )  # fmt: skip


async def start(
    store: Store,
    settings: Settings,
    manifest: Manifest,
    runs: Manifest,
    request: LoadRequest,
    resident: Resident,
    began: Callable[[int], None],
) -> LoadedModel:
    """Start a worker and wait until it is ready; `began` is told its process. Where that fails, none is left.

    `runs`: the version whose file the request names. Raises LoadFailed, OutOfMemory, NotRunnable, DiskError, and
    InvalidSetting where its draft model is not here or has another vocabulary.
    """
    engine = choice.named(resident.plan.engine, engines())
    draft = await asyncio.to_thread(drafts.required, store, request.engine_arguments, runs)
    if draft is not None:
        words = drafts.renamed(request.engine_arguments, str(store.main_file(draft)))
        request = replace(request, engine_arguments=words)
    read = [runs] if draft is None else [runs, draft]
    for version in read:
        await asyncio.to_thread(adopted.check, store, version)
        await asyncio.to_thread(_check_files, store, version)
    command = engine.command(request, llama_builds.chosen(settings, resident.plan.build))
    for version in {one.id: one for one in (manifest, *read)}.values():
        await asyncio.to_thread(note_use, store, version)
    started = time.monotonic()
    limit = sum(resident.plan.need.values()) * _LIMIT_FACTOR + _LIMIT_EXTRA_BYTES
    log_file = settings.log_dir / f"worker-{manifest.name}.log"
    worker = await Worker.start(command, request.endpoint, log_file, limit)
    began(worker.pid)
    try:
        await _wait_ready(worker, engine, manifest, settings.load_timeout_s, resident.plan)
        load_s = time.monotonic() - started
        await worker.told(lambda words: engine.account(words).load_s is not None)
        account = engine.account(worker.start_log)
    except BaseException:
        await worker.stop(0)
        raise
    return LoadedModel(
        manifest, runs, engine, worker, command, resident, load_s, account.load_s, account.memory, request.state_dir
    )


def _check_files(store: Store, runs: Manifest) -> None:
    """Engines do not say which file of a folder is missing, and some read what is not there as weights."""
    if missing := store.missing(runs):
        what = f"{runs.id}: {', '.join(missing[:3])} is missing in its folder"
        raise LoadFailed(what, hint=f"foundry cache verify {runs.id}", param="model")


def of_force(worker: Worker, plan: LoadPlan) -> str:
    """What a person who forced a load should know of its end: words to follow others, or none."""
    if not plan.forced:
        return ""
    need = format_bytes(sum(plan.need.values()))
    ended = "the system ended it for want of memory" if worker.was_killed else "memory may be the cause"
    return f"; it was loaded by force, though {need} do not fit, and {ended}"


def words_of(exc: Exception) -> str:
    """Why an engine could not load a model: its own words, where it had any."""
    _, said, words = str(exc).partition("The engine says: ")
    return words if said else str(exc)


def of_all(exc: Exception, id: str, failed: Sequence[LeftOut]) -> Exception:
    """A failure that names every engine that was tried, in their order, where it was more than one."""
    if isinstance(exc, FoundryError) and len(failed) > 1:
        exc.message = f"{id}: no engine could load it. " + "; ".join(str(one) for one in failed)
        exc.args = (exc.message,)
    return exc


def _of_address_limit() -> str:
    limit = memory.address_limit()
    return "" if limit is None else f"; a process may have {format_bytes(limit)} of addresses here (ulimit -v)"


async def _wait_ready(worker: Worker, engine: Engine, manifest: Manifest, timeout_s: float, plan: LoadPlan) -> None:
    try:
        await worker.wait_ready(timeout_s)
    except LoadFailed as exc:
        words = engine.complaint(worker.start_log)
        short = worker.was_killed or engine.short_of_memory(worker.start_log)
        raise (OutOfMemory if short else LoadFailed)(
            f"{manifest.id}: {exc.message}{of_force(worker, plan)}{_of_address_limit() if short else ''}"
            + (f". The engine says: {words}" if words else ""),
            hint=f"foundry service logs {manifest.name}",
            param="model",
        ) from exc
