"""`foundry service diag`, `foundry report`: what to send with a question, on the screen or as one file.

The file is made to be given to strangers: `evidence.py` collects it, `redact.py` takes out what is private.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from localfoundry import instance
from localfoundry.cli import context, output
from localfoundry.config import Settings
from localfoundry.errors import DiskError, UsageError


@click.command()
@click.option("--logs", "with_logs", is_flag=True, help="Add the last lines of the service's log.")
@click.option(
    "--bundle",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a ZIP file with settings, logs and versions instead; secrets, prompts and names are taken out.",
)
@context.json_option
def diag(as_json: bool, with_logs: bool, bundle: Path | None) -> None:
    """Report on versions, folders, service, models and disk: what to send with a question."""
    given = context.settings()
    report = summary(given)
    if bundle is not None:
        _write_bundle(given, report, bundle, as_json)
        return
    if with_logs:
        log = given.log_dir / "service.log"
        report["log"] = log.read_text(errors="replace").splitlines()[-30:] if log.exists() else []
    if as_json:
        output.document(report)
        return
    for key, value in report.items():
        if isinstance(value, list):
            output.data(f"{key}:")
            for line in value:
                output.data(f"    {line}")
        else:
            output.data(f"{key + ':':<12} {value}")


def summary(given: Settings) -> dict[str, Any]:
    import platform
    import shutil

    import psutil

    from localfoundry import __version__
    from localfoundry.units import format_bytes

    store = context.store(given)
    state = instance.running(given)
    place = next(p for p in (given.models_dir, *given.models_dir.parents) if p.exists())
    return {
        "version": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "memory": f"{format_bytes(psutil.virtual_memory().available)} of "
        f"{format_bytes(psutil.virtual_memory().total)} free",
        "home": str(given.home),
        "models": f"{len(store.manifests())} in {given.models_dir}",
        "disk": f"{format_bytes(shutil.disk_usage(place).free)} free",
        "service": f"{state.url}, process {state.pid}, up {time.time() - state.started_at:.0f} s"
        if state
        else "stopped",
        "damaged": [str(damaged) for damaged in store.damaged()],
    }


def _write_bundle(given: Settings, report: dict[str, Any], target: Path, as_json: bool) -> None:
    """Raises UsageError where there is such a file, DiskError where none can be written."""
    import zipfile

    from localfoundry.cli import evidence

    parts = evidence.collect(given, report)
    try:
        with target.open("xb") as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in parts.items():
                archive.writestr(name, text)
    except FileExistsError:
        raise UsageError(f"there is already a file {target}", hint="name another one") from None
    except OSError as exc:
        raise DiskError(f"cannot write {target}: {exc.strerror}") from exc
    if as_json:
        output.document({"bundle": str(target), "files": list(parts)})
        return
    output.data(f"Wrote {target}: {', '.join(parts)}")
    output.note("Secrets, prompts and names were taken out. Look through it before you send it.")
