"""Every command of both generations exists and answers; what it prints as JSON is JSON."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

import localfoundry
from harness import Foundry
from localfoundry import config
from localfoundry.cli.main import cli, run

FIRST = """
model list, model ls, model run, model info, model download, model load, model unload, cache list, cache ls,
cache location, cache cd, cache remove, cache rm, cache clean, service start, service stop, service restart,
service status, service ps, service list, service diag, service logs, service set
"""
TUTORIALS = """
model benchmark, model stats, model chat, model stop, model remove, model search, model catalog, status, restart
"""
SECOND = """
run, chat, complete, server start, server stop, server restart, server status, server logs, config, report
"""
OWN = "bench, completion, top, model pull, model rm, model, cache, service, server"
COMMANDS = [name.split() for name in ",".join((FIRST, TUTORIALS, SECOND, OWN)).replace("\n", " ").split(",")]

# What needs no service, with a fake model called `parrot` on the disk.
DISK_JSON = [
    "model list", "model list --cached", "model list --available", "model list --running", "model list --guide",
    "model list --variants", "model list --device CPU", "model list --type chat", "model search --local parrot",
    "model info parrot", "model stats parrot", "model download parrot", "model unload parrot", "cache list",
    "cache location", "cache cd", "cache clean", "service status", "service ps", "service diag --logs",
    "server status", "status", "config", "report", "top", "top --once",
]  # fmt: skip
SERVICE_JSON = [
    "model load parrot", "model list --running", "service status", "service ps", "server status", "status",
    "run parrot --prompt hello --max-tokens 2", "model run parrot --prompt hello --max-tokens 2",
    "model unload parrot", "model unload --all", "report", "top --once",
]  # fmt: skip


def leaves(group: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, group
    if isinstance(group, click.Group):
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            yield from leaves(command, (*path, name))


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Standard output of a command that must succeed, run in this process."""
    code = run(list(arguments))
    out, err = capsys.readouterr()
    assert code == 0, err
    return out


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_exists_and_helps(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--help", "-h"):
        out = shown(capsys, *command, flag)
        assert out.startswith("Usage: foundry ")
        assert len(out.splitlines()) > 3


@pytest.mark.parametrize(
    ("path", "command"), list(leaves(cli)), ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_every_command_and_option_says_what_it_is(path: tuple[str, ...], command: click.Command) -> None:
    assert command.help, path
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{' '.join(path)} {parameter.opts}"


def test_every_command_that_a_text_of_the_product_names_exists() -> None:
    """Hints are typed by people; one named `foundry model import`, which never existed."""
    source = Path(localfoundry.__file__).parent
    groups = "|".join(("model", "cache", "service", "server"))
    missing = []
    for file in source.rglob("*.py"):
        for found in re.finditer(rf"foundry ({groups}) ([a-z]+)", file.read_text(encoding="utf-8")):
            group = cli.get_command(click.Context(cli), found[1])
            assert isinstance(group, click.Group)
            if group.get_command(click.Context(group), found[2]) is None:
                missing.append(f"{file.relative_to(source)}: {found[0]}")
    assert not missing


def test_foundry_alone_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys) == shown(capsys, "--help")
    for name in ("model", "cache", "service", "server"):
        assert re.search(rf"^  {name} ", shown(capsys), re.MULTILINE)


def test_version_and_licence(foundry: Foundry, capsys: pytest.CaptureFixture[str]) -> None:
    assert foundry.ok("--version").out == f"{localfoundry.__version__}\n"
    assert shown(capsys, "--version") == f"{localfoundry.__version__}\n"
    assert "Apache" in shown(capsys, "--license")


@pytest.mark.parametrize("form", [["--json"], ["-o", "json"], ["--output", "json"]], ids=" ".join)
@pytest.mark.parametrize("line", DISK_JSON)
def test_json_without_a_service(
    line: str, form: list[str], fake_model: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    fake_model("parrot")
    assert isinstance(json.loads(shown(capsys, *line.split(), *form)), dict)


def test_json_with_a_service(
    foundry: Foundry, fake_model: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    fake_model("parrot")
    foundry.ok("service", "start")
    for line in SERVICE_JSON:
        assert isinstance(foundry.ok(*line.split(), "--json").json, dict), line
        assert isinstance(json.loads(shown(capsys, *line.split(), "-o", "json")), dict), line
    measured = foundry.ok("model", "benchmark", "parrot", "--rounds", "2", "--max-tokens", "4", "--json")
    assert isinstance(measured.json, dict)
    assert "\x1b" not in measured.err


def test_the_forms_of_the_second_generation(foundry: Foundry, fake_model: Callable[..., str]) -> None:
    fake_model("parrot")
    assert foundry.ok("server", "status", "-o", "json").json == {"running": False, "state": "stopped"}
    assert "stopped" in foundry.ok("status").out
    started = foundry.ok("server", "start", "--port", "0", "--idle-timeout", "1", "--log-level", "debug").out
    found = re.fullmatch(r"🟢 Service is Started on (http://127\.0\.0\.1:\d+)/, PID (\d+)!\n", started)
    assert found
    status = foundry.ok("server", "status", "-o", "json").json
    assert status == {"running": True, "state": "ready", "pid": int(found[2]), "webUrls": [found[1]]}
    foundry.ok("model", "load", "parrot")
    status = foundry.ok("status").out
    assert re.search(r"^Service: running on http://127.0.0.1:\d+ \(process \d+, up .+\)$", status, re.MULTILINE)
    assert re.search(r"^Loaded: +parrot:1 \(ready, \d+\.\d MB\)$", status, re.MULTILINE)
    assert re.search(r"^Memory: +.+ granted to models, .+ used by others, .+ kept free$", status, re.MULTILINE)
    assert re.search(r"^Models: +1 cached in ", status, re.MULTILINE)
    models = foundry.ok("model", "list", "--running", "-o", "json").json["models"]
    assert [m["id"] for m in models] == ["parrot:1"]
    assert set(foundry.ok("model", "list", "--variants", "-o", "json").json) == {"variants"}
    assert foundry.ok("model", "stop", "parrot").out == "Model parrot was unloaded\n"
    assert foundry.ok("model", "stop", "parrot").out == "Model parrot is not loaded\n"
    restarted = foundry.ok("server", "restart").out.splitlines()
    assert restarted[:2] == ["Restarting service...", "🔴 Service is stopped."]
    assert restarted[2].startswith("🟢 Service is Started on http://127.0.0.1:")
    assert "listens on" in foundry.ok("server", "logs").out
    assert foundry.ok("server", "stop").out == "🔴 Service is stopped.\n"
    assert foundry.ok("server", "stop").out == "🔴 Service is stopped.\n"


def test_removing_asks(foundry: Foundry, fake_model: Callable[..., str]) -> None:
    fake_model("parrot")
    refused = foundry.ok("model", "remove", "parrot", stdin="n\n")
    assert "Remove parrot:1" in refused.out + refused.err
    assert "nothing was removed" in refused.err
    assert foundry.ok("cache", "remove", "parrot", stdin="y\n").out.count("Removed parrot:1") == 1
    assert foundry.ok("cache", "list").out == "No models cached on device\n"


def test_a_loaded_model_is_not_removed(foundry: Foundry, fake_model: Callable[..., str]) -> None:
    fake_model("parrot")
    foundry.ok("model", "load", "parrot")
    refused = foundry("cache", "remove", "parrot", "--yes")
    assert refused.code == 2
    assert "loaded in the service" in refused.err
    assert "foundry model unload parrot" in refused.err


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def test_settings_are_shown_in_the_form_that_programs_read(capsys: pytest.CaptureFixture[str]) -> None:
    settings = json.loads(shown(capsys, "service", "set", "--show"))
    assert settings["defaultLogLevel"] == 2
    service = settings["serviceSettings"]
    assert list(service)[:5] == ["host", "port", "cacheDirectoryPath", "schema", "defaultSecondsForModelTTL"]
    assert (service["host"], service["schema"], service["defaultSecondsForModelTTL"]) == ("127.0.0.1", "http", 600)
    assert json.loads(shown(capsys, "config")) == settings


def test_a_changed_setting_restarts_a_running_service(foundry: Foundry, monkeypatch: pytest.MonkeyPatch) -> None:
    foundry.ok("service", "start")
    monkeypatch.delenv("FOUNDRY_PORT")
    port = free_port()
    lines = foundry.ok("service", "set", "--port", str(port)).out.splitlines()
    assert lines[:3] == ["Saving new settings", "Restarting service...", "🔴 Service is stopped."]
    assert re.fullmatch(rf"🟢 Service is Started on http://127\.0\.0\.1:{port}/, PID \d+!", lines[3])
    assert len(lines) == 4
    foundry.ok("service", "stop")
    assert foundry.ok("service", "set", "--default-log-level", "Debug").out == "Saving new settings\n"
    settings = foundry.ok("service", "set", "--show").json
    assert settings["defaultLogLevel"] == 1
    assert settings["serviceSettings"]["port"] == port


def test_the_cache_can_be_moved(foundry: Foundry, tmp_path: Path) -> None:
    place = tmp_path / "elsewhere"
    assert foundry.ok("cache", "cd", str(place)).out == f"💾 Cache directory path: {place}\n"
    assert foundry.ok("cache", "location").out == f"💾 Cache directory path: {place}\n"
    foundry.ok("service", "set", "--cachedir", str(tmp_path / "third"))
    assert config.load().models_dir == tmp_path / "third"


def listed(capsys: pytest.CaptureFixture[str], *filters: str) -> list[dict[str, Any]]:
    arguments = [part for text in filters for part in ("--filter", text)]
    models: list[dict[str, Any]] = json.loads(shown(capsys, "model", "list", "--json", *arguments))["models"]
    return models


def test_filters(capsys: pytest.CaptureFixture[str]) -> None:
    everything = {m["id"] for m in listed(capsys)}
    phi = listed(capsys, "alias=PHI*")
    assert phi
    assert all(m["alias"].startswith("phi") for m in phi)
    rest = listed(capsys, "alias=!phi*")
    assert {m["id"] for m in phi} | {m["id"] for m in rest} == everything
    assert {m["alias"] for m in listed(capsys, "alias=phi-4-mini")} == {"phi-4-mini"}
    assert all(m["device"] == "CPU" for m in listed(capsys, "device=cpu"))
    assert listed(capsys, "device=!CPU", "device=CPU") == []
    assert {m["executionProvider"] for m in listed(capsys, "provider=CPUExecutionProvider")} == {"CPUExecutionProvider"}
    embeddings = listed(capsys, "task=embeddings")
    assert embeddings
    assert all("embeddings" in m["tasks"] for m in embeddings)


@pytest.mark.parametrize("text", ["colour=red", "device", "=x", "device=", "alias=*phi", "task=chat*"])
def test_a_filter_that_means_nothing_is_an_error(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["model", "list", "--filter", text]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    for key in ("device", "provider", "task", "alias"):
        assert key in err


def test_the_model_list_prints_an_alias_once(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, "model", "list", "--variants").splitlines()
    assert re.match(r"Alias +Device +Task +File Size +License +Model ID\b", lines[0])
    aliases = [line.split()[0] for line in lines[1:] if not line.startswith(" ")]
    assert len(set(aliases)) == len(aliases)
    assert any(line.startswith(" ") for line in lines), "no alias has a second variant"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    script = shown(capsys, "completion", shell)
    assert "_FOUNDRY_COMPLETE" in script
    assert f"{shell}_complete" in script


@pytest.mark.parametrize(
    ("words", "expected"),
    [("foundry mod", "model"), ("foundry model unl", "unload"), ("foundry cache loc", "location")],
)
def test_completing_a_command(words: str, expected: str) -> None:
    env = os.environ | {
        "_FOUNDRY_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    done = subprocess.run([Foundry.executable], env=env, capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout.split() == [f"plain,{expected}"]
    assert done.stderr == ""
