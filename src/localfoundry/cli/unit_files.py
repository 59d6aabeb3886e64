"""Texts with which a system's own service manager starts the service: systemd, launchd, Windows' Task Scheduler.

Pure. Windows gets a task and not a service: a service has to speak the protocol of the service control manager, which
takes a wrapper by somebody else or a library for it; the Task Scheduler starts any program, starts it again when it
fails, and is there on every Windows.
"""

from __future__ import annotations

import plistlib
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

_STOP_MARGIN_S = 20  # after the time to drain: streams are cut off after 8 s, workers killed after 5 more
LABEL = "localfoundry"
_TASKS = "http://schemas.microsoft.com/windows/2004/02/mit/task"


@dataclass(frozen=True, slots=True)
class Unit:
    """What is to be started. `system`: at boot, as a user of its own; otherwise with a person's session."""

    argv: Sequence[str]
    home: Path
    writable: Sequence[Path]  # folders outside of `home` that it writes to
    log_file: Path
    drain_timeout_s: int
    system: bool

    @property
    def stop_timeout_s(self) -> int:
        return self.drain_timeout_s + _STOP_MARGIN_S


def systemd(unit: Unit) -> str:
    """A unit file. A user's own manager cannot set up most of the walls, so only the system's unit has them."""
    lines = [
        "[Unit]",
        "Description=localfoundry: open language models behind an OpenAI-compatible API",
        "After=network.target",
        "",
        "[Service]",
        "Type=notify",
        f"ExecStart={' '.join(_quoted(word) for word in unit.argv)}",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "Restart=on-failure",
        "RestartSec=2",
        "# 2: a setting is wrong; starting again would not help",
        "RestartPreventExitStatus=2",
        "# the service ends its workers itself; what is left after the time to drain is killed",
        "KillMode=mixed",
        f"TimeoutStopSec={unit.stop_timeout_s}",
        "# a worker that runs out of memory takes its model along, not the service",
        "OOMPolicy=continue",
        "# the most memory that the service and its models may use together:",
        "#MemoryMax=16G",
        "NoNewPrivileges=yes",
        "LockPersonality=yes",
        "RestrictSUIDSGID=yes",
        *(_walls(unit) if unit.system else []),
        "",
        "[Install]",
        f"WantedBy={'multi-user.target' if unit.system else 'default.target'}",
        "",
    ]
    return "\n".join(lines)


def _walls(unit: Unit) -> list[str]:
    return [
        f"User={LABEL}",
        "UMask=0077",
        "ProtectSystem=strict",
        "# read-only and not hidden: the program itself may lie in somebody's home",
        "ProtectHome=read-only",
        *(f"ReadWritePaths={_quoted(str(folder))}" for folder in (unit.home, *unit.writable)),
        "# safe: the service and its workers, which talk over sockets in the folder for temporary files, share it",
        "PrivateTmp=yes",
        "ProtectKernelTunables=yes",
        "ProtectKernelModules=yes",
        "ProtectControlGroups=yes",
        "RestrictRealtime=yes",
        "RestrictNamespaces=yes",
        "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
        "SystemCallArchitectures=native",
        "CapabilityBoundingSet=",
    ]


def _quoted(word: str) -> str:
    """A word of a unit file: `%` and `$` would be replaced, spaces would separate."""
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{word}"' if any(c.isspace() or c in "'\";" for c in word) or not word else word


def launchd(unit: Unit) -> str:
    """A property list: an agent of the person, or a daemon of the machine."""
    content: dict[str, object] = {
        "Label": LABEL,
        "ProgramArguments": list(unit.argv),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ExitTimeOut": unit.stop_timeout_s,
        "ProcessType": "Interactive",  # anything less is slowed down by the system
        "StandardErrorPath": str(unit.log_file),
    }
    if unit.system:
        content |= {"UserName": f"_{LABEL}", "Umask": 0o077}
    return plistlib.dumps(content, sort_keys=False).decode()


def task(unit: Unit) -> str:
    """A task for the Task Scheduler. Without an encoding in its first line: shells write it in one of their own."""
    program, *arguments = unit.argv
    trigger = "BootTrigger" if unit.system else "LogonTrigger"
    who = "<UserId>S-1-5-19</UserId>" if unit.system else "<LogonType>InteractiveToken</LogonType>"
    return f"""<?xml version="1.0"?>
<Task version="1.3" xmlns="{_TASKS}">
  <RegistrationInfo>
    <Description>localfoundry: open language models behind an OpenAI-compatible API</Description>
  </RegistrationInfo>
  <Triggers>
    <{trigger}><Enabled>true</Enabled></{trigger}>
  </Triggers>
  <Principals>
    <Principal id="Author">{who}<RunLevel>LeastPrivilege</RunLevel></Principal>
  </Principals>
  <Settings>
    <MultipleInstancesPolicy>IgnoreNew</MultipleInstancesPolicy>
    <DisallowStartIfOnBatteries>false</DisallowStartIfOnBatteries>
    <StopIfGoingOnBatteries>false</StopIfGoingOnBatteries>
    <ExecutionTimeLimit>PT0S</ExecutionTimeLimit>
    <Priority>5</Priority>
    <RestartOnFailure><Interval>PT1M</Interval><Count>10</Count></RestartOnFailure>
  </Settings>
  <Actions Context="Author">
    <Exec>
      <Command>{escape(program)}</Command>
      <Arguments>{escape(subprocess.list2cmdline(arguments))}</Arguments>
    </Exec>
  </Actions>
</Task>
"""
