"""`foundry eval --fidelity`: how far what runs here is from the source weights in float32."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from localfoundry import instance
from localfoundry.bench.candidates import Candidate
from localfoundry.cli import candidate_names, context, fidelity_runs, output
from localfoundry.cli.bench_run import open_results
from localfoundry.cli.fidelity_runs import choose
from localfoundry.cli.loading import as_loaded
from localfoundry.client import ServiceClient
from localfoundry.compare.faithful import figure, verdict
from localfoundry.errors import FoundryError, InvalidRequest
from localfoundry.quality import fidelity, probe
from localfoundry.quality.fidelity import Fidelity
from localfoundry.results.rows import CandidateRow, Run

if TYPE_CHECKING:
    from localfoundry.config import Settings
    from localfoundry.quality.reference import Reference

_COLUMNS = ("Model", "Engine", "KL at least", "Top-1", "Perplexity", "Greedy", "Within 1 %")


def measure(models: Sequence[str], engine: str | None, named: str | None, every: int, as_json: bool) -> int:
    """Compare each model, one after the other, print and keep what came of it. Exit status 1: none gave a result.

    `engine`: that one and no other; `named`: a reference's file, or the name of one that is shipped. Raises
    BadReference and UnknownModel.
    """
    from localfoundry.cli.versions import required

    if not models:
        raise InvalidRequest("no model was named", param="models", hint="foundry eval --fidelity smollm2-135m")
    given = context.settings()
    wanted = [candidate_names.read(given, Candidate(model, model)) for model in models]
    other = next((one.label for one in wanted if one.settings.keys() - {"engine"}), None)
    if other is not None:
        raise InvalidRequest(f"{other}: with --fidelity a model can be given an engine, and no other settings")
    chosen = [(one, choose(given, required(given, one.model), named)) for one in wanted]
    run = fidelity_runs.new_run(chosen[0][1], every)
    found = asyncio.run(_all(given, chosen, engine, every, run))
    results = open_results(given)
    if results is not None:
        with results:
            fidelity_runs.keep(results, run, [(r, one if isinstance(one, Fidelity) else None) for r, one in found])
    if as_json:
        output.document(_document(run, found, every))
    else:
        _show(found)
    failed = [error for _, error in found if isinstance(error, FoundryError)]
    for error in failed if not as_json else ():
        output.failure(error)
    return 1 if len(failed) == len(found) else 0


async def _all(
    given: Settings, chosen: Sequence[tuple[Candidate, Reference]], engine: str | None, every: int, run: Run
) -> list[tuple[CandidateRow, Fidelity | FoundryError]]:
    state = instance.start(given)[0]
    found: list[tuple[CandidateRow, Fidelity | FoundryError]] = []
    async with ServiceClient(state) as client:
        for one, against in chosen:
            row = CandidateRow(run.id, one.label, one.model)
            settings = one.settings or ({"engine": engine} if engine else {})
            wish = {"model": one.model, "engine": settings.get("engine")}
            try:
                account: dict[str, Any] = await client.post("/foundry/load", wish)
                manifest = context.cached(given, one.model)
                row = fidelity_runs.with_version(given, as_loaded(given, row, account), manifest, settings)
                found.append((row, await probe.measure(client, account["id"], against, every, told(one.label))))
            except FoundryError as exc:
                found.append((row, exc))
    if output.shows_progress():
        output.note("\r\x1b[K", end="")
    return found


def told(label: str) -> Callable[[int, int], None]:
    """Says on a terminal how many of its positions are done."""

    def say(done: int, total: int) -> None:
        if output.shows_progress():
            output.note(f"\r{label}: {done}/{total}\x1b[K", end="")

    return say


def _document(run: Run, found: Sequence[tuple[CandidateRow, Fidelity | FoundryError]], every: int) -> dict[str, Any]:
    return {
        "run": run.id,
        "every": every,
        "definitions": fidelity.DEFINITIONS,
        "bounds": {"perplexity": fidelity.PERPLEXITY_BOUND, "top1": fidelity.TOP1_BOUND},
        "models": [
            {"model": row.label, "id": row.model_id, "engine": row.engine, "quantization": row.quantization,
             "sha256": row.file_sha256}
            | ({"error": one.document()} if isinstance(one, FoundryError)
               else msgspec.to_builtins(one) | {"within": one.within})
            for row, one in found
        ],
    }  # fmt: skip


def _show(found: Sequence[tuple[CandidateRow, Fidelity | FoundryError]]) -> None:
    rows = [_cells(row, one) for row, one in found if not isinstance(one, FoundryError)]
    if rows:
        output.table(_COLUMNS, rows)
        output.data()
    for name, meaning in fidelity.DEFINITIONS.items() if rows else ():
        output.data(output.dim(f"{name}: {meaning}"))
    for row, one in found:
        if not isinstance(one, FoundryError) and one.unavailable:
            output.note(f"{row.label}: unavailable: {one.unavailable}")


def _cells(row: CandidateRow, one: Fidelity) -> list[str]:
    return [row.model_id or row.label, row.engine or "unknown", figure(one.kl, "{:.4f}"), figure(one.top1, "{:.1%}"),
            figure(one.perplexity, "{:.4f}"), figure(one.greedy, "{:.0%}"),
            verdict(one)]  # fmt: skip
