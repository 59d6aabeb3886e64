"""Memory and speed of a model in the engine that would really run it, where that is not llama.cpp.

Memory is the engine's own estimate, as a load asks for it. A speed is what a bench measured of this engine with this
file on this kind of machine, else a wide prediction (`engines/other_fit.py`); what neither tells is unknown. A figure
of llama.cpp never stands here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localfoundry import fit
from localfoundry.advice.glance import InAnother
from localfoundry.advice.processor import UNKNOWN, processor_of
from localfoundry.cli import context, engine_choice
from localfoundry.cli.engine_choice import Running
from localfoundry.engines import llama_fit, other_fit
from localfoundry.engines.other_fit import Facts, OtherEstimate
from localfoundry.errors import FoundryError
from localfoundry.fit.context import largest_that
from localfoundry.fit.interval import Interval
from localfoundry.hardware.survey import Probe, survey
from localfoundry.service import learning, memory

if TYPE_CHECKING:
    from localfoundry.catalog.model import Model
    from localfoundry.config import Settings
    from localfoundry.store.manifest import Manifest

_SPREAD = 0.20  # of the memory, either way
_PROMPT = 512


def running(given: Settings, manifest: Manifest | None) -> Running | None:
    """The engine that would run a version here, where that is another than llama.cpp."""
    if manifest is None:
        return None
    found = engine_choice.first(given, manifest)
    return found if found is not None and found.engine.name in other_fit.KNOWN else None


def others(given: Settings, manifests: Iterable[Manifest]) -> dict[str, InAnother]:
    """By id those of the versions here that such an engine would run. Reads headers."""
    found = {}
    for manifest in manifests:
        known = running(given, manifest)
        facts = facts_of(given, manifest, known) if known is not None else None
        if known is not None and facts is not None:
            found[manifest.id] = InAnother(known.engine.name, facts)
    return found


def facts_of(given: Settings, manifest: Manifest, known: Running) -> Facts | None:
    """Of the file that the engine would get, made already or not; None where nothing tells the shape."""
    store, size = context.store(given), known.runs.size_bytes
    if known.to_make is not None:
        from localfoundry.build import reencode

        try:
            size = reencode.plan(store, manifest, known.to_make).size_bytes
        except FoundryError:
            return None
    shape = llama_fit.shape_of(manifest, store.main_file(manifest)) if manifest.format == "gguf" else manifest.shape
    if shape is not None:
        return other_fit.of_shape(shape, size)
    if manifest.architecture is not None:
        return other_fit.of_architecture(manifest.architecture, size, manifest.quantization)
    return _of_folder(store.main_file(manifest), size) if manifest.format == "onnx" else None


def _of_folder(path: Path, size: int) -> Facts | None:
    from localfoundry.formats.onnx import read_onnx_folder

    try:
        return other_fit.of_folder(read_onnx_folder(path), size)
    except FoundryError:
        return None


def describe_memory(given: Settings, manifest: Manifest, known: Running) -> dict[str, Any] | None:
    """As `fit.describe` has it, with what the engine keeps of each token as its cache; None: unknown."""
    facts = facts_of(given, manifest, known)
    if facts is None:
        return None
    chosen = given.defaults_for((manifest.alias, manifest.name, manifest.id))
    most = manifest.context_length or fit.DEFAULT_CONTEXT
    return {
        **_memory(given, lambda tokens: _needed(given, manifest, known, facts, tokens), most),
        "engine": known.engine.name, "exactShape": True, "parallel": chosen.parallel or given.parallel,
    }  # fmt: skip


def of_catalog(given: Settings, model: Model) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Memory and speed of a model that is not here and that no GGUF file is known of; None: this is another one."""
    variant = next((v for v in model.variants if v.format in other_fit.KNOWN), None)
    if variant is None or model.architecture is None or any(v.format == "gguf" for v in model.variants):
        return None
    facts = other_fit.of_architecture(model.architecture, variant.size_bytes, variant.quantization)
    estimate = OtherEstimate(variant.format, facts, None)

    def needed(tokens: int) -> int:
        return int(estimate.memory(llama_fit.load_of(model.tasks, tokens, 1)).value)

    said = {"engine": variant.format, "exactShape": False, "parallel": given.parallel}
    memory = _memory(given, needed, model.context_length or fit.DEFAULT_CONTEXT) | said
    return memory, _speed(given, variant.format, facts, None, to_make=False)


