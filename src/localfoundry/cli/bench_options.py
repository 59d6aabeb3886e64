"""The options of `foundry bench run`, read into a plan and candidates. The environment's `BENCH_…` names count as flags
do, and flags win.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from localfoundry.cli.endpoint_options import endpoint_options, read_endpoints
from localfoundry.errors import InvalidRequest
from localfoundry.units import parse_duration

if TYPE_CHECKING:
    from localfoundry.bench.candidates import Candidate
    from localfoundry.bench.plan import Plan

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.argument("models", nargs=-1),
    click.option("--rounds", type=click.IntRange(1, 1000), default=5, show_default=True, envvar="BENCH_ROUNDS",
                 help="Measured runs of each."),
    click.option("--max-tokens", "max_tokens", type=click.IntRange(1), multiple=True, envvar="BENCH_MAX_TOKENS",
                 help="Tokens to answer with [default: the scenario's]; give it twice to measure two settings."),
    click.option("--prompt-words", type=click.IntRange(1, 100_000), help="Prompt length [default: the scenario's]."),
    click.option("--prompt", envvar="BENCH_PROMPT",
                 help="Measure with this prompt; a distinct mark still leads each request."),
    click.option("--prompts", "prompt_file", type=click.Path(path_type=Path, dir_okay=False),
                 help="A file of own prompts: a line each, or JSON Lines with `prompt`."),
    click.option("--scenario", "scenarios", multiple=True,
                 help="chat, long-prompt, long-answer, code, structured, retrieval or course; several are possible. "
                 "[default: chat]"),
    click.option("--language", "languages", multiple=True, help="Of scenarios in several languages: en, da."),
    click.option("--concurrency", help="Streams at a time, as a list: 1,2,4,8,16,32; ends where throughput does."),
    click.option("--rate", help="Requests that arrive a second (Poisson), as a list: 0.5,1,2."),
    click.option("--duration", default="20s", show_default=True, help="How long they arrive, in each round."),
    click.option("--slo", help="Bounds for goodput: ttft=1s,itl=100ms,latency=5s."),
    click.option("--timeout", default="300s", show_default=True, help="Give up on an answer after so long."),
    click.option("--temperature", type=click.FloatRange(0, 2), default=0.0, show_default=True,
                 envvar="BENCH_TEMPERATURE", help="Of sampling."),
    click.option("--stream/--no-stream", default=True, show_default=True, envvar="BENCH_STREAM",
                 help="Without, only whole answers are timed."),
    click.option("--seed", type=int, default=42, show_default=True, help="Of prompts and sampling."),
    click.option("--cold", is_flag=True, help="Also the first token from a stopped service, and model switches; in a "
                 "service of its own."),
    click.option("--engine", envvar="BENCH_ENGINE",
                 help="Engine that runs the local models; `foundry compare MODEL MODEL@engine=NAME` sets two beside "
                 "each other."),
)  # fmt: skip


def plan_options(command: F) -> F:
    """Every option that says what to measure; the command gets them as keywords for `read`."""
    command = endpoint_options(command)
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def models_of(models: Sequence[str]) -> tuple[str, ...]:
    """Those that were named, or else those of BENCH_MODELS. Raises InvalidRequest for one that is named twice."""
    found = tuple(models) or tuple(re.split(r"[,\s]+", os.environ.get("BENCH_MODELS", "").strip(" ,")))
    found = tuple(name for name in found if name)
    if len(set(found)) < len(found):
        raise InvalidRequest("a model is named twice", hint="--max-tokens 32 --max-tokens 128 measures two settings")
    return found


def read_plan(given: dict[str, Any]) -> Plan:
    """Raises InvalidRequest, naming the option."""
    from localfoundry.bench.plan import Plan
    from localfoundry.bench.scenarios import OWN
    from localfoundry.bench.slo import parse_slo
    from localfoundry.prompts import file

    entries = file.read(given["prompt_file"], file.Entry) if given["prompt_file"] else ()
    own = tuple(entry.prompt for entry in entries)
    scenarios = tuple(given["scenarios"]) + ((OWN,) if own else ())
    rates = _numbers(given["rate"], float, "rate")
    plan = Plan(
        scenarios=scenarios or ("chat",),
        languages=tuple(given["languages"]),
        # With rates alone, nothing is asked in a closed loop.
        concurrency=_numbers(given["concurrency"], int, "concurrency") or (() if rates else (1,)),
        rates=rates,
        duration_s=_seconds(given["duration"], "duration"),
        rounds=given["rounds"],
        seed=given["seed"],
        timeout_s=_seconds(given["timeout"], "timeout"),
        slo=parse_slo(given["slo"]) if given["slo"] else None,
        own_prompts=own,
        currency=given["currency"],
        temperature=given["temperature"],
        stream=given["stream"],
        cold=given["cold"],
    )
    plan.check()
    return plan


def read_candidates(models: Sequence[str], given: dict[str, Any]) -> list[Candidate]:
    """Local models in every setting, then endpoints. Raises InvalidRequest."""
    import msgspec

    from localfoundry.bench.candidates import Candidate

    counts: tuple[int | None, ...] = given["max_tokens"] or (None,)
    chosen: dict[str, int | str] = {"engine": given["engine"]} if given.get("engine") else {}
    wanted = [Candidate(model, model, settings=chosen) for model in models] + read_endpoints(given)
    if not wanted:
        raise InvalidRequest(
            "there is nothing to measure: no model was named", hint="foundry bench smollm2-135m", param="models"
        )
    return [
        msgspec.structs.replace(
            one,
            label=one.label if len(counts) == 1 else f"{one.label} ({count} tokens)",
            max_tokens=count,
            prompt_words=given["prompt_words"],
            prompt=given["prompt"],
        )
        for one in wanted
        for count in counts
    ]


def _numbers(text: str | None, kind: Callable[[str], Any], option: str) -> tuple[Any, ...]:
    try:
        return tuple(kind(word) for word in (text or "").split(",") if word.strip())
    except ValueError:
        raise InvalidRequest(f"--{option} {text}: not a list of numbers such as 1,2,4", param=option) from None


def _seconds(text: str, option: str) -> float:
    try:
        return float(parse_duration(text))
    except ValueError as exc:
        raise InvalidRequest(f"--{option}: {exc}", param=option) from None
