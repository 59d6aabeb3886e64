"""Whether a fresh build of llama.cpp works: an answer over HTTP, a file quantized, and each program starts.

A build for the wrong processor ends by a signal, one with a missing library before its first word; both are found here
and not at a person's first question.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from localfoundry.build import smoke_model
from localfoundry.build.installed import PROGRAMS
from localfoundry.errors import BuildFailed
from localfoundry.wording import without_paths

_START_S = 120.0  # of the server, on a machine that is busy
_RUN_S = 120.0
_POLL_S = 0.1
_TOKENS = 4


def check(folder: Path) -> str:
    """Try the programs of `folder` and return what the server says of its version. Blocking, seconds.

    Raises BuildFailed with what did not work.
    """
    suffix = ".exe" if sys.platform == "win32" else ""
    programs = {name: folder / f"{name}{suffix}" for name in PROGRAMS}
    for name, path in programs.items():
        if not path.is_file():
            raise BuildFailed(f"the build has no {name}")
    told = {
        name: _run(path, ["--version"], name, any_status=name == "llama-quantize") for name, path in programs.items()
    }
    with tempfile.TemporaryDirectory(prefix="foundry-") as place:
        model = Path(place) / "smoke.gguf"
        smoke_model.write(model)
        _answers(programs["llama-server"], model, Path(place))
        _run(programs["llama-quantize"], [str(model), str(Path(place) / "q8.gguf"), "Q8_0", "1"], "llama-quantize")
    lines = [line for line in told["llama-server"].splitlines() if line.startswith("version:")]
    return lines[0].removeprefix("version:").strip()[:80] if lines else "unknown"


def _run(program: Path, arguments: list[str], name: str, *, any_status: bool = False) -> str:
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, errors="replace",
                              stdin=subprocess.DEVNULL, timeout=_RUN_S, check=False)  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise BuildFailed(f"{name} does not run: {without_paths(str(exc))[:200]}") from exc
    if done.returncode < 0 or (done.returncode and not any_status):
        said = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["it said nothing"]
        raise BuildFailed(f"{name} ended with {done.returncode}: {without_paths(said[0])[:300]}")
    return done.stdout + done.stderr


def _answers(server: Path, model: Path, place: Path) -> None:
    """One answer over the socket that the service would use."""
    path, port = (
        (str(place / "w.sock"), 0) if hasattr(socket, "AF_UNIX") and sys.platform != "win32" else (None, _free())
    )
    where = ["--host", path] if path else ["--host", "127.0.0.1", "--port", str(port)]
    log = place / "log"
    with log.open("wb") as writing, _started([str(server), "--model", str(model), "--ctx-size", "128", "--threads", "1",
                                              "--no-warmup", *where], writing) as process:  # fmt: skip
        deadline = time.monotonic() + _START_S
        while (answer := _asked(path, port)) is None:
            if process.poll() is not None or time.monotonic() > deadline:
                late = process.poll() is None
                how = f"not answer in {_START_S:.0f} s" if late else f"end with status {process.returncode}"
                last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
                raise BuildFailed(f"its llama-server did {how}: {without_paths(last[0])[:300]}")
            time.sleep(_POLL_S)
    if answer.get("tokens_predicted") != _TOKENS:
        raise BuildFailed(f"its llama-server answered with {str(answer)[:200]}")


@contextlib.contextmanager
def _started(argv: list[str], log: object) -> Iterator[subprocess.Popen[bytes]]:
    try:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)  # type: ignore[call-overload]
    except OSError as exc:
        raise BuildFailed(f"its llama-server does not start: {without_paths(str(exc))[:200]}") from exc
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _asked(path: str | None, port: int) -> dict[str, object] | None:
    """The answer to a short prompt; None while there is none."""
    connection = http.client.HTTPConnection("127.0.0.1", port or 1, timeout=_RUN_S)
    try:
        if path:
            connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.sock.settimeout(_RUN_S)
            connection.sock.connect(path)
        body = json.dumps({"prompt": "a", "n_predict": _TOKENS, "ignore_eos": True})
        connection.request("POST", "/completion", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        read = answer.read()
        return dict(json.loads(read)) if answer.status == 200 else None
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()


def _free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
