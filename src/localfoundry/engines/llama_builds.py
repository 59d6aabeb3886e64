"""Builds of llama.cpp by name: which one the setting `llamaServer` means, which others are here, and one in its place.

A build is called as that setting calls it: `bundled`, the name of one that was built here, or `llama-server` for one
on the PATH. Those names mean something on another machine too, so a profile and a lock file may keep them; a program
that the settings name by its path has none, and is never written down.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

from localfoundry.build import installed
from localfoundry.config import Settings
from localfoundry.errors import InvalidSetting

BUNDLED, ON_PATH = "bundled", "llama-server"


def server(settings: Settings) -> tuple[Path | None, str]:
    """The `llama-server` to use, if any, and why; None: the bundled one. Raises InvalidSetting: it is not there."""
    wanted = settings.llama_server
    if wanted == BUNDLED:
        return None, "the setting llamaServer says bundled"
    if wanted == "auto":
        return _found(settings)
    if installed.NAME.fullmatch(wanted):
        return _installed(settings, wanted), f"the setting llamaServer names the build {wanted}"
    found = shutil.which(wanted)
    if found is None:
        raise InvalidSetting(
            f"llamaServer = {wanted!r} is not a program", hint="foundry service set --llama-server auto"
        )
    return Path(found), "the setting llamaServer names it"


def in_use(settings: Settings) -> str | None:
    """The name of the build that a load takes now; None: a program named by its path. Raises InvalidSetting."""
    found, _ = server(settings)
    if found is None:
        return BUNDLED
    own = (build.name for build in installed.builds(settings) if installed.program(settings, build, ON_PATH) == found)
    on_path = shutil.which(ON_PATH)
    return next(own, ON_PATH if on_path is not None and Path(on_path) == found else None)


def here(settings: Settings) -> list[str | None]:
    """The one in use, and the best one of the other kind: bundled beside a native one, a native one beside the bundled.

    No more than these two: builds of one kind differ by little, and each would double what a search has to look at.
    Raises InvalidSetting.
    """
    used = in_use(settings)
    other = BUNDLED if used != BUNDLED else in_use(chosen(settings, "auto"))
    return [used, *([other] if other not in (used, None) and why_not(settings, other) is None else [])]


def why_not(settings: Settings, name: str | None) -> str | None:
    """Why the build of that name cannot run models here, with the command that changes it; None: it can."""
    if name == BUNDLED:
        missing = importlib.util.find_spec("xllamacpp") is None
        return "the bundled llama.cpp is not installed: pip install xllamacpp" if missing else None
    if name == ON_PATH:
        return None if shutil.which(ON_PATH) else "no llama-server is on the PATH any more: foundry engine list"
    build = None if name is None else installed.named(settings, name)
    reason = "it is not here" if build is None else installed.why_not(settings, build)
    if name is None or reason is None:
        return None
    return f"the build {name} cannot be used, {reason}: foundry engine install llama.cpp --native"


def chosen(settings: Settings, name: str | None) -> Settings:
    """With the build of that name in place of the one in use; as they are where there is none."""
    return settings if name is None else dataclasses.replace(settings, llama_server=name)


def told_version(server: Path) -> str:
    """`6502 (abc1234)` of `llama-server --version`, which it writes to standard error; `unknown`."""
    try:
        told = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    found = re.search(r"version:\s*([^\n]+)", told.stderr + told.stdout)
    return found[1].strip() if found else "unknown"


def _found(settings: Settings) -> tuple[Path | None, str]:
    """The newest build made on this machine that can run here, else one on the PATH."""
    build = installed.usable(settings)
    if build is not None:
        return installed.program(settings, build, ON_PATH), f"{build.name} was built for this machine"
    found = shutil.which(ON_PATH)
    if found:
        return Path(found), f"a native llama-server is on the PATH: {found}"
    left_out = [f"; {b.name} is not used: {installed.why_not(settings, b)}" for b in installed.builds(settings)[:1]]
    return None, "".join(["no native llama-server is on the PATH", *left_out])


def _installed(settings: Settings, name: str) -> Path:
    """The server of the build of that name. Raises InvalidSetting where it is not here or cannot run here."""
    build = installed.named(settings, name)
    reason = "there is no such build" if build is None else installed.why_not(settings, build)
    if build is None or reason:
        raise InvalidSetting(
            f"llamaServer = {name!r} cannot be used: {reason}", hint="foundry engine use llama.cpp auto"
        )
    return installed.program(settings, build, ON_PATH)
