"""The service as a process: starting it twice, ports, stale state, terminals, and ending it."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import msgspec
import psutil
import pytest

from api.server import Server, events, text_of, wait_gone
from harness import Foundry, wait_until, workers_of
from localfoundry import instance

New = Callable[..., Server]


def test_two_starts_at_once_give_one_service(new_server: New) -> None:
    server = new_server()
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda _: server.command("service", "start"), range(2)))
    assert [one.returncode for one in done] == [0, 0]
    words = sorted(one.stdout.split(" on ")[0] for one in done)
    assert words == ["🟢 Service is Started", "🟢 Service is already running"]
    assert server.state.url in done[0].stdout
    assert server.state.url in done[1].stdout


def test_start_returns_at_once_although_its_output_is_read_to_the_end(new_server: New) -> None:
    """A daemon that kept the pipe would hold up whoever reads it, as one SDK does, for as long as it lives."""
    server = new_server()
    before = time.monotonic()
    server.start()
    assert time.monotonic() - before < 10
    assert server.get("/health")["status"] == "ok"
    held = [str(Path(f"/proc/{server.state.pid}/fd/{number}").readlink()) for number in (0, 1, 2)]
    assert not [name for name in held if "pipe" in name or "pts" in name]


def test_a_port_in_use_is_told_with_who_has_it(new_server: New) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = new_server(FOUNDRY_PORT=port)
        done = server.command("service", "start")
    assert done.returncode == 5
    assert str(port) in done.stderr
    assert f"process {os.getpid()}" in done.stderr
    assert "--port 0" in done.stderr
    assert not instance.state_file(server.settings).exists()
    assert instance.running(server.settings) is None
    assert server.command("service", "status").returncode == 0


def test_a_service_that_was_killed_leaves_nothing_behind(new_server: New) -> None:
    """Its workers end with it, its state counts as none, and the next start removes its sockets."""
    server = new_server()
    server.fake("fake")
    server.start()
    server.chat("fake", max_tokens=1)
    state = server.state
    workers = [process.pid for process in workers_of(state.pid)]
    assert workers
    os.kill(state.pid, signal.SIGKILL)
    for pid in workers:
        wait_gone(pid, 5)
    wait_until(lambda: instance.running(server.settings) is None, 5, "it still counts as running")
    assert "not running" in server.command("service", "status").stdout
    assert instance.state_file(server.settings).exists()
    assert Path(state.socket_dir).exists()

    server.start()
    assert not Path(state.socket_dir).exists()
    assert server.state.pid != state.pid
    assert text_of(server.chat("fake", max_tokens=1)) == "token"


_OWNER = """
import asyncio, sys
from localfoundry import config
from localfoundry.cli.bench_local import OwnService

