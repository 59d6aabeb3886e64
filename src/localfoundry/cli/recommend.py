"""`foundry recommend`: which models to take, for wishes and for a machine, which may be another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from localfoundry.cli import context, output
from localfoundry.errors import DiskError, InvalidResults

if TYPE_CHECKING:
    from localfoundry.advice.glance import Glances
    from localfoundry.advice.machine import Means
    from localfoundry.advice.measured import Measured
    from localfoundry.advice.prospects import Prospect
    from localfoundry.advice.quality import Evidence
    from localfoundry.catalog.lookup import Catalog
    from localfoundry.catalog.model import Model, Variant
    from localfoundry.config import Settings
    from localfoundry.store.manifest import Manifest

_MOST_DESCRIPTION = 2**20 + 1  # bytes that are read: one more than a machine is told in


@click.command("recommend")
@click.option("--task", default="chat", show_default=True, help="What for: chat, code, reasoning, embeddings, rerank.")
@click.option("--ram", metavar="SIZE", help="For that much memory instead of the machine's, for example 8GB.")
@click.option("--min-speed", metavar="TOKENS/S", help="At least so many tokens a second, written to one reader.")
@click.option("--max-ttft", metavar="TIME", help="First token of a prompt of 512 tokens after at most 2s, 500ms…")
@click.option("--license", metavar="NAME", help="Only under this licence, or one that is `permissive`.")
@click.option("--ctx", metavar="TOKENS", help="With room for so many tokens, for example 8k.")
@click.option("--lang", metavar="CODE", help="Count only quality measured in this language, for example da.")
@click.option(
    "--suite", metavar="NAME", help="Count quality measured with this suite; else the one called like the task."
)
@click.option("--top", type=click.IntRange(1, 100), default=3, show_default=True, help="How many to show.")
@click.option("--for-machine", type=click.Path(path_type=Path), metavar="FILE",
              help="For the machine that `foundry hardware --json` described, not for this one.")  # fmt: skip
@context.json_option
@context.uncollected()
def recommend(
    task: str, ram: str | None, min_speed: str | None, max_ttft: str | None, license: str | None, ctx: str | None,
    lang: str | None, suite: str | None, top: int, for_machine: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Say which models to take: those that nobody is shown to beat, with reasons, and why not the others."""
    from localfoundry import engines
    from localfoundry.advice import recommend as advice
    from localfoundry.advice import wishes
    from localfoundry.cli import recommended

    given = context.settings()
    ram_bytes = None if ram is None else wishes.read_ram(ram)
    catalog = context.catalog(given)
    entries = _entries(given, catalog)
    licenses = {name for e in entries if (name := e.variant.license or e.model.license)}
    asked = wishes.read(task, {t for e in entries for t in e.model.tasks}, licenses, min_speed=min_speed,
                        max_ttft=max_ttft, license=license, context=ctx, language=lang)  # fmt: skip
    means = _means(given, for_machine, ram_bytes)
    asked = replace(asked, room_bytes=means.memory_bytes, disk_bytes=means.disk_free_bytes,
                    here=frozenset(e.variant.id for e in entries if e.manifest and not for_machine),
                    formats=frozenset(engines.runnable_formats()))  # fmt: skip
    measured = _measured(given)
    evidence = _evidence(catalog, entries, measured, task, suite)
    look = _Look(given, means, entries, None if for_machine else measured)
    prospects = [look.at(entry, asked.context) for entry in entries]
    found = advice.recommend(prospects, asked, evidence, top=top, at=look.again)
    said = recommended.Setting(means, given.memory_reserve_bytes, for_machine, ram, ram_bytes, top, suite)
    if as_json:
        output.document(recommended.document(found, said))
    else:
        recommended.show(found, said)
    recommended.check(found, said)


@dataclass(frozen=True, slots=True)
class _Entry:
    """One variant that could be taken, with the version of it that is here."""

    model: Model
    variant: Variant
    manifest: Manifest | None


def _entries(given: Settings, catalog: Catalog) -> list[_Entry]:
    """Everything in the catalog, and what is here and in no catalog."""
    from localfoundry.cli.models import own_models

    manifests: Sequence[Manifest] = context.store(given).current()
    here = {m.name: m for m in sorted(manifests, key=lambda m: m.version)}
    known = {v.name for m in catalog.models for v in m.variants}
    return [
        _Entry(model, _effective(variant, here.get(variant.name)), here.get(variant.name))
        for model in (*catalog.models, *own_models(manifests, known))
        for variant in model.variants
    ]


