"""The endpoints of our own workers, in the form of llama-server's, over any backend.

`/health`, `/props`, `/slots`, `/v1/chat/completions`, `/v1/completions`, `/v1/embeddings`, `/apply-template`,
`/tokenize`. The service reads the same bytes from every engine, so names, counts and errors here are llama-server's.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from collections.abc import Callable
from typing import Any

from localfoundry.workers import asked, calls, embedding, http, reasoning
from localfoundry.workers.answer import Answer, Choice, Form
from localfoundry.workers.asked import ChatBody, CompletionBody, EmbeddingBody, TokenizeBody
from localfoundry.workers.calls import Calls
from localfoundry.workers.embedding import Embedding
from localfoundry.workers.generation import Backend, Grammar, Refused
from localfoundry.workers.http import Connection
from localfoundry.workers.reasoning import Reasoning
from localfoundry.workers.stepping import Stepper
from localfoundry.workers.template import ChatTemplate
from localfoundry.workers.text import Text

_LAST_WORDS_S = 0.2  # for errors to reach their clients before a broken worker ends


class Serving:
    """One model's endpoints. Made inside the event loop."""

    def __init__(self, backend: Backend, alias: str, fingerprint: str) -> None:
        self._backend = backend
        self._alias = alias
        self._fingerprint = fingerprint
        self._stepper = Stepper(backend, _end_soon)
        words = backend.vocabulary
        self._template = ChatTemplate(backend.template, words.bos, words.eos) if backend.template else None
        self._tools: bool | None = None  # whether the template has a place for them, once somebody asks
        self._routes: dict[tuple[str, str], Callable[[Connection, bytes], None]] = {
            ("GET", "/health"): lambda to, _: to.respond(200, {"status": "ok"}),
            ("GET", "/props"): self._props,
            ("GET", "/slots"): self._slots,
            ("POST", "/v1/chat/completions"): self._chat,
            ("POST", "/v1/completions"): self._complete,
            ("POST", "/v1/embeddings"): self._embed,
            ("POST", "/apply-template"): self._apply_template,
            ("POST", "/tokenize"): self._tokenize,
        }

    def __call__(self, to: Connection, method: str, path: str, body: bytes) -> None:
        handler = self._routes.get((method, path))
        if handler is None:
            to.refuse(404, f"there is no {method} {path} here", "not_found_error")
        else:
            handler(to, body)

    def _props(self, to: Connection, _: bytes) -> None:
        slots = self._backend.parallel
        answer: dict[str, Any] = {"default_generation_settings": {"n_ctx": self._backend.context}, "total_slots": slots}
        answer["scores_prompts"] = "echo" in self._backend.options
        to.respond(200, answer | {"chat_template_caps": {"supports_tools": self._takes_tools()}})

    def _takes_tools(self) -> bool:
        if self._tools is None:
            self._tools = self._template is not None and self._template.supports_tools()
        return self._tools

    def _slots(self, to: Connection, _: bytes) -> None:
        running = len(self._stepper.running)
        slots = [{"id": place, "is_processing": place < running} for place in range(self._backend.parallel)]
        to.respond(200, slots)

    def _chat(self, to: Connection, body: bytes) -> None:
        request = asked.read(body, ChatBody)
        tools, forced = self._tools_of(request)
        prompt = self._prompt(request, tools)
        source = self._template.source if self._template else ""
        form = calls.form_of(source)
        grammar = asked.grammar(request, self._backend)
        if forced:
            if grammar is not None:
                raise Refused("response_format: it cannot be kept together with a tool that must be called")
            asked.require_grammar(self._backend, "tool_choice")
            grammar = calls.grammar(form, tools)
        names = [tool["function"]["name"] for tool in tools]
        thinking = reasoning.thinks(source) and grammar is None

        def stages() -> tuple[Reasoning | None, Calls | None]:
            return Reasoning(prompt) if thinking else None, Calls(form, names) if names else None

        self._answer(to, request, [self._encoded(prompt)], grammar, stages, chat=True)

    def _tools_of(self, request: ChatBody) -> tuple[list[dict[str, Any]], bool]:
        """The tools that the answer may call, and whether it has to."""
        choice = request.tool_choice
        tools = request.tools or []
        if choice == "none":
            return [], False
        if not all(isinstance((tool.get("function") or {}).get("name"), str) for tool in tools):
            raise Refused("tools: expected functions with names")
        if tools and not self._takes_tools():
            raise Refused("tools: the model's chat template has no place for them")
        if isinstance(choice, dict):
            wanted = (choice.get("function") or {}).get("name")
            tools = [tool for tool in tools if tool["function"]["name"] == wanted]
            if not tools:
                raise Refused(f"tool_choice: no tool is called {wanted!r}")
            return tools, True
        if choice not in (None, "auto", "required"):
            raise Refused("tool_choice: expected none, auto, required or a function")
        if choice == "required" and not tools:
            raise Refused("tool_choice: required, and there are no tools")
        return tools, choice == "required"

    def _complete(self, to: Connection, body: bytes) -> None:
        request = asked.read(body, CompletionBody)
        prompts = [self._tokens(one) for one in asked.prompts(request.prompt)]
        self._answer(to, request, prompts, asked.grammar(request, self._backend), lambda: (None, None), chat=False)

    def _answer(
        self, to: Connection, request: ChatBody | CompletionBody, prompts: list[list[int]], grammar: Grammar | None,
        stages: Callable[[], tuple[Reasoning | None, Calls | None]], *, chat: bool,
    ) -> None:  # fmt: skip
        count = asked.choices(request, self._backend)
        stops = asked.stops(request)
        usage = bool(request.stream_options and request.stream_options.include_usage)
        form = Form(
            f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_urlsafe(18)}", self._alias, self._fingerprint, chat,
            bool(request.stream), usage,
        )  # fmt: skip
        answer = Answer(to, self._stepper, self._backend.vocabulary, form)
        choices: list[Choice] = []
        for prompt in prompts:
            sampling = asked.sampling(request, self._backend, len(prompt), grammar)
            for number in range(count):
                own = asked.with_seed(sampling, number)
                choices.append(Choice(answer, len(choices), prompt, own, Text(stops), *stages()))
        answer.start(choices, count, _log)

    def _prompt(self, request: ChatBody, tools: list[dict[str, Any]]) -> str:
        if self._template is None:
            raise Refused("messages: the model has no chat template; it completes prompts (/v1/completions)")
        return self._template.render(request.messages, tools or None, request.chat_template_kwargs)

    def _encoded(self, text: str) -> list[int]:
        """Tokens of a prompt; its BOS stands there once, whether the template writes it or the tokenizer adds it."""
        bos = self._backend.vocabulary.bos
        return self._backend.encode(text, not (bos and text.startswith(bos)))

    def _tokens(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            return self._encoded(prompt)
        most = len(self._backend.vocabulary.pieces)
        for token in prompt:
            if not 0 <= token < most:
                raise Refused(f"prompt: {token} is no token of this model; they go from 0 to {most - 1}")
        return prompt

    def _embed(self, to: Connection, body: bytes) -> None:
        request = asked.read(body, EmbeddingBody)
        prompts = [self._tokens(one) for one in asked.prompts(request.input, "input")]
        for prompt in prompts:
            asked.check_length(len(prompt), self._backend.context, "input")
        tokens = sum(len(prompt) for prompt in prompts)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}

        def done(vectors: list[list[float]]) -> None:
            data = embedding.written(vectors, request.encoding_format)
            to.respond(200, {"object": "list", "data": data, "model": self._alias, "usage": usage})

        Embedding(to, self._backend, prompts, done, _end_soon).step()

    def _apply_template(self, to: Connection, body: bytes) -> None:
        request = asked.read(body, ChatBody)
        to.respond(200, {"prompt": self._prompt(request, self._tools_of(request)[0])})

    def _tokenize(self, to: Connection, body: bytes) -> None:
        request = asked.read(body, TokenizeBody)
        content = request.content
        tokens = self._encoded(content) if request.add_special else self._backend.encode(content, False)
        to.respond(200, {"tokens": tokens})


def _log(line: str) -> None:
    os.write(2, f"{line}\n".encode())


def _end_soon(exc: Exception) -> None:
    """The library broke: the worker ends, and the service starts another one when the next request comes."""
    _log(f"error: the engine failed: {exc}")
    asyncio.get_running_loop().call_later(_LAST_WORDS_S, os._exit, 1)


def run(backend: Backend, alias: str, fingerprint: str, socket: str | None, port: int) -> None:
    """Answer until the process ends."""

    async def serve() -> None:
        server = await http.listen(Serving(backend, alias, fingerprint), socket, port)
        await server.serve_forever()

    if sys.platform == "win32":
        asyncio.run(serve())
    else:
        import uvloop

        uvloop.run(serve())
