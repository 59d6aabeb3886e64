"""Reading a GGUF header: the bounded reader against the `gguf` package, on the starter model's own file.

    pip install --target /tmp/gguf gguf
    python benchmarks/headers.py FILE.gguf --gguf /tmp/gguf [--rounds 7] [--json FILE]

Both read the same file in this process, in turn, after one reading each that is not counted. The package builds every
value, the bounded reader counts the long arrays and steps over them; both end with the same number of tensors, which is
checked. The ratio is ours over theirs, in pairs, so the goal of "five times faster" is at most 0.2.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from rig import BenchmarkFailed, Line, publish

from localfoundry.bench import stats
from localfoundry.formats.gguf import read_gguf
from localfoundry.formats.summary import of_gguf_file

OURS, THEIRS = "localfoundry, bounded reader", "gguf package, GGUFReader"
WHOLE = "localfoundry, with the template tried"


def measure(path: Path, package: Any, rounds: int) -> dict[str, list[float]]:
    samples: dict[str, list[float]] = defaultdict(list)
    for turn in range(rounds + 1):
        for name, read in ((OURS, read_gguf), (THEIRS, package.GGUFReader), (WHOLE, of_gguf_file)):
            began = time.perf_counter()
            found = read(path)
            elapsed = time.perf_counter() - began
            if turn:
                samples[name].append(elapsed * 1000)
            elif name == OURS:
                tensors = found.tensor_count
            elif name == THEIRS and len(found.tensors) != tensors:
                raise BenchmarkFailed(f"the readers disagree: {tensors} and {len(found.tensors)} tensors")
    return samples


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("file", type=Path, help="a GGUF file, for example the starter model's")
    options.add_argument("--gguf", type=Path, help="folder that the gguf package was installed to with pip --target")
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--json", type=Path, metavar="FILE", help="write results and raw samples there")
    chosen = options.parse_args()
    if chosen.gguf is not None:
        sys.path.append(str(chosen.gguf))
    try:
        import gguf
    except ImportError as exc:
        raise BenchmarkFailed("the gguf package is not here: pip install --target DIR gguf, then --gguf DIR") from exc
    samples = measure(chosen.file, gguf, chosen.rounds)
    ratio = stats.paired_ratio(samples[OURS], samples[THEIRS])
    lines = [Line(name, "ms", samples[name]) for name in (OURS, THEIRS, WHOLE)]
    lines.append(Line("bounded reader / gguf package", "x", (), ratio.value, ratio.interval, 0.2))
    publish(lines, {"rounds": chosen.rounds, "file_bytes": chosen.file.stat().st_size}, samples, chosen.json)


if __name__ == "__main__":
    main()
