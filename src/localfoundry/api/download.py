"""`POST /openai/download`: a pull by the service, told line by line in the form that the SDKs read.

Lines `Total 76.268% Downloading NAME`, then `[DONE] All Completed!`, then one JSON object on its own, flushed apart and
last in the stream. A failure is such an object too: the status is 200 by then.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from localfoundry import engines
from localfoundry.api import exchange, requests
from localfoundry.api.exchange import Exchange
from localfoundry.catalog.filters import preferred_variant
from localfoundry.catalog.model import Variant
from localfoundry.config import Settings
from localfoundry.errors import FoundryError, InvalidRequest, NotRunnable, SourceRefused
from localfoundry.service.service import Service
from localfoundry.sources.plan import PullPlan
from localfoundry.sources.reference import IndexReference, LocalReference, parse
from localfoundry.sources.resolve import plan_variant
from localfoundry.store.download import Limits
from localfoundry.store.progress import Tally
from localfoundry.store.pull import pull
from localfoundry.wording import without_paths

_TELL_EVERY_S = 0.25


def routes(service: Service) -> list[Route]:
    async def download(request: Request) -> StreamingResponse:
        data = await requests.body(request, service.settings.max_body_bytes)
        name = _model_name(requests.parse(data, dict[str, Any]))
        lines = _told(service, name, exchange.of(request.scope))
        return StreamingResponse(_while_working(service, lines), media_type="text/plain; charset=utf-8")

    return [Route("/openai/download", download, methods=["POST"])]


def _model_name(body: dict[str, Any]) -> str:
    """`model.Name` of the body, whatever the case of its keys. Raises InvalidRequest."""
    model = {key.lower(): value for key, value in body.items()}.get("model")
    fields = {key.lower(): value for key, value in model.items()} if isinstance(model, dict) else {"name": model}
    name = fields.get("name")
    if not isinstance(name, str) or not name:
        raise InvalidRequest("model.Name: expected the name of a model", param="model")
    return name


async def plan_for(service: Service, name: str) -> PullPlan:
    """Only models of the catalog: a URL or a path sent over HTTP must not make the service fetch or read it."""
    model, variant = service.catalog.require(name)
    chosen = variant or preferred_variant(model, engines.runnable_formats())
    if chosen is None:
        raise NotRunnable(f"no engine here runs any variant of {model.alias}", hint="foundry model list")
    _check_source(chosen, service.settings)
    return await plan_variant(model, chosen, service.settings)


def _check_source(variant: Variant, settings: Settings) -> None:
    """Raises SourceRefused unless the catalog, which may be the user's own, names a source that HTTP may reach."""
    if variant.source is None:
        return  # refused with a better reason where the plan is made
    parsed = parse(variant.source)
    kind = "file" if isinstance(parsed, LocalReference) else "pypi" if isinstance(parsed, IndexReference) else "hf"
    if kind not in settings.allowed_sources:
        raise SourceRefused(
            f"{variant.id} comes from a source ({kind}) that downloads over HTTP may not use; "
            f"allowedSources = {', '.join(settings.allowed_sources) or 'none'}",
            hint=f"foundry model download {variant.name}",
        )


async def _while_working(service: Service, lines: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    with service.working():
        async with contextlib.aclosing(lines):
            async for line in lines:
                yield line


async def _told(service: Service, name: str, known: Exchange) -> AsyncGenerator[bytes, None]:
    error: str | None = None
    try:
        plan = await plan_for(service, name)
        known.model = plan.name
        tally = Tally(plan.size_bytes)
        limits = Limits(connections=service.settings.download_connections)
        work = asyncio.create_task(pull(service.store, plan, tally, offline=service.settings.offline, limits=limits))
        try:
            while not work.done():
                yield f"Total {tally.percent:.3f}% Downloading {plan.files[0].name}\n".encode()
                await asyncio.wait([work], timeout=_TELL_EVERY_S)
            await work
        finally:
            work.cancel()
    except FoundryError as exc:
        known.outcome = exc.code
        error = without_paths(f"{exc.message}. {exc.hint}" if exc.hint else exc.message)
    else:
        yield f"Total 100.000% Downloading {plan.files[0].name}\n[DONE] All Completed!\n".encode()
    yield json.dumps({"success": error is None, "errorMessage": error, "error": error}).encode()
