"""`foundry bench`: load, warm up, measure in turns, and say what the figures allow to be said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import msgspec

from localfoundry import instance
from localfoundry.cli import context, output
from localfoundry.cli.pull import pull_model
from localfoundry.config import Settings
from localfoundry.errors import InvalidRequest

if TYPE_CHECKING:
    from localfoundry.bench.expected import Expected
    from localfoundry.bench.run import Candidate, Measurement, Sample
    from localfoundry.instance import ServiceState


@click.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--rounds", type=click.IntRange(1, 1000), default=5, show_default=True, help="Measured runs of each.")
@click.option("--max-tokens", "max_tokens", type=click.IntRange(1), multiple=True, default=(64,), show_default=True,
              help="Tokens to answer with; give it twice to measure each model in two settings.")  # fmt: skip
@click.option("--prompt-words", type=click.IntRange(1, 100_000), default=60, show_default=True, help="Prompt length.")
@click.option("--prompt", help="Measure with this prompt; a distinct mark still leads each request.")
@click.option("--seed", type=int, default=42, show_default=True, help="Of prompts and sampling.")
@context.json_option
def bench(models: tuple[str, ...], rounds: int, max_tokens: tuple[int, ...], prompt_words: int, prompt: str | None,
          seed: int, as_json: bool) -> int:  # fmt: skip
    """Measure models: first token, prefill, decode, latency, load, with intervals, and compare them."""
    from localfoundry.bench import report
    from localfoundry.bench.run import Candidate

    given = context.settings()
    if len(set(models)) < len(models):
        raise InvalidRequest("a model is named twice", hint="--max-tokens 32 --max-tokens 128 measures two settings")
    candidates = [
        Candidate(
            label=model if len(max_tokens) == 1 else f"{model} ({count} tokens)",
            model=model,
            max_tokens=count,
            prompt_words=prompt_words,
            prompt=prompt,
        )
        for model in models
        for count in max_tokens
    ]
    for model in models:
        if context.cached(given, model) is None:
            pull_model(given, model, quiet=as_json)
    state, _ = instance.start(given)
    result, loaded = _measure(given, state, candidates, rounds, seed)
    facts, expected = _facts(loaded), _expected(given, result, loaded)
    if as_json:
        told = {"expected": [msgspec.to_builtins(one) for one in expected]}
        output.document(report.document(result, facts) | told)
    else:
        _show(result, given, models, candidates, expected)
    return 130 if result.interrupted else 0


def _measure(
    given: Settings, state: ServiceState, candidates: list[Candidate], rounds: int, seed: int
) -> tuple[Measurement, dict[str, dict[str, Any]]]:
    import asyncio

    from localfoundry.bench.run import measure
    from localfoundry.client import ServiceClient, authorization, trust

    loaded: dict[str, dict[str, Any]] = {}
    total = len(candidates) * (rounds + 1)
    done = 0

    def told(sample: Sample) -> None:
        nonlocal done
        done += 1
        what = "warm-up" if sample.round == 0 else f"round {sample.round} of {rounds}"
        output.note(f"\r{done}/{total}  {sample.label}: {what}\x1b[K", end="")

    async def work() -> Measurement:
        async with ServiceClient(state) as client:

            async def load(model: str) -> float:
                # The first one makes room, the others stay beside it, so that they can be measured in turns. A model
                # that was loaded already would have no load time: it is loaded anew.
                await client.post("/foundry/unload", {"model": model})
                account = await client.post("/foundry/load", {"model": model, "retain": bool(loaded)})
                loaded[model] = account
                return float(account["load_s"])

            return await measure(
                state.url,
                candidates,
                load,
                rounds=rounds,
                seed=seed,
                headers=authorization(state),
                verify=trust(state),
                on_sample=told if output.shows_progress() else None,
            )

    result = asyncio.run(work())
    if output.shows_progress():
        output.note("\r\x1b[K", end="")
    return result, loaded


def _facts(loaded: dict[str, dict[str, Any]]) -> dict[str, Any]:
    from localfoundry.bench.report import ModelFacts

    return {
        model: ModelFacts(engine=account["engine"], quantization=account["quantization"], file_sha256=account["sha256"])
        for model, account in loaded.items()
    }


def _expected(given: Settings, result: Measurement, loaded: dict[str, dict[str, Any]]) -> list[Expected]:
    """What the estimator expected of what was measured, which corrects it; nothing where it cannot say."""
    from localfoundry import engines
    from localfoundry.advice.processor import processor_of
    from localfoundry.bench.expected import compared
    from localfoundry.engines import llama_fit
    from localfoundry.hardware.survey import Probe, survey
    from localfoundry.service import learning

    found: list[Expected] = []
    for outcome in result.outcomes:
        manifest = context.cached(given, outcome.candidate.model)
        if manifest is None or manifest.format != "gguf" or outcome.candidate.model not in loaded or not outcome.good:
            continue
        engine = engines.choose(manifest.format).version(given)
        processor = processor_of(survey(given.home, Probe.NEVER), native=engine.startswith("native "))
        shape = llama_fit.shape_of(manifest, context.store(given).main_file(manifest))
        if processor is None or shape is None:
            continue
        chosen = given.defaults_for((manifest.alias, manifest.name, manifest.id))
        size = int(loaded[outcome.candidate.model]["context"])
        load = llama_fit.load_of(manifest.tasks, size, chosen.parallel or given.parallel, chosen.engine_arguments)
        subject = learning.subject_of(engine, manifest, shape)
        found += compared(outcome, shape, load, processor, subject, given.home / learning.FILE)
    return found


def _show(
    result: Measurement, given: Settings, models: tuple[str, ...], candidates: list[Candidate], expected: list[Expected]
) -> None:
    from localfoundry.bench import report
    from localfoundry.bench.expected import words

    table = report.table(result)
    output.table(table.columns, table.rows)
    output.data()
    for one in expected:
        output.data(words(one))
    for name, meaning in report.DEFINITIONS.items():
        output.data(output.dim(f"{name}: {meaning}"))
    output.data()
    output.data(report.comparison_block(result, _descriptions(given, models, candidates)))


def _descriptions(given: Settings, models: tuple[str, ...], candidates: list[Candidate]) -> dict[str, str]:
    """What the course says a model is good for, by the name it was called here."""
    from localfoundry.catalog.guide import load_guide

    catalog = context.catalog(given)
    notes = {catalog.require(n.model)[0].alias: n.note for c in load_guide().categories for n in c.models}
    found: dict[str, str] = {}
    for name in models:
        entry = catalog.find(name)
        if entry is not None and entry[0].alias in notes:
            found[name] = notes[entry[0].alias]
    return found
