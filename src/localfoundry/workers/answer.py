"""One request's answer: tokens of its choices become text, text becomes events in the API's form, or one plain answer.

This runs for every token on the cores that the model runs on. For the usual choice (text, no log probabilities) an
event is its tokens' bytes, encoded as JSON, between two constants of the request.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from localfoundry.workers.calls import Call, Calls
from localfoundry.workers.generation import Progress, Refused, Sampling, Vocabulary
from localfoundry.workers.http import Connection
from localfoundry.workers.reasoning import Reasoning
from localfoundry.workers.stepping import Stepper
from localfoundry.workers.text import Text

_MEMORY_FULL = "Context size has been exceeded."  # llama-server's words, by which the service knows what it is
_json = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class Form:
    """What an answer looks like from outside."""

    id: str
    model: str
    fingerprint: str
    chat: bool
    stream: bool
    usage: bool  # at the end of the stream
    created: int = field(default_factory=lambda: int(time.time()))

    def event(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return {"choices": choices, "created": self.created, "id": self.id, "model": self.model,
                "system_fingerprint": self.fingerprint, "object": kind, **more}  # fmt: skip

    def around(self, index: int) -> tuple[bytes, bytes]:
        """What stands before and after the JSON text of an event that holds nothing but text."""
        whole = _json(self.event([self.choice(index, "\0")]))
        before, _, after = whole.partition(_json("\0"))
        return b"data: " + before, after + b"\n\n"

    def choice(self, index: int, text: str) -> dict[str, Any]:
        if self.chat:
            return {"index": index, "delta": {"content": text}, "finish_reason": None}
        return {"index": index, "text": text, "logprobs": None, "finish_reason": None}


@dataclass(slots=True)
class Counts:
    """Tokens and times of one choice, as llama-server's `timings` tell them."""

    prompt: int
    cached: int = 0
    generated: int = 0
    asked: float = field(default_factory=time.perf_counter)
    first: float = 0.0
    last: float = 0.0

    def note(self, news: Progress) -> None:
        self.generated += len(news.tokens)
        if news.cached is not None:
            self.cached = news.cached
        self.last = time.perf_counter()
        self.first = self.first or self.last

    def timings(self) -> dict[str, Any]:
        read, prompt_ms = self.prompt - self.cached, (self.first - self.asked) * 1000
        predicted_ms = (self.last - self.first) * 1000
        return {
            "cache_n": self.cached, "prompt_n": read, "prompt_ms": prompt_ms,
            "prompt_per_second": read / prompt_ms * 1000 if prompt_ms else 0,
            "predicted_n": self.generated, "predicted_ms": predicted_ms,
            "predicted_per_second": (self.generated - 1) / predicted_ms * 1000 if predicted_ms else 0,
        }  # fmt: skip


