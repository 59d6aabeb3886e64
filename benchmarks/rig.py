"""What the benchmarks share: a home of their own, the `foundry` command and its service, and the printout."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from localfoundry import __version__
from localfoundry.bench import stats
from localfoundry.results import place

STARTER = "smollm2-135m"
COMMAND_TIMEOUT_S = 600


class BenchmarkFailed(RuntimeError):
    """The benchmark cannot go on: the command or the service did not do what is measured."""


class Foundry:
    """The command under test in one home, on a port that the system picks."""

    def __init__(self, home: Path, command: Path | None = None) -> None:
        beside = Path(sys.executable).with_name("foundry.exe" if os.name == "nt" else "foundry")
        found = command or (beside if beside.exists() else shutil.which("foundry"))
        if found is None:
            raise BenchmarkFailed("there is no `foundry` beside this Python or on the PATH")
        self.command = str(found)
        # FOUNDRY_URL is for clients; with it set, the command might measure somebody else's service.
        kept = {name: value for name, value in os.environ.items() if name != "FOUNDRY_URL"}
        self.environment = kept | {"FOUNDRY_HOME": str(home), "FOUNDRY_PORT": "0"}
        self.home = home

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [self.command, *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        if check and done.returncode != 0:
            raise BenchmarkFailed(f"foundry {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}")
        return done

    def timed(self, *arguments: str, check: bool = True) -> float:
        began = time.perf_counter()
        self.run(*arguments, check=check)
        return time.perf_counter() - began

    def status(self) -> dict[str, Any]:
        """`{"running": true, "pid": …, "webUrls": […]}` of a service that must be running."""
        found = json.loads(self.run("service", "status", "--json").stdout)
        if not isinstance(found, dict) or not found.get("running"):
            raise BenchmarkFailed(f"the service does not run: {found}")
        return found

    def url(self) -> str:
        return str(self.status()["webUrls"][0]).rstrip("/")

    def stop(self) -> None:
        self.run("service", "stop", check=False)

    @contextlib.contextmanager
    def service(self, settings: Mapping[str, str] | None = None) -> Iterator[str]:
        """The URL of a service started with these environment variables, and stopped afterwards."""
        before = self.environment
        self.environment = before | dict(settings or {})
        try:
            self.run("service", "start")
            yield self.url()
        finally:
            self.stop()
            self.environment = before

    def fake(self, name: str, **switches: object) -> str:
        """The name of a model for the fake engine, made and imported; `workers/fake.py` lists the switches."""
        file = self.home / f"{name}.fake.json"
        file.write_text(json.dumps(switches), encoding="utf-8")
        self.run("model", "download", str(file))
        return name


@contextlib.contextmanager
def foundry(options: argparse.Namespace) -> Iterator[Foundry]:
    """A stopped service with the model on its disk, and stopped again afterwards; its home is removed if it is ours."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # so that the service ends as well
    with contextlib.ExitStack() as stack:
        place = options.home or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="foundry-bench-")))
        found = Foundry(place, options.foundry)
        found.run("model", "download", options.model)
        found.stop()
        stack.callback(found.stop)
        yield found


def call(url: str, body: dict[str, object] | None = None) -> Any:
    """One JSON request over plain HTTP: GET, or POST where there is a body. None for an empty answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=COMMAND_TIMEOUT_S) as response:
        text = response.read()
    return json.loads(text) if text else None


@dataclass(frozen=True)
class Line:
    """One printed result: values in `unit`, or a `point` with its interval; and the limit it must not pass, or reach.

    `counted`: the point is a count or one whole run's difference; it has no interval and is compared as it is.
    """

    name: str
    unit: str
    values: Sequence[float] = ()
    point: float | None = None
    interval: stats.Interval | None = None
    goal: float | None = None
    counted: bool = False
    at_least: bool = False  # the goal is a lower limit

    @property
    def middle(self) -> float:
        if self.point is not None:
            return self.point
        summary = stats.summarize(self.values)
        assert summary is not None
        return summary.median

    def verdict(self) -> str:
        """Against the goal: by the whole interval where there is one, so that luck is not called success."""
        if self.goal is None:
            return ""
        if self.counted:
            return "met" if (self.middle >= self.goal if self.at_least else self.middle <= self.goal) else "missed"
        interval = self.interval or stats.bootstrap_median(self.values)
        if interval is None:
            return "one run cannot tell"
        low, high = interval.low, interval.high
        if low >= self.goal if self.at_least else high <= self.goal:
            return "met"
        missed = high < self.goal if self.at_least else low > self.goal
        return "missed" if missed else "undecided: the interval holds the goal"

    def text(self) -> str:
        spread = ""
        if self.interval is not None:
            spread = f"95 % {self.interval.low:.3f} to {self.interval.high:.3f}"
        elif self.values:
            spread = f"{min(self.values):.3f} to {max(self.values):.3f}, n={len(self.values)}"
        goal = "" if self.goal is None else f"goal {'>=' if self.at_least else '<='} {self.goal:g}: {self.verdict()}"
        return f"{self.name:<44} {self.middle:>9.3f} {self.unit:<6} {spread:<28} {goal}".rstrip()

    def plain(self) -> dict[str, object]:
        interval = None if self.interval is None else msgspec.to_builtins(self.interval)
        return {
            "name": self.name,
            "unit": self.unit,
            "median": self.middle,
            "values": list(self.values),
            "interval": interval,
            "goal": self.goal,
            "verdict": self.verdict(),
        }


def parser(description: str | None) -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    found.add_argument(
        "--home", type=Path, help="FOUNDRY_HOME to use and keep, its service is stopped; else a temporary one"
    )
    found.add_argument("--foundry", type=Path, help="command to measure; without it, the one beside this Python")
    found.add_argument("--model", default=STARTER, help=f"model to run (default {STARTER})")
    found.add_argument(
        "--json", "--out", dest="json", type=Path, metavar="FILE", help="write results and raw samples there"
    )
    return found


def publish(lines: Sequence[Line], settings: dict[str, object], raw: object, file: Path | None) -> None:
    """Print the lines with the machine they are from, and write the same with the raw samples to `file`."""
    machine = place.machine()
    print(f"{machine.cpu}, {machine.threads} threads, {machine.system}; localfoundry {__version__}")
    print("medians; the range is min to max where it is not called 95 %\n")
    for line in lines:
        print(line.text())
    if file is not None:
        document = {
            "machine": msgspec.to_builtins(machine),
            "versions": {"localfoundry": __version__, "python": platform.python_version()},
            "settings": settings,
            "results": [line.plain() for line in lines],
            "raw": raw,
        }
        file.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
