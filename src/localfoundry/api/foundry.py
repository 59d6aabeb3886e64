"""The endpoints that tools and SDKs written for Foundry Local use: both generations at once.

Forms are theirs, down to bare arrays and both casings of a key; see docs/behaviour.md. State is changed by GET because
those clients do so; `security.py` keeps web pages away from it.
"""

from __future__ import annotations

import os
import time
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from localfoundry import __version__, engines
from localfoundry.access.caller import Caller
from localfoundry.api import exchange
from localfoundry.api.gate import caller_of
from localfoundry.api.requests import LONGEST_TTL_S
from localfoundry.catalog.filters import preferred_variant
from localfoundry.catalog.foundry import foundry_entry
from localfoundry.catalog.model import Model, Variant
from localfoundry.errors import InvalidRequest
from localfoundry.service.memory import resident_bytes
from localfoundry.service.planning import LoadOptions
from localfoundry.service.service import Service
from localfoundry.store.manifest import Manifest


def routes(service: Service) -> list[Route]:
    return [*_first_generation(service), *_second_generation(service), *_health(service)]


def entries(service: Service, caller: Caller) -> list[dict[str, object]]:
    """The catalog as a list of entries: what can run here, the preferred variant of each alias first.

    What is in no catalog is listed to those who may use it.
    """
    formats = engines.runnable_formats()
    result = []
    known: set[str] = set()
    for model in service.catalog.models:
        first = preferred_variant(model, formats)
        usable = [v for v in model.variants if v.format in formats and v is not first]
        for variant in ([first] if first else []) + usable:
            known.add(variant.name)
            result.append(foundry_entry(model, variant))
    return result + [_cached_entry(m) for m in service.store.manifests() if m.name not in known and caller.covers(m)]


def _cached_entry(manifest: Manifest) -> dict[str, object]:
    """An entry for what was pulled or imported and is in no catalog."""
    variant = Variant(
        name=manifest.name, version=manifest.version, format=manifest.format, source=manifest.source,
        quantization=manifest.quantization, size_bytes=manifest.size_bytes, license=manifest.license,
        context_length=manifest.context_length,
    )  # fmt: skip
    return foundry_entry(Model(alias=manifest.alias, tasks=manifest.tasks, variants=(variant,)), variant)


def _first_generation(service: Service) -> list[Route]:
    async def listing(request: Request) -> JSONResponse:
        return JSONResponse(entries(service, caller_of(request.scope)))

    async def cache(_: Request) -> JSONResponse:
        return JSONResponse({"location": str(service.store.root)})

    async def status(request: Request) -> JSONResponse:
        endpoint = str(request.base_url).rstrip("/")
        value: dict[str, Any] = {
            "endpoints": [endpoint],
            "modelDirPath": _folder(service, request),
            "pipeName": None,
            "isAutoRegistrationResolved": True,
            "autoRegistrationStatus": "Successfully downloaded and registered all valid EPs.",
        }
        return JSONResponse(value | {key[0].upper() + key[1:]: item for key, item in value.items()})

    async def cached(request: Request) -> JSONResponse:
        return JSONResponse([m.id for m in service.store.manifests() if caller_of(request.scope).covers(m)])

    async def loaded(request: Request) -> JSONResponse:
        return JSONResponse(_loaded(service, request))

    async def load(request: Request) -> Response:
        # An SDK that loads two models means to use both, so the others stay; `model run` and first requests switch.
        ttl = request.query_params.get("ttl") or request.query_params.get("timeout")
        options = LoadOptions(retain=True, ttl_s=_seconds(ttl))
        exchange.of(request.scope).model = (await service.load(request.path_params["name"], options)).id
        return Response(status_code=200)

    async def unload(request: Request) -> Response:
        force = request.query_params.get("force", "").lower() == "true"
        await service.unload(request.path_params["name"], force=force)
        return Response(status_code=200)

    async def unload_all(_: Request) -> Response:
        await service.unload_all()
        return Response(status_code=200)

    async def gpu(_: Request) -> JSONResponse:
        return JSONResponse(0)

    async def set_gpu(_: Request) -> Response:
        return Response(status_code=200)

    return [
        Route("/foundry/list", listing),
        Route("/foundry/cache", cache),
        Route("/openai/status", status),
        Route("/openai/models", cached),
        Route("/openai/loadedmodels", loaded),
        Route("/openai/load/{name:path}", load),
        Route("/openai/unload/{name:path}", unload),
        Route("/openai/unloadall", unload_all),
        Route("/openai/getgpudevice", gpu),
        Route("/openai/setgpudevice/{device:int}", set_gpu),
    ]


def _second_generation(service: Service) -> list[Route]:
    async def status(request: Request) -> JSONResponse:
        endpoint = str(request.base_url).rstrip("/")
        folder = _folder(service, request)
        return JSONResponse({"modelCachePath": folder, "endpoints": [endpoint], "pid": os.getpid()})

    async def loaded(request: Request) -> JSONResponse:
        return JSONResponse(_loaded(service, request))

    async def load(request: Request) -> JSONResponse:
        name = request.path_params["name"]
        present = service.loaded(name) is not None
        exchange.of(request.scope).model = (await service.load(name, LoadOptions(retain=True))).id
        return JSONResponse({"status": "already_loaded" if present else "loaded"})

    async def unload(request: Request) -> JSONResponse:
        done = await service.unload(request.path_params["name"])
        return JSONResponse({"status": "unloaded" if done else "not_loaded"})

    return [
        Route("/status", status),
        Route("/models/loaded", loaded),
        Route("/models/load/{name:path}", load),
        Route("/models/unload/{name:path}", unload),
    ]


def _folder(service: Service, request: Request) -> str:
    """Where the models are: for those who could move them. The key stays, because clients want it there."""
    return str(service.store.root) if caller_of(request.scope).is_admin else ""


def _loaded(service: Service, request: Request) -> list[str]:
    return [m.id for m in service.models if caller_of(request.scope).covers(m.manifest)]


def _health(service: Service) -> list[Route]:
    async def health(request: Request) -> JSONResponse:
        if not caller_of(request.scope).scopes:  # strangers learn that it is alive, not for how long or which version
            return JSONResponse({"status": "ok"})
        return JSONResponse(
            {
                "status": "ok",
                "uptime": round(time.time() - service.started_at, 3),
                "version": __version__,
                "memory_usage": resident_bytes(os.getpid()),
            }
        )

    return [Route("/health", health), Route("/v1/health", health)]


def _seconds(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        seconds = int(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds <= LONGEST_TTL_S:
        raise InvalidRequest(f"ttl={text} is not a number of seconds from 0 to {LONGEST_TTL_S}", param="ttl")
    return seconds
