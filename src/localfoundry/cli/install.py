"""`foundry service install`: prints what makes this system start the service by itself. It installs nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import click

from localfoundry.cli import context, output, unit_files
from localfoundry.cli.unit_files import LABEL, Unit
from localfoundry.config import Settings

_SYSTEM_HOME = {
    "systemd": Path("/var/lib/localfoundry"),
    "launchd": Path("/usr/local/var/localfoundry"),
    "windows": Path("C:/ProgramData/localfoundry"),
}
_TEXT: dict[str, Callable[[Unit], str]] = {
    "systemd": unit_files.systemd,
    "launchd": unit_files.launchd,
    "windows": unit_files.task,
}
_PLACE = {
    ("systemd", False): f"~/.config/systemd/user/{LABEL}.service",
    ("systemd", True): f"/etc/systemd/system/{LABEL}.service",
    ("launchd", False): f"~/Library/LaunchAgents/{LABEL}.plist",
    ("launchd", True): f"/Library/LaunchDaemons/{LABEL}.plist",
    ("windows", False): f"{LABEL}.xml",
    ("windows", True): f"{LABEL}.xml",
}


@click.command()
@click.option("--print", "print_it", is_flag=True, help="Print it. Without this: say what to do with it.")
@click.option("--system/--user", default=False, help="For the whole machine, at boot; or for you, when you log in.")
@click.option(
    "--format", "form", type=click.Choice(list(_TEXT)), help="For which service manager; this system's if not given."
)  # fmt: skip
def install(print_it: bool, system: bool, form: str | None) -> None:
    """Print a unit for systemd, launchd or the Windows Task Scheduler. Nothing is installed."""
    form = form or {"darwin": "launchd", "win32": "windows"}.get(sys.platform, "systemd")
    given = context.settings()
    home = _home(given, form, system)
    if not print_it:
        for line in _steps(form, system, home):
            output.data(line)
        return
    _note_environment(given)
    output.data(_TEXT[form](_unit(given, home, system)), end="")


def _home(given: Settings, form: str, system: bool) -> Path:
    """The settings' own home; for the machine one of its own, unless FOUNDRY_HOME names one."""
    return _SYSTEM_HOME[form] if system and "home" not in given.sources else given.home


def _unit(given: Settings, home: Path, system: bool) -> Unit:
    argv = [sys.executable, "-m", "localfoundry.api", "--foreground", "--home", str(home)]
    models = given.models_dir if home == given.home else home / "models"
    elsewhere = [] if home in (models, *models.parents) else [models]
    if elsewhere and given.sources.get("cache_dir") != "file":
        argv += ["--cache-dir", str(models)]
    return Unit(argv, home, elsewhere, home / "logs" / "service.log", given.drain_timeout_s, system)


def _note_environment(given: Settings) -> None:
    """Settings of this shell do not reach a service that the system starts."""
    carried = ("home", "cache_dir")
    lost = [key for key, source in given.sources.items() if source == "environment" and key not in carried]
    if lost:
        names = ", ".join(lost)
        output.note(f"note: set in this shell's environment, and not part of the unit: {names}")
        output.note("  foundry config set KEY VALUE keeps a setting in the file")


def _steps(form: str, system: bool, home: Path) -> list[str]:
    """What to type, in order. Nothing of it is done here: some of it needs an administrator."""
    place = _PLACE[form, system]
    option = " --system" if system else ""
    produce = f"foundry service install --print{option} --format {form}"
    steps: dict[tuple[str, bool], list[str]] = {
        ("systemd", False): [
            "mkdir -p ~/.config/systemd/user",
            f"{produce} > {place}",
            f"systemctl --user daemon-reload && systemctl --user enable --now {LABEL}",
            "loginctl enable-linger   # to start it at boot and keep it when you log out",
        ],
        ("systemd", True): [
            f"sudo useradd --system --create-home --home-dir {home} --shell /usr/sbin/nologin {LABEL}",
            f"{produce} | sudo tee {place}",
            f"sudo systemctl daemon-reload && sudo systemctl enable --now {LABEL}",
        ],
        ("launchd", False): [
            f"mkdir -p {home / 'logs'}",
            f"{produce} > {place}",
            f"launchctl bootstrap gui/$(id -u) {place}",
        ],
        ("launchd", True): [
            f"sudo mkdir -p {home / 'logs'} && sudo chown -R _{LABEL} {home}   # a user _{LABEL} must be there",
            f"{produce} | sudo tee {place}",
            f"sudo launchctl bootstrap system {place}",
        ],
        ("windows", False): [f"{produce} > {place}", f"schtasks /Create /TN {LABEL} /XML {place}"],
        ("windows", True): [
            f"{produce} > {place}",
            f"schtasks /Create /TN {LABEL} /XML {place}   (as an administrator)",
        ],
    }
    first = "This command installs nothing. To have the service started by the system:"
    return [first, *(f"  {step}" for step in steps[form, system])]
