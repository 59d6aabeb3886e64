"""One answer: asked for, streamed to the terminal, measured."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from localfoundry.cli import output
from localfoundry.cli.plain import PlainStream
from localfoundry.units import format_duration

if TYPE_CHECKING:
    from localfoundry.client import ServiceClient
    from localfoundry.instance import ServiceState


@dataclass(frozen=True, slots=True)
class Sampling:
    """What a person may set of an answer; None leaves it to the engine."""

    system: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None

    def fields(self) -> dict[str, object]:
        names = ("temperature", "top_p", "max_tokens", "seed")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


@dataclass(slots=True)
class Answer:
    """An answer as it came, and its figures. `ttft_s` is the first token of any kind, as measured here."""

    content: str = ""
    reasoning: str = ""
    finish_reason: str | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, Any] = field(default_factory=dict)
    ttft_s: float | None = None
    total_s: float = 0.0

    def document(self, model: str) -> dict[str, Any]:
        return {
            "model": model,
            "content": self.content,
            "reasoning": self.reasoning or None,
            "finishReason": self.finish_reason,
            "usage": self.usage,
            "ttftSeconds": self.ttft_s,
            "totalSeconds": self.total_s,
            "promptTokensPerSecond": self.timings.get("prompt_per_second"),
            "decodeTokensPerSecond": self.timings.get("predicted_per_second"),
        }

    def figures(self) -> str:
        """One line. Rates are the engine's own; nothing is printed that was not measured."""
        parts = [f"first token {format_duration(self.ttft_s)}"] if self.ttft_s is not None else []
        if "prompt_per_second" in self.timings:
            parts.append(f"prompt {self.timings['prompt_per_second']:.0f} tokens/s")
        if "predicted_per_second" in self.timings:
            parts.append(f"decode {self.timings['predicted_per_second']:.0f} tokens/s")
        if self.usage:
            cached = (self.usage.get("prompt_tokens_details") or {}).get("cached_tokens")
            from_cache = f" ({cached} from cache)" if cached else ""
            parts.append(f"{self.usage['prompt_tokens']} tokens in{from_cache}")
            parts.append(f"{self.usage['completion_tokens']} out")
        parts.append(f"{format_duration(self.total_s)} in all")
        return ", ".join(parts)


class Printer:
    """Writes a streamed answer, the reasoning set apart from it.

    A model may write anything: a terminal gets it without control sequences, a pipe as it came.
    """

    def __init__(self) -> None:
        self._reasoning = False
        self._plain = PlainStream() if sys.stdout.isatty() else None

    def reasoning(self, text: str) -> None:
        if not self._reasoning:
            self.end()
            output.data(output.dim("[thinking]"))
            self._reasoning = True
        self._write(self._plain.feed(text) if self._plain else text)

    def content(self, text: str) -> None:
        if self._reasoning:
            self.end()
            output.data("\n" + output.dim("[answer]"))
            self._reasoning = False
        self._write(self._plain.feed(text) if self._plain else text)

    def end(self) -> None:
        """Write what was held back: nothing more comes of this part."""
        if self._plain:
            self._write(self._plain.end())

    def _write(self, text: str) -> None:
        if text:
            output.data(output.dim(text) if self._reasoning else text, end="")


async def stream_chat(
    client: ServiceClient, model: str, messages: list[dict[str, str]], options: Sampling, printer: Printer | None,
    answer: Answer,
) -> None:  # fmt: skip
    """Fill `answer` as tokens arrive, so that an interrupted one keeps what there is."""
    body = {"model": model, "messages": messages, "stream_options": {"include_usage": True}, **options.fields()}
    started = time.monotonic()
    try:
        async for event in client.stream("/v1/chat/completions", body):
            for choice in event.get("choices", []):
                delta = choice.get("delta", {})
                answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
                thought, said = delta.get("reasoning_content"), delta.get("content")
                if (thought or said) and answer.ttft_s is None:
                    answer.ttft_s = time.monotonic() - started
                if thought:
                    answer.reasoning += thought
                    if printer:
                        printer.reasoning(thought)
                if said:
                    answer.content += said
                    if printer:
                        printer.content(said)
            answer.usage = event.get("usage") or answer.usage
            answer.timings = event.get("timings") or answer.timings
    finally:
        answer.total_s = time.monotonic() - started
        if printer:
            printer.end()


def ask(
    state: ServiceState, loaded: dict[str, Any], prompt: str, options: Sampling, *, as_json: bool, verbose: bool
) -> None:
    """One prompt, one answer on standard output. Raises the service's errors."""
    import asyncio

    from localfoundry.client import ServiceClient

    messages = [{"role": "system", "content": options.system}] if options.system else []
    messages.append({"role": "user", "content": prompt})
    answer = Answer()

    async def work() -> None:
        async with ServiceClient(state) as client:
            await stream_chat(client, loaded["id"], messages, options, None if as_json else Printer(), answer)

    asyncio.run(work())
    if as_json:
        output.document(answer.document(loaded["id"]))
        return
    output.data()
    if verbose:
        output.data(output.dim(answer.figures()))


def complete_text(state: ServiceState, loaded: dict[str, Any], text: str, options: Sampling, *, as_json: bool) -> None:
    """Continue a text. Raises the service's errors."""
    import asyncio

    from localfoundry.client import ServiceClient

    body = {"model": loaded["id"], "prompt": text, **options.fields()}

    async def pieces(client: ServiceClient) -> AsyncIterator[str]:
        async for event in client.stream("/v1/completions", body):
            for choice in event.get("choices", []):
                yield choice.get("text") or ""

    async def work() -> str:
        whole, printer = "", Printer()
        async with ServiceClient(state) as client:
            async for piece in pieces(client):
                whole += piece
                if not as_json:
                    printer.content(piece)
        printer.end()
        return whole

    whole = asyncio.run(work())
    if as_json:
        output.document({"model": loaded["id"], "text": whole})
    else:
        output.data()
