"""Code that a model could write, from mistakes to mischief: it fails, in time, and nothing of it is left."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from localfoundry.quality import sandbox

BRIEF_S = 1.0


def test_right_code_passes_and_wrong_code_fails_with_the_line() -> None:
    assert sandbox.run("def f(x):\n    return x + 1", "assert f(1) == 2") is None
    reason = sandbox.run("def f(x):\n    return x", "a = 1\nassert f(a) == 2, 'not two'")
    assert reason == "AssertionError: not two at \"assert f(a) == 2, 'not two'\""
    assert (sandbox.run("def f(:", "") or "").startswith("SyntaxError")


def test_code_is_taken_out_of_its_fences() -> None:
    assert sandbox.code_of("Sure:\n```python\na = 1\n```\nand\n```\nb = 2\n```") == "a = 1\n\nb = 2\n"
    assert sandbox.code_of("```py\na = 1") == "a = 1"
    assert sandbox.code_of("a = 1") == "a = 1"


def test_ordinary_code_works() -> None:
    code = """
import asyncio, collections, csv, dataclasses, datetime, decimal, functools, heapq, itertools, json, math, random, re
import statistics, string, typing, unittest
@dataclasses.dataclass
class P:
    x: int
async def later():
    await asyncio.sleep(0)
    return P(3)
"""
    tests = "assert asyncio.run(later()).x == 3\nopen('a.txt', 'w').write('x')\nassert open('a.txt').read() == 'x'"
    assert sandbox.run(code, tests) is None


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time; time.sleep(1000)",
        "import signal; [signal.signal(s, signal.SIG_IGN) for s in (signal.SIGTERM, signal.SIGINT)]\nwhile True: pass",
    ],
)
def test_what_does_not_end_is_ended(code: str) -> None:
    began = time.monotonic()
    assert sandbox.run(code, "", wall_s=BRIEF_S) == "not done after 1 s"
    assert time.monotonic() - began < BRIEF_S + 15


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("while True: print('x' * 1000)", "prints more than 65,536 bytes"),
        ("import sys\nwhile True: sys.stderr.write('x' * 1000)", "not done after"),
        ("import os\nwhile True: os.fork()", "os.fork is not allowed"),
        ("import subprocess; subprocess.run(['true'])", "not allowed"),
        ("import _posixsubprocess; _posixsubprocess.fork_exec()", "not allowed"),
        ("import os; os.system('true')", "os.system is not allowed"),
        ("import os; os.execv('/bin/true', ['true'])", "os.exec is not allowed"),
        ("import multiprocessing as m\nm.get_context('fork').Process(target=print).start()", "not allowed"),
        ("import socket; socket.socket()", "socket.__new__ is not allowed"),
        ("import urllib.request as u; u.urlopen('http://127.0.0.1:9/')", "not allowed"),
        ("import ctypes", "ctypes is not allowed"),
        ("open('/etc/hostname').read()", "open is not allowed"),
        ("import pathlib; list(pathlib.Path('/').iterdir())", "os.listdir is not allowed"),
        ("import os; os.kill(os.getppid(), 9)", "os.kill is not allowed"),
        ("import os; os.symlink('/etc', 'x')\nopen('x/hostname')", "not allowed"),
        ("x = bytearray(4 << 30)", "MemoryError"),
        ("import os; os._exit(0)", "the process ended with status 0"),
        ("raise SystemExit(0)", "SystemExit"),
        ("f = lambda: f()\nf()", "RecursionError"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="there are no such calls, nor these limits")
def test_mischief_is_refused(code: str, words: str) -> None:
    assert words in (sandbox.run(code, "", wall_s=30 if words != "not done after" else BRIEF_S) or "it passed")


@pytest.mark.parametrize(
    "code",
    ["open(PATH, 'w').write('x')", "import os; os.remove(PATH)", "import shutil; shutil.rmtree(os.path.dirname(PATH))",
     "import os; os.rename(PATH, 'here')", "import os; os.truncate(PATH, 0)",
     "import os; os.open(PATH, os.O_WRONLY | os.O_TRUNC)", "import os; os.chmod(PATH, 0)"],
)  # fmt: skip
def test_files_outside_are_safe(code: str, tmp_path: Path) -> None:
    file = tmp_path / "precious.txt"
    file.write_text("mine")
    assert "not allowed" in (sandbox.run(f"import os\nPATH = {str(file)!r}\n{code}", "") or "it passed")
    assert file.read_text() == "mine"


def test_a_disk_is_not_filled_and_nothing_stays_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(sandbox.tempfile, "tempdir", str(folder))
    code = "f = open('big', 'wb')\nwhile True: f.write(b'x' * 100_000)"
    assert "File too large" in (sandbox.run(code, "") or "it passed")
    assert list(folder.iterdir()) == []
    assert psutil.Process().children(recursive=True) == []


def test_the_environment_is_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    assert sandbox.run("import os", "assert 'hunter2' not in str(os.environ), os.environ") is None
    assert sandbox.run("import sys", "assert not any('site-packages' in p for p in sys.path)") is None


def test_what_holds_code_back_is_said() -> None:
    words = sandbox.isolation()
    assert "network" in words
    if sys.platform != "win32" and os.geteuid() == 0:
        assert "as nobody" in words or "as root" in words
