"""A tool of others, run as a child that ends with the process that wants it: `compile_child.py module|script NAME …`.

It stands for `python -m NAME` and `python NAME`, in whatever Python holds the compilers. That Python need not have this
product, so this file imports nothing of it, and it is run by its path (with `-P`: files beside it have the names of
libraries). On Linux the kernel ends this process before others where memory runs out.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import sys
import threading
from pathlib import Path

_FIRST_TO_GO = "800"  # of 1000: before the service, its models, and what else a person works with


def main(arguments: list[str]) -> None:
    kind, name, *rest = arguments
    threading.Thread(target=_end_with_parent, name="lifeline", daemon=True).start()
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_GO, encoding="ascii")
    sys.argv = [name, *rest]
    if kind == "module":
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(name).parent)) if kind == "package" else None
        runpy.run_path(name, run_name="__main__")


def _end_with_parent() -> None:
    """The parent holds the other end of standard input and writes nothing: end of file means that it is gone."""
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
