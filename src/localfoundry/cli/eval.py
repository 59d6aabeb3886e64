"""`foundry eval`: suites of tasks put to models, the table of what they solved, and what that allows to be said."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from localfoundry.cli import candidate_names, context, output
from localfoundry.cli.endpoint_options import endpoint_options, keys_of, read_endpoints
from localfoundry.cli.plain import plain
from localfoundry.errors import InvalidRequest, UsageError

if TYPE_CHECKING:
    from localfoundry.bench.candidates import Candidate
    from localfoundry.config import Settings
    from localfoundry.quality.record import Record
    from localfoundry.quality.results import Remote
    from localfoundry.quality.suite import Language, Suite


@click.command("eval")
@click.argument("models", nargs=-1)
@click.option("--suite", "suites", help="Packs and files, with commas between; all packs when left out.")
@click.option("--lang", help="Languages of the packs: en, da or en,da (default: both).")
@click.option("--items", type=click.IntRange(1), help="At most so many items of each suite, evenly over it.")
@endpoint_options
@click.option("--extra-tokens", type=click.IntRange(0, 100_000), default=0, show_default=True,
              help="Added to what each item allows, for models that reason before they answer.")  # fmt: skip
@click.option("--timeout", "timeout_s", type=click.FloatRange(1, 86_400), default=300, show_default=True,
              help="Seconds for one answer.")  # fmt: skip
@click.option("--seed", type=int, default=42, show_default=True, help="Of sampling; the temperature is 0.")
@click.option("--resume", is_flag=True, help="Go on with the last run of the same models, suites and settings.")
@click.option("--list", "as_list", is_flag=True, help="List the packs.")
@click.option("--check", "checked", metavar="FILE", help="Try a suite on its own key, and ask no model.")
@click.option("--fidelity", is_flag=True, help="Compare with the source weights in float32 instead of asking tasks.")
@click.option(
    "--engine", help="The engine that runs the local models, and no other; MODEL@engine=NAME for one of them."
)
@click.option("--reference", metavar="FILE", help="What --fidelity compares with; the shipped one when left out.")
@click.option("--every", type=click.IntRange(1, 256), default=8, show_default=True,
              help="With --fidelity: only each N-th position of the text.")  # fmt: skip
@context.json_option
def evaluate(models: tuple[str, ...], suites: str | None, lang: str | None, items: int | None, extra_tokens: int,
             timeout_s: float, seed: int, resume: bool, as_list: bool, checked: str | None, fidelity: bool,
             engine: str | None, reference: str | None, every: int, as_json: bool,
             **endpoints: Any) -> int:  # fmt: skip
    """Judge models by tasks with answers that can be checked: accuracy with intervals, and time per solved task."""
    if as_list:
        return _list(as_json)
    if checked is not None:
        return _check(checked, as_json)
    if fidelity:
        from localfoundry.cli.eval_fidelity import measure

        return measure(models, engine, reference, every, as_json)
    from localfoundry.quality.results import Plan, SuiteRun

    given = context.settings()
    candidates = _candidates(given, models, engine, endpoints)

    chosen = _suites(suites, lang, items)
    plan = Plan(
        models=tuple(candidate.label for candidate in candidates),
        suites=tuple(SuiteRun(s.name, s.language, s.sha256, tuple(i.id for i in s.items)) for s in chosen),
        remotes=_remotes(candidates),
        currency=endpoints["currency"],
        seed=seed,
        extra_tokens=extra_tokens,
    )
    from localfoundry.cli.eval_run import Evaluation

    keys = keys_of(candidates)
    evaluation = Evaluation(given, plan, candidates, keys, chosen, timeout_s, quiet=as_json)
    record, interrupted = evaluation.run(resume=resume)
    _show(record, interrupted, as_json)
    if interrupted:
        return 130
    return 1 if all(result.error for result in record.items) else 0


def _candidates(
    given: Settings, models: tuple[str, ...], engine: str | None, endpoints: dict[str, Any]
) -> list[Candidate]:
    """Local models, then endpoints. Raises UsageError for none, InvalidRequest for two of one name or one kind."""
    from localfoundry.bench import candidates as listed
    from localfoundry.bench.candidates import Candidate

    if len(set(models)) < len(models):
        raise InvalidRequest("a model is named twice; its answers would be the same", param="models")
    named = [candidate_names.with_engine(model, engine) if engine else model for model in models]
    local = [candidate_names.read(given, Candidate(name, name)) for name in named]
    found = local + read_endpoints(endpoints)
    if not found:
        raise UsageError("no model was named", hint="foundry eval smollm2-135m --suite chat --lang en")
    candidate_names.check_distinct(given, local)
    listed.check(found)
    return found


def _remotes(candidates: list[Candidate]) -> dict[str, Remote]:
    from localfoundry.quality.results import Remote

    return {
        c.label: Remote(c.model, c.endpoint, c.key_env, c.price_in, c.price_out, c.parameters)
        for c in candidates
        if c.endpoint is not None
    }


def _suites(named: str | None, lang: str | None, items: int | None) -> list[Suite]:
    """The suites that were asked for. A word is a pack; anything with a dot or a slash in it is a file."""
    import msgspec

    from localfoundry.quality import checks
    from localfoundry.quality import suite as reading

    languages = _languages(lang)
    found: list[Suite] = []
    for name in named.split(",") if named else reading.PACKS:
        if name.strip() in reading.PACKS:
            found += [reading.pack(name.strip(), language) for language in languages]
        elif Path(name).suffix or "/" in name or os.sep in name:
            found.append(reading.load(Path(name)))
            checks.usable(found[-1])
        else:
            raise UsageError(f"there is no pack {name.strip()!r}", hint="foundry eval --list")
    names = [(suite.name, suite.language) for suite in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InvalidRequest(f"two suites are called {' '.join(twice)}; results could not be told apart", param="suite")
    if items is not None:
        found = [msgspec.structs.replace(suite, items=reading.spread(suite.items, items)) for suite in found]
    return found


def _languages(lang: str | None) -> list[Language]:
    from localfoundry.quality.suite import LANGUAGES

    words = [word.strip().lower() for word in lang.split(",")] if lang else list(LANGUAGES)
    known = [language for language in LANGUAGES if language in words]
    if len(known) < len(set(words)):
        raise UsageError(f"{lang!r} names a language that no pack has; there are {', '.join(LANGUAGES)}")
    return known


def _show(record: Record, interrupted: bool, as_json: bool) -> None:
    from localfoundry.quality import cost, report, score

    results = record.items
    if record.problem:
        output.note(f"not everything that was measured is kept: {record.problem}")
    if as_json:
        output.document(report.document(record.run, record.candidates, results, interrupted))
        return
    columns, rows = report.table(score.scores(results), cost.spent(results, record.candidates), _currency(record))
    output.table(columns, rows)
    if compared := report.sentences(score.differences(results)):
        output.data()
    for sentence in compared:
        output.data(sentence)
    output.data()
    for name, meaning in report.definitions(record.candidates).items():
        output.data(output.dim(f"{name}: {meaning}"))
    for sentence in report.remarks(results):
        output.note(plain(sentence))
    if not record.kept:
        return
    name = record.run.id[-6:].lower()
    output.note(f"kept as run {name}" + ("; cut short, --resume goes on" if interrupted else ""))
    if not interrupted and len(record.candidates) > 1:
        models = " ".join(row.label for row in record.candidates)
        output.note(f"  to judge the answers yourself: foundry rate {models} --run {name}")


def _currency(record: Record) -> str:
    """What the prices of the run are in; empty where nobody said."""
    plan = record.run.protocol.get("plan")
    return str(plan.get("currency", "")) if isinstance(plan, dict) else ""


def _list(as_json: bool) -> int:
    from localfoundry.quality import suite as reading

    packs = [reading.pack(name, language) for name in reading.PACKS for language in reading.LANGUAGES]
    if as_json:
        output.document([{"suite": p.name, "language": p.language, "items": len(p.items), "sha256": p.sha256,
                          "about": p.about} for p in packs])  # fmt: skip
        return 0
    output.table(
        ("Suite", "Language", "Items", "About"), [(p.name, p.language, str(len(p.items)), p.about) for p in packs]
    )
    return 0


def _check(name: str, as_json: bool) -> int:
    """Exit status 1 where the key does not fit."""
    from localfoundry.quality import key
    from localfoundry.quality import suite as reading

    suites = _suites(name, None, None) if name in reading.PACKS else [reading.load(Path(name))]
    found = {f"{suite.name} ({suite.language})": key.faults(suite) for suite in suites}
    if as_json:
        output.document(found)
    for suite, faults in found.items() if not as_json else ():
        items = next(len(s.items) for s in suites if f"{s.name} ({s.language})" == suite)
        output.data(f"{suite}: {items} items, {len(faults)} faults")
        for fault in faults:
            output.data(f"  {fault}")
    return 1 if any(found.values()) else 0
