"""Stands in for llama.cpp's programs in tests: `FAKE_LLAMA` says how it goes wrong, its own name what it plays."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

NAMES = ("llama-server", "llama-quantize", "llama-imatrix", "llama-bench", "llama-perplexity")


def install(folder: Path) -> Path:
    """Put the programs into `folder` and return the server's path."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        program = folder / name
        program.write_text(
            f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
            "import fake_llama\nsys.exit(fake_llama.main())\n"
        )
        program.chmod(0o755)
    return folder / "llama-server"


def quantize(arguments: list[str]) -> int:
    """Copies the model, a line for each step, as `llama-quantize` counts its tensors."""
    if "--help" in arguments:
        print("usage: llama-quantize")
        return 1  # as the real one
    source, target = (Path(each) for each in arguments[-4:-2])
    print("version: 9.9.9 (build 42, commit abc)")
    for step in range(1, 4):
        print(f"[{step:4d}/   3] blk.{step}.ffn_up.weight - converting", flush=True)
    target.write_bytes(source.read_bytes())
    return 0


def imatrix(arguments: list[str]) -> int:
    Path(arguments[arguments.index("--output") + 1]).write_bytes(b"matrix of " + arguments[-1].encode())
    return 0


def main() -> int:
    name, wrong = Path(sys.argv[0]).name, os.environ.get("FAKE_LLAMA", "")
    with Path(os.environ["FAKE_LLAMA_LOG"]).open("a") as log:
        log.write(f"{name} {' '.join(sys.argv[1:])}\n")
    if wrong == f"{name} fails":
        print("llama_model_quantize: failed to quantize: bad weather over /srv/models", file=sys.stderr)
        return 1
    if wrong == f"{name} hangs":
        print("[   1/   3] begun", flush=True)
        time.sleep(600)
    return {"llama-quantize": quantize, "llama-imatrix": imatrix}[name](sys.argv[1:])
