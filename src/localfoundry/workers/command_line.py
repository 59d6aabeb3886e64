"""How our own workers are started, and what they write once they are ready (`engines/worker_words.py` reads it)."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping


def parser(program: str) -> argparse.ArgumentParser:
    """What every one of them is told."""
    made = argparse.ArgumentParser(prog=f"localfoundry.workers.{program}")
    made.add_argument("--model", required=True)
    made.add_argument("--alias", required=True)
    made.add_argument("--socket")
    made.add_argument("--port", type=int, default=0)
    made.add_argument("--context", type=int, required=True)
    made.add_argument("--parallel", type=int, required=True)
    made.add_argument("--device", default="CPU")
    return made


def tell_loaded(account: Mapping[str, int], began: float) -> None:
    """Bytes by purpose, and the seconds since `began` of the performance counter. One write: libraries have threads
    that write to the same pipe, and would end up in the middle of a line."""
    words = "".join(f"{purpose}_bytes={size}\n" for purpose, size in account.items())
    os.write(2, f"\n{words}engine_load_s={time.perf_counter() - began:.4f}\n".encode())