def _effective(variant: Variant, own: Manifest | None) -> Variant:
    """With what is known better of the version that is here."""
    import msgspec

    if own is None:
        return variant
    return msgspec.structs.replace(
        variant, version=own.version, size_bytes=own.size_bytes, quantization=own.quantization or variant.quantization,
        sha256=own.files[0].sha256, context_length=own.context_length or variant.context_length,
        license=own.license or variant.license,
    )  # fmt: skip


def _measured(given: Settings) -> Measured:
    """What was measured, here and by others. A file that cannot be read is told and left out."""
    from localfoundry.advice.measured import Measured
    from localfoundry.results.evidence import Known, known

    try:
        return Measured(known(given.home, output.note))
    except (DiskError, InvalidResults) as exc:
        output.note(f"nothing that was measured counts: {exc.message}")
        return Measured(Known())


def _evidence(
    catalog: Catalog, entries: Sequence[_Entry], measured: Measured, task: str, suite: str | None
) -> list[Evidence]:
    """What the guide declares, and what was measured."""
    from localfoundry.advice import quality
    from localfoundry.catalog.guide import load_guide

    found = quality.declared(load_guide(), catalog)
    for entry in entries:
        found += measured.quality(entry.model.alias, entry.variant, task, suite or task)
    return found


def _means(given: Settings, described: Path | None, ram_bytes: int | None) -> Means:
    """What the machine that is meant could give, with `--ram` in place of its memory. Raises InvalidMachine."""
    import msgspec

    from localfoundry.advice import machine as means
    from localfoundry.cli.prospects import here
    from localfoundry.hardware.machine import MemoryFacts, decode
    from localfoundry.hardware.survey import Probe, survey

    if described is None and ram_bytes is None:
        return here(given)
    found = survey(given.home, Probe.ONCE) if described is None else decode(_content(described), str(described))
    if ram_bytes is not None:
        facts = MemoryFacts(total_bytes=ram_bytes, available_bytes=ram_bytes, machine_bytes=ram_bytes)
        found = msgspec.structs.replace(found, memory=facts)
    if described is None:
        return means.of_this(found, replace(given, memory_limit_bytes=0))
    made = means.of_other(found, given, described.name)
    # Of a machine that is only described, all of its memory counts where it was not said how much of that was free.
    return made if made.free_bytes is not None else replace(made, free_bytes=made.memory_bytes)


def _content(path: Path) -> bytes:
    from localfoundry.errors import InvalidMachine

    try:
        with path.open("rb") as stream:
            return stream.read(_MOST_DESCRIPTION)
    except (OSError, ValueError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else str(exc)
        raise InvalidMachine(f"cannot read {path}: {why}",
                             hint="foundry hardware --json > machine.json, on that machine") from exc  # fmt: skip


class _Look:
    """The prospects of entries on one machine."""

    def __init__(self, given: Settings, means: Means, entries: Sequence[_Entry], measured: Measured | None) -> None:
        """`measured` None: what was measured is of another machine."""
        from localfoundry.cli.prospects import in_another
        from localfoundry.fit.calibration import Calibration
        from localfoundry.results import outliers, place

        self._store = context.store(given)
        self._calibration = Calibration(given.home / "calibration.json")
        self._means = means
        self._entries = entries
        self._by_id: dict[str, _Entry] = {}
        self._glances: dict[int | None, Glances] = {}
        self._measured = measured
        self._machine = outliers.machine_words(place.machine_facts())
        self._others = in_another(given, [entry.manifest for entry in entries if entry.manifest is not None])

    def at(self, entry: _Entry, tokens: int | None) -> Prospect:
        """With a context of so many tokens; None: what a load would get."""
        from localfoundry.advice.glance import Glances
        from localfoundry.advice.prospects import in_full, outlined
        from localfoundry.engines import llama_fit

        own = entry.manifest
        shape = llama_fit.shape_of(own, self._store.main_file(own)) if own and own.format == "gguf" else None
        glances = self._glances.get(tokens)
        if glances is None:
            glances = self._glances[tokens] = Glances(self._means, tokens, self._calibration, self._others)
        found = outlined(glances, entry.model, entry.variant, shape)
        if self._measured is None or (found.decode is not None and found.decode.source != "predicted"):
            return found  # the estimate has learned from this machine already
        rate = self._measured.decode(entry.variant, self._machine, glances.engine(entry.variant))
        return found if rate is None else replace(in_full(glances, entry.model, entry.variant, shape), decode=rate)

    def again(self, known: Prospect, tokens: int) -> Prospect:
        """The same variant with another context."""
        if not self._by_id:
            self._by_id = {entry.variant.id: entry for entry in self._entries}
        return self.at(self._by_id[known.variant], tokens)
