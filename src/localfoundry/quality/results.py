"""What was asked and what came of each item, as values; and both read back from the results file.

A run of items is a `run` row of kind eval, whose protocol is a `Protocol`, with an `item` row for each answer.
"""

from __future__ import annotations

from typing import Protocol as Interface

import msgspec

from localfoundry.errors import DiskError, InvalidRequest
from localfoundry.results.db import Results
from localfoundry.results.rows import ItemRow, Run


class SuiteRun(msgspec.Struct, frozen=True):
    """One suite of a run: the hash of its content, and which of its items were asked."""

    name: str
    language: str
    sha256: str
    items: tuple[str, ...]


class Remote(msgspec.Struct, frozen=True):
    """A model behind an endpoint. `key_env` is the name of the variable with the key, which itself is kept nowhere.

    Prices are per million tokens; `parameters` go over each request, null takes a field out.
    """

    model: str
    url: str
    key_env: str | None = None
    price_in: float | None = None
    price_out: float | None = None
    parameters: dict[str, object] = {}


class Plan(msgspec.Struct, frozen=True):
    """What is asked of whom, and how. Two runs with equal plans can be continued by each other.

    `models` are labels: names of local models as they were given, and whatever the `remotes` are called.
    """

    models: tuple[str, ...]
    suites: tuple[SuiteRun, ...]
    remotes: dict[str, Remote] = {}
    currency: str = ""
    seed: int = 42
    temperature: float = 0.0
    extra_tokens: int = 0


class Protocol(msgspec.Struct, frozen=True):
    """`sandbox`: what held code of models back. `energy`: the counters that were read."""

    plan: Plan
    sandbox: str = ""
    energy: str = "unavailable"


class ItemResult(msgspec.Struct, frozen=True, kw_only=True):
    """One answer. Seconds are from the request to the end of the stream; TTFT is the first token of any kind.

    `prompt` is there where it is all that was asked: such answers can be rated by people. `tokens` and `prompt_tokens`
    are the server's counts. `error`: there is no whole answer to check, and why. `energy_j` is what this machine spent
    on it, less idle; 0 where it was not asked, None where no counter was read or the model ran elsewhere.
    `answered_as`: the name of the model as the endpoint gave it, where that is another than was asked for.
    `suite_sha256` is that of the suite's content: items of one name compare only where it is the same.
    """

    suite: str
    language: str
    item: str
    model: str
    passed: bool
    failures: tuple[str, ...] = ()
    prompt: str = ""
    answer: str = ""
    calls: str = ""
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    tokens: int | None = None
    seconds: float = 0.0
    ttft_s: float | None = None
    energy_j: float | None = None
    answered_as: str | None = None
    error: str | None = None
    at: str = ""
    suite_sha256: str | None = None

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.suite, self.language, self.item, self.model


class Recorder(Interface):
    """Where results go; whoever runs a suite knows no more of it."""

    def record(self, result: ItemResult) -> None: ...


def item_row(run: str, result: ItemResult) -> ItemRow:
    raw = msgspec.json.encode(result).decode()
    where = result.suite, result.item, result.language
    return ItemRow(run, result.model, *where, result.passed, raw, result.suite_sha256)


def read_items(results: Results, run: str) -> list[ItemResult]:
    """The checked answers of a run, in the order in which they came. Raises DiskError for one that cannot be read."""
    found = []
    for row in results.items(run):
        if row.passed is None:  # collected for people to rate: nothing was checked
            continue
        try:
            found.append(msgspec.json.decode(row.raw, type=ItemResult))
        except msgspec.MsgspecError as exc:
            raise DiskError(f"an item of run {run} cannot be read: {exc}") from exc
    return found


def latest(results: Results, plan: Plan) -> Run:
    """The newest run with this plan. Raises InvalidRequest where there is none."""
    for run in reversed(results.runs("eval")):
        if _plan(run) == plan:
            return run
    raise InvalidRequest(
        "there is no earlier run of the same models, suites and settings to continue",
        hint="leave --resume out to begin a new one",
    )


def _plan(run: Run) -> Plan | None:
    try:
        return msgspec.convert(run.protocol, Protocol).plan
    except msgspec.ValidationError:
        return None
