"""`foundry eval --fidelity`: how far what runs here is from the source weights in float32."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from localfoundry import instance
from localfoundry.cli import context, output
from localfoundry.cli.bench_run import open_results
from localfoundry.cli.loading import as_loaded
from localfoundry.client import ServiceClient
from localfoundry.errors import BadReference, FoundryError, InvalidRequest
from localfoundry.quality import fidelity, probe, reference
from localfoundry.results import place
from localfoundry.results.db import now
from localfoundry.results.rows import CandidateRow, ItemRow, Run, new_id

if TYPE_CHECKING:
    from localfoundry.config import Settings
    from localfoundry.quality.fidelity import Estimate, Fidelity
    from localfoundry.quality.reference import Reference
    from localfoundry.store.manifest import Manifest

SUITE = "fidelity"
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
    chosen = [(model, choose(given, required(given, model), named)) for model in models]
    run = Run(new_id(), "eval", now(), machine=place.machine_facts(), versions=place.versions(),
              protocol={"fidelity": {"reference": chosen[0][1].packed.source_sha256, "every": every,
                                     "top": probe.TOP}})  # fmt: skip
    found = asyncio.run(_all(given, chosen, engine, every, run))
    _keep(given, run, found)
    if as_json:
        output.document(_document(run, found, every))
    else:
        _show(found)
    failed = [error for _, error in found if isinstance(error, FoundryError)]
    for error in failed if not as_json else ():
        output.failure(error)
    return 1 if len(failed) == len(found) else 0


def choose(given: Settings, manifest: Manifest, named: str | None) -> Reference:
    """The reference of a version: that of its own bytes, or of those it was made of; or the one that is named."""
    if named is not None:
        path = next((p for p in reference.shipped() if p.stem == named), Path(named))
        found = reference.read(path)
        _same_tokens(given, manifest, found, path.name)
        return found
    sums = {f.sha256 for f in manifest.files} | ({manifest.recipe.source_sha256} if manifest.recipe else set())
    for path in reference.shipped():
        found = reference.read(path)
        if sums.intersection(found.packed.source_sha256):
            return found
    names = ", ".join(p.stem for p in reference.shipped())
    raise BadReference(
        f"there is no reference for {manifest.id}; those that are shipped: {names}",
        hint=f"foundry eval --fidelity {manifest.alias} --reference FILE (benchmarks/fidelity_reference.py makes one)",
    )


def _same_tokens(given: Settings, manifest: Manifest, found: Reference, name: str) -> None:
    """Token ids must mean the same. Raises BadReference."""
    if manifest.format != "gguf":
        return
    from localfoundry.formats.gguf import read_gguf
    from localfoundry.formats.tokens import sha256_of_tokens

    path = context.store(given).main_file(manifest)
    if sha256_of_tokens(path, read_gguf(path)) != found.packed.tokenizer_sha256:
        raise BadReference(f"{name} was made with another tokenizer than that of {manifest.id}")


async def _all(
    given: Settings, chosen: Sequence[tuple[str, Reference]], engine: str | None, every: int, run: Run
) -> list[tuple[CandidateRow, Fidelity | FoundryError]]:
    state = instance.start(given)[0]
    found: list[tuple[CandidateRow, Fidelity | FoundryError]] = []
    async with ServiceClient(state) as client:
        for model, against in chosen:
            row = CandidateRow(run.id, model, model)
            try:
                account: dict[str, Any] = await client.post("/foundry/load", {"model": model, "engine": engine})
                row = as_loaded(given, row, account)
                found.append((row, await probe.measure(client, account["id"], against, every, _told(model))))
            except FoundryError as exc:
                found.append((row, exc))
    if output.shows_progress():
        output.note("\r\x1b[K", end="")
    return found


def _told(model: str) -> Any:
    def told(done: int, total: int) -> None:
        if output.shows_progress():
            output.note(f"\r{model}: {done}/{total}\x1b[K", end="")

    return told


def _keep(given: Settings, run: Run, found: Sequence[tuple[CandidateRow, Fidelity | FoundryError]]) -> None:
    """As a run of `eval` with one item a model, which was not judged right or wrong."""
    results = open_results(given)
    if results is None:
        return
    with results:
        results.begin(run, [row for row, _ in found])
        for row, one in found:
            if not isinstance(one, FoundryError):
                results.add_item(
                    ItemRow(run.id, row.label, SUITE, "summary", "", None, msgspec.json.encode(one).decode())
                )
        results.finish(run.id)


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
    verdict = {True: "yes", False: "no", None: "not shown"}[one.within]
    return [row.model_id or row.label, row.engine or "unknown", _figure(one.kl, "{:.4f}"), _figure(one.top1, "{:.1%}"),
            _figure(one.perplexity, "{:.4f}"), _figure(one.greedy, "{:.0%}"),
            "unavailable" if one.unavailable else verdict]  # fmt: skip


def _figure(found: Estimate | None, form: str) -> str:
    if found is None:
        return "unavailable"
    return f"{form.format(found.value)} ({form.format(found.low)} to {form.format(found.high)})"
