"""The answers that are rated: asked for now, model by model, or taken from an earlier run; kept in a run of their own.

A rating run holds its questions and answers; the votes refer to them. The same models and prompts lead to the same run
again, so that a rater goes on where the last sitting ended and a second one sees the same answers.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from localfoundry import instance
from localfoundry.cli import context, output
from localfoundry.cli.answer import Answer as Heard
from localfoundry.cli.answer import Sampling, stream_chat
from localfoundry.cli.loading import as_loaded
from localfoundry.cli.pull import pull_model
from localfoundry.errors import FoundryError, InvalidRequest
from localfoundry.quality.ratings import Answer, Question
from localfoundry.quality.reply import without_reasoning
from localfoundry.results import place
from localfoundry.results.db import FILE_NAME, Results, now
from localfoundry.results.rows import CandidateRow, ItemRow, Run, new_id

if TYPE_CHECKING:
    from localfoundry.client import ServiceClient
    from localfoundry.config import Settings

Answers = dict[tuple[str, str, str], dict[str, Answer]]
"""By suite, item and language: the answer of each label."""


@contextlib.contextmanager
def opened(given: Settings) -> Iterator[Results]:
    """The results of this home; that a damaged file was set aside is told."""
    with Results(given.home / FILE_NAME, output.note) as results:
        yield results


def find_or_begin(
    results: Results, models: Sequence[str], questions: Sequence[Question], sampling: Sampling, *, again: bool
) -> Run:
    """The newest rating run of the same models, prompts and settings, or a new one."""
    protocol: dict[str, object] = {
        "models": ", ".join(sorted(models)),
        "prompts": hashlib.sha256(msgspec.json.encode(questions)).hexdigest(),
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "seed": sampling.seed,
    }
    same = [run for run in results.runs("rating") if run.protocol == protocol]
    if same and not again:
        return same[-1]
    run = Run(new_id(), "rating", now(), machine=place.machine_facts(), protocol=protocol, versions=place.versions())
    results.begin(run, [CandidateRow(run.id, model, model) for model in models])
    return run


def taken_from(results: Results, source: Run, labels: Sequence[str]) -> Run:
    """A rating run over the answers that `source` kept. Raises InvalidRequest where it kept none with their prompts."""
    protocol: dict[str, object] = {"answers_of": source.id, "models": ", ".join(sorted(labels))}
    same = [run for run in results.runs("rating") if run.protocol == protocol]
    if same:
        return same[-1]
    known = {row.label: row for row in results.candidates(source.id)}
    if missing := [label for label in labels if label not in known]:
        raise InvalidRequest(
            f"run {source.id} has no answers of {', '.join(missing)}; it has {', '.join(sorted(known)) or 'none'}"
        )
    items = [row for row in results.items(source.id) if row.label in labels and _answer(row) is not None]
    if not items:
        raise InvalidRequest(
            f"run {source.id} kept no answers together with their prompts", hint=f"foundry rate {' '.join(labels)}"
        )
    run = Run(new_id(), "rating", now(), machine=source.machine, protocol=protocol, versions=source.versions)
    results.begin(run, [msgspec.structs.replace(known[label], run=run.id) for label in labels])
    with results.together():
        for row in items:
            answer = _answer(row)
            assert answer is not None
            results.add_item(msgspec.structs.replace(row, run=run.id, passed=None, raw=_raw(answer)))
    return run


def kept(results: Results, run: str) -> tuple[list[Question], Answers]:
    """Questions and answers of a rating run, as far as they are there."""
    questions: dict[tuple[str, str, str], Question] = {}
    answers: Answers = {}
    for row in results.items(run):
        answer = _answer(row)
        if answer is None:
            continue
        key = (row.suite, row.item, row.language)
        questions.setdefault(key, Question(*key, answer.prompt))
        answers.setdefault(key, {})[row.label] = answer
    return list(questions.values()), answers


def _answer(row: ItemRow) -> Answer | None:
    """None where the row holds no answer, or nobody knows to what."""
    try:
        answer = msgspec.json.decode(row.raw, type=Answer)
    except msgspec.MsgspecError:
        return None
    # Who thinks aloud is told from who does not: what is judged is the answer.
    return msgspec.structs.replace(answer, answer=without_reasoning(answer.answer)) if answer.prompt else None


def ask_missing(
    given: Settings, results: Results, run: Run, models: Sequence[str], questions: Sequence[Question],
    sampling: Sampling,
) -> None:  # fmt: skip
    """Ask each model what it has not answered yet; every answer is kept as it comes. A failed one is an answer too."""
    _, answers = kept(results, run.id)
    left = {
        model: [q for q in questions if model not in answers.get((q.suite, q.item, q.language), {})] for model in models
    }
    for model in models:
        if left[model] and context.cached(given, model) is None:
            pull_model(given, model, quiet=True)
    if not any(left.values()):
        return
    instance.start(given)
    done, total = 0, sum(map(len, left.values()))

    async def work(client: ServiceClient) -> None:
        nonlocal done
        for model in models:
            if not left[model]:
                continue
            account = await _load(client, model)
            if "error" not in account:
                results.set_candidate(as_loaded(given, CandidateRow(run.id, model, model), account))
            for question in left[model]:
                answer = await _asked(client, account, question, sampling)
                row = ItemRow(run.id, model, question.suite, question.item, question.language, None, _raw(answer))
                results.add_item(row)
                done += 1
                # No name here: whoever watches the answers come in should not learn whose is short.
                if output.shows_progress():
                    output.note(f"\r{done}/{total} answers\x1b[K", end="")

    try:
        context.with_service(given, work)
    finally:
        if output.shows_progress():
            output.note("\r\x1b[K", end="")


async def _load(client: ServiceClient, model: str) -> dict[str, Any]:
    """Its account; with `error` in it where it could not be loaded, so that the other models still get their turn."""
    try:
        account: dict[str, Any] = await client.post("/foundry/load", {"model": model})
        # A warm-up, thrown away: the first answer after a load is slower than those that follow.
        warm = Sampling(max_tokens=1, temperature=0)
        await stream_chat(client, account["id"], [{"role": "user", "content": "Hello"}], warm, None, Heard())
    except FoundryError as exc:
        return {"error": exc.message}
    return account


async def _asked(client: ServiceClient, account: dict[str, Any], question: Question, sampling: Sampling) -> Answer:
    if "error" in account:
        return Answer(question.prompt, error=account["error"])
    heard, error = Heard(), None
    try:
        await stream_chat(client, account["id"], [{"role": "user", "content": question.prompt}], sampling, None, heard)
    except FoundryError as exc:
        error = exc.message
    if error is None and not heard.content.strip():
        error = "the answer is empty"
    return Answer(question.prompt, heard.content, heard.ttft_s, heard.total_s, error)


def _raw(answer: Answer) -> str:
    return msgspec.json.encode(answer).decode()
