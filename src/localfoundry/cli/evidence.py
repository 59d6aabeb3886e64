"""What goes into a bundle of `service diag`: report, settings, environment, logs, versions, hardware, what is loaded.

Everything goes through one `Redactor`. `keys.json` and tokens are never opened for their content; the token of Hugging
Face is read only to take it out of the rest.
"""

from __future__ import annotations

import contextlib
import getpass
import importlib.metadata
import json
import os
import platform
import re
import socket
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from localfoundry import instance
from localfoundry.cli import context, loaded
from localfoundry.cli.redact import Redactor, secrets_in
from localfoundry.cli.service import settings_document
from localfoundry.config import Settings
from localfoundry.errors import FoundryError
from localfoundry.hardware import machine
from localfoundry.hardware.survey import Probe, survey

_SERVICE_LINES, _WORKER_LINES, _AUDIT_LINES = 2000, 500, 500
_MOST_WORKERS = 5
# Of the environment, only what this product reads; anything else could be anything.
_ENVIRONMENT = re.compile(r"FOUNDRY_\w+|OTEL_EXPORTER_OTLP_(TRACES_)?ENDPOINT|HF_(HOME|ENDPOINT|HUB_OFFLINE)|"
                          r"PIP_(EXTRA_)?INDEX_URL|(HTTPS?|NO|ALL)_PROXY|SSL_CERT_FILE", re.IGNORECASE)  # fmt: skip


def collect(given: Settings, report: dict[str, Any]) -> dict[str, str]:
    """Names in the bundle and their text, with nothing secret in it."""
    redactor = _redactor(given)
    documents = {
        "report.json": report,
        "settings.json": settings_document(given),
        "environment.json": {n: v for n, v in sorted(os.environ.items()) if _ENVIRONMENT.fullmatch(n)},
        "versions.json": _versions(),
        "hardware.json": _hardware(given),
        "service.json": _service(given),
    }
    parts = {name: _json(redactor.value(document)) for name, document in documents.items()}
    for name, text in _logs(given):
        parts[redactor.text(name)] = redactor.log(text)
    return parts


def _redactor(given: Settings) -> Redactor:
    secrets = secrets_in(os.environ)
    for place in (os.environ.get("HF_TOKEN_PATH"), Path(os.environ.get("HF_HOME", "~/.cache/huggingface")) / "token"):
        with contextlib.suppress(OSError, RuntimeError, UnicodeDecodeError):
            if place:
                secrets.add(Path(place).expanduser().read_text(encoding="utf-8").strip())
    names = {socket.gethostname(): "[host]"}
    with contextlib.suppress(KeyError, OSError, ImportError):  # a user without a name
        names[getpass.getuser()] = "[user]"
    with contextlib.suppress(RuntimeError):
        home = Path.home()
        names |= {home.name: "[user]", str(home): "~"}
    return Redactor(secrets, names)


def _logs(given: Settings) -> Iterator[tuple[str, str]]:
    yield "service.log", _tail(given.log_dir / "service.log", _SERVICE_LINES)
    workers = sorted(given.log_dir.glob("worker-*.log"), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in workers[:_MOST_WORKERS]:
        yield f"workers/{file.name}", _tail(file, _WORKER_LINES)
    for file in sorted(given.log_dir.glob("audit*")):
        if file.suffix in (".log", ".jsonl", ".json"):
            yield file.name, _tail(file, _AUDIT_LINES)


def _tail(file: Path, lines: int) -> str:
    try:
        with file.open(encoding="utf-8", errors="replace") as source:
            return "".join(deque(source, lines))
    except OSError as exc:
        return f"cannot be read: {exc.strerror}\n"


def _service(given: Settings) -> dict[str, Any]:
    if instance.running(given) is None:
        return {"running": False}
    try:
        told = context.with_service(given, loaded.ask)
    except FoundryError as error:
        return {"running": True, "error": error.message}
    models = [{key: value for key, value in model.items() if key != "socket"} for model in told.models]
    return {"running": True, "models": models, "stats": told.stats}


def _versions() -> dict[str, str | None]:
    """Of this product and everything that it may use; None where a part is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    names = ["localfoundry"]
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for requirement in importlib.metadata.requires("localfoundry") or []:
            names += re.findall(r"^[\w.-]+", requirement)
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def _hardware(given: Settings) -> dict[str, Any]:
    """As `foundry hardware --json` has it, with nothing measured."""
    found: dict[str, Any] = json.loads(machine.encode(survey(given.home, Probe.NEVER)))
    return {"platform": platform.platform(), **found, "swap_bytes": psutil.swap_memory().total}


def _json(document: Any) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
