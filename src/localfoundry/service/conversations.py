"""Conversations that outlive their worker: an engine's slots, saved when it is unloaded and restored when it is back.

Asked for with `--keep-state`, because what is saved is what people said: the files are private to the user, live in
the service's own folder, and end with the service. A slot that cannot be saved or restored costs its prompt being
processed again, and nothing else.
"""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import time
from pathlib import Path

from localfoundry.service import upstream
from localfoundry.service.loading import LoadedModel

log = logging.getLogger(__name__)

_TIMEOUT_S = 30.0
_LARGEST_ANSWER = 10_000_000
_KEEP_FREE_BYTES = 2 * 2**30


async def save(model: LoadedModel) -> None:
    """Write every slot that holds something to the model's folder, replacing what was there."""
    folder = model.state_dir
    if folder is None or model.worker.exited.done():
        return
    started = time.monotonic()
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            if not await asyncio.to_thread(_make_room, folder, model.memory.get("kv_cache", 0)):
                log.warning("%s: conversations are not saved: the disk has too little room", model.id)
                return
            slots = json.loads(await _ask(model, "GET", "/slots"))
            used = [slot["id"] for slot in slots if slot.get("n_prompt_tokens")]
            for slot in used:
                await _ask(model, "POST", f"/slots/{slot}?action=save", {"filename": f"{slot}.bin"})
    except (TimeoutError, upstream.UpstreamClosed, ValueError, KeyError, OSError) as exc:
        log.warning("%s: conversations were not saved: %s", model.id, exc or type(exc).__name__)
        return
    log.info("%s: saved %d conversations in %.2f s", model.id, len(used), time.monotonic() - started)


async def restore(model: LoadedModel) -> None:
    """Read what `save` has written into the slots it came from."""
    folder = model.state_dir
    if folder is None:
        return
    files = await asyncio.to_thread(lambda: sorted(folder.glob("*.bin")))
    for file in files:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await _ask(model, "POST", f"/slots/{int(file.stem)}?action=restore", {"filename": file.name})
        except (TimeoutError, upstream.UpstreamClosed, ValueError) as exc:
            log.warning("%s: a conversation was not restored: %s", model.id, exc or type(exc).__name__)
        await asyncio.to_thread(file.unlink, missing_ok=True)


def _make_room(folder: Path, size_bytes: int) -> bool:
    """An empty private folder, and whether the disk has room for so many bytes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(mode=0o700)
    return shutil.disk_usage(folder).free > size_bytes + _KEEP_FREE_BYTES


async def _ask(model: LoadedModel, method: str, path: str, body: dict[str, str] | None = None) -> bytes:
    data = json.dumps(body).encode() if body is not None else b""
    response = await upstream.request(model.worker.endpoint, method, path, data)
    try:
        answer = await response.body(_LARGEST_ANSWER)
    finally:
        response.close()
    if response.status != 200:
        raise ValueError(f"{path} answered {response.status}")
    return answer
