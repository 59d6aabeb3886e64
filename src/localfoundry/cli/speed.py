"""How fast a model would be here: a line in `model info`, and its terms (`--explain`), each with its source."""

from __future__ import annotations

from typing import Any

from localfoundry import fit
from localfoundry.advice.processor import UNKNOWN, processor_of
from localfoundry.cli import output
from localfoundry.config import Settings
from localfoundry.engines import llama_fit
from localfoundry.engines.llama_cpp import LlamaCpp
from localfoundry.fit.calibration import Calibration, Quantity, Subject
from localfoundry.fit.interval import Interval
from localfoundry.fit.speed import Speed
from localfoundry.formats.shape import ModelShape
from localfoundry.hardware.survey import Probe, survey
from localfoundry.service import learning
from localfoundry.store.manifest import Manifest
from localfoundry.units import format_bytes

PROMPT = 512  # tokens, for prefill and first token
_UNITS = {"decode": "tok/s", "prefill": "tok/s", "firstToken": "s", "load": "s"}
_WORDS = {"decode": "Decode", "prefill": "Prefill", "firstToken": "First token", "load": "Load"}
_SHAPELESS = "unknown (needs the model's shape)"


def describe(
    given: Settings, shape: ModelShape | None, estimate: dict[str, Any] | None, manifest: Manifest | None = None
) -> dict[str, Any]:
    """Rates and times with intervals, terms and sources; or `unknown`, which says what is missing.

    `estimate`: the memory's, whose context and requests the load would have. Nothing is measured for it.
    """
    if shape is None or estimate is None:
        return {"unknown": _SHAPELESS}
    native = _is_native(given)
    processor = processor_of(survey(given.home, Probe.NEVER), native=native)
    if processor is None:
        return {"unknown": UNKNOWN}
    load = llama_fit.load_of(("chat",), estimate["defaultContext"], estimate["parallel"], ())
    prompt = min(PROMPT, load.context)
    deep = max(load.context - 1, 0)
    known = Calibration(given.home / learning.FILE)
    subject = learning.subject_of("", manifest, shape) if manifest else learning.subject_of_shape("", shape)
    decoding, reading = fit.decode(shape, load, processor), fit.prefill(shape, load, processor, prompt)
    loading = fit.load_time(shape, load, processor, fit.memory(shape, load)["rearranged"])
    rate = _corrected(known, "prefill", reading, subject)
    first = Interval(prompt / rate.value, prompt / rate.high, prompt / rate.low, rate.source)
    slowed = fit.decode(shape, load, processor, deep).value / decoding.value
    decoded = _corrected(known, "decode", decoding, subject)
    return {
        "processor": {"bandwidthBytesPerS": processor.bandwidth, "cores": processor.cores, "isa": list(processor.isa)},
        "kernel": decoding.kernel,
        "promptTokens": prompt,
        "decode": _figure(decoded, decoding) | {"atTokens": deep, "valueThere": decoded.value * slowed},
        "prefill": _figure(rate, reading),
        "firstToken": _figure(first, None),
        "load": _figure(_corrected(known, "load", loading, subject), loading),
    }


def _corrected(known: Calibration, quantity: Quantity, speed: Speed, subject: Subject) -> Interval:
    return known.corrected(quantity, speed.interval, subject)


def _is_native(given: Settings) -> bool:
    """Whether a load would get an engine built for this machine. A server that is configured and not there is none."""
    return LlamaCpp.native_server(given) is not None


def _figure(found: Interval, made_of: Speed | None) -> dict[str, Any]:
    terms = []
    if made_of is not None:
        for name, seconds in made_of.terms.items():
            terms.append({"purpose": name, "seconds": seconds, "words": made_of.words[name]})
    return {"value": found.value, "low": found.low, "high": found.high, "source": found.source, "terms": terms}


def show(speed: dict[str, Any]) -> None:
    """One line."""
    if "unknown" in speed:
        output.data(f"Speed:         {speed['unknown']}")
        return
    known = [name for name in ("decode", "prefill", "load") if speed[name] is not None]
    said = [f"{_range(speed, name)} {_words(name)}" for name in known]
    sources = dict.fromkeys(speed[name]["source"] for name in known)
    where = f"in {speed['engine']} " if "engine" in speed else ""
    output.data(f"Speed:         {where}{', '.join(said)}; {', '.join(sources)}")


def explain(name: str, speed: dict[str, Any]) -> None:
    """Every figure, what it rests on, and the seconds it is made of."""
    if "unknown" in speed:
        output.data(f"{name}: speed {speed['unknown']}")
        return
    if "engine" in speed:
        output.data(f"{name} in {speed['engine']}, one stream, prompt of {speed['promptTokens']} tokens; wide, as few "
                    "loads and benches of this engine were measured")  # fmt: skip
        _show_figures(speed)
        return
    machine, decoding = speed["processor"], speed["decode"]
    output.data(
        f"{name} on {machine['cores']} cores that read {format_bytes(int(machine['bandwidthBytesPerS']))}/s together, "
        f"{speed['kernel']} kernels; prompt of {speed['promptTokens']} tokens"
    )
    _show_figures(speed)
    output.data(f"With {decoding['atTokens']:,} tokens behind it, decode is {_number(decoding['valueThere'])} tok/s.")
    rows = [
        [_WORDS[figure], term["purpose"], f"{term['seconds'] * 1000:,.2f} ms", term["words"]]
        for figure in ("decode", "prefill", "load")
        for term in speed[figure]["terms"]
    ]
    output.table(("Of", "Term", "Takes", "How it comes about"), rows)


def _show_figures(speed: dict[str, Any]) -> None:
    cells = [
        [_WORDS[figure], f"{_number(found['value'])} {unit}",
         f"{_number(found['low'])} to {_number(found['high'])}", found["source"]]
        if (found := speed[figure]) is not None
        else [_WORDS[figure], "unknown", "", ""]
        for figure, unit in _UNITS.items()
    ]  # fmt: skip
    output.table(("Figure", "Value", "90 % interval", "Source"), cells)


def _range(speed: dict[str, Any], name: str) -> str:
    figure = speed[name]
    return f"{_number(figure['low'])} to {_number(figure['high'])}"


def _words(name: str) -> str:
    return {"decode": "tok/s", "prefill": "tok/s of the prompt", "load": "s to load"}[name]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 20 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"
