"""Stands in for llama.cpp's programs in tests: `FAKE_LLAMA` says how it goes wrong, its own name what it plays."""

from __future__ import annotations

import json
import os
import socketserver
import sys
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

NAMES = ("llama-server", "llama-quantize", "llama-imatrix", "llama-bench", "llama-perplexity")


def install(folder: Path) -> Path:
    """Put the programs into `folder` and return the server's path."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        script(folder / name, "fake_llama")
    return folder / "llama-server"


def script(program: Path, module: str) -> None:
    """A program that runs `main` of a module of this folder."""
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        f"import {module}\nsys.exit({module}.main())\n"
    )
    program.chmod(0o755)


def quantize(arguments: list[str]) -> int:
    """Copies the model, a line for each step, as `llama-quantize` counts its tensors."""
    source, target = (Path(each) for each in arguments[-4:-2])
    print("version: 9.9.9 (build 42, commit abc)")
    for step in range(1, 4):
        print(f"[{step:4d}/   3] blk.{step}.ffn_up.weight - converting", flush=True)
    target.write_bytes(source.read_bytes())
    return 0


def imatrix(arguments: list[str]) -> int:
    Path(arguments[arguments.index("--output") + 1]).write_bytes(b"matrix of " + arguments[-1].encode())
    return 0


class _Answer(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps({"content": "a", "tokens_predicted": 4}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def server(arguments: list[str]) -> int:
    """Answers on the socket that `--host` names until it is ended."""
    with socketserver.UnixStreamServer(arguments[arguments.index("--host") + 1], _Answer) as serving:
        serving.serve_forever()
    return 0


def main() -> int:
    name, wrong, arguments = Path(sys.argv[0]).name, os.environ.get("FAKE_LLAMA", ""), sys.argv[1:]
    if os.environ.get("FAKE_LLAMA_LOG"):
        with Path(os.environ["FAKE_LLAMA_LOG"]).open("a") as log:
            log.write(f"{name} {' '.join(arguments)}\n")
    if "--version" in arguments:
        print("version: 9.9.9 (build 42, commit abc)", file=sys.stderr)
        return int(name == "llama-quantize")  # as the real one
    if wrong == f"{name} fails":
        print("llama_model_quantize: failed to quantize: bad weather over /srv/models", file=sys.stderr)
        return 1
    if wrong == f"{name} hangs":
        print("[   1/   3] begun", flush=True)
        time.sleep(600)
    return {"llama-quantize": quantize, "llama-imatrix": imatrix, "llama-server": server}[name](arguments)
