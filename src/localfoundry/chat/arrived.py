"""What has arrived of one answer, and when: text, calls of tools, the server's own counts, and whether it is whole.

Tokens are counted by the server's `usage` and never by chunks, which may hold several tokens. It is told each chunk by
`request`, at 2,000 a second and more, so it keeps lists and makes texts of them only when it is asked.
"""

from __future__ import annotations

from localfoundry.chat.chunks import Chunk, Delta, Timings, Usage, Whole
from localfoundry.chat.failure import Failure, words

MAX_CALLS = 64


class Arrived:
    """One answer on its way. Times are those of the clock that `request.ask` was given.

    `keep`: characters of the text that are kept, the rest is only timed. `longest`: characters of everything, reasoning
    and calls included, at which the answer is given up; None: it may go on until the deadline. `complete` once the
    server said so: a finish reason or `[DONE]`. `model`: who answered, as the server says.
    """

    def __init__(self, sent: float, keep: int, longest: int | None = None) -> None:
        self.sent = sent
        self.responded = False
        self.complete = False
        self.in_one_piece = False
        self.status: int | None = None
        self.model: str | None = None
        self.times: list[float] = []
        self.first_answer: float | None = None
        self.finish: str | None = None
        self.usage = Usage()
        self.timings = Timings()
        self._text: list[str] = []
        self._room = keep
        self._longest = longest
        self._characters = 0
        self._calls: dict[int, tuple[list[str], list[str]]] = {}

    @property
    def text(self) -> str:
        return "".join(self._text)

    @property
    def calls(self) -> list[tuple[str, str]]:
        """Tools that were called: the name and the arguments as they were written."""
        return [("".join(names), "".join(arguments)) for names, arguments in self._calls.values()]

    @property
    def place(self) -> str:
        """How far it came, in words."""
        return f"after {len(self.times)} chunks" if self.times else "before the first token"

    def take(self, chunk: Chunk, now: float) -> None:
        """Count one chunk in. Raises Failure for an error that came as an event, and for an answer without an end."""
        if chunk.error is not None:
            raise Failure(f"{self.place}: {words({'error': chunk.error})}")
        self.usage = chunk.usage or self.usage
        self.timings = chunk.timings or self.timings
        self.model = self.model or chunk.model
        for choice in chunk.choices:
            delta = choice.delta
            if delta is not None:
                self._take_delta(delta, now)
            if choice.finish_reason is not None:
                self.finish = choice.finish_reason
                self.complete = True

    def take_whole(self, answer: Whole) -> None:
        """An answer in one piece: nothing is known of its tokens' times."""
        self.complete = True
        self.usage = answer.usage or self.usage
        self.timings = answer.timings or self.timings
        self.model = answer.model
        for choice in answer.choices:
            said = choice.message
            for place, call in enumerate(said.tool_calls or ()):
                call.index = place  # only parts of a stream are numbered
            self._keep(said)
            self.finish = choice.finish_reason
            self.in_one_piece = self.in_one_piece or bool(said.content or said.tool_calls or said.reasoning_content)

    def _take_delta(self, delta: Delta, now: float) -> None:
        is_answer = bool(delta.content or delta.tool_calls)
        if is_answer or delta.reasoning_content or delta.reasoning:
            self.times.append(now)
            self._keep(delta)
        if is_answer and self.first_answer is None:
            self.first_answer = now

    def _keep(self, delta: Delta) -> None:
        text = delta.content
        if text and self._room > 0:
            self._text.append(text[: self._room])
            self._room -= len(text)
        if delta.tool_calls:
            for call in delta.tool_calls:
                names, arguments = self._calls.setdefault(call.index, ([], []))
                names.append(call.function.name or "")
                arguments.append(call.function.arguments or "")
            if len(self._calls) > MAX_CALLS:
                raise Failure(f"the answer calls more than {MAX_CALLS} tools", lasting=False)
        if self._longest is not None:
            self._characters += _characters(delta)
            if self._characters > self._longest:
                raise Failure(f"the answer is longer than {self._longest:,} characters", lasting=False)


def _characters(delta: Delta) -> int:
    calls = sum(len(c.function.name or "") + len(c.function.arguments or "") for c in delta.tool_calls or ())
    return len(delta.content or "") + len(delta.reasoning_content or delta.reasoning or "") + calls
