"""The ONNX worker: folders of ONNX Runtime GenAI behind the HTTP layer of our own workers.

It computes on the processor and batches by itself (`onnx_batch.py` says why and how). Another device is refused by
name, and so is a folder whose graphs were made for one: never the processor instead.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from localfoundry.workers import command_line, lifeline, limits
from localfoundry.workers.generation import Unsupported
from localfoundry.workers.onnx_batch import Batch
from localfoundry.workers.onnx_folder import Folder, Tokens
from localfoundry.workers.onnx_graph import Graph


def main() -> None:
    lifeline.die_with_parent()
    lifeline.exit_when_stdin_closes()
    limits.apply()
    options = _arguments()
    started = time.perf_counter()
    try:
        check_device(options.device)
        backend = load(Path(options.model), options.context, options.parallel, options.threads)
    except MemoryError:
        print("error: out of memory", file=sys.stderr, flush=True)
        raise SystemExit(1) from None
    except Exception as exc:  # noqa: BLE001 the library's errors have no common class, and all of them end the load
        print(f"error: {str(exc).strip() or type(exc).__name__}", file=sys.stderr, flush=True)
        raise SystemExit(1) from None
    command_line.tell_loaded(backend.account(), started)
    from localfoundry.workers import serving

    serving.run(backend, options.alias, _fingerprint(), options.socket, options.port)


def load(path: Path, context: int, parallel: int, threads: int = 0) -> Batch:
    """Raises Unsupported, and the library's own errors for files that it cannot read."""
    folder = Folder(path)
    folder.check_device()
    tokens = Tokens(folder)
    longest = folder.model.get("context_length")
    if isinstance(longest, int) and context > longest:
        raise Unsupported(f"a context of {context} tokens is more than the {longest} that the model has places for")
    graph = Graph(folder, parallel, context, threads)
    return Batch(graph, tokens, folder.template(), context, parallel)


def check_device(device: str) -> None:
    """Raises Unsupported, with what the library that is installed could compute on."""
    if device != "CPU":
        import onnxruntime

        here = ", ".join(onnxruntime.get_available_providers())
        raise Unsupported(f"this worker computes on CPU, not on {device}; ONNX Runtime has {here} here")


def _fingerprint() -> str:
    import onnxruntime

    return f"onnxruntime-{onnxruntime.__version__}"


def _arguments() -> argparse.Namespace:
    parser = command_line.parser("onnx")
    parser.add_argument("--threads", type=int, default=0, help="0: one for each core")
    return parser.parse_args()


if __name__ == "__main__":
    main()
