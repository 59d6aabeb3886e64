"""A chat server whose answers are a function of the request, for runs of suites: what to say, call, refuse or break."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from chat_server import ChatServer, Request, begin, delta, end, event, raw, refuse


@dataclass(frozen=True)
class Say:
    """One answer. `hang`: after the text nothing more comes; `cut`: the connection is dropped after it.

    `page`: HTML instead of an answer, with the status. `location`: where a redirect leads. `model`: who says it.
    """

    text: str = ""
    reasoning: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    status: int = 200
    retry_after: str | None = None
    error: str | None = None
    hang: bool = False
    cut: bool = False
    usage: bool = True
    page: str | None = None
    location: str | None = None
    model: str | None = None


def parrot(body: dict[str, Any]) -> Say:
    """Right answers to items whose prompt is `say ANSWER`."""
    return Say(body["messages"][-1]["content"].removeprefix("say "))


class AnsweringServer(ChatServer):
    def __init__(self, say: Callable[[dict[str, Any]], Say]) -> None:
        super().__init__()
        self.say = say
        self.requests: list[Request] = []

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [request.body for request in self.requests]

    async def answer(self, writer: asyncio.StreamWriter, request: Request) -> None:
        self.requests.append(request)
        say = self.say(request.body)
        if say.page is not None:
            refuse(writer, say.status, say.page, content_type="text/html; charset=utf-8")
        elif say.status != 200:
            told = {"retry_after": say.retry_after, "location": say.location}
            text = json.dumps({"error": {"message": say.error or "no", "code": "refused"}})
            refuse(writer, say.status, text, **{name: value for name, value in told.items() if value is not None})
        else:
            await self._stream(writer, say)
        await writer.drain()

    async def _stream(self, writer: asyncio.StreamWriter, say: Say) -> None:
        begin(writer)
        if say.model:
            event(writer, {"model": say.model, "choices": []})
        if say.reasoning:
            delta(writer, reasoning_content=say.reasoning)
        for start in range(0, len(say.text), 7):
            delta(writer, content=say.text[start : start + 7])
        for index, (name, arguments) in enumerate(say.calls):
            delta(writer, tool_calls=[{"index": index, "id": f"c{index}", "function": {"name": name}}])
            for part in (arguments[:3], arguments[3:]):
                delta(writer, tool_calls=[{"index": index, "function": {"arguments": part}}])
        await writer.drain()
        if say.hang:
            await asyncio.Event().wait()
        if say.cut:
            writer.transport.abort()
            raise ConnectionResetError
        if say.error:
            event(writer, {"error": {"message": say.error}})
        delta(writer, finish_reason="stop")
        if say.usage:
            event(writer, {"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 5}})
        raw(writer, b"data: [DONE]\n\n")
        end(writer)
