"""How long it takes to list a store of 2,000 versions: the function alone, and `foundry cache list` as a process.

    python benchmarks/listing.py [--versions 2000] [--rounds 15] [--foundry PATH] [--json FILE]

The store is made for the measurement: each version has a manifest as a pull writes it, a file of a few bytes and its
blob. The process is timed from outside, in turn with the same command on an empty store and with a bare Python, so
that what starting costs can be told from what listing costs. `cache list` also reads last uses, partials and refs.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import msgspec
from rig import BenchmarkFailed, Foundry, Line, parser, publish

from localfoundry.catalog.model import Architecture
from localfoundry.store.manifest import Manifest, StoredFile
from localfoundry.store.store import Store

_GOAL_S = 0.2
_SHAPE = Architecture(30, 576, 1536, 9, 3, 64, 49152, True, False, False, 8192)


def fill(store: Store, count: int) -> None:
    """Versions in twos: every name has an old and a new one."""
    store.prepare()
    for number in range(count):
        name, version = f"model-{number // 2:04d}-instruct-q4_k_m", number % 2 + 1
        data = f"{name}:{version}".encode()
        sha256 = hashlib.sha256(data).hexdigest()
        manifest = Manifest(
            name=name,
            version=version,
            alias=f"model-{number // 2:04d}",
            source=f"hf:org/{name}@{'c' * 40}:{name}.gguf",
            format="gguf",
            files=(StoredFile(f"{name}.gguf", len(data), sha256),),
            created_at="2026-01-01T00:00:00.000+00:00",
            commit="c" * 40,
            license="apache-2.0",
            quantization="Q4_K_M",
            context_length=8192,
            architecture_name="llama",
            architecture=_SHAPE,
            parameters=134_515_008,
            chat_template_sha256=sha256,
        )
        folder = store.folder(manifest)
        folder.mkdir(parents=True)
        store.blob(sha256).write_bytes(data)
        os.link(store.blob(sha256), folder / f"{name}.gguf")
        (folder / "manifest.json").write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")


def listed(store: Store, count: int) -> float:
    began = time.perf_counter()
    found = len(store.manifests())
    elapsed = time.perf_counter() - began
    if found != count:
        raise BenchmarkFailed(f"{found} of {count} versions were listed")
    return elapsed


def bare_python() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True, stdin=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--versions", type=int, default=2000)
    options.add_argument("--rounds", type=int, default=15)
    chosen = options.parse_args()
    samples: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="foundry-bench-") as folder:
        place = chosen.home or Path(folder)
        full, empty = Foundry(place / "full", chosen.foundry), Foundry(place / "empty", chosen.foundry)
        store = Store(place / "full" / "models")
        if not store.root.exists():
            fill(store, chosen.versions)
        for round_number in range(chosen.rounds + 1):
            taken = {
                "Store.manifests()": listed(store, chosen.versions),
                'Store.find("alias")': _found(store),
                "foundry cache list": full.timed("cache", "list"),
                "foundry cache list, empty store": empty.timed("cache", "list"),
                "python -c pass": bare_python(),
            }
            if round_number:  # the first is warm-up: byte code, disk cache
                for name, seconds in taken.items():
                    samples[name].append(seconds)
    goals = {"Store.manifests()": _GOAL_S, "foundry cache list": _GOAL_S}
    lines = [Line(name, "s", values, goal=goals.get(name)) for name, values in samples.items()]
    publish(lines, {"rounds": chosen.rounds, "versions": chosen.versions}, samples, chosen.json)


def _found(store: Store) -> float:
    began = time.perf_counter()
    if store.find("model-0000") is None:
        raise BenchmarkFailed("an alias was not found")
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
