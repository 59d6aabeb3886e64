"""What is measured: a model of the local service, or one behind any OpenAI-compatible endpoint.

A candidate is a value that goes into results. What must not, the key and the connection, is `chat/target.py`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec

from localfoundry.bench.request import Sample
from localfoundry.chat.cost import cost
from localfoundry.errors import InvalidRequest


class Candidate(msgspec.Struct, frozen=True):
    """One thing to measure: a model with its settings. `label` is what tables call it.

    `max_tokens` and `prompt_words`: None takes the scenario's own. `prompt` replaces the scenario's text behind the
    nonce. `parameters` go into the request body as they are, over everything else there; a null takes a field out.
    `endpoint` is the address where it is no model of the local service; prices are per million tokens.
    `settings` is how it is loaded (`context`, `threads`, `engine`) where that is not left to the service.
    """

    label: str
    model: str
    max_tokens: int | None = None
    prompt_words: int | None = None
    prompt: str | None = None
    parameters: dict[str, object] = {}
    endpoint: str | None = None
    key_env: str | None = None
    price_in: float | None = None
    price_out: float | None = None
    settings: dict[str, int | str] = {}

    @property
    def host(self) -> str | None:
        return urlsplit(self.endpoint).hostname if self.endpoint else None

    def cost(self, sample: Sample) -> float | None:
        """What one answer costs; None where that is not known."""
        return cost(sample.prompt_tokens, sample.completion_tokens, self.price_in, self.price_out)


def check(candidates: Sequence[Candidate]) -> None:
    """Raises InvalidRequest for a list that cannot be measured."""
    labels = [candidate.label for candidate in candidates]
    if not labels:
        raise InvalidRequest("there is nothing to measure: no model was named", param="models")
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise InvalidRequest(
            f"two candidates are called {twice!r}; results could not be told apart",
            hint="--label NAME calls an endpoint something else", param="models",
        )  # fmt: skip
