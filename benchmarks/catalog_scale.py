"""Listing and searching at scale: the built-in catalog, and a synthetic one of 100,000 entries.

    python benchmarks/catalog_scale.py [--entries 100000] [--rounds 7] [--foundry PATH] [--json FILE]

An entry is a variant: what Foundry Local's catalog lists one by one. The synthetic catalog has some 40,000 models of
2,500 shapes in 13 quantizations, each as often as any other, of 0.03 to 700 billion parameters, with varied licences,
tasks and publishers. Every file has a size of its own, up to 6 % from the usual one; one in ten has no known size, one
in twenty models no known shape, and one in ten entries is for an engine that is not here. That is harder than a hub,
where most models are fine-tunes of a few: nothing may be gained here from entries that are alike. Each command is a
process, timed from outside; memory is the most that the process had resident at any time. The machine is probed once
before, as on a person's second call.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import msgspec
from rig import BenchmarkFailed, Foundry, Line, parser, publish

from localfoundry.catalog.model import Architecture, Model, Variant

_BITS = {"Q4_K_M": 4.85, "Q4_0": 4.5, "Q4_1": 5.0, "Q4_K_S": 4.6, "Q5_K_M": 5.7, "Q5_0": 5.5, "Q6_K": 6.56, "Q8_0": 8.5,
         "Q3_K_M": 3.9, "Q2_K": 3.2, "IQ4_NL": 4.5, "F16": 16.0, "BF16": 16.0}  # fmt: skip
_LICENSES = ("apache-2.0", "mit", "llama3.1", "llama3.2", "gemma", "cc-by-nc-4.0", "other", None)
_TASKS = (("chat",), ("chat", "code"), ("code",), ("chat", "reasoning"), ("chat", "translation"))
_READING = (("embeddings",), ("rerank",))  # of one shape in eight
_WORDS = ("aurora", "basalt", "cedar", "delta", "ember", "fjord", "granite", "harbor", "iris", "juniper", "kestrel",
          "lumen", "meadow", "nimbus", "onyx", "parrot", "quartz", "raven", "sierra", "tundra")  # fmt: skip
_SHAPES = 2500
# Whose catalog, the command, and the most seconds and megabytes that it may take.
_COMMANDS: dict[str, tuple[str, str, float | None, float | None]] = {
    "list --fits, built-in": ("small", "model list --fits", 0.25, None),
    "list, built-in": ("small", "model list", None, None),
    "search TEXT --local": ("large", "model search granite --local", 1.5, 200),
    "list --fits --sort speed": ("large", "model list --fits --sort speed", 1.5, 200),
    "list --fits --ctx 32k --task code": ("large", "model list --fits --ctx 32k --task code", 1.5, 200),
    "recommend": ("large", "recommend", 4, 200),
    "recommend --ctx 32k --task code": ("large", "recommend --ctx 32k --task code --min-speed 10", 4, 200),
}


def shapes(chance: random.Random) -> list[Architecture]:
    """Distinct decoders, more small ones than large ones, as hubs have them."""
    found: dict[tuple[int, ...], Architecture] = {}
    while len(found) < _SHAPES:
        head = chance.choice((64, 80, 96, 128))
        heads = chance.choice((6, 8, 9, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64, 96, 128))
        layers = chance.randrange(6 + heads // 2, 24 + heads)
        kept = chance.choice([n for n in (1, 2, 3, 4, 8, 16, heads) if heads % n == 0])
        width = heads * head
        ffn = int(width * chance.choice((2.66, 3.0, 3.5, 4.0, 5.33))) // 64 * 64
        shape = Architecture(
            layers, width, ffn, heads, kept, head, chance.choice((32000, 49152, 128256, 151936, 200064, 262144)),
            width < 3000, chance.random() < 0.4, chance.random() < 0.3,
            chance.choice((2048, 4096, 8192, 32768, 131072)),
        )  # fmt: skip
        found[layers, width, kept, ffn] = shape
    return list(found.values())


def catalog(entries: int, seed: int = 7) -> list[Model]:
    chance = random.Random(seed)
    kinds = shapes(chance)
    models, made = [], 0
    while made < entries:
        model = _model(len(models), min(chance.choice((1, 2, 3, 4)), entries - made), chance.choice(kinds), chance)
        models.append(model)
        made += len(model.variants)
    return models


def write(file: Path, entries: int) -> None:
    file.write_bytes(msgspec.json.encode({"models": catalog(entries)}))


def _model(number: int, count: int, shape: Architecture, chance: random.Random) -> Model:
    stem = f"{chance.choice(_WORDS)}-{chance.choice(_WORDS)}-{shape.parameters() / 1e9:.1f}b-{number}"
    terms = chance.choice(_LICENSES)
    names = chance.sample(list(_BITS), count)
    known = chance.random() >= 0.05
    variants = tuple(_variant(stem, name, shape, chance) for name in sorted(names))
    org = f"{chance.choice(_WORDS)}labs"
    tasks = chance.choice(_READING if shape.layers % 8 == 0 else _TASKS)
    return Model(stem, tasks, variants, f"{org}/{stem}", org, terms,
                 shape.parameters() if known else None, shape if known else None)  # fmt: skip


def _variant(stem: str, quantization: str, shape: Architecture, chance: random.Random) -> Variant:
    usual = shape.parameters() * _BITS[quantization] / 8 + 6_000_000
    size = None if chance.random() < 0.1 else int(usual * chance.uniform(0.94, 1.06))
    name = f"{stem}-{quantization.lower()}"
    if chance.random() < 0.1:
        return Variant(f"{name}-onnx", 1, "onnx", f"hf:{stem}/onnx", None, size_bytes=size)
    return Variant(name, 1, "gguf", f"hf:labs/{stem}-GGUF:{quantization}", quantization, size_bytes=size)


def spent(program: Foundry, *arguments: str) -> tuple[float, float, int]:
    """Seconds by the clock, seconds of processor time and the most bytes resident, of one command into a file."""
    with tempfile.TemporaryFile() as sink:
        began = time.perf_counter()
        pid = os.posix_spawn(
            program.command, [program.command, *arguments], program.environment,
            file_actions=[(os.POSIX_SPAWN_DUP2, sink.fileno(), 1), (os.POSIX_SPAWN_DUP2, sink.fileno(), 2)],
        )  # fmt: skip
        _, status, usage = os.wait4(pid, 0)
        elapsed = time.perf_counter() - began
        if os.waitstatus_to_exitcode(status) != 0:
            sink.seek(0)
            raise BenchmarkFailed(f"{' '.join(arguments)}: {sink.read(2000).decode(errors='replace')}")
    return elapsed, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--entries", type=int, default=100_000)
    options.add_argument("--rounds", type=int, default=7)
    chosen = options.parse_args()
    seconds: dict[str, list[float]] = defaultdict(list)
    processor: dict[str, list[float]] = defaultdict(list)
    megabytes: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="foundry-bench-") as folder:
        place = chosen.home or Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        file = place / "catalog.json"
        # Made in another process: what this one once held would count as memory of the commands that it starts.
        made = multiprocessing.get_context("spawn").Process(target=write, args=(file, chosen.entries))
        made.start()
        made.join()
        small = Foundry(place / "home", chosen.foundry)
        large = Foundry(place / "home", chosen.foundry)
        large.environment |= {"FOUNDRY_CATALOG": str(file)}
        small.run("model", "list", "--fits")  # the probe
        for number in range(chosen.rounds + 1):
            for name, (program, line, *_) in _COMMANDS.items():
                taken, worked, held = spent(large if program == "large" else small, *line.split())
                if number:  # the first is warm-up: byte code, disk cache
                    seconds[name].append(taken)
                    processor[name].append(worked)
                    megabytes[name].append(held / 1e6)
        size = file.stat().st_size
    lines = [Line(name, "s", seconds[name], goal=goal) for name, (_, _, goal, _) in _COMMANDS.items()]
    lines += [Line(f"{name}: processor", "s", processor[name]) for name in _COMMANDS]
    lines += [Line(f"{name}: memory", "MB", megabytes[name], goal=goal) for name, (_, _, _, goal) in _COMMANDS.items()]
    publish(lines, {"rounds": chosen.rounds, "entries": chosen.entries, "file_bytes": size},
            {"seconds": seconds, "processor": processor, "megabytes": megabytes}, chosen.json)  # fmt: skip


if __name__ == "__main__":
    main()
