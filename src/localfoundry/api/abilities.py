"""What a loaded model can do, as its engine says, asked once for each worker.

llama.cpp drops the tools of a request without a word where the chat template has no place for them, and then answers as
if it had not been asked to call any.
"""

from __future__ import annotations

import weakref

import msgspec

from localfoundry.errors import InvalidRequest
from localfoundry.service import upstream
from localfoundry.service.loading import LoadedModel
from localfoundry.service.process import Worker

_MOST_BYTES = 4_000_000


class _Caps(msgspec.Struct, frozen=True):
    supports_tools: bool = True


class _Props(msgspec.Struct, frozen=True):
    chat_template_caps: _Caps = _Caps()
    scores_prompts: bool = False


_known: weakref.WeakKeyDictionary[Worker, _Props] = weakref.WeakKeyDictionary()


async def check_tools(model: LoadedModel) -> None:
    """Raises InvalidRequest where the model's chat template has no place for tools."""
    props = await _asked(model)
    if not props.chat_template_caps.supports_tools:
        raise InvalidRequest(
            f"tools: the chat template of {model.id} has no place for them, so it would never see them",
            param="tools",
            hint=f"foundry model info {model.manifest.alias}",
        )


async def check_echo(model: LoadedModel) -> None:
    """Raises InvalidRequest where the engine, as it has loaded the model, does not score prompts."""
    if not (await _asked(model)).scores_prompts:
        words = model.engine.scoring
        choice = f'engineArguments "{" ".join(words)}"' if words else "engine openvino"
        raise InvalidRequest(
            f"echo: {model.command.engine}, as it has loaded {model.id}, does not score prompts; openvino does, with "
            "--prefix-cache NO among the model's engineArguments",
            param="echo",
            hint=f"foundry config set models.{model.manifest.alias}.{choice}",
        )


async def _asked(model: LoadedModel) -> _Props:
    props = _known.get(model.worker)
    if props is None:
        props = _known[model.worker] = await _props(model)
    return props


async def _props(model: LoadedModel) -> _Props:
    """What the engine says; where it does not say, it is taken to do what it is asked."""
    try:
        response = await upstream.request(model.worker.endpoint, "GET", "/props")
        try:
            return msgspec.json.decode(await response.body(_MOST_BYTES), type=_Props)
        finally:
            response.close()
    except (upstream.UpstreamClosed, msgspec.DecodeError, UnicodeDecodeError):
        return _Props()
