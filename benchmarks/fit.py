"""The estimator against the real engine: loads of real and random models, and what each took of memory.

    python benchmarks/fit.py                      all loads (about ten minutes), kept in tests/fit/loads.json
    python benchmarks/fit.py --only Gemma         those whose name has it, printed and not kept
    python benchmarks/fit.py --only Gemma --keep  and kept in place of the ones of that name
    python benchmarks/fit.py --constants          the process's own bytes, fitted to half of the kept loads
    python benchmarks/fit.py --docs               docs/fit.md, written from the kept loads
    python benchmarks/fit.py --speed types        decode, prefill and load time, on a quiet machine: see fit_speed.py

Each load is the bundled worker's, in a process of its own, used by as many requests as it has sequences and a prompt
longer than a batch, so that every buffer has been touched. What is compared is the resident memory after that.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import fit_loads
import gguf
import msgspec
import numpy as np
import random_gguf
import requantized
from fit_loads import Options
from gguf import GGMLQuantizationType as Type

from localfoundry.bench import stats
from localfoundry.fit.memory import Load, Memory, memory
from localfoundry.formats import shape
from localfoundry.formats.gguf import read_gguf
from localfoundry.formats.shape import ModelShape

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "tests" / "fit" / "loads.json"
_STARTER = ".cache/test-models/models/smollm2-135m-instruct-q4_1/1/SmolLM2-135M-Instruct.Q4_1.gguf"
_CONTEXTS = (512, 2048, 8192, 32768)
_CACHES = ("f16", "q8_0", "q4_0")
_SEQUENCES = (1, 4, 8)
_FITTED_CONTEXT = 2048
_SOME = (Options(2048, 1), Options(8192, 4, "q8_0"), Options(32768, 8))
_LONG_WINDOW = (Options(2048, 1), Options(4096, 4, "q8_0"), Options(4096, 8))  # it takes minutes to fill more
_EMBEDDINGS = (Options(2048, 1, embeddings=True), Options(8192, 4, embeddings=True))


@dataclass(frozen=True, slots=True)
class File:
    """A model file to be written, and the loads of it."""

    name: str
    type: Type
    write: Callable[[Path], None]
    loads: tuple[Options, ...]


def files(starter: Path) -> Iterator[File]:
    """The starter model in five types, then random weights in the shapes of known models."""
    source = gguf.GGUFReader(starter)
    every = [Options(c, n, cache) for c in _CONTEXTS for cache in _CACHES for n in _SEQUENCES]
    for number, kind in enumerate((Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q5_1, Type.F16)):
        some = tuple(every[(at * 9 + at * 4 + number * 2) % len(every)] for at in range(len(_CONTEXTS)))
        chosen = tuple(every[::2]) if number == 0 else some
        yield File("SmolLM2-135M", kind, _requantizer(source, kind), chosen)
    tokenizer = random_gguf.Tokenizer(starter)
    g = random_gguf
    for form, kind in (
        (g.QWEN25, Type.Q8_0), (g.QWEN25, Type.Q4_0), (g.QWEN3, Type.Q4_K), (g.LLAMA32, Type.Q4_K),
        (g.LLAMA32, Type.Q8_0), (g.PHI4.shortened(8), Type.Q4_0), (g.GEMMA2.shortened(2), Type.Q4_K),
        (g.GEMMA3.shortened(6), Type.Q8_0), (g.GEMMA3.shortened(6), Type.Q4_0), (g.MIXTURE.shortened(3), Type.Q4_K),
        (g.SMALL_MIXTURE, Type.Q8_0), (g.HYBRID, Type.Q6_K), (g.LATENT.shortened(4), Type.Q8_0),
    ):  # fmt: skip
        yield File(form.name, kind, _generator(form, kind, tokenizer), _LONG_WINDOW if form.window == 4096 else _SOME)
    embedding = g.QWEN3.shortened(8).changed(name="Qwen3-Embedding-0.6B (8 layers)")
    yield File(embedding.name, Type.Q8_0, _generator(embedding, Type.Q8_0, tokenizer), _EMBEDDINGS)


def _requantizer(source: gguf.GGUFReader, kind: Type) -> Callable[[Path], None]:
    return lambda path: requantized.write(source, kind, path)


def _generator(form: random_gguf.Shape, kind: Type, tokenizer: random_gguf.Tokenizer) -> Callable[[Path], None]:
    return lambda path: random_gguf.write(form, kind, path, tokenizer)


def demand(options: Options) -> Load:
    """The same load in the estimator's words."""
    return Load(
        options.context, options.parallel, options.cache, options.cache,
        options.flash_attention != "disabled", options.embeddings,
    )  # fmt: skip


