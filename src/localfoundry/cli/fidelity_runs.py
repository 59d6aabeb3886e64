"""Fidelity as it is kept: which reference a version has, runs written, and found again for the same file and engine.

A run of it is a run of `eval` with one item for each candidate, which was not judged right or wrong. A figure counts
for exact bytes, an engine with its version, and the arguments that a person gave to it: those of the cache change it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from localfoundry.cli import context, engine_choice
from localfoundry.compare.faithful import SUITE, Faithful, read
from localfoundry.errors import BadReference
from localfoundry.quality import own_reference, probe, reference
from localfoundry.results import place
from localfoundry.results.db import Results, now
from localfoundry.results.rows import CandidateRow, ItemRow, Run, new_id

if TYPE_CHECKING:
    from localfoundry.config import Settings
    from localfoundry.quality.fidelity import Fidelity
    from localfoundry.quality.reference import Reference
    from localfoundry.store.manifest import Manifest
    from localfoundry.store.store import Store


def choose(given: Settings, manifest: Manifest, named: str | None) -> Reference:
    """The reference of a version: that of its own bytes, or of those it was made of; or the one that is named."""
    if named is not None:
        path = next((p for p in reference.shipped() if p.stem == named), Path(named))
        found = reference.read(path)
        _same_tokens(given, manifest, found, path.name)
        return found
    sums = _ancestry(context.store(given), manifest)
    own = own_reference.known(given, sums)
    if own is not None:
        return own
    names = ", ".join(p.stem for p in reference.shipped())
    raise BadReference(
        f"there is no reference for {manifest.id}; those that are shipped: {names}",
        hint=f"foundry eval --fidelity {manifest.alias} --reference FILE (benchmarks/fidelity_reference.py makes one)",
    )


def _ancestry(store: Store, manifest: Manifest) -> set[str]:
    """Sums of its files and of those that it was made of, as far back as their versions are here."""
    known = {file.sha256: other for other in store.manifests() for file in other.files}
    found: set[str] = set()
    current: Manifest | None = manifest
    while current is not None:
        found |= {file.sha256 for file in current.files}
        source = current.recipe.source_sha256 if current.recipe else ""
        current = None if source in found else known.get(source)
        found |= {source} - {""}
    return found


def _same_tokens(given: Settings, manifest: Manifest, found: Reference, name: str) -> None:
    """Token ids must mean the same. Raises BadReference."""
    if manifest.format != "gguf":
        return
    from localfoundry.formats.gguf import read_gguf
    from localfoundry.formats.tokens import sha256_of_tokens

    path = context.store(given).main_file(manifest)
    if sha256_of_tokens(path, read_gguf(path)) != found.packed.tokenizer_sha256:
        raise BadReference(f"{name} was made with another tokenizer than that of {manifest.id}")


def new_run(against: Reference, every: int) -> Run:
    """A run at each `every`th position of a reference; more candidates than one may be measured in it."""
    said = {**_named(against), "every": every, "top": probe.TOP, "exact": True}
    return Run(new_id(), "eval", now(), machine=place.machine_facts(), versions=place.versions(),
               protocol={"fidelity": said})  # fmt: skip


def _named(against: Reference) -> dict[str, object]:
    return {"reference": list(against.packed.source_sha256), "of": against.positions}


def with_version(
    given: Settings, row: CandidateRow, manifest: Manifest | None, settings: Mapping[str, int | str]
) -> CandidateRow:
    """A loaded candidate's row with what its fidelity depends on besides: the engine's version, and its arguments."""
    found = engine_choice.first(given, manifest, settings) if manifest is not None else None
    if found is None or not engine_choice.is_by(found.engine.name, row.engine):
        return row
    return msgspec.structs.replace(row, engine_version=engine_choice.version_words(given, found))


def keep(results: Results, run: Run, found: Sequence[tuple[CandidateRow, Fidelity | None]]) -> None:
    """A finished run; None: there is no figure of that candidate."""
    results.begin(run, [row for row, _ in found])
    for row, one in found:
        if one is not None:
            results.add_item(ItemRow(run.id, row.label, SUITE, "summary", "", None, msgspec.json.encode(one).decode()))
    results.finish(run.id)


def kept(
    results: Results, row: CandidateRow, against: Reference | None = None, every: int | None = None
) -> Faithful | None:
    """The figure of this file in this engine with the most positions, the latest of them; None: there is none.

    `against`, `every`: only of that reference, and not of fewer positions than each `every`th; None: any. Where `row`
    does not tell the engine's version (an older run), a figure of any counts.
    """
    if row.file_sha256 is None or row.engine is None:
        return None
    found: list[tuple[int, str, Faithful]] = []
    for run in _runs(results, against, every):
        figures = read(results, run)
        for other in results.candidates(run.id):
            same = (other.file_sha256, other.engine) == (row.file_sha256, row.engine)
            if same and row.engine_version in (None, other.engine_version) and other.label in figures:
                one = figures[other.label]
                found.append((one.fidelity.positions, run.started_at, one))
    return max(found, key=lambda each: each[:2])[2] if found else None


def _runs(results: Results, against: Reference | None, every: int | None) -> Iterable[Run]:
    for run in results.runs("eval"):
        said = run.protocol.get("fidelity")
        # Runs of before `exact` counted a token outside the likeliest as one of all others: half of what types lose.
        if not isinstance(said, dict) or not said.get("exact"):
            continue
        steps = said.get("every")
        if not isinstance(steps, int) or (every is not None and steps > every):
            continue
        if against is None or {"reference": said.get("reference"), "of": said.get("of")} == _named(against):
            yield run
