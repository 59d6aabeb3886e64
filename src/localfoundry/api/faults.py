"""What goes wrong at a worker, in our tree of errors: its own words, a broken connection, silence."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

from localfoundry.errors import (
    ContextLengthExceeded,
    ContextMemoryExhausted,
    EngineError,
    EngineTimeout,
    FoundryError,
    InvalidRequest,
    ServiceStopping,
    WorkerCrashed,
)
from localfoundry.service.loading import LoadedModel

_CRASH_WAIT_S = 0.5
# llama.cpp says these with status 500, which clients repeat; no repetition helps.
_FOR_GOOD = ("Failed to parse", "input is not supported", "does not support")
_MEMORY_FULL = "Context size has been exceeded"


class EngineSaid(Exception):
    """An error object of the engine's in place of an answer, or in the middle of one."""

    def __init__(self, error: Any) -> None:
        super().__init__(str(error))
        self.error = error


def of_body(status: int, body: bytes, model: LoadedModel) -> FoundryError:
    """An engine's answer that is not 200."""
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        error = None
    return of_object(status, error, model)


def of_event(said: EngineSaid, model: LoadedModel) -> FoundryError:
    status = said.error.get("code") if isinstance(said.error, dict) else None
    return of_object(status if isinstance(status, int) else 500, said.error, model)


def of_object(status: int, error: Any, model: LoadedModel) -> FoundryError:
    """An engine's error object; its words are kept."""
    if not isinstance(error, dict) or "message" not in error:
        return EngineError(f"the engine of {model.id} answered with status {status} and no reason")
    message = str(error["message"])
    if error.get("type") == "exceed_context_size_error":
        with contextlib.suppress(KeyError, TypeError, ValueError):
            counts = int(error["n_prompt_tokens"]), int(error["n_ctx"])
            largest = model.resident.plan.largest_context or model.manifest.context_length
            return ContextLengthExceeded(*counts, model.manifest.alias, largest)
    if message.startswith(_MEMORY_FULL):
        return ContextMemoryExhausted(
            f"answers that ran together filled the {model.context} tokens of memory that {model.id} has for them",
            hint=f"send it again, or fewer at once, or foundry model run {model.manifest.alias} --ctx N with more",
        )
    if status < 500 or status == 501 or any(words in message for words in _FOR_GOOD):
        return InvalidRequest(message)
    return EngineError(message)


async def broken(model: LoadedModel) -> FoundryError:
    """The error for a connection that broke, after giving the process a moment to be seen as ended."""
    if model.worker.state == "stopping":  # with an answer in flight: forced, or the time to drain is over
        return ServiceStopping(f"{model.id} was stopped before the answer was complete", hint="foundry service status")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_CRASH_WAIT_S):
            await asyncio.shield(model.worker.exited)
    if model.worker.complaint:
        what = f"the worker of {model.id} failed: {model.worker.complaint}"
    elif model.worker.exited.done():
        what = f"the worker of {model.id} ended while it was answering"
    else:
        what = f"the worker of {model.id} broke off its answer"
    return WorkerCrashed(what, hint="send the request again; `foundry service logs` has the worker's own words")


def silent(model_id: str | None, waited_s: float, *, started: bool) -> EngineTimeout:
    what = "nothing more of its answer" if started else "no token"
    setting = "streamIdleTimeoutSeconds" if started else "firstTokenTimeoutSeconds"
    return EngineTimeout(f"the worker of {model_id} sent {what} for {waited_s:.0f} s", hint=f"setting {setting}")
