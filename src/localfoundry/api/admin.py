"""Our own endpoints for the command line: what is loaded, loading with options, stopping."""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from localfoundry.api import exchange, requests
from localfoundry.service.loading import LoadedModel
from localfoundry.service.memory import resident_bytes
from localfoundry.service.planning import LoadOptions
from localfoundry.service.service import Service


def routes(service: Service, shutdown: Callable[[], None]) -> list[Route]:
    async def ps(_: Request) -> JSONResponse:
        return JSONResponse([describe(service, model) for model in service.models])

    async def load(request: Request) -> JSONResponse:
        data = await requests.body(request, service.settings.max_body_bytes)
        wanted = requests.parse(data, requests.LoadBody)
        options = LoadOptions(
            wanted.retain, wanted.ttl, wanted.context, wanted.pin, wanted.keep_state, wanted.force, wanted.engine,
            wanted.device,
        )  # fmt: skip
        before = service.loaded(wanted.model)
        model = await service.load(wanted.model, options)
        exchange.of(request.scope).model = model.id
        return JSONResponse(describe(service, model) | {"already_loaded": model is before})

    async def unload(request: Request) -> JSONResponse:
        data = await requests.body(request, service.settings.max_body_bytes)
        wanted = requests.parse(data, requests.UnloadBody)
        exchange.of(request.scope).model = service.resolve(wanted.model).id
        return JSONResponse({"unloaded": await service.unload(wanted.model, force=wanted.force)})

    async def stop(_: Request) -> JSONResponse:
        shutdown()
        return JSONResponse({"status": "shutting_down"})

    return [
        Route("/foundry/ps", ps),
        Route("/foundry/load", load, methods=["POST"]),
        Route("/foundry/unload", unload, methods=["POST"]),
        Route("/shutdown", stop, methods=["POST"]),
    ]


def describe(service: Service, model: LoadedModel) -> dict[str, object]:
    """A loaded model for reporting. Sizes in bytes, times in seconds; `engine_load_s` is the engine's own figure.

    `file` is the version whose bytes run, the model's own or a re-encoding of it; `quantization` and `sha256` are its.
    In `memory`, `claimed` is what the ledger counts it with; `process` is resident now, mapped weights included.
    """
    now, plan = time.monotonic(), model.resident.plan
    idle = now - model.last_used
    leaves = model.ttl_s > 0 and not model.pinned
    left_out = {one.engine: one.why for one in (*plan.left_out, *plan.failed)}  # what failed now says more
    return {
        "alias": model.manifest.alias,
        "id": model.id,
        "engine": model.command.engine,
        "engine_name": model.engine.name,
        "device": model.command.device,
        "engine_reason": f"{plan.engine_reason}; {model.command.reason}"
        if plan.engine_reason
        else model.command.reason,
        "tuned": plan.tuned,
        "engine_arguments": list(plan.engine_arguments),
        "engines_left_out": [{"engine": name, "why": why} for name, why in left_out.items()],
        "file": model.runs.id,
        "draft": plan.draft,
        "state": model.state,
        "pid": model.worker.pid,
        "socket": model.worker.endpoint.path,
        "context": model.context,
        "context_trained": model.manifest.context_length,
        "context_usual": plan.usual_context or model.context,
        "tasks": list(model.manifest.tasks),
        "load_s": model.load_s,
        "engine_load_s": model.engine_load_s,
        "memory": {**model.memory, "claimed": model.claim_bytes, "process": resident_bytes(model.worker.pid)},
        "requests_running": model.in_flight,
        "requests_waiting": service.waiting(model.id),
        "tokens_per_s": model.rate.per_second(now),
        "pinned": model.pinned,
        "forced": plan.forced,
        "ttl_s": model.ttl_s,
        "ttl_left_s": max(model.ttl_s - idle, 0.0) if leaves and not model.in_flight else None,
        "quantization": model.runs.quantization,
        "sha256": model.runs.files[0].sha256,
    }