async def own() -> None:
    state = await OwnService(config.load()).state()
    print(state.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(own())
"""


def test_a_private_service_ends_with_whoever_started_it_also_when_that_is_killed(new_server: New) -> None:
    server = new_server()
    server.home.mkdir(exist_ok=True)
    environment = server.env | {"TMPDIR": str(server.home)}  # what a killed owner leaves there goes with the test
    with subprocess.Popen([sys.executable, "-c", _OWNER], env=environment, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert psutil.pid_exists(pid)
        owner.kill()
    wait_gone(pid, 10)


def test_a_stale_state_does_not_count_while_somebody_else_asks(new_server: New) -> None:
    """Asking holds the lock for a moment. Two who asked at once about a dead service each took the other for it."""
    server = new_server()
    settings = server.settings
    settings.run_dir.mkdir(parents=True)
    ended = subprocess.Popen(["true"])
    ended.wait()
    instance.write_state(settings, instance.ServiceState(ended.pid, "http://127.0.0.1:1", 0, "0", "/nowhere"))
    with instance.service_lock(settings):
        assert instance.running(settings) is None


def test_only_a_folder_of_sockets_is_removed_for_a_dead_service(new_server: New, tmp_path: Path) -> None:
    """The state file is data: a name in it must not delete what a service never made."""
    server = new_server()
    settings = server.settings
    settings.run_dir.mkdir(parents=True)
    for folder, left in (("precious", True), ("foundry-dead", False)):
        (tmp_path / folder).mkdir()
        state = instance.ServiceState(1, "http://127.0.0.1:1", 0, "0", str(tmp_path / folder))
        instance.write_state(settings, state)
        instance.clear_stale(settings)
        assert (tmp_path / folder).exists() == left
        assert not instance.state_file(settings).exists()


def test_it_survives_the_terminal_it_was_started_from(new_server: New) -> None:
    server = new_server()
    master, slave = pty.openpty()
    starter = subprocess.Popen(
        [Foundry.executable, "service", "start"], env=server.env, stdin=slave, stdout=slave, stderr=slave,
        start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    assert starter.wait(30) == 0
    os.close(master)
    assert httpx2.get(f"{server.url}/health", trust_env=False).json()["status"] == "ok"


def test_stopping_finishes_the_answer_in_flight(new_server: New) -> None:
    server = new_server()
    server.fake("fake", tokens_per_second=50)
    server.start()
    state = server.state
    with server.streaming("fake", max_tokens=50) as lines:
        next(lines)
        os.kill(state.pid, signal.SIGTERM)
        seen = events(lines)
    assert seen[-1] == "[DONE]"
    assert len([e for e in seen[:-1] if e["choices"][0]["delta"].get("content")]) == 49
    assert instance.wait_stopped(server.settings, 5)
    assert not Path(state.socket_dir).exists()
    assert not instance.state_file(server.settings).exists()


@pytest.mark.parametrize("drain_s", [0, 1])
def test_stopping_waits_no_longer_than_the_time_to_drain(new_server: New, drain_s: int) -> None:
    """What is not done by then ends with an error event; 0 was once taken for "wait for ever"."""
    server = new_server(FOUNDRY_DRAIN_TIMEOUT=drain_s)
    server.fake("fake", tokens_per_second=20)
    server.start()
    with server.streaming("fake", max_tokens=2000) as lines:
        next(lines)
        before = time.monotonic()
        os.kill(server.state.pid, signal.SIGTERM)
        seen = events(lines)
    assert seen[-1] == "[DONE]"
    assert seen[-2]["error"]["code"] == "service_stopping"
    assert instance.wait_stopped(server.settings, 5)
    assert drain_s <= time.monotonic() - before < drain_s + 4


def test_shutdown_over_http(new_server: New) -> None:
    server = new_server()
    server.start()
    assert server.post("/shutdown", {}) == {"status": "shutting_down"}
    assert instance.wait_stopped(server.settings, 5)


def test_it_stops_when_idle_but_not_while_a_model_loads(new_server: New) -> None:
    """Only answers once counted as work: a long load or download was ended by the idle time."""
    server = new_server(FOUNDRY_IDLE_TIMEOUT=1)
    name = server.fake("slow", load_s=3)
    server.start()
    assert server.post("/foundry/load", {"model": name})["state"] == "ready"
    assert instance.wait_stopped(server.settings, 8)


@pytest.mark.parametrize("home", ["/dev/null/x", "/proc/nowhere"])
def test_a_home_that_cannot_be_written_is_told(new_server: New, home: str) -> None:
    server = new_server(FOUNDRY_HOME=home)
    done = server.command("service", "start")
    assert done.returncode in (2, 4)
    assert home in done.stderr
    assert "Traceback" not in done.stderr


def test_a_setting_that_is_wrong_stops_the_start_by_name(new_server: New, tmp_path: Path) -> None:
    """Found by the daemon, told by the command, with the exit code of a wrong setting."""
    (tmp_path / "catalog.json").write_text('{"models": 5}')
    server = new_server(FOUNDRY_CATALOG=tmp_path / "catalog.json")
    done = server.command("service", "start")
    assert done.returncode == 2, done.stderr
    assert "catalog.json" in done.stderr
    assert instance.running(server.settings) is None


def test_a_full_disk_does_not_stop_answers(new_server: New) -> None:
    """Its own log goes to a device that is always full."""
    server = new_server()
    server.fake("fake")
    server.settings.log_dir.mkdir(parents=True)
    (server.settings.log_dir / "service.log").symlink_to("/dev/full")
    server.start()
    assert text_of(server.chat("fake", max_tokens=2)) == "token token"
    assert server.error("phi-4-mni", 404)


def test_state_of_another_make_counts_as_none(new_server: New) -> None:
    server = new_server()
    server.settings.run_dir.mkdir(parents=True)
    for content in (b"", b"{}", b"\xff", msgspec.json.encode({"pid": "x"})):
        instance.state_file(server.settings).write_bytes(content)
        assert instance.running(server.settings) is None
    server.start()


def test_status_answers_while_a_start_is_under_way(new_server: New) -> None:
    """SDKs ask ten times, a tenth of a second apart; no answer may be wrong or late."""
    server = new_server()
    starting = threading.Thread(target=server.start)
    starting.start()
    seen = []
    while starting.is_alive():
        done = server.command("service", "status", timeout=3)
        assert done.returncode == 0
        seen.append(done.stdout)
    starting.join()
    for said in seen:
        assert "not running" in said or server.state.url in said
