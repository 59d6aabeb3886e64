"""What `service install --print` prints is what the service managers read."""

from __future__ import annotations

import configparser
import plistlib
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from harness import Foundry
from localfoundry.cli import unit_files
from localfoundry.cli.unit_files import Unit

ODD = 'a "b" 50% $HOME\\x'


def unit(tmp_path: Path, *, system: bool) -> Unit:
    argv = ["/usr/bin/python3", "-m", "localfoundry.api", "--foreground", "--home", str(tmp_path / ODD)]
    return Unit(argv, tmp_path / ODD, [Path("/srv/models")], tmp_path / "service.log", 10, system)


def systemd_unit(text: str) -> configparser.SectionProxy:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(text)
    return parser["Service"]


def test_for_systemd(foundry: Foundry) -> None:
    done = foundry.ok("service", "install", "--print", "--format", "systemd", env={"FOUNDRY_DRAIN_TIMEOUT": "30"})
    service = systemd_unit(done.out)
    assert service["Type"] == "notify"
    assert service["ExecStart"].startswith(f"{sys.executable} -m localfoundry.api --foreground --home ")
    assert service["KillMode"] == "mixed"
    assert service["OOMPolicy"] == "continue"
    assert int(service["TimeoutStopSec"]) == 50
    assert service["NoNewPrivileges"] == "yes"
    assert "MemoryMax" not in service
    assert "drain_timeout_s" in done.err  # from this shell's environment, so not part of the unit


def test_for_systemd_and_the_whole_machine(foundry: Foundry, tmp_path: Path) -> None:
    """Its home is the machine's and not the person's, and the only folder that it may write to."""
    text = foundry.ok("service", "install", "--print", "--system", "--format", "systemd").out
    assert f"ReadWritePaths={tmp_path}" in text
    service = systemd_unit(unit_files.systemd(unit(tmp_path, system=True)))
    assert service["ProtectSystem"] == "strict"
    assert service["PrivateTmp"] == "yes"
    assert service["User"] == "localfoundry"
    assert "ReadWritePaths=/srv/models" in unit_files.systemd(unit(tmp_path, system=True))


@pytest.mark.parametrize("system", [False, True])
def test_systemd_takes_the_unit(tmp_path: Path, system: bool) -> None:
    """Read by systemd itself where it is here; a path with spaces, quotes, `%` and `$` stays one word in any case."""
    text = unit_files.systemd(unit(tmp_path, system=system))
    assert '\\"b\\" 50%% $$HOME\\\\x"' in systemd_unit(text)["ExecStart"]
    verifier = shutil.which("systemd-analyze")
    if verifier is not None:
        file = tmp_path / "localfoundry.service"
        file.write_text(text.replace("/usr/bin/python3", sys.executable))
        kind = [] if system else ["--user"]
        environment = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(
            [verifier, *kind, "verify", str(file)],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            env=environment,
        )
        assert "localfoundry.service" not in done.stderr, done.stderr


@pytest.mark.parametrize("system", [False, True])
def test_for_launchd(tmp_path: Path, system: bool) -> None:
    content = plistlib.loads(unit_files.launchd(unit(tmp_path, system=system)).encode())
    assert content["ProgramArguments"][-1].endswith(ODD)
    assert content["ExitTimeOut"] == 30
    assert content["KeepAlive"] == {"SuccessfulExit": False}
    assert ("UserName" in content) == system


@pytest.mark.parametrize("system", [False, True])
def test_for_the_task_scheduler(tmp_path: Path, system: bool) -> None:
    root = ElementTree.fromstring(unit_files.task(unit(tmp_path, system=system)))
    names = {"t": "http://schemas.microsoft.com/windows/2004/02/mit/task"}
    assert root.findtext("t:Actions/t:Exec/t:Command", namespaces=names) == "/usr/bin/python3"
    arguments = root.findtext("t:Actions/t:Exec/t:Arguments", namespaces=names)
    assert arguments is not None
    assert arguments.startswith("-m localfoundry.api --foreground")
    assert root.findtext("t:Settings/t:ExecutionTimeLimit", namespaces=names) == "PT0S"
    assert (root.find("t:Triggers/t:BootTrigger", names) is not None) == system


@pytest.mark.parametrize("form", ["systemd", "launchd", "windows"])
@pytest.mark.parametrize("kind", ["--user", "--system"])
def test_without_print_it_says_what_to_do(foundry: Foundry, form: str, kind: str) -> None:
    text = foundry.ok("service", "install", kind, "--format", form).out
    assert "installs nothing" in text
    assert f"foundry service install --print{' --system' if kind == '--system' else ''} --format {form}" in text
