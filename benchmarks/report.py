"""How long the report of a comparison takes: 10 models with 5,000 samples each, from the results file to the page.

    python benchmarks/report.py [--models 10] [--samples 5000] [--rounds 3] [--json FILE]

The samples are made for the measurement: 500 rounds at one stream and more at 2, 4 and 8, each with the times of its
chunks and an answer, as a bench keeps them; every model has 20 items too. Each round is a process of its own, as a
report is: reading, reckoning, drawing and writing, without the start of the command line.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from rig import BenchmarkFailed, Line, parser, publish

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from compare.recorded import keep_bench, keep_items, outcome
from localfoundry.bench.plan import Plan
from localfoundry.results.db import Results

_GOAL_S = 3.0
_PROGRAM = """
import sys
import time
began = time.perf_counter()
from pathlib import Path
from localfoundry.cli.context import uncollected
from localfoundry.compare import charts, draw, page, text, verdict
from localfoundry.compare.evidence import gather
from localfoundry.results.db import Results
with uncollected(), Results(Path(sys.argv[1])) as results:
    found = gather(results, results.runs())
read = time.perf_counter()
judged = verdict.judge(found)
said = time.perf_counter()
Path(sys.argv[2]).write_text(page.page(found, judged, made_at="now"), "utf-8")
ended = time.perf_counter()
samples = sum(len(f.cell.samples) for p in found.panels for f in p.figures)
print(read - began, said - read, ended - said, ended - began, time.process_time(), samples)
"""


def fill(path: Path, models: int, samples: int) -> None:
    """A run of a bench and one of items. Per round there are 1, 4, 8 and 16 requests at 1, 2, 4 and 8 streams."""
    plan = Plan(rounds=max(samples // 29, 1), concurrency=(1, 2, 4, 8), nonce="n")
    labels = [f"model-{number}-instruct-q4_k_m" for number in range(models)]
    with Results(path) as results:
        keep_bench(results, plan, [outcome(label, 1 + place / 4, plan) for place, label in enumerate(labels)])
        keep_items(results, {label: [i % (place + 2) > 0 for i in range(20)] for place, label in enumerate(labels)})


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--models", type=int, default=10)
    options.add_argument("--samples", type=int, default=5000)
    options.add_argument("--rounds", type=int, default=3)
    given = options.parse_args()
    samples: dict[str, list[float]] = {
        name: [] for name in ("read and reckon", "judge", "draw and write", "in all", "processor")
    }
    count = 0.0
    with tempfile.TemporaryDirectory(prefix="foundry-bench-") as folder:
        file, page = Path(folder) / "results.db", Path(folder) / "out.html"
        fill(file, given.models, given.samples)
        for number in range(given.rounds + 1):
            command = [sys.executable, "-c", _PROGRAM, str(file), str(page)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
            if done.returncode:
                raise BenchmarkFailed(done.stderr)
            *seconds, count = map(float, done.stdout.split())
            if number:  # the first is warm-up: byte code, disk cache
                for name, value in zip(samples, seconds, strict=True):
                    samples[name].append(value)
        size = page.stat().st_size
    lines = [Line(name, "s", values, goal=_GOAL_S if name == "in all" else None) for name, values in samples.items()]
    settings: dict[str, object] = {"models": given.models, "samples": count, "page_bytes": size}
    publish(lines, settings, samples, given.json)


if __name__ == "__main__":
    main()
