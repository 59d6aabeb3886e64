"""docs/fit.md, written from the loads that were kept."""

# ruff: noqa: E501 the rows of a table are one line each
from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import fit_speed_docs
import other_tools
from fit_loads import Options

from localfoundry.bench import stats
from localfoundry.fit.memory import Load, Memory
from localfoundry.formats.shape import ModelShape

PAGE = Path(__file__).parent.parent / "docs" / "fit.md"
Kept = tuple[dict[str, Any], ModelShape, Memory]

_HEAD = """# Will it fit

What `foundry model info MODEL --explain` predicts, where it comes from, and how far it was off. This page is generated:
`python benchmarks/fit.py` loads and measures, `--docs` writes it.

## What is added up

| term | from | sure to |
|---|---|---|
| weights | sizes of the tensors in the file's header | exact |
| weights, rearranged | types that the processor's kernels want in another order (Q4_0, Q4_K, IQ4_NL with AVX2) are copied; a head that is the embedding is copied as well | exact |
| pages left over | the file's pages behind those copies; the system drops them when others need room | exact |
| KV cache | cells x values per layer x true bytes per value; the context is rounded up to 256; layers with a window have min(context, window x requests + 512) cells; latent attention keeps one compressed vector | exact |
| recurrent state | values per layer x requests x 4 bytes | exact |
| checkpoints | for models with a window or a state: what could not be rolled back, kept twice for each request so that the next prompt need not be read anew; of the window min(window x requests, context) tokens | an upper bound: they come with use |
| compute buffers | 512 tokens x 4 bytes x (5 x hidden + the wider of attention and feed-forward network) + 512 x 2 bytes x cells for the mask; without flash attention the scores of all heads | ± {compute} |
| logits | requests x vocabulary x 4 bytes | exact |
| process | Python, the engine's code, its threads: a line over the vocabulary, fitted to every other load below with a short context | ± {process} |

Compute buffers were read off the engine's own log over shapes that differ in one dimension at a time. For an
architecture whose window pattern neither the file nor this version knows, and for facts from a catalog instead of a
header, the interval is ± 30 %. A model in several files is read as one. Not covered: encoders' buffers (never measured
here), projectors beyond their size, graphics cards. The engine by itself would keep 32 checkpoints of each request,
which for a window of 4,096 tokens are gigabytes; workers are told to keep two: the one before the last 512 tokens of a
prompt (for another question about the same text) and the one at its end (for the next turn). Loads of models with a
window were measured with every sequence used beyond it, as far as the context has room.

## How fast

Decode: for each type of weights the longer of reading them (over the probed bandwidth) and multiplying with them (two
operations for each active weight, over the kernel's rate on all cores), added as fourth powers since both overlap; then
the attention over the keys and values so far, and a little for each layer. Prefill: operations over the kernels' rates,
the head's only for the last token, attention, and norms and activations value by value. Load: process, vocabulary,
weights, cache, from the page cache. `foundry model info MODEL --explain` shows the terms. Every load and every bench
(`foundry bench`) corrects the next estimate, which then says `measured here`; without a probe of the memory there is no
figure. How far off that was is [below](#speed-measured).

### In another engine than llama.cpp

All of the above is llama.cpp's. `foundry model info MODEL` asks which engine would really run the version that is here
([engines](engines.md)) and tells that one's figures under its name: memory by the engine's own estimate, which is also
what a load asks for, corrected by what loads of the file took; decode by the latest bench of this file in this engine
on this kind of machine; else predicted from what was measured of one model, SmolLM2-135M, on one machine:

| | decode | prefill | load | memory |
|---|---|---|---|---|
| `openvino` | all weights at 0.45 of the probed bandwidth, and llama.cpp's steps for each layer | 242 G operations a second and core | 0.9 s, and 150 MB a second | `engines/openvino_fit.py` |
| `onnx` | all weights at 0.65 of it, and the same steps | 86 G | 0.7 s, and 800 MB a second | `engines/onnx.py` |

Rates have an interval of a factor of 2.5 either way on that kind of machine and of 3.5 elsewhere, loads of 3, memory of
20 % (35 % where the size of the file is assumed). How long a load takes that first makes the engine's file is `unknown`. A
folder of ONNX Runtime GenAI does
not tell its feed-forward network; its parameters are then taken to be those of a usual layer. No other model, and no
other machine, was ever compared with these rates.

`model list --fits` and `recommend` do the same: ONNX and OpenVINO folders get the figures of their engine, and so do GGUF
files that are here and that a setting (`engine`, `profile`, of the model or of all) gives to another engine. GGUF files
that are not here yet count as llama.cpp's, as which tensors they hold only shows in the file. What llama.cpp's loads and
benches taught corrects llama.cpp's figures alone.

## Memory, measured

"""


