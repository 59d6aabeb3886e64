"""What options of the ONNX builder cost in quality: folders that it made of the starter's weights, beside float32.

    python -m onnxruntime_genai.models.builder -i HF_FOLDER -o OUT -p int4 -e cpu --extra_options algo_config=rtn …
    python benchmarks/onnx_options.py OUT …

Every scored position of the shipped reference, computed by ONNX Runtime on the processor without an engine between, one
pass over each passage. Perplexity is that of the token that follows; KL and top-1 are from the 64 likeliest tokens.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from localfoundry.quality import fidelity, probe, reference
from localfoundry.quality.fidelity import Estimate, Position


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    against = reference.read(reference.shipped()[0])
    for folder in parser.parse_args().folders:
        found = fidelity.summary(positions(folder, against), [])
        size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file()) / 1e6
        told = ", ".join(f"{name} {shown(getattr(found, name))}" for name in ("perplexity", "kl", "top1"))
        print(f"{folder.name}: {size:.1f} MB, {found.positions} positions, {told}", flush=True)


def shown(estimate: Estimate | None) -> str:
    return "unknown" if estimate is None else f"{estimate.value:.4f} ({estimate.low:.4f} to {estimate.high:.4f})"


def positions(folder: Path, against: reference.Reference) -> list[Position]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    decoder = json.loads((folder / "genai_config.json").read_text("utf-8"))["model"]["decoder"]
    found: list[Position] = []
    for number, passage in enumerate(against.chunks):
        logits = session.run(["logits"], feed(session, decoder, passage))[0][0].astype(np.float32)
        for row in (row for row in against.rows() if row.chunk == number):
            here = logits[row.position - 1]
            here = here - here.max()
            here -= np.log(np.exp(here, dtype=np.float64).sum())
            named = {*np.argpartition(-here, probe.TOP)[: probe.TOP].tolist(), row.target}
            found.append(fidelity.compare(row, {token: float(here[token]) for token in named}))
    return found


def feed(session: ort.InferenceSession, decoder: dict[str, Any], passage: tuple[int, ...]) -> dict[str, Any]:
    """A passage as a prompt, with nothing before it."""
    count = len(passage)
    known = {
        "input_ids": np.array([passage], np.int64),
        "attention_mask": np.ones((1, count), np.int64),
        "position_ids": np.arange(count, dtype=np.int64)[None],
    }
    empty = [1, decoder["num_key_value_heads"], 0, decoder["head_size"]]
    kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
    return {one.name: known.get(one.name, np.zeros(empty, kinds.get(one.type))) for one in session.get_inputs()}


if __name__ == "__main__":
    main()
