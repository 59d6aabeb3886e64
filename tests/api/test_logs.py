"""The service's log: its size, its forms, what a line says of a request, and a disk that is full."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from api.server import Server, text_of
from harness import Foundry, wait_until
from localfoundry.api import exchange, logs

New = Callable[..., Server]

# A daemon in small: standard error is its log, everything it writes goes through the handler, some of it goes around.
_WRITER = """
import logging, os, sys
from pathlib import Path
from localfoundry.api.logs import Rotating
file, limit, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
logging.raiseExceptions = False
logging.basicConfig(level=logging.INFO, handlers=[Rotating(file, limit)], format="%(message)s")
os.dup2(2, 1)
for number in range(count):
    logging.info("line %06d of what the service says", number)
os.write(2, b"from below Python\\n")
os.write(1, b"and from standard output\\n")
"""


def written(file: Path, limit_bytes: int, count: int, stderr: Path | None = None) -> None:
    """Run the writer with `file` as its log, and as its standard error if no other is given."""
    with (stderr or file).open("ab") as sink:
        subprocess.run(
            [sys.executable, "-c", _WRITER, str(file), str(limit_bytes), str(count)],
            stdout=subprocess.DEVNULL, stderr=sink, check=True, timeout=30,
        )  # fmt: skip


def lines_of(file: Path) -> list[str]:
    return file.read_text().splitlines()


def test_a_full_log_is_renamed_and_only_so_many_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "service.log"
    written(file, 4000, 1000)
    names = ["service.log", "service.log.1", "service.log.2", "service.log.3"]
    assert sorted(path.name for path in tmp_path.glob("service.log*")) == names
    for name in names[1:]:
        assert 4000 <= (tmp_path / name).stat().st_size < 4100
    kept = [line for name in reversed(names) for line in lines_of(tmp_path / name)]
    numbers = [int(line.split()[1]) for line in kept if line.startswith("line")]
    assert numbers == list(range(numbers[0], 1000)), "the newest lines are there, in order, without a gap"
    assert lines_of(file)[-2:] == ["from below Python", "and from standard output"], "standard error goes along"


def test_a_log_that_was_too_large_before_the_start_is_rotated_by_the_first_line(tmp_path: Path) -> None:
    file = tmp_path / "service.log"
    file.write_bytes(b"x" * 5000)
    written(file, 4000, 1)
    assert (tmp_path / "service.log.1").stat().st_size == 5000
    assert len(lines_of(file)) == 3


def test_where_standard_error_is_something_else_nothing_is_rotated(tmp_path: Path) -> None:
    """Under a supervisor that keeps the log, the file of that name is not ours to rename."""
    file, journal = tmp_path / "service.log", tmp_path / "journal"
    file.write_bytes(b"x" * 5000)
    written(file, 4000, 200, stderr=journal)
    assert file.stat().st_size == 5000
    assert len(lines_of(journal)) == 202
    assert not (tmp_path / "service.log.1").exists()


def test_where_nothing_can_be_renamed_the_log_starts_over(tmp_path: Path) -> None:
    """The names of older files are taken by folders. The log stays bounded, and every line is written at first."""
    file = tmp_path / "service.log"
    for number in (1, 2, 3):
        (logs.numbered(file, number) / "in the way").mkdir(parents=True)
    written(file, 4000, 1000)
    assert file.stat().st_size < 4200
    assert lines_of(file)[-3:] == [
        "line 000999 of what the service says", "from below Python", "and from standard output"
    ]  # fmt: skip


def test_a_device_that_is_full_loses_lines_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "service.log").symlink_to("/dev/full")
    probe = subprocess.run(
        [sys.executable, "-c", _WRITER.split("os.dup2")[0] + "logging.info('x')\nraise SystemExit(7)",
         str(tmp_path / "service.log"), "100", "1"],
        stderr=os.open("/dev/full", os.O_WRONLY), check=False, timeout=30,
    )  # fmt: skip
    assert probe.returncode == 7


def test_a_line_that_cannot_be_formed_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library's faulty line must not fail what wrote it."""
    monkeypatch.setattr(logging, "raiseExceptions", False)
    handler = logs.Rotating(tmp_path / "service.log")
    handler.emit(logging.LogRecord("name", logging.ERROR, "", 1, "%d", ("no number",), None))


