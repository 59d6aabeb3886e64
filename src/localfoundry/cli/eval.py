"""`foundry eval`: suites of tasks put to models, the table of what they solved, and what that allows to be said."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from localfoundry.cli import context, output
from localfoundry.config import Settings
from localfoundry.errors import FoundryError, InvalidRequest, UsageError

if TYPE_CHECKING:
    from localfoundry.client import ServiceClient
    from localfoundry.quality.ask import Endpoint
    from localfoundry.quality.results import ItemResult, Plan, ResultFile, Run
    from localfoundry.quality.run import Group
    from localfoundry.quality.suite import Language, Suite


@click.command("eval")
@click.argument("models", nargs=-1)
@click.option("--suite", "suites", help="Packs and files, with commas between; all packs when left out.")
@click.option("--lang", help="Languages of the packs: en, da or en,da (default: both).")
@click.option("--items", type=click.IntRange(1), help="At most so many items of each suite, evenly over it.")
@click.option("--endpoint", help="Ask MODEL… at this OpenAI-compatible address instead of the local service.")
@click.option("--api-key-env", help="Environment variable that holds the API key for --endpoint.")
@click.option("--extra-tokens", type=click.IntRange(0, 100_000), default=0, show_default=True,
              help="Added to what each item allows, for models that reason before they answer.")  # fmt: skip
@click.option("--timeout", "timeout_s", type=click.FloatRange(1, 86_400), default=300, show_default=True,
              help="Seconds for one answer.")  # fmt: skip
@click.option("--seed", type=int, default=42, show_default=True, help="Of sampling; the temperature is 0.")
@click.option("--resume", is_flag=True, help="Go on with the last run of the same models, suites and settings.")
@click.option("--list", "as_list", is_flag=True, help="List the packs.")
@click.option("--check", "checked", metavar="FILE", help="Try a suite on its own key, and ask no model.")
@context.json_option
def evaluate(models: tuple[str, ...], suites: str | None, lang: str | None, items: int | None, endpoint: str | None,
             api_key_env: str | None, extra_tokens: int, timeout_s: float, seed: int, resume: bool, as_list: bool,
             checked: str | None, as_json: bool) -> int:  # fmt: skip
    """Judge models by tasks with answers that can be checked: accuracy with intervals, and time per solved task."""
    if as_list:
        return _list(as_json)
    if checked is not None:
        return _check(checked, as_json)
    if not models:
        raise UsageError("no model was named", hint="foundry eval smollm2-135m --suite chat --lang en")
    from localfoundry.quality.results import Plan, SuiteRun

    chosen = _suites(suites, lang, items)
    plan = Plan(
        models=_distinct(models),
        suites=tuple(SuiteRun(s.name, s.language, s.sha256, tuple(i.id for i in s.items)) for s in chosen),
        endpoint=endpoint or "",
        seed=seed,
        extra_tokens=extra_tokens,
    )
    session = _Session(context.settings(), plan, chosen, timeout_s, resume, quiet=as_json)
    run, results, interrupted = session.remote(_key(api_key_env)) if endpoint else session.local()
    _show(run, results, interrupted, session.path, as_json)
    if interrupted:
        return 130
    return 1 if all(result.error for result in results) else 0


def _distinct(models: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(models)) < len(models):
        raise InvalidRequest("a model is named twice; its answers would be the same", param="models")
    return models


def _key(variable: str | None) -> dict[str, str]:
    if variable is None:
        return {}
    key = os.environ.get(variable)
    if not key:
        raise InvalidRequest(f"the environment variable {variable} is not set", param="api-key-env")
    return {"Authorization": f"Bearer {key}"}


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


class _Session:
    """One run: the file it is kept in, where models are asked, and the line of progress."""

    def __init__(
        self, given: Settings, plan: Plan, suites: list[Suite], timeout_s: float, resume: bool, quiet: bool
    ) -> None:
        self.given = given
        self.plan = plan
        self.suites = suites
        self.timeout_s = timeout_s
        self.resume = resume
        self.quiet = quiet
        self.path = Path()
        self._began = time.monotonic()
        self._asked = 0
        self._left = len(plan.models) * sum(len(suite.items) for suite in suites)

    def remote(self, headers: Mapping[str, str]) -> tuple[Run, list[ItemResult], bool]:
        import asyncio

        from localfoundry.quality.ask import Endpoint
        from localfoundry.quality.run import Group

        async def work() -> bool:
            async with Endpoint(self.plan.endpoint, headers, timeout_s=self.timeout_s) as endpoint:
                return await self._evaluate(endpoint, [Group(self.plan.models)], {})

        return self._outcome(asyncio.run(work()))

    def local(self) -> tuple[Run, list[ItemResult], bool]:
        import asyncio

        from localfoundry import instance
        from localfoundry.cli.pull import pull_model
        from localfoundry.client import ServiceClient, authorization, trust
        from localfoundry.quality.ask import Endpoint

        for model in self.plan.models:
            if context.cached(self.given, model) is None:
                pull_model(self.given, model, quiet=self.quiet)
        state, _ = instance.start(self.given)

        async def work() -> bool:
            async with (
                ServiceClient(state) as client,
                Endpoint(state.url, authorization(state), trust(state), self.timeout_s) as endpoint,
            ):
                groups, facts = await _load(client, self.plan.models)
                return await self._evaluate(endpoint, groups, facts)

        return self._outcome(asyncio.run(work()))

    async def _evaluate(self, endpoint: Endpoint, groups: list[Group], facts: dict[str, dict[str, Any]]) -> bool:
        from localfoundry.quality.results import read
        from localfoundry.quality.run import evaluate

        with self._file(facts) as file:
            self.path = file.path
            # What had no answer is asked again.
            done = {result.key for result in read(file.path)[1] if result.error is None}
            self._left -= len(done)
            self._began = time.monotonic()
            return await evaluate(
                endpoint,
                self.plan,
                self.suites,
                groups,
                file,
                done=done,
                on_result=self._told if output.shows_progress() else None,
            )

    def _file(self, facts: dict[str, dict[str, Any]]) -> ResultFile:
        from datetime import UTC, datetime

        import msgspec

        from localfoundry import __version__
        from localfoundry.bench.report import machine
        from localfoundry.quality import sandbox
        from localfoundry.quality.results import ResultFile, Run, latest

        if self.resume:
            return ResultFile.reopen(latest(self.given.home, self.plan))
        run = Run(
            plan=self.plan,
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
            version=__version__,
            facts=facts,
            machine=msgspec.to_builtins(machine()),
            sandbox=sandbox.isolation(),
        )
        return ResultFile.create(self.given.home, run)

    def _told(self, result: ItemResult) -> None:
        self._asked += 1
        left = self._left - self._asked
        remaining_s = left * (time.monotonic() - self._began) / self._asked
        word = "error" if result.error else "passed" if result.passed else "failed"
        line = f"{self._asked}/{self._left}  {result.model}: {result.item} {word}; about {remaining_s:.0f} s left"
        output.note(f"\r{line}\x1b[K", end="")

    def _outcome(self, interrupted: bool) -> tuple[Run, list[ItemResult], bool]:
        from localfoundry.quality.results import read

        if output.shows_progress():
            output.note("\r\x1b[K", end="")
        run, results = read(self.path)
        assert run is not None, "the file began with it"
        return run, results, interrupted


async def _load(client: ServiceClient, models: tuple[str, ...]) -> tuple[list[Group], dict[str, dict[str, Any]]]:
    """Load all models beside each other; those that memory does not allow follow one at a time."""
    from localfoundry.quality.run import Group, failed_load

    facts: dict[str, dict[str, Any]] = {}

    async def load(model: str, retain: bool) -> None:
        account = await client.post("/foundry/load", {"model": model, "retain": retain})
        wanted = ("id", "engine", "quantization", "sha256", "context", "load_s")
        facts[model] = {name: account[name] for name in wanted}

    for model in models:
        try:
            await load(model, retain=bool(facts))
        except FoundryError:
            continue  # asked for again in a group of its own, where the error is kept
    resident = {entry["id"] for entry in await client.get("/foundry/ps")}
    together = tuple(model for model in models if model in facts and facts[model]["id"] in resident)

    def alone(model: str) -> Group:
        async def prepare() -> dict[str, str]:
            try:
                await load(model, retain=False)
            except FoundryError as exc:
                return {model: failed_load(exc)}
            return {}

        return Group((model,), prepare)

    return [Group(together), *(alone(model) for model in models if model not in together)], facts


def _show(run: Run, results: list[ItemResult], interrupted: bool, path: Path, as_json: bool) -> None:
    from localfoundry.quality import report, score

    if as_json:
        output.document(report.document(run, results, interrupted))
        return
    output.table(report.COLUMNS, report.rows(score.scores(results)))
    if compared := report.sentences(score.differences(results)):
        output.data()
    for sentence in compared:
        output.data(sentence)
    output.data()
    for name, meaning in report.DEFINITIONS.items():
        output.data(output.dim(f"{name}: {meaning}"))
    for model, error in report.errors(results).items():
        output.note(f"{model}: {error}")
    if interrupted:
        output.note("cut short; what was measured is kept, --resume goes on")
    output.note(f"every answer: {path}")


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
