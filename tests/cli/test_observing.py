"""Looking at the service from the command line: logs and following them, ps, status, top, the diagnosis as a file."""

from __future__ import annotations

import getpass
import json
import os
import re
import signal
import socket
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli.terminal import Terminal
from harness import Foundry, wait_until
from localfoundry import config
from localfoundry.cli import logs
from localfoundry.instance import ServiceState

Fake = Callable[..., str]


@pytest.fixture
def log_dir() -> Path:
    folder = config.load().log_dir
    folder.mkdir(parents=True)
    return folder


# Logs


def test_the_last_lines_come_from_older_files_too(foundry: Foundry, log_dir: Path) -> None:
    """Right after a rotation the log is almost empty; what happened is in the file before it."""
    (log_dir / "service.log.2").write_text("1\n2\n")
    (log_dir / "service.log.1").write_text("3\n4\n")
    (log_dir / "service.log").write_text("5\n")
    assert foundry.ok("service", "logs", "-n", "4").out == "2\n3\n4\n5\n"
    assert foundry.ok("service", "logs").out == "1\n2\n3\n4\n5\n"
    assert foundry.ok("server", "logs", "-n", "1").out == "5\n"


def test_the_log_of_a_model_is_that_of_its_last_worker(foundry: Foundry, log_dir: Path, fake_model: Fake) -> None:
    fake_model("parrot")
    (log_dir / "worker-parrot.log").write_text("words\n")
    assert foundry.ok("service", "logs", "parrot").out == "words\n"
    assert foundry.ok("service", "logs", "parrot:1").out == "words\n"
    (log_dir / "worker-removed.log").write_text("of a model that was removed\n")
    assert foundry.ok("service", "logs", "removed").out == "of a model that was removed\n"


@pytest.mark.parametrize("name", ["nothing", "../service", "*"])
def test_a_model_without_a_log(foundry: Foundry, log_dir: Path, name: str) -> None:
    (log_dir / "service.log").write_text("x\n")
    (log_dir / "worker-parrot.log").write_text("x\n")
    refused = foundry("service", "logs", name)
    assert refused.code == 2
    assert "there is no log" in refused.err


