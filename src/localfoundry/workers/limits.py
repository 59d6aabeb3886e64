"""What a worker may take of the machine: a model file from a stranger must not take all of it.

The service says how much memory of its own the process may have (`FOUNDRY_WORKER_DATA_LIMIT`, bytes): far more than
the load was predicted to need, so that it stops what runs away and nothing else. Mapped weights do not count. Without
the limit, or where the system has none, the process runs without one. No core dumps: they would hold conversations.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

_FIRST_TO_GO = 500  # of 1000: when memory runs out, the kernel ends a worker and not the service


def apply() -> None:
    """Limit this process and what it becomes."""
    if sys.platform == "win32":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    wanted = os.environ.get("FOUNDRY_WORKER_DATA_LIMIT")
    if sys.platform.startswith("linux"):
        if wanted:
            resource.setrlimit(resource.RLIMIT_DATA, (int(wanted), int(wanted)))
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(str(_FIRST_TO_GO))
