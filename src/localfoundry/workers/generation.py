"""What the HTTP layer of our own workers asks of an engine library, and what it gets: the contract of a backend.

One thread does everything. Python's bindings of OpenVINO hold the interpreter's lock while a batch is computed
(measured: another thread ran once in 0.7 s), and the computation has a thread for every core, so that Python beside it
would only make those wait for each other. So the event loop computes one batch (`step`), looks at its connections, and
computes the next one (`stepping.py`). A request that arrives while a batch runs could not have joined it anyway; one
whose client went away is stopped before the next token. A library that hangs stops the loop, and with it the answers
to `GET /health`: that is how the service notices.

A backend raises `Refused` for what a client can change, and anything else for what breaks the library: after that the
worker ends, because no library promises to be whole after a batch that failed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

Finish = Literal["stop", "length", "memory"]


class Refused(Exception):
    """A request that cannot be served as it was asked: becomes a 400 with these words.

    `kind` is the error's `type` as llama-server writes it, which the service reads; `facts` stand beside it.
    """

    def __init__(self, message: str, kind: str = "invalid_request_error", **facts: int) -> None:
        super().__init__(message)
        self.kind = kind
        self.facts = facts


class Unsupported(Exception):
    """A model that a worker cannot run: the words go to the log, and from there to who asked for the load."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """The answer is `before`, then JSON that `schema` (JSON as text) describes, then `after`; all of them literally.

    `schema` has been looked through (`schemas.py`): it holds nothing but what every backend's grammar can express.
    """

    schema: str
    before: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen. Fields named in the request's words; values in range; neutral ones where not asked for.

    prompt and `max_tokens` together are within the context. `top_logprobs`: None where no log probabilities are asked
    for, 0 for that of the chosen token alone. `echo`: nothing is generated, and the tokens of the prompt are scored;
    nothing else runs meanwhile.
    """

    max_tokens: int
    temperature: float = 0.8  # 0: always the most probable token
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0  # 0 <= seed < 2**64; drawn at random where the client gave none
    ignore_eos: bool = False
    top_logprobs: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    grammar: Grammar | None = None
    echo: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """What one step gave one request: at least a token, or its end.

    Of a request with `echo` there is one: no tokens, and a log probability for each token of the prompt but the first.

    tokens: all new ones, the end-of-generation token included. logprobs: natural logarithms, one for each token, where
    asked for; top: the most probable tokens at each place. finish: "stop" after an end-of-generation token, "length"
    after max_tokens, "memory" where the memory that requests share had no room to go on. cached: tokens of the prompt
    that needed no work; said at the latest with `finish`.
    """

    request: int
    tokens: Sequence[int] = ()
    finish: Finish | None = None
    logprobs: Sequence[float] = ()
    top: Sequence[Sequence[tuple[int, float]]] = ()
    cached: int | None = None


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Tokens as bytes, by id: characters may be cut between tokens. Those that are never shown have no bytes.

    ends: the tokens that end a generation. bos, eos: texts that chat templates may ask for.
    """

    pieces: Sequence[bytes]
    ends: frozenset[int]
    bos: str = ""
    eos: str = ""


class Backend(Protocol):
    """One loaded model in one library. Called by one thread; no call but `step` takes longer than milliseconds."""

    name: str  # for messages: `logit_bias: the openvino engine has no such option`
    context: int  # tokens in all, shared by the requests that run
    parallel: int  # how many requests run at the same time; the layer above keeps others waiting
    # Fields of Sampling that are honoured; others are refused by name where they are not neutral. `logprobs` is that of
    # the chosen token, `first_top_logprobs` are those of others for an answer of one token at temperature 0, `echo` are
    # those of a prompt's tokens.
    options: frozenset[str]
    vocabulary: Vocabulary
    template: str | None  # Jinja, as the model has it; None: the model is for completions only

    def encode(self, text: str, special: bool) -> list[int]:
        """Tokens of a text, all of it; `special`: with those that the model wants around a text, such as BOS.

        Special tokens written out in the text are taken as such.
        """
        ...

    def start(self, request: int, prompt: Sequence[int], sampling: Sampling) -> None:
        """Take a request; numbers are never used twice. `prompt`: 1 to context - 1 valid tokens. Raises Refused."""
        ...

    def cancel(self, request: int) -> None:
        """Forget a request that was started and has not finished: no further Progress of it."""
        ...

    @property
    def busy(self) -> bool:
        """Whether `step` has anything to do; a cancelled request may need one more."""
        ...

    def step(self) -> Sequence[Progress]:
        """Compute one batch: a token of each request that runs, a part of each prompt. Blocks for as long as that.

        Long prompts are taken in parts, so that a step stays short and the others go on.
        """
        ...

    def embed(self, prompts: Sequence[Sequence[int]]) -> list[list[float]]:
        """One vector for each prompt. Raises Refused where the model or the library has none."""
        ...
