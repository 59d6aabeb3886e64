"""The importance matrix of a model: how strongly its weights' inputs are used, over a text, for the quantizer.

llama.cpp's `llama-imatrix` runs the model over `calibration.txt` and adds up the squares of what each column of each
matrix is multiplied with; `llama-quantize` then keeps best what is used most. The text is ours, mixed of prose, talk,
code, data and five languages, and shares nothing with the one that fidelity is measured on. A matrix depends on the
source's bytes, the text and the program; it is kept beside the models and used again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from localfoundry.build import llama_tools
from localfoundry.build.making import main_file
from localfoundry.errors import MissingTool
from localfoundry.formats.gguf import read_gguf
from localfoundry.store import disk
from localfoundry.store.manifest import Manifest
from localfoundry.store.progress import Progress
from localfoundry.store.store import Store

TEXT = Path(__file__).with_name("calibration.txt")
CHUNKS = 10  # of CONTEXT tokens; about what the text has, by tokenizer
CONTEXT = 256
PROGRAM = "llama-imatrix"


@dataclass(frozen=True, slots=True)
class Matrix:
    """A file with an importance matrix, and the sums of it and of the text it was made over."""

    path: Path
    sha256: str
    text_sha256: str


def matrix(store: Store, source: Manifest, beside: Path, progress: Progress, cancelled: Callable[[], bool]) -> Matrix:
    """The matrix of `source`, made with the program beside `beside` where it is not here yet. Blocking.

    Raises MissingTool, BuildFailed, BuildCancelled, DiskError.
    """
    program = beside.with_name(PROGRAM + beside.suffix)
    if not program.exists():
        raise MissingTool(
            f"an importance matrix is made by {PROGRAM}, which is not beside {beside.name}",
            hint="foundry engine install llama.cpp --native",
        )
    text = TEXT.read_bytes()
    text_sum = hashlib.sha256(text).hexdigest()
    folder = store.root / "imatrix"
    path = folder / f"{main_file(store, source).sha256[:16]}-{text_sum[:8]}.gguf"
    with disk.writing(path):
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            _make(program, store, source, path, progress, cancelled)
        return Matrix(path, hashlib.sha256(path.read_bytes()).hexdigest(), text_sum)


def _make(
    program: Path, store: Store, source: Manifest, path: Path, progress: Progress, cancelled: Callable[[], bool]
) -> None:
    fresh = path.with_name(f".{os.getpid()}-{path.name}")
    model = store.main_file(source)
    weights = read_gguf(model).weight_bytes or model.stat().st_size
    try:
        # Run in the text's folder: what it is called goes into the matrix, and would otherwise name this machine's.
        llama_tools.run(
            program,
            ["--model", str(model), "--file", TEXT.name, "--output", str(fresh), "--ctx-size", str(CONTEXT),
             "--batch-size", str(CONTEXT), "--no-ppl", "--chunks", str(CHUNKS), "--threads", str(os.cpu_count() or 1)],
            memory_bytes=4 * 2**30 + 2 * weights, step="Calibrating", name=source.id, progress=progress,
            cancelled=cancelled, folder=TEXT.parent,
        )  # fmt: skip
        disk.sync_file(fresh)
        fresh.rename(path)
    finally:
        disk.remove_file(fresh)
