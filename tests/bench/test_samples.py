"""The sample scripts parse, and run through against a stand-in for the command and a loopback server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

SAMPLES = Path(__file__).parents[2] / "samples"
SHELL = sorted(SAMPLES.glob("*.sh"))
LONG_ANSWER = "Edge AI runs models " + "near the data " * 20
posix = pytest.mark.skipif(shutil.which("sh") is None, reason="no POSIX shell on this system")


class Handler(BaseHTTPRequestHandler):
    """Answers `good`, refuses `bad`, and says nothing that is JSON to `odd`."""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.seen.append(request)  # type: ignore[attr-defined]
        status, payload = 200, json.dumps({"choices": [{"message": {"content": LONG_ANSWER}}]})
        if request["model"] == "bad":
            status, payload = 404, json.dumps({"error": {"message": "no model is called bad"}})
        elif request["model"] == "odd":
            payload = "hello"
        self.send_response(status)
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload.encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        found.seen = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def run(
    command: list[str], server: ThreadingHTTPServer | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    env = dict(os.environ) | environment
    if server is not None:
        env["FOUNDRY_URL"] = f"http://127.0.0.1:{server.server_port}"
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=env, stdin=subprocess.DEVNULL, check=False
    )


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """A `foundry` that prints what it was called with, reads all its input, and fails for `missing`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "foundry"
    script.write_text('#!/bin/sh\ncat >/dev/null\necho "foundry $*"\ncase "$*" in *missing*) exit 2;; esac\n')
    script.chmod(0o755)
    return folder


@posix
@pytest.mark.parametrize("script", SHELL, ids=lambda path: path.name)
def test_shell_scripts_parse(script: Path) -> None:
    found = run(["sh", "-n", str(script)])
    assert (found.returncode, found.stderr) == (0, "")


@posix
@pytest.mark.parametrize("script", [s for s in SHELL if s.name != "demo.sh"], ids=lambda path: path.name)
def test_shell_scripts_run_the_commands_of_the_course(
    script: Path, stand_in: Path, server: ThreadingHTTPServer
) -> None:
    path = f"{stand_in}{os.pathsep}{os.environ['PATH']}"
    found = run(["sh", str(script), "good"], server, PATH=path)
    assert found.returncode == 0, found.stderr
    called = [line for line in found.stdout.splitlines() if line.startswith("foundry ")]
    assert called == ["foundry model list", "foundry cache list", "foundry model run good --verbose"]
    if script.name == "create_model_test.sh":
        assert server.seen[0]["max_tokens"] == 100  # type: ignore[attr-defined]
        assert LONG_ANSWER in found.stdout
    assert run(["sh", str(script), "missing"], server, PATH=path).returncode == 2
    default = run(["sh", str(script)], server, PATH=path)
    assert "foundry model run phi-4-mini --verbose" in default.stdout


@posix
def test_a_refused_question_fails_the_script_and_shows_why(stand_in: Path, server: ThreadingHTTPServer) -> None:
    path = f"{stand_in}{os.pathsep}{os.environ['PATH']}"
    found = run(["sh", str(SAMPLES / "create_model_test.sh"), "bad"], server, PATH=path)
    assert found.returncode != 0
    assert "no model is called bad" in found.stdout


def test_simple_bench_reports_answers_and_errors(server: ThreadingHTTPServer) -> None:
    found = run([sys.executable, str(SAMPLES / "simple_bench.py"), "good", "bad", "odd"], server)
    assert found.returncode == 1
    assert found.stderr == ""
    lines = found.stdout.splitlines()
    assert lines[2].startswith("good: ")
    assert lines[3] == "    " + LONG_ANSWER[:100]
    assert lines[5] == "bad: error: HTTP 404: no model is called bad"
    assert lines[7].startswith("odd: error: ")
    asked = server.seen[0]  # type: ignore[attr-defined]
    assert (asked["max_tokens"], asked["messages"][0]["content"]) == (64, "Explain edge AI in one sentence.")


def test_simple_bench_takes_models_from_the_environment(server: ThreadingHTTPServer) -> None:
    run([sys.executable, str(SAMPLES / "simple_bench.py")], server, BENCH_MODELS="one, two")
    assert [request["model"] for request in server.seen] == ["one", "two"]  # type: ignore[attr-defined]
    run([sys.executable, str(SAMPLES / "simple_bench.py")], server)
    assert len(server.seen) == 5  # type: ignore[attr-defined]


def test_simple_bench_says_when_there_is_no_service() -> None:
    found = run([sys.executable, str(SAMPLES / "simple_bench.py"), "m"], FOUNDRY_URL="http://127.0.0.1:9")
    assert found.returncode == 1
    assert "m: error: " in found.stdout


@pytest.mark.parametrize("script", sorted(SAMPLES.glob("*.cmd")), ids=lambda path: path.name)
def test_batch_files_keep_windows_line_ends_and_call_the_command_by_call(script: Path) -> None:
    """Without CALL a batch file would end with the first `foundry`, where that is a batch file itself."""
    raw = script.read_bytes()
    assert raw.count(b"\n") == raw.count(b"\r\n")
    commands = [line for line in raw.decode("ascii").split("\r\n") if "foundry " in line and "REM" not in line]
    assert len(commands) == 3
    assert all(line.startswith("call foundry ") for line in commands)
