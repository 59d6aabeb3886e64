"""Is a worker still there: asked of the part that computes, and told by the process's end otherwise.

A worker whose process has ended is noticed at once. One that hangs still has its process and its open socket, so it is
asked: an engine's heartbeat is answered between two batches. A worker that has not answered for `hangTimeoutSeconds`
is killed and counts as crashed. A long batch on a slow machine is no hang: one whose process has used the processor in
that time gets four times as long, which ends an endless loop as well.
"""

from __future__ import annotations

import asyncio
import logging
import time

from localfoundry.service import memory, upstream
from localfoundry.service.loading import LoadedModel

log = logging.getLogger(__name__)

_BEAT_BUSY_S = 2.0
_BEAT_IDLE_S = 10.0  # nobody waits for it, and laptops sleep better
_PATIENCE = 4  # times as long for a worker that computes
_LARGEST_BEAT = 10_000_000
_BUSY = 0.1  # of the time, on one processor


def next_beat_s(model: LoadedModel, hang_timeout_s: float) -> float:
    """Seconds until it is asked again."""
    return min(_BEAT_BUSY_S if model.in_flight else _BEAT_IDLE_S, hang_timeout_s)


async def beat(model: LoadedModel, hang_timeout_s: float) -> None:
    """One sign of life, or the end of a worker that has given none for too long."""
    if await _answers(model, hang_timeout_s):
        model.last_beat = time.monotonic()
        model.last_processor_s = memory.processor_s(model.worker.pid) or 0
        return
    silent_s = time.monotonic() - model.last_beat
    if silent_s < hang_timeout_s or model.worker.exited.done():
        return  # asked again soon; the end of a process is noticed elsewhere
    busy_s = (memory.processor_s(model.worker.pid) or 0) - model.last_processor_s
    if busy_s > _BUSY * silent_s and silent_s < _PATIENCE * hang_timeout_s:
        return
    log.warning("%s: no sign of life from worker %d for %.0f s", model.id, model.worker.pid, silent_s)
    model.worker.kill(f"it gave no sign of life for {silent_s:.0f} s and was ended")


async def _answers(model: LoadedModel, timeout_s: float) -> bool:
    try:
        async with asyncio.timeout(timeout_s):
            response = await upstream.request(model.worker.endpoint, "GET", model.engine.heartbeat)
            try:
                await response.body(_LARGEST_BEAT)
            finally:
                response.close()
    except (TimeoutError, upstream.UpstreamClosed):
        return False
    return True
