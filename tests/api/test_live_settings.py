"""Changes of the settings file in a running service, and the service in the foreground."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from api.server import Server, events, text_of
from harness import Foundry, wait_until
from localfoundry import config, instance
from localfoundry.api.live_settings import taken_over

New = Callable[..., Server]


def log_of(server: Server) -> str:
    return (server.settings.log_dir / "service.log").read_text(encoding="utf-8")


def words(server: Server, **fields: object) -> int:
    """How long an answer is: the settings tests change what a request that says nothing gets."""
    return len(text_of(server.chat("fake", **fields)).split())


@pytest.fixture
def server(new_server: New) -> Server:
    made = new_server()
    made.fake("fake", tokens_per_second=2000)
    return made.start()


def test_a_change_is_taken_over_without_a_restart(server: Server) -> None:
    pid = server.state.pid
    assert words(server) == 16
    done = server.command("config", "set", "models.fake.maxTokens=3", "maxBodyBytes=2000")
    assert "models.fake.maxTokens = 3 (in force from the next request on)" in done.stdout
    assert words(server) == 3
    assert server.error("fake", 413, user="x" * 3000)["code"] == "request_too_large"
    server.command("config", "set", "--unset", "models.fake.maxTokens")
    assert words(server) == 16
    assert server.state.pid == pid


def test_what_needs_a_restart_waits_for_it(server: Server) -> None:
    done = server.command("config", "set", "host", "localhost")
    assert "host = localhost (needs `foundry service restart`)" in done.stdout
    wait_until(lambda: "wait for a restart of the service: host" in log_of(server), 5, "nothing was said")
    assert server.get("/health")["status"] == "ok"


def test_a_file_that_is_wrong_changes_nothing_and_is_told(server: Server) -> None:
    server.command("config", "set", "models.fake.maxTokens", "3")
    wait_until(lambda: words(server) == 3, 5, "the new setting is not in force")
    server.settings.file.write_text('{"models": {"fake": {"maxTokens": -1}}}')
    said = "the settings stay as they were: models.fake.maxTokens = -1"
    file, log = server.home / "foundry" / "settings.json", server.home / "foundry" / "logs" / "service.log"
    wait_until(lambda: said in log.read_text(), 5, "the log does not say that the file is wrong")
    assert words(server) == 3
    status = server.command("service", "status")
    assert status.returncode == 0
    assert server.http.base_url.host in status.stdout
    assert "models.fake.maxTokens = -1" in status.stderr
    file.unlink()
    wait_until(lambda: words(server) == 16, 5, "without a file the defaults count")
    assert log.read_text().count(said) == 1


def test_a_service_with_a_wrong_file_can_be_stopped(server: Server) -> None:
    state, settings = server.state, server.settings
    settings.file.write_text("{")
    done = server.command("service", "stop")
    assert done.returncode == 0
    assert instance.wait_stopped(settings, 1)
    settings.file.unlink()
    assert not Path(state.socket_dir).exists()


def test_sighup_reads_the_file_at_once(server: Server) -> None:
    settings_file = server.settings.file
    settings_file.write_text('{"models": {"fake": {"maxTokens": 2}}}')
    os.kill(server.state.pid, signal.SIGHUP)
    wait_until(lambda: words(server) == 2, 5, "the new setting is not in force")


def test_flags_and_environment_of_the_start_keep_winning(new_server: New) -> None:
    server = new_server(FOUNDRY_MAX_BODY_BYTES=4000)
    server.fake("fake", tokens_per_second=2000)
    done = server.command("server", "start", "--log-level", "warning")
    assert done.returncode == 0, done.stderr
    server.http.base_url = server.url
    server.settings.file.write_text(
        '{"maxBodyBytes": 2000, "defaultLogLevel": "debug", "models": {"fake": {"maxTokens": 2}}}'
    )
    wait_until(lambda: words(server) == 2, 5, "the new setting is not in force")
    assert words(server, user="x" * 3000) == 2
    assert "settings in force now" not in log_of(server)  # an information


def test_the_log_level_changes_in_a_running_service(server: Server) -> None:
    server.settings.file.write_text('{"defaultLogLevel": "warning", "models": {"fake": {"maxTokens": 2}}}')
    wait_until(lambda: words(server) == 2, 5, "the new setting is not in force")
    server.unload("fake")
    server.chat("fake")
    assert "loaded fake" not in log_of(server)
    server.settings.file.write_text('{"models": {"fake": {"maxTokens": 4}}}')
    wait_until(lambda: words(server) == 4, 5, "the new setting is not in force")
    server.unload("fake")
    assert "unloaded fake" in log_of(server)


def test_an_idle_timeout_that_is_set_later_ends_the_service(server: Server) -> None:
    state, settings = server.state, server.settings
    server.command("config", "set", "idleTimeoutSeconds", "1")
    assert instance.wait_stopped(settings, 8)
    assert not Path(state.socket_dir).exists()


def test_only_what_may_change_is_taken_over() -> None:
    now = config.load(environ={})
    wanted = dataclasses.replace(now, port=1, model_ttl_s=7, host="localhost", models={"m": {"ttl_s": 1}})
    settings, changed, waiting = taken_over(now, wanted)
    assert (settings.port, settings.host, settings.model_ttl_s) == (now.port, now.host, 7)
    assert settings.models == wanted.models
    assert changed == ("defaultSecondsForModelTTL", "models")
    assert waiting == ("host", "port")
    assert taken_over(now, now) == (now, (), ())


@pytest.fixture
def foreground(new_server: New, tmp_path: Path) -> Iterator[tuple[Server, subprocess.Popen[bytes], socket.socket]]:
    """The service as systemd would start it, and the socket on which it says how it stands."""
    server = new_server(FOUNDRY_DRAIN_TIMEOUT=5)
    server.fake("fake", tokens_per_second=50)
    address = tmp_path / "notify.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(20)
        process = subprocess.Popen(
            [Foundry.executable, "service", "start", "--foreground"],
            env=server.env | {"NOTIFY_SOCKET": str(address)}, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )  # fmt: skip
        yield server, process, manager
        process.kill()
        process.communicate()


def test_in_the_foreground_it_tells_its_manager_and_drains_at_sigterm(
    foreground: tuple[Server, subprocess.Popen[bytes], socket.socket],
) -> None:
    server, process, manager = foreground
    assert manager.recv(100) == b"READY=1"
    assert server.state.pid == process.pid
    server.http.base_url = server.url
    with server.streaming("fake", max_tokens=30) as lines:
        next(lines)
        process.send_signal(signal.SIGTERM)
        seen: list[Any] = events(lines)
    assert seen[-1] == "[DONE]"
    assert "error" not in seen[-2]
    assert manager.recv(100) == b"STOPPING=1"
    out, err = process.communicate(timeout=10)
    assert process.returncode == 0
    assert out == b""
    assert b"listens on" in err
    assert instance.running(server.settings) is None


def test_in_the_foreground_a_second_service_is_refused(new_server: New) -> None:
    server = new_server()
    server.start()
    done = subprocess.run(
        [sys.executable, "-m", "localfoundry.api", "--foreground"],
        env=server.env, capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert done.returncode == 5
    assert done.stderr.startswith("error: another service")


def test_the_home_of_a_unit_is_a_flag(new_server: New, tmp_path: Path) -> None:
    """A task of Windows has no environment of its own, so units name the home as a flag; its settings count."""
    home = tmp_path / "another home"
    home.mkdir()
    (home / "settings.json").write_text(json.dumps({"maxBodyBytes": 1234}))
    assert config.load({"home": str(home)}).max_body_bytes == 1234
    assert config.load({"home": str(home)}).models_dir == home / "models"
