"""The OpenAI endpoints: chat, completions, embeddings, models."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from localfoundry.api import checks, requests
from localfoundry.api.defaults import filled_in
from localfoundry.api.gate import caller_of
from localfoundry.api.proxy import Forward, ask
from localfoundry.errors import EngineError
from localfoundry.fit.context import DEFAULT_CONTEXT
from localfoundry.service.service import Service
from localfoundry.store.manifest import Manifest

_T = TypeVar("_T")


class _Endpoint:
    """One endpoint that a worker answers: read, check, forward. An ASGI application, so that bytes are not touched."""

    def __init__(self, service: Service, path: str, kind: type[requests.Sampling] | type[requests.EmbeddingRequest]):
        self.service = service
        self.path = path
        self.kind = kind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        settings = self.service.settings
        data = await requests.body(Request(scope, receive), settings.max_body_bytes)
        parsed = requests.parse(data, self.kind)
        model = caller_of(scope).permitted(parsed.model, self.service.resolve)
        checks.check(parsed, settings.max_messages)
        if isinstance(parsed, requests.Sampling):
            asked = requests.for_engine(filled_in(data, parsed, self.service), parsed)
        else:
            asked = requests.Asked(data)
        await Forward(self.service, model, self.path, asked)(scope, receive, send)


def routes(service: Service) -> list[Route]:
    def forward(path: str, kind: type[requests.Sampling] | type[requests.EmbeddingRequest]) -> Route:
        endpoint: ASGIApp = _Endpoint(service, path, kind)
        return Route(path, endpoint, methods=["POST"])

    async def models(request: Request) -> JSONResponse:
        visible = [m for m in service.store.manifests() if caller_of(request.scope).covers(m)]
        return JSONResponse({"object": "list", "data": [model_object(m) for m in visible]})

    async def model(request: Request) -> JSONResponse:
        name = caller_of(request.scope).permitted(request.path_params["name"], service.resolve)
        return JSONResponse(model_object(service.resolve(name)))

    async def count_tokens(request: Request) -> JSONResponse:
        data = await requests.body(request, service.settings.max_body_bytes)
        parsed = requests.parse(data, requests.ChatRequest)
        checks.check(parsed, service.settings.max_messages)
        model = caller_of(request.scope).permitted(parsed.model, service.resolve)
        data = filled_in(data, parsed, service)
        patience_s = service.settings.first_token_timeout_s
        async with service.lease(model) as loaded:
            prompt = _told(await ask(loaded, "/apply-template", data, patience_s), _Prompt).prompt
            content = msgspec.json.encode({"content": prompt, "add_special": True, "parse_special": True})
            tokens = _told(await ask(loaded, "/tokenize", content, patience_s), _Tokens).tokens
        return JSONResponse({"tokenCount": len(tokens)})

    return [
        forward("/v1/chat/completions", requests.ChatRequest),
        forward("/v1/completions", requests.CompletionRequest),
        forward("/v1/embeddings", requests.EmbeddingRequest),
        Route("/v1/chat/completions/tokenizer/encode/count", count_tokens, methods=["POST"]),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", model),
    ]


class _Prompt(msgspec.Struct):
    prompt: str


class _Tokens(msgspec.Struct):
    tokens: list[int]


def _told(answer: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(answer, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise EngineError(f"the engine sent what is no answer to a question of ours: {exc}") from exc


def model_object(manifest: Manifest) -> dict[str, object]:
    """An entry of `GET /v1/models`; `parent`, the limits and abilities are Foundry Local's additions."""
    context = min(manifest.context_length or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
    return {
        "id": manifest.id,
        "object": "model",
        "created": manifest.created_epoch,
        "owned_by": manifest.source.split(":", 1)[0],
        "parent": manifest.alias,
        "maxInputTokens": context,
        "maxOutputTokens": context,
        "toolCalling": False,
        "vision": False,
    }
