"""The fake engine's worker: a deterministic OpenAI-compatible server with a known token clock and fault switches.

The model file is JSON; every key is a switch and may be left out:

    tokens_per_second   the token clock (default 200)
    load_s              seconds until it is ready
    memory_bytes        what it is predicted to take; it states `takes_bytes`, where given, when it is loaded
    fail_load           ends during the load with this text as its complaint
    crash_load          true: the process kills itself during the load
    crash_at            the process kills itself after so many tokens of an answer
    hang_at             stops sending after so many tokens, keeping the connection open
    bad_bytes_at        sends bytes that are no event after so many tokens
    ignore_sigterm      true: only SIGKILL ends it
    answer              the words to repeat (default: "token")
    echo                true: the word to repeat is the last one of the prompt
    slow_first_token_s  seconds before the first token
    pings               true: keep-alive comments every 50 ms until the first token
    tools               false: its chat template has no place for tools
    on                  switches by the name of a fake engine (`fake`, `fake2`), which win there over the others
    with                switches by words among the engine's arguments (`--threads 2`), which win over all others
    times               how many times faster the token clock is; under `with` they multiply
    loss                what an answer of log-probabilities is off from the true ones, in nats of divergence
    architecture        `twofold`: both fake engines take it, else the first one alone
    memory_tokens       what answers that run together may hold; above it every one of them ends with an error event

Faults of the connection (`fake_faults.py`): close_first_connections, status_500, garbage, half_close_at, cut_event_at,
endless_event, no_done, half_utf8.

A prompt's tokens are its words, so context limits can be tested by counting.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from localfoundry.workers import command_line, fake_faults, lifeline, limits
from localfoundry.workers.fake_faults import event, respond, write_chunk


class FakeServer:
    """Answers the endpoints that the service uses. One instance per process."""

    def __init__(self, switches: dict[str, Any], alias: str, context: int) -> None:
        self.switches = switches
        self.alias = alias
        self.context = context
        self.generated = 0
        self.running = 0
        self.requests = 0
        self.held = 0  # tokens of prompts and answers that run now
        self.overflows = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            length = next(
                (int(h.split(":")[1]) for h in head.split("\r\n") if h.lower().startswith("content-length")), 0
            )
            body = json.loads(await reader.readexactly(length) or b"{}")
            await self._route(head.split(" ")[1], body, reader, writer)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _route(
        self, path: str, body: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if path == "/health":
            respond(writer, 200, {"status": "ok"})
        elif path == "/counters":
            counts = {"generated": self.generated, "running": self.running, "requests": self.requests}
            respond(writer, 200, counts)
        elif path == "/props":
            respond(writer, 200, {"chat_template_caps": {"supports_tools": self.switches.get("tools", True)}})
        elif path == "/apply-template":
            respond(writer, 200, {"prompt": " ".join(str(m.get("content") or "") for m in body.get("messages", []))})
        elif path == "/v1/embeddings":
            vector = {"object": "embedding", "index": 0, "embedding": [0.5, 0.5]}
            usage = {"prompt_tokens": 1, "total_tokens": 1}
            respond(writer, 200, {"object": "list", "data": [vector], "model": self.alias, "usage": usage})
        elif path == "/tokenize":
            respond(writer, 200, {"tokens": list(range(len(str(body.get("content", "")).split())))})
        elif path in ("/v1/chat/completions", "/v1/completions"):
            await self._complete(body, reader, writer)
        else:
            respond(writer, 404, {"error": {"code": 404, "message": f"no {path} here", "type": "not_found_error"}})

    async def _complete(self, body: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests += 1
        if await fake_faults.instead(self.switches, self.requests, writer):
            return
        texts = [str(m.get("content") or "") for m in body.get("messages", [])] or [str(body.get("prompt", ""))]
        prompt_tokens = sum(len(text.split()) for text in texts)
        if prompt_tokens >= self.context:
            counts = {"n_prompt_tokens": prompt_tokens, "n_ctx": self.context}
            error = {"code": 400, "message": "too many tokens", "type": "exceed_context_size_error", **counts}
            respond(writer, 400, {"error": error})
            return
        if body.get("logprobs"):
            respond(writer, 200, self._distribution(int(body["logprobs"])))
            return
        limit = int(body.get("max_tokens") or body.get("max_completion_tokens") or 16)
        count = max(min(limit, self.context - prompt_tokens), 0)
        word = texts[-1].split()[-1] if self.switches.get("echo") else str(self.switches.get("answer", "token"))
        answer = Answer(self, body, count, prompt_tokens, word)
        self.running += 1
        gone = asyncio.ensure_future(reader.read(1))  # a client that goes away shows as end of file
        try:
            await answer.send(writer, gone)
        finally:
            self.held -= answer.held
            self.running -= 1
            gone.cancel()

    def _distribution(self, count: int) -> dict[str, Any]:
        """The likeliest next tokens of a fixed distribution: one with a half, a hundred with what is left.

        `loss` moves so much probability from the one to the others that the divergence is about `loss`.
        """
        likeliest = 0.5 - math.sqrt(float(self.switches.get("loss", 0)) / 2)
        shares = [likeliest, *[(1 - likeliest) / 100] * 100]
        entries = [{"id": n, "token": f"t{n}", "logprob": math.log(share)} for n, share in enumerate(shares[:count])]
        choice = {"index": 0, "text": "t0", "logprobs": {"content": [{**entries[0], "top_logprobs": entries}]},
                  "finish_reason": "length"}  # fmt: skip
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        return {"id": "fake", "object": "text_completion", "created": 0, "model": self.alias, "choices": [choice],
                "usage": usage}  # fmt: skip


class Answer:
    """One generation: tokens at the clock's pace, plain or as a stream."""

    def __init__(self, server: FakeServer, body: dict[str, Any], count: int, prompt_tokens: int, word: str) -> None:
        self.server = server
        self.stream = bool(body.get("stream"))
        self.with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        self.count = count
        self.prompt_tokens = prompt_tokens
        self.word = word
        self.held = 0
        self.id = f"fake-{server.requests}"
        self.usage = {"prompt_tokens": prompt_tokens, "completion_tokens": count,
                      "total_tokens": prompt_tokens + count, "prompt_tokens_details": {"cached_tokens": 0}}  # fmt: skip

    async def send(self, writer: asyncio.StreamWriter, gone: asyncio.Future[bytes]) -> None:
        switches = self.server.switches
        interval = 1 / (float(switches.get("tokens_per_second", 200)) * switches.get("times", 1))
        if self.stream:
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n"
            )
        await self._before_first(writer, gone)
        overflows = self.server.overflows
        self._hold(self.prompt_tokens)
        due = time.monotonic()
        for index in range(self.count):
            await self._faults(index, writer)
            due += interval
            await asyncio.wait([gone], timeout=max(due - time.monotonic(), 0))
            if gone.done():
                return
            self._hold(1)
            if self.server.overflows != overflows:
                error = {"code": 500, "message": "Context size has been exceeded.", "type": "server_error"}
                event(writer, {"error": error})
                writer.write(b"0\r\n\r\n")
                return
            self.server.generated += 1
            if self.stream:
                event(writer, self._chunk({"content": f" {self.word}" if index else self.word}, None))
                await writer.drain()
        self._finish(writer)
        await writer.drain()

    async def _before_first(self, writer: asyncio.StreamWriter, gone: asyncio.Future[bytes]) -> None:
        left_s = float(self.server.switches.get("slow_first_token_s", 0))
        while left_s > 0 and not gone.done():
            if self.server.switches.get("pings"):
                write_chunk(writer, b":\n\n")
            await asyncio.wait([gone], timeout=min(left_s, 0.05))
            left_s -= 0.05

    def _hold(self, tokens: int) -> None:
        """As llama.cpp does it: when the shared memory is full, every answer that runs ends."""
        self.held += tokens
        self.server.held += tokens
        if self.server.held > self.server.switches.get("memory_tokens", sys.maxsize):
            self.server.overflows += 1

    async def _faults(self, index: int, writer: asyncio.StreamWriter) -> None:
        switches = self.server.switches
        if index == switches.get("crash_at"):
            await writer.drain()
            os.kill(os.getpid(), signal.SIGKILL)
        if index == switches.get("hang_at"):
            await asyncio.Event().wait()
        if index == switches.get("bad_bytes_at"):
            writer.write(b"not a chunk at all\r\n")
            await writer.drain()
        await fake_faults.at(switches, index, writer, self._chunk)

    def _chunk(self, delta: dict[str, Any], finish: str | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return {"id": self.id, "object": "chat.completion.chunk", "created": 0, "model": self.server.alias,
                "choices": [choice]}  # fmt: skip

    def _finish(self, writer: asyncio.StreamWriter) -> None:
        if not self.stream:
            text = " ".join([self.word] * self.count)
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            respond(writer, 200, {"id": self.id, "object": "chat.completion", "created": 0,
                                  "model": self.server.alias, "choices": [choice], "usage": self.usage})  # fmt: skip
            return
        timings = {"cache_n": 0, "prompt_n": self.prompt_tokens, "predicted_n": self.count}
        if self.with_usage:
            event(writer, self._chunk({}, "stop"))
            event(writer, self._chunk({}, None) | {"choices": [], "usage": self.usage, "timings": timings})
        else:
            event(writer, self._chunk({}, "stop") | {"timings": timings})
        if not self.server.switches.get("no_done"):
            write_chunk(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")


async def _serve(options: argparse.Namespace, switches: dict[str, Any]) -> None:
    began = time.perf_counter()
    await asyncio.sleep(float(switches.get("load_s", 0)))
    if switches.get("fail_load"):
        print(f"error: {switches['fail_load']}", file=sys.stderr, flush=True)
        raise SystemExit(1)
    if switches.get("crash_load"):
        os.kill(os.getpid(), signal.SIGSEGV)
    command_line.tell_loaded({"weights": switches["takes_bytes"]} if "takes_bytes" in switches else {}, began)
    server = FakeServer(switches, options.alias, options.context)
    if options.socket:
        listener = await asyncio.start_unix_server(server.handle, options.socket, backlog=512)
    else:
        listener = await asyncio.start_server(server.handle, "127.0.0.1", options.port)
    await listener.serve_forever()


def _add_arguments(switches: dict[str, Any], arguments: str) -> None:
    for words, changes in switches.get("with", {}).items():
        if f" {words} " in arguments:
            times = switches.get("times", 1) * changes.get("times", 1)
            switches |= changes | {"times": times}


def main() -> None:
    lifeline.die_with_parent()
    lifeline.exit_when_stdin_closes()
    limits.apply()
    parser = argparse.ArgumentParser(prog="localfoundry.workers.fake")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--alias", required=True)
    parser.add_argument("--engine", default="fake")
    parser.add_argument("--argument", action="append", default=[])
    parser.add_argument("--context", type=int, required=True)
    parser.add_argument("--socket")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    switches = json.loads(options.model.read_text(encoding="utf-8"))
    switches |= switches.get("on", {}).get(options.engine, {})
    _add_arguments(switches, f" {' '.join(options.argument)} ")
    if switches.get("ignore_sigterm"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    asyncio.run(_serve(options, switches))


if __name__ == "__main__":
    main()