def test_the_daemon_rotates_its_own_log_and_goes_on(new_server: New) -> None:
    server = new_server()
    server.fake("fake")
    server.settings.log_dir.mkdir(parents=True)
    file = server.settings.log_dir / "service.log"
    file.write_bytes(b"old\n" * (logs.LIMIT_BYTES // 4))
    server.start()
    assert text_of(server.chat("fake", max_tokens=1)) == "token"
    assert logs.numbered(file, 1).stat().st_size >= logs.LIMIT_BYTES
    assert "loaded fake:1" in file.read_text()
    held = {Path(f"/proc/{server.state.pid}/fd/{number}").readlink() for number in (1, 2)}
    assert held == {file}


# Forms


def json_lines(server: Server) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines_of(server.settings.log_dir / "service.log")]


def test_json_lines_and_a_line_for_each_request(new_server: New) -> None:
    server = new_server(FOUNDRY_LOG_FORMAT="json", FOUNDRY_ACCESS_LOG="on", FOUNDRY_LOG_LEVEL="warning")
    server.fake("fake")
    server.start()
    answer = server.http.post("/v1/chat/completions", json={"model": "nothing-like-it", "messages": []})
    server.http.get('/a "strange%0a" path')

    def access() -> list[dict[str, Any]]:
        return [line for line in json_lines(server) if line["logger"] == "localfoundry.access"]

    wait_until(lambda: len(access()) == 2, 5, "a request's line is written when it has ended")
    for line in json_lines(server):
        assert {"time", "level", "logger", "message"} <= line.keys()
    requests = access()
    assert requests[0]["request"] == answer.headers["x-request-id"]
    assert requests[0]["endpoint"] == "/v1/chat/completions"
    assert requests[0]["outcome"] != "ok"
    assert requests[0]["seconds"] > 0
    assert requests[1]["message"] == 'GET "/a \\"strange\\n\\" path" 404'


def test_requests_are_not_logged_unless_that_is_asked_for(server: Server) -> None:
    server.get("/health")
    assert "/health" not in (server.settings.log_dir / "service.log").read_text()


def test_a_line_names_the_request_and_model_it_is_about(caplog: pytest.LogCaptureFixture) -> None:
    known = exchange.begin({"type": "http", "method": "POST", "path": "/v1/x", "headers": []}, "abc123")
    known.model = "m:1"
    record = logging.LogRecord("name", logging.WARNING, "", 1, "it is %s", ("so",), None)
    line = json.loads(logs.JsonLines().format(record))
    assert (line["message"], line["level"], line["request"], line["model"]) == ("it is so", "warning", "abc123", "m:1")
    known.ended = 1.0
    line = json.loads(logs.JsonLines().format(record))
    assert "request" not in line, "what outlives a request is not about it"


def test_an_exception_is_one_json_line() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        record = logging.LogRecord("name", logging.ERROR, "", 1, "failed", (), sys.exc_info())
    text = logs.JsonLines().format(record)
    assert "\n" not in text
    assert "two\nlines" in json.loads(text)["exception"]


def test_text_lines_carry_the_same() -> None:
    record = logging.LogRecord("name", logging.INFO, "", 1, "POST /v1/chat/completions 200", (), None)
    record.fields = {"request": "abc", "model": "m:1"}
    assert logs.TextLines().format(record).endswith("INFO name: POST /v1/chat/completions 200 request=abc model=m:1")


@pytest.mark.parametrize(
    ("name", "value"), [("FOUNDRY_LOG_FORMAT", "xml"), ("FOUNDRY_ACCESS_LOG", "maybe"), ("FOUNDRY_TRACES", "localhost")]
)
def test_a_wrong_setting_stops_the_start_by_name(foundry: Foundry, name: str, value: str) -> None:
    done = foundry("service", "start", env={name: value})
    assert done.code == 2
    assert name in done.err
    assert value in done.err