def test_of_several_variants_the_one_written_last_counts(log_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Found:
        def __init__(self, name: str) -> None:
            self.name, self.alias = name, "phi"

    class Disk:
        def manifests(self) -> list[Found]:
            return [Found("phi-q4"), Found("phi-q8")]

    monkeypatch.setattr(logs.context, "cached", lambda *_: Found("phi-q4"))
    monkeypatch.setattr(logs.context, "store", lambda *_: Disk())
    for age, name in enumerate(("phi-q8", "phi-q4")):
        file = log_dir / f"worker-{name}.log"
        file.touch()
        os.utime(file, (1000 - age, 1000 - age))
    assert logs.worker_log(config.load(), "phi").name == "worker-phi-q8.log"
    assert logs.worker_log(config.load(), "phi-q4").name == "worker-phi-q4.log"


class Following:
    """`foundry service logs -f` as a process."""

    def __init__(self) -> None:
        command = [Foundry.executable, "service", "logs", "-f", "-n", "1"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=10)


@pytest.fixture
def follow(log_dir: Path) -> Iterator[Callable[[], Following]]:
    made: list[Following] = []

    def begin() -> Following:
        made.append(Following())
        return made[-1]

    yield begin
    for one in made:
        one.end()


def test_following_goes_on_through_a_rotation(log_dir: Path, follow: Callable[[], Following]) -> None:
    file = log_dir / "service.log"
    file.write_text("first\n")
    seen = follow()
    assert seen.line() == "first\n"
    with file.open("a") as log:
        log.write("second\n")
        log.flush()
        assert seen.line() == "second\n"
        log.write("last of the old one\n")
        log.flush()
        file.rename(log_dir / "service.log.1")
        file.write_text("of the new one, ")
        log.write("late in the old one\n")
    assert seen.line() == "last of the old one\n"
    assert seen.line() == "late in the old one\n"
    with file.open("a") as log:
        log.write("größer\n")
    assert seen.line() == "of the new one, größer\n"


def test_following_goes_on_after_the_log_was_emptied(log_dir: Path, follow: Callable[[], Following]) -> None:
    """As it is on Windows, where an open file cannot be renamed."""
    file = log_dir / "service.log"
    file.write_text("a long line before it\n")
    seen = follow()
    seen.line()
    os.truncate(file, 0)
    with file.open("a") as log:
        log.write("new\n")
    assert seen.line() == "new\n"


def test_following_ends_with_ctrl_c(log_dir: Path) -> None:
    (log_dir / "service.log").write_text("first\n")
    with Terminal("service", "logs", "--follow") as screen:
        screen.expect("first")
        assert screen.interrupted() == 130
        assert "Traceback" not in screen.text


# ps, status


def test_ps_keeps_its_plain_lines_and_has_all_columns_on_demand(foundry: Foundry, fake_model: Fake) -> None:
    fake_model("parrot")
    foundry.ok("model", "load", "parrot")
    plain = foundry.ok("service", "ps").out
    assert plain == f"Models running in service:\n    {'Alias':<30} Model ID\n🟢  {'parrot':<30} parrot:1\n"
    heading, row = foundry.ok("service", "ps", "--verbose").out.splitlines()
    columns = ["Alias", "Model ID", "Engine", "Device", "State", "Memory", "Context", "Running", "Waiting", "Tokens/s",
               "TTL left"]  # fmt: skip
    assert re.split(r"  +", heading) == columns
    cells = re.split(r"  +", row)
    assert len(cells) == len(columns)
    assert cells[:5] == ["parrot", "parrot:1", "fake", "CPU", "ready"]
    assert re.fullmatch(r"\d+\.\d MB", cells[5])
    assert cells[7:10] == ["0", "0", "0.0"]
    (model,) = foundry.ok("service", "ps", "--json").json["models"]
    assert {"alias", "id", "engine", "device", "state", "memory", "context", "requests_running", "requests_waiting",
            "tokens_per_s", "ttl_left_s"} <= model.keys()  # fmt: skip


def test_top_shows_one_frame_to_a_pipe(foundry: Foundry, fake_model: Fake) -> None:
    fake_model("parrot")
    foundry.ok("model", "load", "parrot")
    for arguments in (["top"], ["top", "--once"]):
        shown = foundry.ok(*arguments, env={"COLUMNS": "160"}).out
        for words in ("Requests:", "Tokens:", "First token:", "Memory:", "Processor:", "parrot:1", "ready"):
            assert words in shown
        assert "\x1b" not in shown
    narrow = foundry.ok("top", env={"COLUMNS": "60"}).out.splitlines()
    assert all(len(line) <= 60 for line in narrow)
    assert any("parrot:1" in line for line in narrow)
    told = foundry.ok("top", "--json").json
    assert told["running"] is True
    assert [model["id"] for model in told["models"]] == ["parrot:1"]
    assert told["stats"]["requests"] > 0
    assert 0 <= told["cpu_percent"] <= 100


def test_top_without_a_service_says_so(foundry: Foundry) -> None:
    shown = foundry.ok("top")
    assert "not running" in shown.out
    assert "foundry service start" in shown.out
    assert foundry.ok("top", "--json").json["running"] is False


@pytest.mark.parametrize("end", ["q", "\x03"], ids=["q", "ctrl-c"])
def test_top_on_a_terminal_is_drawn_again_until_it_is_ended(service: ServiceState, fake_model: Fake, end: str) -> None:
    fake_model("parrot")
    with Terminal("top", columns=120) as screen:
        screen.expect("No models are currently loaded")
        Foundry().ok("model", "load", "parrot")
        screen.expect("parrot:1")
        os.kill(service.pid, signal.SIGKILL)
        screen.expect("The service is not running")
        screen.type(end)
        assert screen.ended(10) == 0


def test_top_ends_although_the_service_hangs(service: ServiceState) -> None:
    os.kill(service.pid, signal.SIGSTOP)
    try:
        with Terminal("top", columns=120) as screen:
            wait_until(lambda: screen._read() and "\x1b[?1049h" in screen.raw, 20, "it did not take the screen")
            screen.type("q")
            assert screen.ended(10) == 0
    finally:
        os.kill(service.pid, signal.SIGCONT)


# Diagnosis


def read(bundle: Path) -> dict[str, str]:
    with zipfile.ZipFile(bundle) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def test_a_bundle_has_what_a_question_needs(foundry: Foundry, fake_model: Fake, tmp_path: Path) -> None:
    fake_model("parrot")
    foundry.ok("model", "load", "parrot")
    (config.load().log_dir / "worker-parrot.log").write_text("loading\n")
    target = tmp_path / "report.zip"
    said = foundry.ok("service", "diag", "--bundle", str(target))
    assert str(target) in said.out
    parts = read(target)
    assert {"report.json", "settings.json", "environment.json", "versions.json", "hardware.json", "service.json",
            "service.log", "audit.log", "workers/worker-parrot.log"} == parts.keys()  # fmt: skip
    assert "listens on" in parts["service.log"]
    assert json.loads(parts["versions.json"])["starlette"]
    assert json.loads(parts["hardware.json"])["cpu"]["logicalCores"] >= 1
    assert [model["id"] for model in json.loads(parts["service.json"])["models"]] == ["parrot:1"]
    assert json.loads(parts["settings.json"])["serviceSettings"]["defaultSecondsForModelTTL"] == 600
    again = foundry("report", "--bundle", str(target))
    assert again.code == 2
    assert "already" in again.err
    assert foundry("report", "--bundle", "/proc/no/report.zip").code == 4


def test_nothing_secret_is_in_a_bundle(foundry: Foundry, fake_model: Fake, isolated: Path, tmp_path: Path) -> None:
    """A secret in every place that the bundle is made of, and in those that it must not look into."""
    environment = {
        "HF_TOKEN": "PLANTEDbyenvironment", "HTTPS_PROXY": "http://jane:PLANTEDbyproxy@proxy.example:8080",
        "MY_SERVICE_PASSWORD": "PLANTEDpassword", "FOUNDRY_TRACES": "https://me:PLANTEDbysetting@traces.example/x",
        "PIP_INDEX_URL": "https://__token__:PLANTEDbyindex@index.example/simple", "UNRELATED": "PLANTEDunrelated",
    }  # fmt: skip
    home = config.load().home
    (home / "logs").mkdir(parents=True)
    (isolated / "hf").mkdir()
    (isolated / "hf" / "token").write_text("PLANTEDbyhub\n")
    (home / "keys.json").write_text('{"keys": [{"name": "ci", "hash": "PLANTEDbykeys"}]}')
    config.save(home / "settings.json", {"llama_server": "/opt/llama?api_key=PLANTEDbyfile"})
    me = getpass.getuser()
    planted = [
        "Authorization: Bearer PLANTEDheader", "used PLANTEDbyhub and PLANTEDbyenvironment without any form",
        "GET https://hub.example/f?X-Amz-Signature=PLANTEDsigned&a=1", "got hf_PLANTEDtoken", "sk-PLANTEDkey12",
        'request {"messages": [{"role": "user", "content": "PLANTEDprompt"}]}', "PLANTEDpassword in the clear",
        f"/home/{me}/x on {socket.gethostname()}", f"folder {isolated}/elsewhere",
    ]  # fmt: skip
    for name in ("service.log", "worker-parrot.log", "audit.log"):
        (home / "logs" / name).write_text("a harmless line\n" + "\n".join(planted) + "\n")
    target = tmp_path / "report.zip"
    foundry.ok("service", "diag", "--bundle", str(target), env=environment)
    parts = read(target)
    assert {"service.log", "workers/worker-parrot.log", "audit.log"} <= parts.keys()
    for name, text in parts.items():
        assert "PLANTED" not in text, f"{name}: {text[max(text.find('PLANTED') - 80, 0) :][:120]}"
        assert str(isolated) not in text, name
        assert not re.search(rf"\b{re.escape(me)}\b", text, re.IGNORECASE), name
        assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", text, re.IGNORECASE), name
        assert name.endswith(".json") or "a harmless line" in text
    assert "proxy.example:8080" in parts["environment.json"], "what a question may be about stays"
    assert "UNRELATED" not in parts["environment.json"]