class Choice:
    """One generation of a request: a job of the stepper's."""

    def __init__(
        self, answer: Answer, index: int, prompt: Sequence[int], sampling: Sampling, text: Text,
        reasoning: Reasoning | None, calls: Calls | None,
    ) -> None:  # fmt: skip
        self.prompt = prompt
        self.sampling = sampling
        self.counts = Counts(len(prompt))
        self.finish: str | None = None
        self.deltas: list[dict[str, Any]] = []  # of a plain answer
        self._answer = answer
        self._index = index
        self._text = text
        self._reasoning = reasoning
        self._calls = calls
        self._plain = reasoning is None and calls is None and sampling.top_logprobs is None
        self._before, self._after = answer.form.around(index)
        self._begun = False
        self._told: list[dict[str, Any]] = []  # log probabilities of tokens whose text is held back

    # Called by the stepper.
    def progressed(self, news: Progress) -> None:
        self.counts.note(news)
        if self.sampling.echo and news.finish == "length":
            self._score(news.logprobs)
            return
        pieces = self._answer.vocabulary.pieces
        text = ""
        for token in news.tokens:
            text += self._text.feed(pieces[token])
            if self._text.stopped:
                break
        if news.top or news.logprobs:
            self._note_logprobs(news)
        if news.finish is None and not self._text.stopped:
            self._say(text)
            return
        if news.finish == "memory":
            self._answer.fail(500, _MEMORY_FULL, "server_error")
            return
        if news.finish is None:
            self._answer.stepper.drop(self)
        finish = "stop" if self._text.stopped else str(news.finish)
        self._say(text + self._text.end(), last=True)
        self._end(finish)

    def failed(self, error: Exception) -> None:
        if isinstance(error, Refused):
            self._answer.fail(400, str(error), error.kind, **error.facts)
        else:
            self._answer.fail(500, f"the engine failed: {_words(error)}", "server_error")

    def _say(self, text: str, *, last: bool = False) -> None:
        if not self._begun:
            self._begin()
        if self._plain:
            if text and self._answer.form.stream:
                self._answer.send(self._before + _json(text) + self._after)
            elif text:
                self.deltas.append({"content": text})
            return
        thought = ""
        if self._reasoning is not None:
            thought, text = self._reasoning.feed(text, last=last)
        calls: list[Call] = []
        already = 0
        if self._calls is not None:
            already = self._calls.found
            text, calls = self._calls.feed(text, last=last)
        if thought:
            self._delta({"reasoning_content": thought})
        if text or (self._told and not calls):
            self._delta({"content": text})
        for number, call in enumerate(calls, already):
            self._delta({"tool_calls": [call.delta(number)]})

    def _begin(self) -> None:
        self._begun = True
        if self._answer.form.chat:
            self._delta({"role": "assistant", "content": None})
        self._answer.began(self)

    def _delta(self, delta: dict[str, Any]) -> None:
        """An event that is more than text."""
        told = None
        if self._told and "content" in delta and delta["content"] is not None:
            told, self._told = {"content": self._told}, []
        if not self._answer.form.stream:
            self.deltas.append(delta if told is None else {**delta, "logprobs": told})
            return
        choice: dict[str, Any] = {"index": self._index, "finish_reason": None}
        if self._answer.form.chat:
            choice["delta"] = delta
        else:
            choice |= {"text": delta["content"], "logprobs": None}
        if told is not None:
            choice["logprobs"] = told
        self._answer.send_event([choice])

    def _note_logprobs(self, news: Progress) -> None:
        vocabulary = self._answer.vocabulary
        for place, (token, logprob) in enumerate(zip(news.tokens, news.logprobs, strict=True)):
            if token in vocabulary.ends and not self.sampling.ignore_eos and not news.top:
                continue
            top = news.top[place] if news.top else ()
            said = _token(token, vocabulary.pieces[token], logprob)
            self._told.append(said | {"top_logprobs": [_token(one, vocabulary.pieces[one], p) for one, p in top]})

    def _score(self, logprobs: Sequence[float]) -> None:
        """The prompt as the answer; its first token follows nothing, and has no log probability."""
        pieces = [self._answer.vocabulary.pieces[token] for token in self.prompt]
        scored = zip(self.prompt, pieces, (None, *logprobs), strict=True)
        self._told = [_token(*one) | {"top_logprobs": []} for one in scored]
        self._answer.began(self)
        self._delta({"content": b"".join(pieces).decode("utf-8", "replace")})
        self._end("length")

    def _end(self, finish: str) -> None:
        self.finish = "tool_calls" if self._calls is not None and self._calls.found else finish
        form = self._answer.form
        if form.stream:
            choice: dict[str, Any] = {"index": self._index, "finish_reason": self.finish}
            ending: dict[str, Any] = {"delta": {}} if form.chat else {"text": "", "logprobs": None}
            choice |= ending
            self._answer.send_event([choice], **({} if form.usage else {"timings": self.counts.timings()}))
        self._answer.ended()

    def whole(self) -> dict[str, Any]:
        """The choice of a plain answer."""
        told = [one for delta in self.deltas for one in delta.get("logprobs", {"content": ()})["content"]]
        logprobs = {"content": told} if self.sampling.top_logprobs is not None else None
        joined = {
            key: "".join(delta.get(key) or "" for delta in self.deltas) for key in ("content", "reasoning_content")
        }
        choice: dict[str, Any] = {"index": self._index, "finish_reason": self.finish}
        if not self._answer.form.chat:
            return choice | {"text": joined["content"], "logprobs": logprobs}
        message: dict[str, Any] = {"role": "assistant", "content": joined["content"] or None}
        if joined["reasoning_content"]:
            message["reasoning_content"] = joined["reasoning_content"]
        if calls := [call for delta in self.deltas for call in delta.get("tool_calls", ())]:
            message["tool_calls"] = [{key: value for key, value in call.items() if key != "index"} for call in calls]
        return choice | {"message": message} | ({"logprobs": logprobs} if logprobs else {})


