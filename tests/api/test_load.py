"""Many answers at once: every client gets its own, whole."""

from __future__ import annotations

import asyncio
import json

import httpx2
import psutil
import pytest

from api.server import Server

_STREAMS = 200


@pytest.fixture
def echo(server: Server) -> str:
    """A model that repeats the last word of its prompt."""
    name = server.fake("echo", echo=True, tokens_per_second=200)
    server.post("/foundry/load", {"model": name, "retain": True})
    return name


async def test_200_streams_at_once_are_all_answered_and_none_mixed_up(server: Server, echo: str) -> None:
    """Each answer carries the mark of its request."""
    begun = 0
    all_begun = asyncio.Event()

    async def one(client: httpx2.AsyncClient, mark: str, stream: bool) -> str:
        nonlocal begun
        body = {"model": echo, "messages": [{"role": "user", "content": f"say {mark}"}], "max_tokens": 20}
        if not stream:
            answer = await client.post("/v1/chat/completions", json=body)
            return str(answer.json()["choices"][0]["message"]["content"])
        async with client.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as answer:
            assert answer.status_code == 200, await answer.aread()
            lines = answer.aiter_lines()
            told = [await anext(lines)]
            begun += 1
            if begun == _STREAMS:
                all_begun.set()
            await all_begun.wait()  # all of them are open now
            told += [line async for line in lines]
        data = [line.removeprefix("data: ") for line in told if line]
        assert data[-1] == "[DONE]"
        chunks = [json.loads(line) for line in data[:-1]]
        assert len({chunk["id"] for chunk in chunks}) == 1
        return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)

    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=server.url, timeout=60, trust_env=False, limits=limits) as client:
        streams = (one(client, f"mark{number}", True) for number in range(_STREAMS))
        plain = (one(client, f"plain{number}", False) for number in range(20))
        answers = await asyncio.gather(*streams, *plain)
    marks = [f"mark{number}" for number in range(_STREAMS)] + [f"plain{number}" for number in range(20)]
    assert answers == [" ".join([mark] * 20) for mark in marks]
    assert server.counters(echo)["running"] == 0
    assert psutil.Process(server.state.pid).num_fds() < 100