def write(source: Path, kept: list[Kept]) -> None:
    machine = json.loads(source.read_text())["machine"]
    parameters = json.loads(source.read_text())["parameters"]
    rows = [_row(one, form, predicted, parameters[one["file"]]) for one, form, predicted in kept]
    spreads = {t.purpose: f"{t.spread:.0%}" for t in kept[0][2].terms}
    text = _HEAD.format(compute=spreads["compute"], process=spreads["process"])
    text += _summary(rows, kept, machine) + _by_file(rows) + fit_speed_docs.section() + _all(rows)
    PAGE.write_text(text, encoding="utf-8")


def _row(one: dict[str, Any], form: ModelShape, predicted: Memory, parameters: int) -> dict[str, Any]:
    options = Options(**one["options"])
    load = Load(options.context, options.parallel, options.cache, options.cache)
    measured = one["resident"]
    return {
        "file": one["file"],
        "options": options,
        "measured": measured,
        "predicted": predicted.total,
        "error": predicted.total / measured - 1,
        "llmfit": other_tools.llmfit(form, parameters, load) / measured - 1,
        "whichllm": other_tools.whichllm(form, parameters, load) / measured - 1,
    }


def _summary(rows: list[dict[str, Any]], kept: list[Kept], machine: dict[str, str]) -> str:
    held_back = kept[1::2]  # `fit.constants` takes the others
    held = sum(predicted.interval.holds(one["resident"]) for one, _, predicted in held_back)
    text = (
        f"{len(rows)} loads in the bundled worker ({machine['engine']}, {machine['system']}, Python {machine['python']}), "
        "each used by as many requests at once as it has sequences, one of them longer than a batch. Measured is the "
        "worker's resident memory after that. Contexts are not filled: the part of the mask that belongs to the unfilled "
        "rest is predicted, since it will be touched, and not measured, which is why long contexts of a small model come "
        "out some percent over. The starter model is its own file, re-quantized; the others have random "
        "weights and a padded vocabulary in the shapes of the named models, with fewer layers where that is said.\n\n"
        "| | 90 % of loads within | worst | median |\n|---|---|---|---|\n"
    )
    for name, label in (
        ("error", "**localfoundry**"),
        ("llmfit", "llmfit's formula"),
        ("whichllm", "whichllm's formula"),
    ):
        errors = [abs(row[name]) for row in rows]
        middle = stats.percentile(errors, 0.5)
        text += f"| {label} | {stats.percentile(errors, 0.9):.1%} | {max(errors):.1%} | {middle:.1%} |\n"
    return text + (
        f"\nThe stated 90 % intervals hold {held / len(held_back):.0%} of the {len(held_back)} loads that nothing was fitted to. The two formulas are as published, for "
        "graphics cards too, and meant for larger models: half a gigabyte and more for a framework weighs most on small "
        "ones. They count no parallel requests.\n\n"
    )


def _by_file(rows: list[dict[str, Any]]) -> str:
    grouped: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        grouped[row["file"]].append(row)
    text = "| model and type | loads | measured, MB | largest error | llmfit | whichllm |\n|---|---|---|---|---|---|\n"
    for name, some in grouped.items():
        sizes = sorted(row["measured"] / 1e6 for row in some)
        worst = {key: max((row[key] for row in some), key=abs) for key in ("error", "llmfit", "whichllm")}
        text += f"| {name} | {len(some)} | {sizes[0]:,.0f} to {sizes[-1]:,.0f} | {worst['error']:+.1%} "
        text += f"| {worst['llmfit']:+.0%} | {worst['whichllm']:+.0%} |\n"
    return text + "\n"


def _all(rows: list[dict[str, Any]]) -> str:
    text = "\n## Every load\n\n| model and type | context | requests | cache | measured, MB | predicted, MB | error "
    text += "| llmfit | whichllm |\n|---|---|---|---|---|---|---|---|---|\n"
    for row in rows:
        o = row["options"]
        text += f"| {row['file']} | {o.context} | {o.parallel} | {o.cache} | {row['measured'] / 1e6:,.1f} "
        text += (
            f"| {row['predicted'] / 1e6:,.1f} | {row['error']:+.1%} | {row['llmfit']:+.0%} | {row['whichllm']:+.0%} |\n"
        )
    return text
