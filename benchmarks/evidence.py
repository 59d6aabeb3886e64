"""How long it takes to read what is known of models: a results file of 100 runs, as a recommendation reads it.

    python benchmarks/evidence.py [--runs 100] [--rounds 5] [--json FILE]

Half of the runs are of a bench (three models, 60 requests each), half of items (three models, 130 each), with raw texts
of 2 KB as answers and times of chunks have them. Reading is `results.evidence.known` and what is known of one file,
which looks for outliers too; in one process, after a reading that is thrown away.
"""

from __future__ import annotations

import hashlib
import random
import tempfile
import time
from pathlib import Path

from rig import Line, parser, publish

from localfoundry.results import evidence
from localfoundry.results.db import FILE_NAME, Results
from localfoundry.results.rows import CandidateRow, ItemRow, Run, SampleRow, new_id

_MODELS, _REQUESTS, _ITEMS = 3, 60, 130
_AT = "2026-10-01T10:00:00.000+00:00"
_MACHINE: dict[str, object] = {"cpu": "a processor", "threads": 2, "memory_bytes": 8 * 2**30}
_RAW = '{"answer": "' + "x" * 2000 + '"}'


def file_of(model: int) -> str:
    return hashlib.sha256(str(model).encode()).hexdigest()


def fill(path: Path, runs: int) -> None:
    draw = random.Random(1)
    with Results(path) as results:
        for number in range(runs):
            run = Run(new_id(1_700_000_000 + number), "eval" if number % 2 else "bench", _AT, machine=_MACHINE)
            rows = [
                CandidateRow(run.id, f"m{m}", f"m{m}", f"org/m{m}:1", file_of(m), "llama.cpp") for m in range(_MODELS)
            ]
            results.begin(run, rows)
            with results.together():
                for row in rows:
                    if run.kind == "bench":
                        _requests(results, row, draw)
                    else:
                        _items(results, row, draw)
            results.finish(run.id)


def _requests(results: Results, row: CandidateRow, draw: random.Random) -> None:
    for seq in range(_REQUESTS):
        ttft = draw.gauss(0.2, 0.02)
        load = f"c={1 + 2 * seq // _REQUESTS}"
        results.add_sample(
            SampleRow(row.run, row.label, "chat", "en", load, seq, 0, f"p{seq}", True, ttft, ttft, ttft / 20, 5 * ttft,
                      80, 0, 64, _RAW)
        )  # fmt: skip


def _items(results: Results, row: CandidateRow, draw: random.Random) -> None:
    for item in range(_ITEMS):
        suite, language = ("chat", "code")[item % 2], ("en", "da")[item // 2 % 2]
        passed = draw.random() < 0.5
        results.add_item(ItemRow(row.run, row.label, suite, f"i{item}", language, passed, _RAW, "ab" * 32))


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--runs", type=int, default=100)
    options.add_argument("--rounds", type=int, default=5)
    given = options.parse_args()
    seconds = []
    with tempfile.TemporaryDirectory(prefix="foundry-bench-") as folder:
        home = Path(folder)
        fill(home / FILE_NAME, given.runs)
        size = (home / FILE_NAME).stat().st_size
        for number in range(given.rounds + 1):
            began = time.perf_counter()
            found = evidence.known(home).of(file_sha256=file_of(0))
            if number:
                seconds.append(time.perf_counter() - began)
        assert found.accuracy and found.speeds
    publish([Line(f"what {given.runs} runs say of a file", "s", seconds)],
            {"runs": given.runs, "bytes": size}, seconds, given.json)  # fmt: skip


if __name__ == "__main__":
    main()
