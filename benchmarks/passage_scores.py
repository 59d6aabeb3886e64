"""OpenVINO's perplexity over float32's on every position of the reference, by passages scored at once.

    python benchmarks/passage_scores.py [--home DIR] [--ways "" "--cache-type f16" …]

For each way, engine arguments as one text, a service of its own loads the model without a cache of prefixes and scores
all passages (`echo`, docs/engines.md); some of the positions are then asked one by one, as `foundry eval --fidelity`
does, for what that takes. Printed with its interval, from drawing the passages again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from rig import Foundry, Line, call, foundry, parser, publish

from localfoundry.bench import stats
from localfoundry.quality import fidelity, probe, reference
from localfoundry.quality.fidelity import Position
from localfoundry.quality.reference import Reference

ASKED = 24  # positions that are asked one by one, at the beginning of the first passage's scored part


def main() -> None:
    options = arguments()
    against = reference.read(reference.shipped()[0])
    lines: list[Line] = []
    raw: dict[str, Any] = {}
    with foundry(options) as place:
        for way in options.ways:
            values, seconds, asked = measured(place, options.model, way, against)
            ratio = fidelity.summary(values, []).perplexity
            assert ratio is not None
            raw[way] = {"log_ratios": [[p.chunk, p.log_ratio] for p in values], "seconds": seconds, "asked": asked}
            interval = stats.Interval(ratio.low, ratio.high, "bootstrap")
            title = way or "as it is loaded"
            lines.append(Line(f"{title}: perplexity over float32's, {len(values)} positions", "x",
                              point=ratio.value, interval=interval, goal=1.01))  # fmt: skip
            lines.append(Line(f"{title}: a passage scored", "ms", values=[1000 * s for s in seconds]))
            lines.append(Line(f"{title}: a position asked", "ms", values=[1000 * s for s in asked]))
    publish(lines, {"ways": options.ways}, raw, options.json)


def measured(
    place: Foundry, model: str, way: str, against: Reference
) -> tuple[list[Position], list[float], list[float]]:
    """Positions, seconds of each passage, and seconds of each position that was asked by itself."""
    choices = {"engine": "openvino", "engineArguments": [*way.split(), "--prefix-cache", "NO"]}
    found, seconds, asked = [], [], []
    with tempfile.TemporaryDirectory(prefix="foundry-bench-") as folder:
        own = Foundry(Path(folder), Path(place.command))
        own.environment.setdefault("FOUNDRY_CACHE_DIR", str(place.home / "models"))
        (own.home / "settings.json").write_text(json.dumps({"models": {model: choices}}), encoding="utf-8")
        with own.service() as url:
            call(f"{url}/foundry/load", {"model": model})
            rows = against.rows()
            for number, passage in enumerate(against.chunks):
                began = time.perf_counter()
                scores = scored(url, model, passage)
                seconds.append(time.perf_counter() - began)
                here = [row for row in rows if row.chunk == number]
                found += [fidelity.by_score(r, scores[r.position - 1]) for r in here]
            body = {"model": model, "max_tokens": 1, "temperature": 0, "logprobs": probe.TOP}
            for row in rows[:ASKED]:
                began = time.perf_counter()
                call(f"{url}/v1/completions", body | {"prompt": against.chunks[0][: row.position]})
                asked.append(time.perf_counter() - began)
    return found, seconds, asked


def scored(url: str, model: str, passage: tuple[int, ...]) -> list[float]:
    body = {"model": model, "prompt": passage, "echo": True, "max_tokens": 0, "logprobs": 0}
    answer = call(f"{url}/v1/completions", body)
    return [entry["logprob"] for entry in answer["choices"][0]["logprobs"]["content"][1:]]


def arguments() -> argparse.Namespace:
    found = parser(__doc__)
    found.add_argument("--ways", nargs="+", default=[""], help="engine arguments, each way as one text")
    return found.parse_args()


if __name__ == "__main__":
    main()