class Answer:
    """All choices of one request, on their way to one connection."""

    def __init__(self, connection: Connection, stepper: Stepper, vocabulary: Vocabulary, form: Form) -> None:
        self.stepper = stepper
        self.vocabulary = vocabulary
        self.form = form
        self._connection = connection
        self._choices: list[Choice] = []
        self._siblings: dict[int, list[Choice]] = {}  # by the first of them, until its prompt has been computed
        self._per_prompt = 1
        self._open = 0
        connection.gone = self._gone

    def start(self, choices: list[Choice], per_prompt: int, log: Callable[[str], None]) -> None:
        """Begin. Choices of one prompt wait for the first of them, so that its prompt is computed once."""
        self._choices = choices
        self._per_prompt = per_prompt
        self._open = len(choices)
        self._log = log
        for first in range(0, len(choices), per_prompt):
            self._siblings[id(choices[first])] = choices[first + 1 : first + per_prompt]
            self.stepper.submit(choices[first])

    def began(self, choice: Choice) -> None:
        for sibling in self._siblings.pop(id(choice), ()):
            self.stepper.submit(sibling)

    def send(self, events: bytes) -> None:
        self._connection.send(events)

    def send_event(self, choices: list[dict[str, Any]], **more: Any) -> None:
        self._connection.send(b"data: " + _json(self.form.event(choices, **more)) + b"\n\n")

    def fail(self, status: int, message: str, kind: str, **facts: int) -> None:
        """The end of all choices."""
        self._drop()
        self._connection.gone = None
        self._connection.refuse(status, message, kind, **facts)

    def ended(self) -> None:
        self._open -= 1
        if self._open:
            return
        self._connection.gone = None
        if not self.form.stream:
            self._connection.respond(200, self._whole())
            return
        if self.form.usage:
            self.send_event([], usage=self._usage(), timings=self._choices[-1].counts.timings())
        self.send(b"data: [DONE]\n\n")
        self._connection.finish()

    def _whole(self) -> dict[str, Any]:
        whole = self.form.event([choice.whole() for choice in self._choices])
        whole |= {"usage": self._usage(), "timings": self._choices[-1].counts.timings()}
        return whole | {"object": "chat.completion" if self.form.chat else "text_completion"}

    def _usage(self) -> dict[str, Any]:
        firsts = [choice.counts for choice in self._choices[:: self._per_prompt]]
        prompt = sum(counts.prompt for counts in firsts)
        completion = sum(choice.counts.generated for choice in self._choices)
        return {
            "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": sum(counts.cached for counts in firsts)},
        }  # fmt: skip

    def _gone(self) -> None:
        self._drop()
        tokens = sum(choice.counts.prompt + choice.counts.generated for choice in self._choices)
        self._log(f"{self.form.id}: the client went away: stop processing: n_tokens = {tokens}")

    def _drop(self) -> None:
        self._siblings.clear()
        for choice in self._choices:
            if choice.finish is None:
                self.stepper.drop(choice)


def _token(token: int, piece: bytes, logprob: float | None) -> dict[str, Any]:
    return {"id": token, "token": piece.decode("utf-8", "replace"), "bytes": list(piece), "logprob": logprob}


def _words(error: Exception) -> str:
    """The last line of what a library says, which holds no path of the machine it was built on."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
