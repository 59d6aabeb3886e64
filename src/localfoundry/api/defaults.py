"""What a person has chosen for a model goes into the requests that do not say otherwise.

Only what the client left out, or sent as null, is filled in. Pure; the bodies stay bytes where nothing is chosen.
"""

from __future__ import annotations

from typing import Any

import msgspec

from localfoundry.api.requests import ChatRequest, Sampling
from localfoundry.config.model_defaults import ModelDefaults
from localfoundry.service.service import Service

# A field of ours that another field of a request says as well.
_SAID_BY = {"max_tokens": ("max_tokens", "max_completion_tokens"), "seed": ("seed", "random_seed")}


def filled_in(data: bytes, request: Sampling, service: Service) -> bytes:
    """The body of a checked request with what is chosen for its model. Raises as `service.resolve`."""
    if not service.settings.models:
        return data
    manifest = service.resolve(request.model)
    defaults = service.settings.defaults_for((manifest.alias, manifest.name, manifest.id))
    if not defaults.shape_requests:
        return data
    document = with_defaults(msgspec.json.decode(data), defaults, chat=isinstance(request, ChatRequest))
    return msgspec.json.encode(document)


def with_defaults(document: dict[str, Any], defaults: ModelDefaults, *, chat: bool) -> dict[str, Any]:
    """A new request: sampling fields that were left out, and the system prompt where a chat brings none of its own."""
    missing = {
        field: value
        for field, value in defaults.sampling.items()
        if all(document.get(name) is None for name in _SAID_BY.get(field, (field,)))
    }
    filled = document | missing
    if chat and defaults.system is not None and not any(_is_system(message) for message in document["messages"]):
        filled["messages"] = [{"role": "system", "content": defaults.system}, *document["messages"]]
    return filled


def _is_system(message: dict[str, Any]) -> bool:
    return message.get("role") in ("system", "developer")
