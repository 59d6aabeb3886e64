"""Kills at every step, several processes at once, and a store that cannot be written."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import Foundry, wait_until
from hub_server import Faults, HubServer, Repo
from localfoundry import config
from localfoundry.sources.plan import PlannedFile, PullPlan
from localfoundry.store import refs
from localfoundry.store.pull import pull
from localfoundry.store.store import Store
from localfoundry.store.verify import verify
from tiny_gguf import tiny_gguf

TESTS = Path(__file__).parents[1]
MIB = 1024 * 1024


def add(store: Store, tmp_path: Path, name: str, seed: int) -> None:
    path = tmp_path / f"{name}-{seed}.gguf"
    path.write_bytes(tiny_gguf(seed=seed))
    plan = PullPlan(name, None, name, f"file:{path}", "gguf", (PlannedFile(f"{name}.gguf", local=path),))
    asyncio.run(pull(store, plan))


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
@pytest.mark.parametrize(
    ("operation", "least"), [("update", 15), ("remove", 5), ("rollback", 4), ("move", 40), ("copy", 40)]
)
def test_killed_at_every_step(tmp_path: Path, operation: str, least: int) -> None:
    """A crash at any instruction leaves either the old state or the new one; the rules are in kill_points.py."""
    done = subprocess.run(
        [sys.executable, str(TESTS / "store" / "kill_points.py"), operation, str(tmp_path)],
        capture_output=True, text=True, timeout=110, check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) >= least, "so many steps were killed"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that another user can reach; pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="foundry-test-"))
    folder.chmod(0o755)
    yield folder
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(folder)


READER = """
import os, sys
from pathlib import Path
from localfoundry.errors import DiskError
from localfoundry.store import refs, space
from localfoundry.store.store import Store
from localfoundry.store.verify import verify
import filelock, hashlib, shutil
if os.geteuid() == 0:
    os.setgid(65534), os.setuid(65534)
store = Store(Path(sys.argv[1]))
try:
    (store.root / "x").write_text("")
except PermissionError:
    pass
else:
    raise SystemExit("the store can be written")
found = store.find("m")
space.note_use(store, found)
assert all(c.is_healthy for c in verify(store, store.manifests()))
space.measure(store), space.last_loads(store), store.partials(), store.plan_clean()
assert store.main_file(found).read_bytes()
try:
    refs.unpin(store, "m")
except DiskError as exc:
    print(found.id, "|", exc.message)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_a_read_only_store_works_for_reading(open_folder: Path, tmp_path: Path) -> None:
    """The system itself refuses: folders without the right to write, and, for root, a process of another user."""
    store = Store(open_folder / "models")
    add(store, tmp_path, "m", 1)
    add(store, tmp_path, "m", 2)
    first = store.find("m:1")
    assert first is not None
    refs.pin(store, first)
    (store.root / "store.lock").chmod(0o444)
    for path in (store.root, *store.root.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    done = subprocess.run([sys.executable, "-c", READER, str(store.root)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("m:1 | "), done.stdout


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer() as server:
        server.repos["org/tiny-GGUF"] = Repo({"tiny-Q4_0.gguf": tiny_gguf(12 * MIB)})
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def test_a_version_is_removed_while_another_is_pulled(hub: HubServer, foundry: Foundry, tmp_path: Path) -> None:
    store = Store(config.load().models_dir)
    foundry.ok("model", "download", "org/tiny-GGUF")
    hub.repos["org/tiny-GGUF"] = Repo({"tiny-Q4_0.gguf": tiny_gguf(12 * MIB, seed=1)}, sha="d" * 40)
    hub.faults = Faults(pause_s=0.01)
    update = subprocess.Popen([foundry.executable, "model", "update", "--json"], stdout=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: any(p.in_use for p in store.partials()), 30, "the update did not begin to download")
        foundry.ok("cache", "remove", "tiny-Q4_0:1", "--yes")
        foundry.ok("cache", "clean", "--keep", "1", "--yes")
        out, _ = update.communicate(timeout=60)
    finally:
        update.kill()
    assert update.returncode == 0, out
    (left,) = store.manifests()
    assert left.commit == "d" * 40 and all(c.is_healthy for c in verify(store, [left]))
    assert store.plan_clean().is_empty


def test_removals_and_pulls_of_shared_bytes_at_once(tmp_path: Path) -> None:
    """Whatever the order, what is listed in the end is whole."""
    store = Store(tmp_path / "store")
    add(store, tmp_path, "keep", 1)
    code = (
        "import asyncio, sys; from pathlib import Path\n"
        "from localfoundry.sources.plan import PlannedFile, PullPlan; from localfoundry.store.pull import pull\n"
        "from localfoundry.store.store import Store\n"
        "store, name = Store(Path(sys.argv[1])), sys.argv[2]; path = Path(sys.argv[3])\n"
        "plan = PullPlan(name, None, name, 'file:x', 'gguf', (PlannedFile('m.gguf', local=path),))\n"
        "for _ in range(8): store.remove(asyncio.run(pull(store, plan)))\n"
        "asyncio.run(pull(store, plan))\n"
    )
    source = tmp_path / "two.gguf"
    source.write_bytes(tiny_gguf(seed=2))
    children = [subprocess.Popen([sys.executable, "-c", code, str(store.root), name, str(source)]) for name in "abc"]
    assert [child.wait(90) for child in children] == [0, 0, 0]
    assert [m.name for m in store.manifests()] == ["a", "b", "c", "keep"]
    assert all(c.is_healthy for c in verify(store, store.manifests()))
    assert len([p for p in store.blobs.iterdir() if not p.suffix]) == 2
