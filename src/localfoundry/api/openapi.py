"""`GET /openapi.json`: the whole API as a document that clients, and the tests that fuzz it, are made from.

Bodies come from the types that requests are decoded into; the table below says the rest, and a test holds it against
the routes. Answers of engines are described as far as this service promises them.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from localfoundry import __version__
from localfoundry.api import requests

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_TTL: Schema = {"type": "integer", "minimum": 0, "maximum": requests.LONGEST_TTL_S}
_ANYTHING: Schema = {}
_REFERENCE = "#/components/schemas/{name}"


def _object(**fields: Schema) -> Schema:
    return {"type": "object", "properties": fields, "required": sorted(fields)}


def _list(of: Schema) -> Schema:
    return {"type": "array", "items": of}


def _status(*words: str) -> Schema:
    return _object(status={"enum": list(words)})


@dataclass(frozen=True, slots=True)
class Operation:
    """One endpoint: what it takes and what 200 means. `stream`: it can answer with server-sent events instead."""

    does: str
    answer: Schema | None = field(default_factory=dict)  # None: no body
    body: Any = None
    stream: bool = False
    kind: str = "application/json"
    query: Schema = field(default_factory=dict)


_USAGE = _object(prompt_tokens=_COUNT, completion_tokens=_COUNT, total_tokens=_COUNT)
_COMPLETION = _object(id=_TEXT, object=_TEXT, created=_COUNT, model=_TEXT, choices=_list(_ANYTHING), usage=_USAGE)
_MODEL = _object(id=_TEXT, object={"const": "model"}, created=_COUNT, owned_by=_TEXT)
_LOADED = _object(alias=_TEXT, id=_TEXT, state=_TEXT, pid=_COUNT, context=_COUNT)
_EMBEDDINGS = _object(object=_TEXT, data=_list(_ANYTHING), model=_TEXT)
_HEALTH = _object(status=_TEXT, uptime={"type": "number"}, version=_TEXT, memory_usage=_COUNT)
_NAMES = _list(_TEXT)
_PART = _object(type={"const": "text"}, text=_TEXT)

TABLE: dict[tuple[str, str], Operation] = {
    ("POST", "/v1/chat/completions"): Operation(
        "A chat completion", _COMPLETION, body=requests.ChatRequest, stream=True
    ),
    ("POST", "/v1/completions"): Operation(
        "A completion of a text", _COMPLETION, body=requests.CompletionRequest, stream=True
    ),
    ("POST", "/v1/embeddings"): Operation("Embeddings", _EMBEDDINGS, body=requests.EmbeddingRequest),
    ("POST", "/v1/chat/completions/tokenizer/encode/count"): Operation(
        "How many tokens the prompt of a chat request has", _object(tokenCount=_COUNT), body=requests.ChatRequest
    ),
    ("GET", "/v1/models"): Operation("Models on this disk", _object(object=_TEXT, data=_list(_MODEL))),
    ("GET", "/v1/models/{name}"): Operation("One model", _MODEL),
    ("GET", "/foundry/list"): Operation("The catalog, in Foundry Local's form", _list({"type": "object"})),
    ("GET", "/foundry/cache"): Operation("Where models are kept", _object(location=_TEXT)),
    ("GET", "/openai/status"): Operation("Where the service listens", _object(endpoints=_NAMES, modelDirPath=_TEXT)),
    ("GET", "/openai/models"): Operation("Names of the models on this disk", _NAMES),
    ("GET", "/openai/loadedmodels"): Operation("Names of the loaded models", _NAMES),
    ("GET", "/openai/load/{name}"): Operation("Load a model", None, query={"ttl": _TTL, "timeout": _TTL, "ep": _TEXT}),
    ("GET", "/openai/unload/{name}"): Operation("Unload a model", None, query={"force": _TEXT}),
    ("GET", "/openai/unloadall"): Operation("Unload every model", None),
    ("GET", "/openai/getgpudevice"): Operation("The device in use", _COUNT),
    ("GET", "/openai/setgpudevice/{device}"): Operation("Accepted and ignored", None),
    ("POST", "/openai/download"): Operation(
        "Download a model of the catalog; lines of progress, then one JSON object", body=dict[str, Any],
        kind="text/plain", answer=_TEXT,
    ),
    ("GET", "/status"): Operation("Where the service listens", _object(endpoints=_NAMES, modelCachePath=_TEXT)),
    ("GET", "/models/loaded"): Operation("Names of the loaded models", _NAMES),
    ("GET", "/models/load/{name}"): Operation("Load a model", _status("loaded", "already_loaded")),
    ("GET", "/models/unload/{name}"): Operation("Unload a model", _status("unloaded", "not_loaded")),
    ("GET", "/health"): Operation("Whether the service lives", _HEALTH),
    ("GET", "/v1/health"): Operation("Whether the service lives", _HEALTH),
    ("GET", "/metrics"): Operation("Counters in Prometheus's form", _TEXT, kind="text/plain"),
    ("GET", "/foundry/stats"): Operation("Figures of the last minute", {"type": "object"}),
    ("GET", "/foundry/ps"): Operation("Loaded models", _list(_LOADED)),
    ("POST", "/foundry/load"): Operation("Load a model with options", _LOADED, body=requests.LoadBody),
    ("POST", "/foundry/unload"): Operation(
        "Unload a model", _object(unloaded={"type": "boolean"}), body=requests.UnloadBody
    ),
    ("POST", "/shutdown"): Operation("Stop the service", _status("shutting_down")),
    ("GET", "/openapi.json"): Operation("This document", _object(openapi=_TEXT, paths={"type": "object"})),
}  # fmt: skip


@functools.cache
def document() -> Schema:
    """The document; made once, at the first request for it."""
    bodies = [one.body for one in TABLE.values() if one.body is not None]
    schemas, components = msgspec.json.schema_components(bodies, ref_template=_REFERENCE)
    components["Message"]["properties"]["content"]["anyOf"][1]["items"] = _PART  # `checks.py` looks into them
    of_body = iter(schemas)
    paths: Schema = {}
    for (method, path), one in TABLE.items():
        body = next(of_body) if one.body is not None else None
        paths.setdefault(path, {})[method.lower()] = _operation(path, one, body)
    return {
        "openapi": "3.1.0",
        "info": {"title": "localfoundry", "version": __version__, "summary": "Open language models on this machine"},
        "paths": paths,
        "components": {"schemas": {**components, "Error": _error()}},
    }


def _operation(path: str, one: Operation, body: Schema | None) -> Schema:
    content: Schema = {} if one.answer is None else {one.kind: {"schema": one.answer}}
    if one.stream:
        content["text/event-stream"] = {"schema": _object(data=_TEXT)}  # of each event
    failed = {"content": {"application/json": {"schema": {"$ref": _REFERENCE.format(name="Error")}}}}
    told: Schema = {
        "summary": one.does,
        "responses": {
            "200": {"description": one.does} | ({"content": content} if content else {}),
            "4XX": {"description": "What is wrong with the request", **failed},
            "503": {"description": "What passes: the service stops, a worker ended", **failed},
            "504": {"description": "The engine was silent for too long", **failed},
        },
        "parameters": _parameters(path, one),
    }
    if body is not None:
        told["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return told


def _parameters(path: str, one: Operation) -> list[Schema]:
    in_path = {"name": _TEXT, "device": _COUNT}
    told: list[Schema] = [
        {"name": name, "in": "path", "required": True, "schema": schema}
        for name, schema in in_path.items()
        if f"{{{name}}}" in path
    ]
    return told + [{"name": name, "in": "query", "schema": schema} for name, schema in one.query.items()]


def _error() -> Schema:
    fields = {"message": _TEXT, "type": _TEXT, "param": {"type": ["string", "null"]}, "code": _TEXT}
    fields |= {"request_id": _TEXT, "hint": _TEXT}
    required = ["message", "type", "param", "code", "request_id"]
    return _object(error={"type": "object", "properties": fields, "required": required})


def routes() -> list[Route]:
    async def openapi(_: Request) -> Response:
        return Response(msgspec.json.encode(document()), media_type="application/json")

    return [Route("/openapi.json", openapi)]
