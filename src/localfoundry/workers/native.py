"""Runs a native engine program so that it ends with the service.

On Linux this process becomes the program, with the kernel's promise to end it. Elsewhere it stays as its guard.
"""

from __future__ import annotations

import os
import subprocess
import sys

from localfoundry.workers import lifeline, limits


def main() -> None:
    program, *arguments = sys.argv[1:]
    limits.apply()
    environment = dict(os.environ)
    # As for the bundled one: threads that wait for each other give the processor back sooner.
    environment.setdefault("GOMP_SPINCOUNT", "20000")
    secret = environment.pop("FOUNDRY_WORKER_SECRET", None)
    if secret:
        environment["LLAMA_API_KEY"] = secret
    if lifeline.die_with_parent():
        os.execve(program, [program, *arguments], environment)
    child = subprocess.Popen([program, *arguments], stdin=subprocess.DEVNULL, env=environment)
    lifeline.exit_when_stdin_closes(child.kill)
    raise SystemExit(child.wait())


if __name__ == "__main__":
    main()
