"""`foundry config edit`: the settings file in an editor, and only what can be loaded takes its place.

The editor works on a copy beside the file. A text that is refused stays there, and the next `edit` goes on from it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click

from localfoundry import config
from localfoundry.cli import context, output
from localfoundry.config import file as settings_file
from localfoundry.errors import DiskError, InvalidSetting, UsageError

_EMPTY = "{\n}\n"


@click.command()
def edit() -> None:
    """Edit the settings file with $VISUAL or $EDITOR. A text that is not valid is refused, and kept for another try."""
    file = context.usable_settings().file
    copy = file.with_name("settings.edited.json")
    before = settings_file.read(file)
    if copy.exists():
        output.note(f"going on with the text from last time: {copy}")
    else:
        settings_file.write(copy, before if before is not None else _EMPTY)
    _run_editor(copy)
    after = settings_file.read(copy)
    if after is None or after == (before if before is not None else _EMPTY):
        copy.unlink(missing_ok=True)
        output.data("nothing was changed")
        return
    _replace(file, copy, before, after)
    output.data(f"saved {file}")


def _replace(file: Path, copy: Path, before: str | None, after: str) -> None:
    """Put the edited text in the file's place. Raises InvalidSetting, the edited text being kept."""
    kept = f"your text is kept in {copy}; go on: foundry config edit"
    try:
        config.load(text=after)
    except InvalidSetting as exc:
        raise InvalidSetting(f"not saved: {exc.message}", hint=kept) from None
    with settings_file.locked(file):
        if settings_file.read(file) != before:
            raise UsageError(f"not saved: {file} was changed by somebody else meanwhile", hint=kept)
        settings_file.write(file, after)
    copy.unlink(missing_ok=True)


def _run_editor(copy: Path) -> None:
    """Open the file and wait for the editor to end. Raises UsageError where there is none, or it fails."""
    named = os.environ.get("VISUAL") or os.environ.get("EDITOR") or ("notepad" if sys.platform == "win32" else "vi")
    try:
        command = shlex.split(named, posix=sys.platform != "win32")
    except ValueError as exc:
        raise UsageError(f"the editor {named!r} cannot be started: {exc}") from None
    program = shutil.which(command[0]) if command else None
    if program is None:
        raise UsageError(f"the editor {named!r} is not a program here", hint="EDITOR=nano foundry config edit")
    try:
        status = subprocess.run([program, *command[1:], str(copy)], check=False).returncode
    except OSError as exc:
        raise DiskError(f"the editor {named!r} cannot be started: {exc.strerror}") from exc
    if status != 0:
        raise UsageError(f"the editor ended with status {status}; nothing was saved, your text is in {copy}")
