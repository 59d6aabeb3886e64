"""The bundled llama.cpp worker: its own HTTP server, from the `xllamacpp` wheel, in this process.

Trade-off: the wheel is built for AVX2 and is slower than a native build, but needs no compiler.
"""

from __future__ import annotations

import argparse
import enum
import os
import sys
import time
from typing import Any

from localfoundry.workers import lifeline, limits

# Prompt tokens of one batch: streams beside a long prompt get a token after each, and with the engine's own 2,048 they
# stand still until it is done. It computes in parts of 512 anyway, so this costs nothing.
_BATCH = 512


def main() -> None:
    lifeline.die_with_parent()
    lifeline.exit_when_stdin_closes()
    limits.apply()
    options = _arguments()
    # Read by libgomp when the engine's library is loaded. Its own count, 300,000, has a thread that waits for another
    # spin through whole slices of the scheduler wherever other programs want the processor (benchmarks/contention.py).
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.model_alias = {options.alias}  # what answers carry as `model`; without it they carry the path
    params.hostnames = [options.socket or "127.0.0.1"]
    if options.port:
        params.port = options.port
        params.api_keys = [os.environ["FOUNDRY_WORKER_SECRET"]]
    params.n_ctx = options.context
    params.n_parallel = options.parallel
    params.kv_unified = True  # the slots share one cache: any one request may use the whole context
    params.ctx_shift = False  # a full context is an error with counts, never a prompt cut in silence
    params.cache_ram_mib = 0  # the default keeps up to 8 GiB of old prompts in memory
    params.n_ctx_checkpoints = 2  # of each request; the estimate of memory (fit/memory.py) counts as many
    params.fit_params = False  # the service decides what is loaded; probing costs a second load of the header
    params.ui = False
    params.cors_origins = ""
    params.endpoint_slots = True
    params.endpoint_metrics = True
    if options.state_dir:
        params.slot_save_path = options.state_dir + "/"
    params.verbosity = 4  # the level at which the engine states its buffers
    params.embedding = options.embeddings or options.rerank
    if options.rerank:
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
    for argument in options.engine_argument:
        _set(params, *argument.split("=", 1))
    said = any(argument.startswith("n_batch=") for argument in options.engine_argument)
    if not (said or params.embedding):  # a text to embed must fit in one batch
        params.n_batch = max(_BATCH, params.n_ubatch)
    started = time.perf_counter()
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as exc:
        print(f"error: {exc}", file=sys.stderr, flush=True)
        raise SystemExit(1) from exc
    # One write: the engine's own threads write to the same pipe, and would end up in the middle of the line.
    os.write(2, f"\nengine_load_s={time.perf_counter() - started:.4f}\n".encode())
    _wait_for_the_end(server)


def _set(params: Any, parameter: str, text: str) -> None:
    """Set one of the engine's parameters, read as what it is now: `n_batch=512`, `cpuparams.n_threads=1`."""
    *places, name = parameter.split(".")
    for place in places:
        params = getattr(params, place)
    before = getattr(params, name)
    kind = type(before)
    if isinstance(before, list):  # of one or more members of an enumeration
        setattr(params, name, [type(before[0])[text]])
    elif issubclass(kind, enum.Enum):
        setattr(params, name, kind[text])
    else:
        setattr(params, name, text == "true" if kind is bool else kind(text))


def _wait_for_the_end(server: object) -> None:
    """Hold on to the server, whose threads do the work, until a signal or the lifeline ends this process."""
    import threading

    threading.Event().wait()
    del server


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="localfoundry.workers.llama_cpp")
    parser.add_argument("--model", required=True)
    parser.add_argument("--alias", required=True)
    parser.add_argument("--socket")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--context", type=int, required=True)
    parser.add_argument("--parallel", type=int, required=True)
    parser.add_argument("--state-dir", help="folder for saved conversations")
    parser.add_argument("--embeddings", action="store_true")
    parser.add_argument("--rerank", action="store_true")
    parser.add_argument("--engine-argument", action="append", default=[], metavar="PARAMETER=VALUE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
