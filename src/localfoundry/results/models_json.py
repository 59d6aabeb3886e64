"""`models.json`: what a team measured and rated, as one document that is checked strictly and merged without a centre.

A run is addressed by its content: `id` is the SHA-256 of everything in it but who passed it on. So a run cannot be
changed without getting another id, twice the same run is one, and a merge is the union of runs by id and of the names
that passed them on, which is commutative, associative and idempotent. Fields that are not described here are refused:
what nobody documented may be a secret. The JSON Schema is generated from these structs (`schema`) and checked in.

Raw values come along with each summary; a summary that does not follow from them is refused. What a document says and
what contradicts it is `outliers`'s; finding secrets and paths is `secrets_in`'s; the file is `team_file`'s.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from localfoundry.errors import InvalidResults
from localfoundry.results import secrets_in
from localfoundry.results.distribution import Distribution, distribution

VERSION: Literal[1] = 1
MAX_BYTES = 64_000_000
MAX_RUNS = 10_000
_MAX_TOKENS = 10_000_000  # brackets and commas: more than any honest document of that size has
_CLOSE = 1e-6

Name = Annotated[str, Meta(min_length=1, max_length=200)]
Text = Annotated[str, Meta(max_length=1000)]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
RunId = Annotated[str, Meta(pattern="^sha256:[0-9a-f]{64}$", description="SHA-256 of the run's canonical JSON")]
LocalId = Annotated[str, Meta(pattern="^[0-9A-HJKMNP-TV-Z]{26}$", description="ULID given by who measured it")]
Time = Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)$", max_length=40)]
Seconds = Annotated[float, Meta(ge=0, le=1e7)]
Rate = Annotated[float, Meta(ge=0, le=1e9)]
Count = Annotated[int, Meta(ge=0, le=1_000_000_000)]
Price = Annotated[float, Meta(ge=0, le=1e9)]
Fact = Annotated[str, Meta(max_length=400)] | Annotated[int, Meta(ge=-(2**53), le=2**53)] | float | bool | None
Facts = Annotated[dict[Annotated[str, Meta(pattern="^[A-Za-z][A-Za-z0-9_.-]{0,79}$")], Fact], Meta(max_length=100)]


class _Strict(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Names as in the results file and the bench's documents; fields at their default are left out of the file."""


class Candidate(_Strict, frozen=True):
    """A model as it was measured. `endpoint_host`: it ran elsewhere; prices are per million tokens."""

    label: Name
    model: Name
    model_id: Name | None = None
    file_sha256: Sha256 | None = None
    engine: Name | None = None
    engine_version: Name | None = None
    quantization: Name | None = None
    format: Name | None = None
    context: Count | None = None
    threads: Count | None = None
    endpoint_host: Name | None = None
    price_in: Price | None = None
    price_out: Price | None = None


class Speed(_Strict, frozen=True):
    """What was measured of one candidate in one scenario, language and load (`c=1`: one request at a time).

    `failed` requests are counted and have no values. Each distribution holds its raw values in the order measured.
    """

    label: Name
    scenario: Name
    language: Name
    load: Name
    requests: Count
    failed: Count = 0
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    ttft_s: Distribution | None = None
    ttfa_s: Distribution | None = None
    itl_s: Distribution | None = None
    latency_s: Distribution | None = None


class Task(_Strict, frozen=True):
    """Items of a suite that one candidate passed and failed; neither prompts nor answers are shared.

    `suite_sha256` is that of the suite's content: items of suites with one name and other contents never compare.
    """

    label: Name
    suite: Name
    language: Name
    passed: Annotated[tuple[Name, ...], Meta(max_length=10_000)] = ()
    failed: Annotated[tuple[Name, ...], Meta(max_length=10_000)] = ()
    suite_sha256: Sha256 | None = None


class Vote(_Strict, frozen=True):
    """One judgement between `a` and `b`; `choice` is one of them or `tie`. `judge:` begins the names of models."""

    rater: Name
    criterion: Name
    suite: Name
    item: Name
    a: Name
    b: Name
    shown_first: Name
    choice: Name


class SharedRun(_Strict, frozen=True, kw_only=True):
    """One measurement or judgement, with all that it rests on. `passed_on_by`: not part of what `id` is the hash of."""

    id: RunId
    run: LocalId
    kind: Literal["bench", "eval", "rating"]
    started_at: Time
    finished_at: Time | None = None
    status: Literal["finished", "interrupted", "failed"]
    machine: Facts
    protocol: Facts
    versions: Facts
    candidates: Annotated[tuple[Candidate, ...], Meta(max_length=200)]
    speed: Annotated[tuple[Speed, ...], Meta(max_length=10_000)] = ()
    tasks: Annotated[tuple[Task, ...], Meta(max_length=10_000)] = ()
    votes: Annotated[tuple[Vote, ...], Meta(max_length=100_000)] = ()
    passed_on_by: Annotated[tuple[Name, ...], Meta(max_length=1000)] = ()


