"""A backend of a few lines: tokens are bytes, so that characters outside ASCII are cut, and answers are known."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from localfoundry.workers import http
from localfoundry.workers.generation import Finish, Progress, Refused, Sampling, Vocabulary
from localfoundry.workers.serving import Serving

END, START = 256, 257
_MARKS = {"<|im_end|>": END, "<|im_start|>": START}
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{{ '<|im_start|>assistant\n' }}"
)
TOOLS = "{% for t in tools or [] %}<tool_call>{{ t | tojson }}{% endfor %}" + CHATML


def said(prompt: Sequence[int]) -> str:
    """The last message of a prompt, or all of a plain one."""
    text = b"".join(bytes([token]) if token < 256 else b"\0" for token in prompt).decode()
    turns = [part.partition("\n")[2] for part in text.split("\0") if part.startswith("user\n")]
    return turns[-1] if turns else text


@dataclass
class _Run:
    sampling: Sampling
    answer: list[int]
    prompt: int
    given: int = 0


class Scripted:
    """`answer` says what is said to a message; by default it is said back."""

    name = "scripted"

    def __init__(
        self, context: int = 2000, parallel: int = 4, answer: Callable[[str], str] = str, template: str | None = CHATML,
        options: frozenset[str] = frozenset({"logprobs", "grammar", "ignore_eos"}),
    ) -> None:  # fmt: skip
        self.context = context
        self.parallel = parallel
        self.template = template
        self.options = options
        self.vocabulary = Vocabulary([*(bytes([n]) for n in range(256)), b"", b""], frozenset({END}), "", "<|im_end|>")
        self.answer = answer
        self.started: dict[int, Sampling] = {}
        self.cancelled: list[int] = []
        self.steps = 0
        self.room: int | None = None  # tokens in all, where the memory is less than the context promises
        self.break_at: int | None = None
        self._runs: dict[int, _Run] = {}

    def encode(self, text: str, special: bool) -> list[int]:
        tokens: list[int] = []
        for part in re.split(r"(<\|im_end\|>|<\|im_start\|>)", text):
            tokens += [_MARKS[part]] if part in _MARKS else part.encode()
        return tokens

    def start(self, request: int, prompt: Sequence[int], sampling: Sampling) -> None:
        if prompt[0] == ord("!"):
            raise Refused("this prompt is refused")
        self.started[request] = sampling
        answer = [*self.answer("" if sampling.echo else said(prompt)).encode(), END]
        self._runs[request] = _Run(sampling, answer, len(prompt))

    def cancel(self, request: int) -> None:
        self.cancelled.append(request)
        del self._runs[request]

    @property
    def busy(self) -> bool:
        return bool(self._runs)

    def step(self) -> list[Progress]:
        self.steps += 1
        if self.steps == self.break_at:
            raise RuntimeError("/build/of/somebody/kernel.cpp:7:\nthe library broke")
        news = [self._advanced(request, run) for request, run in self._runs.items()]
        for one in news:
            if one.finish is not None:
                del self._runs[one.request]
        return news

    def _advanced(self, request: int, run: _Run) -> Progress:
        if self.room is not None and sum(one.prompt + one.given for one in self._runs.values()) >= self.room:
            return Progress(request, finish="memory")
        if run.sampling.echo:
            return Progress(request, (), "length", [-float(n) for n in range(1, run.prompt)], cached=0)
        token = run.answer[run.given]
        run.given += 1
        finish: Finish | None = None
        if token == END:
            finish = "stop"
        elif run.given == run.sampling.max_tokens:
            finish = "length"
        logprobs = () if run.sampling.top_logprobs is None else (-0.5,)
        return Progress(request, (token,), finish, logprobs, cached=0)

    def embed(self, prompts: Sequence[Sequence[int]]) -> list[list[float]]:
        return [[float(len(prompt)), 0.5] for prompt in prompts]


@asynccontextmanager
async def served(backend: Any, folder: Path) -> AsyncIterator[httpx2.AsyncClient]:
    """The backend behind the workers' HTTP layer on a real socket, and a client of it."""
    socket = str(folder / "worker.sock")
    server = await http.listen(Serving(backend, "tiny", "scripted-1"), socket, 0)
    transport = httpx2.AsyncHTTPTransport(uds=socket)
    async with server, httpx2.AsyncClient(transport=transport, base_url="http://worker", timeout=20) as client:
        yield client
