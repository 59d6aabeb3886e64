"""One item put to one model, and what is made of the answer; `chat` does the asking.

A server that asks to come back later (429 or 503 with Retry-After) is asked again, and the waiting is not counted as
the model's time. Requests are told apart by the model that they name, so several endpoints can stand behind one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from localfoundry.chat import request
from localfoundry.chat.arrived import Arrived
from localfoundry.chat.failure import Failure
from localfoundry.chat.target import Target, without
from localfoundry.quality.reply import Call, Reply, without_reasoning

if TYPE_CHECKING:
    import httpx2

TIMEOUT_S = 300.0
MAX_ANSWER_CHARACTERS = 400_000
_TRIES = 3

Clock = Callable[[], float]
Reading = tuple[float, float]
"""(time, joules) of a meter."""


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one request. Seconds since it was sent; counts are the server's.

    `error`: no whole answer came. `lasting`: the same is to be expected of the next item, so it speaks against the
    endpoint or the model and not against this prompt; `final`: nothing else can come. `answered_as`: the model, as the
    server says. `energy_j`: what this machine spent on it, less idle; None where no counter was read.
    """

    reply: Reply = Reply()
    raw: str = ""
    seconds: float = 0.0
    ttft_s: float | None = None
    prompt_tokens: int | None = None
    tokens: int | None = None
    finish_reason: str | None = None
    answered_as: str | None = None
    energy_j: float | None = None
    error: str | None = None
    lasting: bool = False
    final: bool = False


class Asked(Protocol):
    """Whoever answers requests."""

    async def ask(self, body: Mapping[str, Any]) -> Heard:
        """Raises nothing but cancellation: what goes wrong is in the answer."""


class Meter(Protocol):
    """Joules of this machine, as `bench.energy.Meter` counts them."""

    def read(self) -> Reading | None: ...

    def spent(self, before: Reading | None, after: Reading | None) -> float | None: ...


class Endpoint:
    """Models behind one address. Use as an async context manager."""

    def __init__(self, target: Target, timeout_s: float = TIMEOUT_S, clock: Clock = time.perf_counter) -> None:
        self._target = target
        self._timeout_s = timeout_s
        self._clock = clock
        self._http: httpx2.AsyncClient = target.open(timeout_s)

    async def __aenter__(self) -> Endpoint:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def ask(self, body: Mapping[str, Any]) -> Heard:
        """Raises nothing but cancellation: what goes wrong is in the answer."""
        content = msgspec.json.encode({**body, "stream": True, "stream_options": {"include_usage": True}})
        for left in reversed(range(_TRIES)):
            arrived = Arrived(self._clock(), MAX_ANSWER_CHARACTERS, MAX_ANSWER_CHARACTERS)
            failure = await request.ask(self._http, content, arrived, self._clock, self._timeout_s)
            if failure is None or failure.wait_s is None or not left:
                break
            await asyncio.sleep(failure.wait_s)
        return self._heard(arrived, self._clock(), failure)

    def _heard(self, arrived: Arrived, done: float, failure: Failure | None) -> Heard:
        secret = self._target.secret
        raw = without(secret, arrived.text)
        calls = tuple(_call(without(secret, name), without(secret, said)) for name, said in arrived.calls)
        return Heard(
            reply=Reply(without_reasoning(raw), calls),
            raw=raw,
            seconds=done - arrived.sent,
            ttft_s=arrived.times[0] - arrived.sent if arrived.times else None,
            prompt_tokens=arrived.usage.prompt_tokens,
            tokens=arrived.usage.completion_tokens,
            finish_reason=arrived.finish,
            answered_as=without(secret, arrived.model)[:200] if arrived.model else None,
            error=without(secret, failure.words) if failure else None,
            lasting=failure.lasting if failure else False,
            final=failure.final if failure else False,
        )


class Metered:
    """An endpoint on this machine, with the energy of each answer; items are asked one at a time, so it is all of it.

    What other programs do meanwhile is counted in, as the counters cover the whole machine.
    """

    def __init__(self, asked: Asked, meter: Meter) -> None:
        self._asked = asked
        self._meter = meter

    async def ask(self, body: Mapping[str, Any]) -> Heard:
        """As the endpoint does."""
        before = self._meter.read()
        heard = await self._asked.ask(body)
        return msgspec.structs.replace(heard, energy_j=self._meter.spent(before, self._meter.read()))


class Route(msgspec.Struct, frozen=True):
    """Where the items of one label go: `model` is its name there; `parameters` go over the request, null takes out.

    `remote`: by which name it answers there is worth telling; the service of this machine answers by ids.
    """

    asked: Asked
    model: str
    parameters: Mapping[str, object] = {}
    remote: bool = False


class Routed:
    """Endpoints behind one: a request goes where the label that it names as its model is asked."""

    def __init__(self, routes: Mapping[str, Route]) -> None:
        self._routes = routes

    async def ask(self, body: Mapping[str, Any]) -> Heard:
        """As the endpoint of that label does."""
        route = self._routes[body["model"]]
        asked = {**body, "model": route.model, **route.parameters}
        heard = await route.asked.ask({name: value for name, value in asked.items() if value is not None})
        if route.remote and heard.answered_as != asked["model"]:
            return heard
        return msgspec.structs.replace(heard, answered_as=None)


def _call(name: str, arguments: str) -> Call:
    try:
        value = msgspec.json.decode(arguments or "{}")
    except (msgspec.DecodeError, RecursionError):
        value = None
    return Call(name, value if isinstance(value, dict) else None)