def run(starter: Path, only: str) -> dict[str, Any]:
    """Every load, printed as it is measured."""
    kept: dict[str, Any] = {"machine": _machine(), "parameters": {}, "shapes": {}, "loads": []}
    with tempfile.TemporaryDirectory(prefix="fit-") as folder:
        for file in files(starter):
            name = f"{file.name} {file.type.name}"
            if only.lower() not in name.lower():
                continue
            path = Path(folder) / "model.gguf"
            file.write(path)
            header = read_gguf(path)
            form = shape.of_gguf(header)
            assert form is not None
            kept["parameters"][name] = header.parameters
            kept["shapes"][name] = msgspec.to_builtins(form)
            for options in file.loads:
                window = form.window if any(kind.windowed for kind in form.layers) else 0
                measured = fit_loads.measure(path, options, window=window)
                one = {"file": name, "options": asdict(options), **_facts(measured)}
                kept["loads"].append(one)
                _print(one, memory(form, demand(options)))
            path.unlink()
    return kept


def _in_place(before: dict[str, Any], now: dict[str, Any], only: str) -> dict[str, Any]:
    """The kept loads with those of a name replaced, where the first of them stood."""
    for part in ("parameters", "shapes"):
        others = {name: fact for name, fact in before[part].items() if only.lower() not in name.lower()}
        before[part] = others | now[part]
    at = [number for number, one in enumerate(before["loads"]) if only.lower() in one["file"].lower()]
    first = at[0] if at else len(before["loads"])
    others = [one for number, one in enumerate(before["loads"]) if number not in at]
    before["loads"] = others[:first] + now["loads"] + others[first:]
    return before


def _facts(measured: fit_loads.Measured) -> dict[str, Any]:
    facts = asdict(measured)
    del facts["log"]
    return facts


def _machine() -> dict[str, str]:
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "engine": f"xllamacpp {importlib.metadata.version('xllamacpp')}",
    }


def _print(one: dict[str, Any], predicted: Memory) -> None:
    error = predicted.total / one["resident"] - 1
    options = one["options"]
    print(
        f"{one['file']:42} {options['context']:6} x{options['parallel']} {options['cache']:5}"
        f" measured {one['resident'] / 1e6:8.1f} MB, predicted {predicted.total / 1e6:8.1f} ({error:+.1%})",
        flush=True,
    )


def kept_loads(path: Path = KEPT) -> list[tuple[dict[str, Any], ModelShape, Memory]]:
    """The recorded loads with what is predicted for them now."""
    kept = json.loads(path.read_text())
    forms = {name: msgspec.convert(form, ModelShape) for name, form in kept["shapes"].items()}
    return [
        (one, forms[one["file"]], memory(forms[one["file"]], demand(Options(**one["options"]))))
        for one in kept["loads"]
    ]


def constants() -> None:
    """Least squares of what no other term explains, on every other load; the residuals are those of the rest.

    Only short contexts are fitted to: the mask of a long one is touched as the context fills, and counts in any case.
    """
    rows, rest = [], []
    for one, form, predicted in kept_loads():
        rows.append((1.0, float(form.tokens), float(form.vocabulary * one["options"]["parallel"])))
        rest.append(one["resident"] - (predicted.total - predicted["process"]))
    features, wanted = np.array(rows), np.array(rest, dtype=float)
    short = np.array([one["options"]["context"] <= _FITTED_CONTEXT for one, _, _ in kept_loads()])
    even = np.arange(len(rows)) % 2 == 0
    found, *_ = np.linalg.lstsq(features[short & even], wanted[short & even], rcond=None)
    print(f"process = {found[0]:,.0f} bytes + {found[1]:.1f} x tokens + {found[2]:.1f} x vocabulary x requests")
    for name, some in (("fitted to", short & even), ("held back", short & ~even)):
        errors = [abs(error) for error in wanted[some] / (features[some] @ found) - 1]
        print(f"{name}, {len(errors)} loads: 90 % of residuals within {stats.percentile(errors, 0.9):.1%} of the term")


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--starter", type=Path, default=ROOT / _STARTER, help="the starter model's file")
    options.add_argument("--only", default="", help="only loads whose name has this; nothing is kept")
    options.add_argument("--keep", action="store_true", help="with --only: replace the kept loads of that name")
    options.add_argument("--constants", action="store_true")
    options.add_argument("--docs", action="store_true")
    options.add_argument("--speed", choices=("types", "shapes", "mixed", "more"), help="measure speeds: one window")
    options.add_argument("--speed-constants", action="store_true", help="the rates, fitted to part of the kept speeds")
    options.add_argument("--files", type=Path, help="where files are kept for --speed; written if they are not there")
    options.add_argument("--only-files", action="store_true", help="write the files for --speed, and do no more")
    chosen = options.parse_args()
    if chosen.constants:
        constants()
    elif chosen.docs:
        import fit_docs

        fit_docs.write(KEPT, kept_loads())
    elif chosen.speed_constants:
        import fit_rates

        fit_rates.main()
    elif chosen.speed:
        import fit_speed

        folder = chosen.files or Path(tempfile.mkdtemp(prefix="fit-"))
        fit_speed.write_files(chosen.starter, folder, chosen.speed)
        if not chosen.only_files:
            fit_speed.measure(folder, chosen.speed, lambda window: fit_speed.keep(folder, window, _machine()))
    else:
        kept = run(chosen.starter, chosen.only)
        if chosen.keep:
            kept = _in_place(json.loads(KEPT.read_text()), kept, chosen.only)
        if chosen.keep or not chosen.only:
            KEPT.parent.mkdir(parents=True, exist_ok=True)
            KEPT.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