def _memory(given: Settings, needed: Callable[[int], int], most: int) -> dict[str, Any]:
    """Rows by context and the terms of the one that a load would get. `needed`: bytes of a load with so many tokens."""
    budget = memory.look([], given.memory_limit_bytes, given.memory_reserve_bytes)
    room, fixed = max(budget.limit - budget.others - budget.reserve, 0), needed(0)
    largest = largest_that(lambda tokens: needed(tokens) <= room, most)
    usual = min(most, fit.DEFAULT_CONTEXT)
    default = min(usual, largest) if largest and largest >= fit.SMALLEST_CONTEXT else usual
    total = needed(default)
    terms = [("weights", fixed, "process, vocabulary, and the weights as the engine lays them out"),
             ("kv_cache", total - fixed, f"keys and values of {default:,} tokens")]  # fmt: skip
    return {
        "source": "predicted", "roomBytes": room, "reserveBytes": budget.reserve, "defaultContext": default,
        "largestContext": largest,
        "contexts": [
            {"context": tokens, "weightsBytes": fixed, "kvCacheBytes": needed(tokens) - fixed,
             "totalBytes": needed(tokens), **_ends(needed(tokens)), "fits": needed(tokens) <= room}
            for tokens in _contexts(most)
        ],
        "terms": [{"purpose": name, "bytes": size, **_ends(size), "words": words} for name, size, words in terms],
        "totalBytes": total, **_ends(total),
    }  # fmt: skip


def _ends(size: int) -> dict[str, int]:
    return {"lowBytes": int(size * (1 - _SPREAD)), "highBytes": int(size * (1 + _SPREAD))}


def _contexts(most: int) -> list[int]:
    found, tokens = [], fit.SMALLEST_CONTEXT
    while tokens < most:
        found.append(tokens)
        tokens *= 2
    return [*found, most]


def _needed(given: Settings, manifest: Manifest, known: Running, facts: Facts, tokens: int) -> int:
    """As the service will ask for it, corrected by what loads of this file took; of a file that is still to be made
    by the same formula."""
    if known.to_make is not None:
        load = llama_fit.load_of(manifest.tasks, tokens, 1)
        return int(OtherEstimate(known.engine.name, facts, None).memory(load).value)
    chosen = given.defaults_for((manifest.alias, manifest.name, manifest.id))
    path = context.store(given).main_file(known.runs)
    parallel = chosen.parallel or given.parallel
    predicted = known.engine.memory(known.runs, path, tokens, parallel, known.arguments)
    return sum(learning.Learned(given.home).corrected(known.engine.name, known.runs, predicted).values())


def describe_speed(given: Settings, manifest: Manifest, known: Running) -> dict[str, Any]:
    """Rates and times of this engine, measured here before predicted; null: unknown. `unknown`: all of it is."""
    facts, measured = facts_of(given, manifest, known), _measured(given, manifest, known)
    return _speed(given, known.engine.name, facts, measured, to_make=known.to_make is not None)


def _speed(
    given: Settings, engine: str, facts: Facts | None, measured: Interval | None, *, to_make: bool
) -> dict[str, Any]:
    """`measured`: the decode rate. `to_make`: the first load makes the engine's file, which nobody has timed."""
    processor = processor_of(survey(given.home, Probe.NEVER))
    found: dict[str, Interval | None] = dict.fromkeys(("decode", "prefill", "firstToken", "load"))
    if facts is not None and processor is not None:
        load = llama_fit.load_of(("chat",), fit.DEFAULT_CONTEXT, 1)
        estimate = OtherEstimate(engine, facts, processor)
        reading = found["prefill"] = estimate.prefill(load, _PROMPT)
        found["decode"] = estimate.decode(load)
        found["load"] = None if to_make else estimate.load_s()
        found["firstToken"] = Interval(_PROMPT / reading.value, _PROMPT / reading.high, _PROMPT / reading.low)
    found["decode"] = measured or found["decode"]
    if found["decode"] is None:
        words = UNKNOWN if processor is None else f"unknown for {engine} (needs the model's shape, or a bench)"
        return {"engine": engine, "unknown": words}
    return {"engine": engine, "promptTokens": _PROMPT, **{name: _figure(one) for name, one in found.items()}}


def _measured(given: Settings, manifest: Manifest, known: Running) -> Interval | None:
    """Tokens a second of one stream, of the latest bench of this file in this engine on this kind of machine."""
    from localfoundry.advice.measured import decode_of
    from localfoundry.results import outliers, place
    from localfoundry.results.evidence import known as read_results

    try:
        evidence = read_results(given.home).of(file_sha256=known.runs.files[0].sha256, model_id=manifest.id)
    except FoundryError:  # damaged: the command that reads results says so
        return None
    machine = outliers.machine_words(place.machine_facts())
    return decode_of(evidence.speeds, machine, known.engine.name) if known.to_make is None else None


def _figure(found: Interval | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {"value": found.value, "low": found.low, "high": found.high, "source": found.source, "terms": []}
