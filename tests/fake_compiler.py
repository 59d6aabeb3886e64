"""Plays the Python that compilers run in, with fault switches: an executable that answers as it would, in a moment.

`FAKE_COMPILER` holds the switches as JSON: `packages` and `architectures` to tell; `fail`, `kill` or `memory`, the step
that ends badly; `hang`, the step that waits for ever, after it has written its own process id to the file `pid`;
`empty`, the step that writes nothing. Steps are `checkpoint`, `onnx`, `gguf`, `quantize`, `reference`. Every call
adds a line to the file `calls`. `folder`: an ONNX folder to give as the result.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import sys
import threading
from pathlib import Path
from typing import Any

_PACKAGES = "torch transformers accelerate onnxruntime-genai onnx-ir onnx gguf safetensors numpy"
TOLD: dict[str, Any] = {
    "python": "3.11.7",
    "packages": dict.fromkeys(_PACKAGES.split(), "1.0"),
    "architectures": ["LlamaForCausalLM", "Qwen2ForCausalLM"],
}
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 2, "tie_word_embeddings": True,
    "max_position_embeddings": 512, "num_attention_heads": 4,
}  # fmt: skip


def install(place: Path, **switches: Any) -> Path:
    """An executable in `place`; the switches go into the environment of the caller."""
    calls = place / "calls"
    os.environ["FAKE_COMPILER"] = json.dumps({"calls": str(calls), **switches})
    path = place / "python"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" "$@"\n')
    path.chmod(0o755)
    return path


def calls(folder: Path) -> list[str]:
    """The steps that were asked for so far."""
    path = folder / "calls"
    return path.read_text().split() if path.exists() else []


def checkpoint(folder: Path, config: dict[str, Any] | None = None, **files: bytes | None) -> Path:
    """A Hugging Face folder of a few bytes. `files`: others, or other contents; None: without that one."""
    folder.mkdir(parents=True, exist_ok=True)
    contents: dict[str, bytes | None] = {
        "config.json": json.dumps(CONFIG if config is None else config).encode(),
        "tokenizer.json": b"{}",
        "tokenizer_config.json": b"{}",
        "model.safetensors": safetensors(64),
        **{name.replace("__", "."): data for name, data in files.items()},
    }
    for name, data in contents.items():
        if data is not None:
            (folder / name).write_bytes(data)
    return folder


def safetensors(values: int) -> bytes:
    header = json.dumps({"weight": {"dtype": "F32", "shape": [values], "data_offsets": [0, 4 * values]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(4 * values)


def onnx_folder(folder: Path) -> None:
    """What passes for a result: described, and never run."""
    decoder = {"filename": "model.onnx", "num_hidden_layers": 2, "num_attention_heads": 4, "head_size": 16}
    model = {"type": "llama", "context_length": 512, "vocab_size": 258, "eos_token_id": 257, "decoder": decoder}
    (folder / "genai_config.json").write_text(json.dumps({"model": model}))
    (folder / "model.onnx").write_bytes(b"graph")
    (folder / "model.onnx.data").write_bytes(bytes(1000))


def _reference(out: Path) -> None:
    """What a source says that knows its text by heart: four short texts of bytes, the next one nearly certain."""
    chunks = [list(range(at, at + 24)) for at in (32, 56, 80, 97)]
    first, top = 12, 64
    targets = [chunk[position] for chunk in chunks for position in range(first, len(chunk))]
    rows = [[target, *range(190, 190 + top - 1)] for target in targets]
    ids = [token for row in rows for token in row]
    (out / "ids").write_bytes(struct.pack(f"<{len(ids)}I", *ids))
    (out / "logprobs").write_bytes(struct.pack(f"<{len(ids)}e", *([-0.05, *[-9.0] * (top - 1)] * len(rows))))
    (out / "tail").write_bytes(struct.pack(f"<{len(rows)}f", *([0.04] * len(rows))))
    (out / "target").write_bytes(struct.pack(f"<{len(rows)}f", *([-0.05] * len(rows))))
    answer = {"prompt": [256, 72, 105], "tokens": [72, 105], "text": ["H", "Hi"]}
    document = {"tokenizer_sha256": "0" * 64, "made_with": {"torch": "1.0"}, "chunks": chunks, "first": first,
                "top": top, "greedy": [answer]}  # fmt: skip
    (out / "reference.json").write_text(json.dumps(document))


def _option(words: list[str], name: str) -> Path:
    return Path(words[words.index(name) + 1])


def _make(step: str, words: list[str], switches: dict[str, Any]) -> None:
    if step == "checkpoint":
        checkpoint(Path(words[1]))
    elif step == "reference":
        _reference(Path(words[2]))
    elif step == "gguf":
        import tiny_gguf

        _option(words, "--outfile").write_bytes(tiny_gguf.tiny_gguf())
    elif "folder" in switches:
        shutil.copytree(switches["folder"], _option(words, "--output"), dirs_exist_ok=True)
    else:
        for layer in range(2):
            print(f"Reading decoder layer {layer}...", flush=True)
        onnx_folder(_option(words, "--output"))


def _step(words: list[str]) -> tuple[str, list[str]]:
    kind, name, *rest = words
    if kind == "script":
        return Path(name).stem.removeprefix("compile_"), rest
    return ("onnx" if kind == "module" else "gguf"), rest


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


def main() -> None:
    switches = json.loads(os.environ["FAKE_COMPILER"])
    assert sys.argv[1] == "-P"
    if sys.argv[2].endswith("compile_tools.py"):
        print(json.dumps(TOLD | {k: v for k, v in switches.items() if k in TOLD}))
        return
    threading.Thread(target=_end_with_parent, daemon=True).start()
    step, words = _step(sys.argv[3:])
    with Path(switches["calls"]).open("a") as file:
        print(step, file=file)
    if switches.get("fail") == step:
        print("Traceback (most recent call last):\nNotImplementedError: this layer is not supported", flush=True)
        sys.exit(1)
    if switches.get("memory") == step:
        print("MemoryError: Unable to allocate 9.3 GiB", flush=True)
        sys.exit(1)
    if switches.get("kill") == step:
        os.kill(os.getpid(), signal.SIGKILL)
    if switches.get("hang") == step:
        Path(switches["pid"]).write_text(str(os.getpid()))
        signal.pause()
    if switches.get("empty") != step:
        _make(step, words, switches)


if __name__ == "__main__":
    main()