class Document(_Strict, frozen=True):
    """The whole file. `runs` stand in the order of their ids, so that equal contents are equal bytes."""

    schema: Annotated[Literal[1], Meta(description="version of this form")]
    runs: Annotated[tuple[SharedRun, ...], Meta(max_length=MAX_RUNS)] = ()


class _Versioned(Struct):
    schema: int


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a document, from the structs above."""
    found = msgspec.json.decode(msgspec.json.encode(msgspec.json.schema(Document)))  # defaults as JSON has them
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "models.json",
        "description": "What a team measured and rated: models, machines, protocols, distributions, votes.",
        **found,
    }


def address(run: SharedRun) -> str:
    """The id that `run` has to have: the hash of its canonical JSON without id and without who passed it on."""
    content = msgspec.to_builtins(run)
    for name in ("id", "passed_on_by"):
        content.pop(name, None)
    canonical = msgspec.json.encode(content, order="deterministic")
    return f"sha256:{hashlib.sha256(canonical).hexdigest()}"


def addressed(run: SharedRun) -> SharedRun:
    """`run` with the id of its content."""
    return msgspec.structs.replace(run, id=address(run))


def encode(document: Document) -> bytes:
    """Sorted and indented: two people with the same runs have the same bytes."""
    return msgspec.json.format(msgspec.json.encode(document, order="deterministic"), indent=1) + b"\n"


def decode(data: bytes, what: str) -> Document:
    """The document in `data`, checked through. Raises InvalidResults, which names `what` and the place.

    Bounded before a parser sees it: what is huge, endless or nested without need costs no more than reading it.
    """
    if len(data) > MAX_BYTES:
        raise InvalidResults(f"{what} has {len(data):,} bytes; at most {MAX_BYTES:,} are read")
    tokens = data.count(b",") + data.count(b"[") + data.count(b"{")
    if tokens > _MAX_TOKENS:
        raise InvalidResults(f"{what} holds about {tokens:,} values; at most {_MAX_TOKENS:,} are read")
    try:
        version = msgspec.json.decode(data, type=_Versioned).schema
        if version != VERSION:
            raise InvalidResults(f"{what} has schema {version}; this program reads {VERSION}")
        document = msgspec.json.decode(data, type=Document)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidResults(f"{what} is no models.json: {str(exc) or 'it is nested too deeply'}") from exc
    seen: set[str] = set()
    for place, run in enumerate(document.runs):
        problem = f"id {run.id} is there twice" if run.id in seen else _problem(run)
        if problem:
            raise InvalidResults(f"{what}: runs[{place}]: {problem}")
        seen.add(run.id)
    return document


def merge(*documents: Document) -> Document:
    """All runs of all documents, each once. Commutative, associative, idempotent; the documents were decoded."""
    found: dict[str, SharedRun] = {}
    for document in documents:
        for run in document.runs:
            known = found.get(run.id)
            names = {*run.passed_on_by, *(known.passed_on_by if known else ())}
            found[run.id] = msgspec.structs.replace(run, passed_on_by=tuple(sorted(names)))
    return Document(schema=VERSION, runs=tuple(run for _, run in sorted(found.items())))


def _problem(run: SharedRun) -> str | None:
    """What no type can say, in words."""
    labels = [candidate.label for candidate in run.candidates]
    if len(set(labels)) < len(labels):
        return "two candidates have one label"
    named = [row.label for row in run.speed] + [row.label for row in run.tasks]
    named += [name for v in run.votes for name in (v.a, v.b)]
    if unknown := next((name for name in named if name not in set(labels)), None):
        return f"{unknown[:80]!r} is no candidate of the run"
    for v in run.votes:
        if v.a >= v.b or v.shown_first not in (v.a, v.b) or v.choice not in (v.a, v.b, "tie"):
            return f"a vote between {v.a[:80]!r} and {v.b[:80]!r} chose {v.choice[:80]!r}, shown {v.shown_first[:80]!r}"
    for task in run.tasks:
        items = (*task.passed, *task.failed)
        if len(set(items)) < len(items):
            return f"an item of {task.suite} is there twice"
    if problem := next((words for row in run.speed if (words := _speed_problem(row))), None):
        return problem
    if found := secrets_in.first(msgspec.to_builtins(run)):
        return found
    if run.id != address(run):
        return f"its id {run.id} is not that of its content; it was changed after it was measured, or forged"
    return None


def _speed_problem(row: Speed) -> str | None:
    for name in ("ttft_s", "ttfa_s", "itl_s", "latency_s"):
        given: Distribution | None = getattr(row, name)
        if given is None:
            continue
        if len(given.values) > row.requests - row.failed:
            return f"{row.label}, {row.scenario}: more values of {name} than requests that succeeded"
        if not given.agrees(distribution(given.values), _CLOSE):
            return f"{row.label}, {row.scenario}: the summary of {name} does not follow from its values"
    return None
