"""A compiled model tried before it appears: fidelity to its source, golden answers, chat template, one short bench.

It runs as users will run it: in a service with a home and a store of its own, which is started for this and ended with
it. What came of it is a report, as JSON and as text, beside the log; its outcome in words goes into the manifest.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from localfoundry import engines
from localfoundry.bench.prompts import prompt
from localfoundry.bench.request import Question, Sample, ask
from localfoundry.build.compilation import Plan, Trial
from localfoundry.build.toolchain import Toolchain
from localfoundry.cli.bench_local import OwnService, target_of
from localfoundry.client import ServiceClient
from localfoundry.config import Settings
from localfoundry.errors import DegradedBuild, MissingExtra
from localfoundry.hardware import memory
from localfoundry.hardware.readings import ThisSystem
from localfoundry.quality import own_reference, probe
from localfoundry.quality.fidelity import DEFINITIONS, Estimate, Fidelity
from localfoundry.quality.reference import Reference
from localfoundry.store import disk
from localfoundry.store.filing import appear
from localfoundry.store.manifest import Manifest, StoredFile
from localfoundry.store.progress import Progress
from localfoundry.store.store import Store

ENGINES = {"onnx": "onnx", "gguf": "llama.cpp", "openvino": "openvino"}
_POSITIONS = 384  # about so many of a reference are asked for
_CONTEXT = 2048
_REQUESTS = 4  # of the bench; the first is thrown away
_TOKENS = 64
_TIMEOUT_S = 600.0


@dataclasses.dataclass(frozen=True, slots=True)
class Bench:
    """One stream, 60-word prompts, 64 tokens: medians of three requests after a warm-up. None: not told."""

    load_s: float
    ttft_s: float | None
    decode_tps: float | None
    memory_bytes: int | None


def require_engine(format: str) -> None:
    """Raise MissingExtra where the engine that would run the result is not installed."""
    engine = next(engine for engine in engines.engines() if engine.name == ENGINES[format])
    missing = engine.missing()
    if missing is not None:
        raise MissingExtra(
            f"the result is tried before it appears, and {ENGINES[format]} is {missing.partition(':')[0]}",
            hint=f"pip install 'localfoundry[{format}]', or --no-check",
        )


def try_out(
    given: Settings, tools: Toolchain, made: Plan, trial: Trial, max_loss: float, command: str, progress: Progress
) -> Mapping[str, str]:
    """The outcome, as the manifest keeps it. Blocking. `max_loss`: of perplexity, a share.

    `command`: what was typed, for the way to keep a bad one anyway. Raises DegradedBuild, BuildFailed, and what a
    service says that cannot load the model.
    """
    against = _reference(given, tools, made, trial, progress)
    every = max(1, against.positions // _POSITIONS)
    progress.note(f"trying it: {against.positions // every} positions and {len(against.greedy)} answers, then a bench")
    fidelity, bench, engine = asyncio.run(_measured(given, trial, against, every, progress))
    report = _document(made, trial, fidelity, bench, engine, max_loss, against)
    path = trial.log.with_suffix(".json")
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    outcome = _outcome(trial.manifest, fidelity, bench, engine)
    path.with_suffix(".txt").write_text("".join(f"{k}: {v}\n" for k, v in outcome.items()), encoding="utf-8")
    for name, text in outcome.items():
        progress.note(f"  {name}: {text}")
    _refuse_degraded(made, fidelity, max_loss, path, command)
    return outcome


def _refuse_degraded(made: Plan, fidelity: Fidelity, max_loss: float, path: Path, command: str) -> None:
    loss = loss_of(fidelity)
    if loss is None or loss <= max_loss:
        return
    raise DegradedBuild(
        f"{made.name} is worse than its source by {loss:.1%} in perplexity, and {max_loss:.1%} is allowed; it was kept "
        f"aside with its report: {path}",
        hint=f"another precision, or keep it anyway: {command} --max-loss {loss * 100 + 1:.0f}%",
    )


def loss_of(fidelity: Fidelity) -> float | None:
    """By which share the perplexity is above that of the source; None where the engine gives no log-probabilities."""
    return None if fidelity.perplexity is None else fidelity.perplexity.value - 1


def _reference(given: Settings, tools: Toolchain, made: Plan, trial: Trial, progress: Progress) -> Reference:
    recipe = trial.manifest.recipe
    assert recipe is not None
    found = own_reference.known(given, {recipe.source_sha256})
    if found is not None:
        return found
    progress.note("computing what the source itself says, with transformers: the yardstick for the next step")
    free = memory.read(ThisSystem()).available_bytes
    return own_reference.compute(
        given, tools, trial.source, recipe.source_sha256, made.source.name, made.source.parameters, free,
        work=trial.work, log=trial.log, line=lambda _: None,
    )  # fmt: skip


def _own_store(trial: Trial) -> tuple[Store, Manifest]:
    """A store with this one version, its files second names of those of the build."""
    root = trial.work / "trial"
    disk.remove_tree(root)
    store = Store(root)
    store.prepare()
    staged = store.tmp / "version"
    staged.mkdir()
    files = []
    for path in sorted(trial.staged.rglob("*")):
        if path.is_file():
            target = staged / path.relative_to(trial.staged)
            target.parent.mkdir(parents=True, exist_ok=True)
            disk.link_or_copy(path, target)
            name = target.relative_to(staged).as_posix()
            files.append(StoredFile(name, path.stat().st_size, "0" * 64))  # nothing here reads it by its sum
    return store, appear(store, staged, msgspec.structs.replace(trial.manifest, files=tuple(files)))


async def _measured(
    given: Settings, trial: Trial, against: Reference, every: int, progress: Progress
) -> tuple[Fidelity, Bench, str]:
    store, manifest = await asyncio.to_thread(_own_store, trial)
    context = min(_CONTEXT, manifest.context_length or _CONTEXT)
    service = OwnService(dataclasses.replace(given, cache_dir=store.root), {manifest.id: {"context": context}})
    try:
        state = await service.state()
        async with ServiceClient(state) as client:
            wish = {"model": manifest.id, "engine": ENGINES[manifest.format]}
            account: dict[str, Any] = await client.post("/foundry/load", wish)
            progress.start("Trying", manifest.name, None)
            fidelity = await probe.measure(client, account["id"], against, every, lambda _done, _total: None)
        samples = await _asked(target_of(state).open(_TIMEOUT_S), account["id"])
        return fidelity, _bench(samples, account), str(account["engine"])
    finally:
        try:
            await service.stop()
        finally:
            service.remove()
            await asyncio.to_thread(disk.remove_tree, store.root)


async def _asked(client: Any, model: str) -> list[Sample]:
    found = []
    began = time.monotonic()
    async with client:
        for number in range(_REQUESTS):
            body = {
                "model": model, "messages": [{"role": "user", "content": prompt(os.urandom(4).hex(), 7, number)}],
                "max_tokens": _TOKENS, "temperature": 0, "stream": True, "stream_options": {"include_usage": True},
                "ignore_eos": True,
            }  # fmt: skip
            question = Question(model, model, number, "chat", "en", "c=1", 0, str(number), body)
            found.append(await ask(client, question, lambda: time.monotonic() - began, _TIMEOUT_S))
    return found[1:]


def _bench(samples: list[Sample], account: Mapping[str, Any]) -> Bench:
    import psutil

    first = [s.ttft_s for s in samples if s.ttft_s is not None]
    rates = [s.decode_tps for s in samples if s.decode_tps is not None]
    try:
        used = int(psutil.Process(account["pid"]).memory_full_info().uss)
    except (psutil.Error, OSError):
        used = None
    return Bench(
        float(account["load_s"]),
        statistics.median(first) if first else None,
        statistics.median(rates) if rates else None,
        used,
    )


def _outcome(manifest: Manifest, fidelity: Fidelity, bench: Bench, engine: str) -> dict[str, str]:
    """What the manifest keeps, in words."""
    found = {
        "engine": engine,
        "perplexity": _figure(fidelity.perplexity, "{:.4f} of the source's", fidelity),
        "KL": _figure(fidelity.kl, "{:.4f}", fidelity),
        "top-1": _figure(fidelity.top1, "{:.1%}", fidelity),
        "greedy": _figure(fidelity.greedy, "{:.0%}", fidelity),
        "positions": str(fidelity.positions),
        "template": _template(manifest),
    }
    if bench.decode_tps is not None and bench.ttft_s is not None:
        found["bench"] = f"{bench.decode_tps:.0f} tokens/s, first token after {bench.ttft_s * 1000:.0f} ms, one stream"
    return found


def _figure(found: Estimate | None, form: str, fidelity: Fidelity) -> str:
    if found is None:
        return f"unavailable: {fidelity.unavailable or 'nothing was compared'}"
    return f"{form.format(found.value)} ({found.low:.4f} to {found.high:.4f})"


def _template(manifest: Manifest) -> str:
    check = manifest.template
    if check is None:
        return "not tried"
    return check.words()[:300]


def _document(
    made: Plan, trial: Trial, fidelity: Fidelity, bench: Bench, engine: str, max_loss: float, against: Reference
) -> dict[str, Any]:
    loss = loss_of(fidelity)
    return {
        "name": made.name,
        "source": made.source.words,
        "target": made.target.words,
        "steps": [{"name": n, "seconds": m.seconds, "peakBytes": m.peak_bytes} for n, m in trial.built.steps],
        "takenOver": list(trial.built.kept),
        "recipe": msgspec.to_builtins(trial.manifest.recipe),
        "engine": engine,
        "fidelity": msgspec.to_builtins(fidelity) | {"within": fidelity.within},
        "reference": {"model": against.packed.model, "madeWith": against.packed.made_with},
        "definitions": DEFINITIONS,
        "loss": loss,
        "maxLoss": max_loss,
        "accepted": loss is None or loss <= max_loss,
        "template": msgspec.to_builtins(trial.manifest.template),
        "bench": dataclasses.asdict(bench),
        "build": str(trial.built.folder),
        "log": str(trial.log),
    }
