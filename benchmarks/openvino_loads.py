"""What loads take in OpenVINO: the figures behind `engines/openvino_fit.py`.

    python benchmarks/openvino_loads.py MODEL CONTEXT PARALLEL

Loads a GGUF file or an IR folder in this process, fills the cache with as many prompts as run together, and prints
resident memory after the load, at its peak, and with the cache in use, in MiB, beside the library's own word for the
cache in bytes, and the seconds of the load.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from localfoundry.workers.generation import Sampling
from localfoundry.workers.openvino import OpenVino, defaults


def memory() -> dict[str, int]:
    lines = Path("/proc/self/status").read_text().splitlines()
    found = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("VmHWM", "VmRSS", "RssAnon"))}
    return {name: int(kib) // 1024 for name, kib in found.items()}


def main() -> None:
    path, context, parallel = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    started, spent = time.perf_counter(), time.process_time()
    backend = OpenVino(path, context, parallel, "CPU", defaults())
    told = {
        "model": path.name, "context": context, "load_s": round(time.perf_counter() - started, 1),
        "processor_s": round(time.process_time() - spent, 1), "loaded": memory(), **backend.account(),
    }  # fmt: skip
    for number in range(1, parallel + 1):
        prompt = [number * 7 + place % 1000 for place in range(context // parallel - 10)]
        backend.start(number, prompt, Sampling(max_tokens=6, ignore_eos=True))
    while backend.busy:
        backend.step()
    print(json.dumps(told | {"used": memory()}), flush=True)
    os._exit(0)  # the library takes its time to give everything back


if __name__ == "__main__":
    main()
