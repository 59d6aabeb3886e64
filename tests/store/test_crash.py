"""A pull that is killed at any step leaves the old state or the new one, and the next one completes.

A child process counts its calls of what changes the disk, and ends without a word (`os._exit`) before the k-th one,
for every k there is.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import hashlib
import itertools
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hub_server import Faults, HubServer, Repo
from localfoundry import config
from localfoundry.errors import ChecksumMismatch, SourceError
from localfoundry.sources.network import open_client
from localfoundry.sources.plan import PlannedFile, PullPlan
from localfoundry.sources.resolve import resolve
from localfoundry.store import download, journal
from localfoundry.store.download import Limits
from localfoundry.store.pull import pull
from localfoundry.store.store import Store
from tiny_gguf import tiny_gguf

DATA = tiny_gguf(200_000)
FAST = Limits(stall_s=2, attempts=3, backoff_s=0.01, retry_after_cap_s=0.05)
# Forked from one process that has imported everything: a step then costs a pull and not an interpreter's start.
CHILD = """
import asyncio, os, sys
from pathlib import Path
from localfoundry import config
from localfoundry.sources.resolve import resolve
from localfoundry.store import journal
from localfoundry.store.download import Limits
from localfoundry.store.pull import pull
from localfoundry.store.store import Store
import httpx2, truststore, huggingface_hub, filelock, localfoundry.store.facts

reference, what, base = sys.argv[1], sys.argv[2], Path(sys.argv[3])
kill_at = calls = 0

def step(module, name):
    real = getattr(module, name)
    def counted(*args, **kw):
        global calls
        calls += 1
        if calls == kill_at:
            os._exit(77)
        return real(*args, **kw)
    setattr(module, name, counted)

plan = asyncio.run(resolve(reference, settings=config.load()))

async def main(store):
    if what == "remove":
        await pull(store, plan)
    steps()
    if what == "remove":
        store.remove(store.find(reference))
    else:
        await pull(store, plan, limits=Limits(stall_s=5, attempts=2))

def steps():
    for name in ("replace", "rename", "fsync", "link", "unlink", "rmdir", "mkdir", "pwrite", "ftruncate", "chmod"):
        step(os, name)
    step(journal.PartFile, "_add_line")

for kill_at in range(1, 200):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            asyncio.run(main(Store(base / str(kill_at))))
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code != 77:
        break
print(code, kill_at)
"""


def kill_at_every_step(reference: str, what: str, base: Path) -> int:
    """Leaves a store in `base` for each step that a process was killed at; returns how many there are."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, reference, what, str(base)],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    code, count = map(int, done.stdout.split())
    assert code == 0, done.stderr  # the last one ran out of steps and completed
    return count - 1


async def check(store: Store, plan: PullPlan) -> None:
    """Consistent now; complete after the next pull; empty of leftovers after a clean-up."""
    assert store.damaged() == []
    for manifest in store.manifests():
        assert store.main_file(manifest).read_bytes() == DATA
    made = await pull(store, plan, limits=FAST)
    assert store.main_file(made).read_bytes() == DATA and store.manifests() == [made]
    store.execute(store.plan_clean())
    assert store.plan_clean().is_empty
    assert {p.name.removesuffix(".chunks") for p in store.blobs.iterdir()} == {made.files[0].sha256}
    left = [p for folder in (store.partial, store.tmp) for p in folder.iterdir() if p.suffix != ".lock"]
    assert left == []


@pytest.mark.parametrize(("what", "where"), [("pull", "hub"), ("pull", "file"), ("remove", "file")])
def test_killed_at_any_step(hub: HubServer, tmp_path: Path, what: str, where: str) -> None:
    reference = "org/tiny-GGUF"
    if where == "file":
        reference = str(tmp_path / "tiny-Q4_0.gguf")
        (tmp_path / "tiny-Q4_0.gguf").write_bytes(DATA)
    steps = kill_at_every_step(reference, what, tmp_path / "stores")
    assert steps >= (5 if what == "remove" else 15)
    plan = asyncio.run(resolve(reference, settings=config.load()))
    for k in range(1, steps + 1):
        try:
            asyncio.run(check(Store(tmp_path / "stores" / str(k)), plan))
        except AssertionError as exc:
            exc.add_note(f"killed at step {k} of {steps}")
            raise


# Any sequence of faults, kills and resumes

CHUNK = 16 * 1024
ODD = random.Random(3).randbytes(20 * CHUNK + 777)
ODD_SHA256 = hashlib.sha256(ODD).hexdigest()
WHERE = st.integers(0, len(ODD) - 1)
FAULT = st.builds(
    Faults,
    times=st.integers(1, 4),
    cut_after=st.none() | WHERE,
    corrupt_at=st.none() | WHERE,
    ignore_range=st.booleans(),
    wrong_content_range=st.booleans(),
    lose_content_range=st.booleans(),
    new_etag=st.booleans(),
    status=st.none() | st.none() | st.sampled_from([408, 416, 429, 500, 503]),
    expired=st.booleans(),
)
DAMAGE = st.sampled_from(["nothing", "nothing", "flip", "cut", "grow", "journal cut", "journal flip", "no part"])


class Killed(BaseException):
    """Ends a download as a kill would: what it does on its way out is undone."""


def damage(part: Path, how: str, at: int) -> None:
    """What a crash of the system, or a disk, can do to a partial."""
    path = part.with_suffix(".jsonl") if how.startswith("journal") else part
    if how == "no part":
        part.unlink(missing_ok=True)
    elif how != "nothing" and path.exists():
        data = bytearray(path.read_bytes())
        if how.endswith("flip") and data:
            data[at % len(data)] ^= 1
        elif how.endswith("cut"):
            del data[at % (len(data) + 1) :]
        elif how == "grow":
            data += b"x" * at
        path.write_bytes(data)


async def get(hub: HubServer, part: Path, connections: int) -> str:
    file = PlannedFile("odd.gguf", f"{hub.url}/org/odd/resolve/main/odd.gguf", size_bytes=len(ODD), sha256=ODD_SHA256)
    limits = Limits(stall_s=2, attempts=2, backoff_s=0.001, retry_after_cap_s=0.01, connections=connections)
    async with open_client(stall_s=2) as client:
        return (await download.fetch(client, file, part, limits=limits)).sha256


async def killed_at(write: int, hub: HubServer, part: Path, connections: int, patch: pytest.MonkeyPatch) -> str:
    """A download that is killed before its n-th write, if it gets there; the disk is left as it was then."""
    left = itertools.count(1)
    put, journal_file, saved = journal.PartFile._put, part.with_suffix(".jsonl"), dict[Path, bytes]()

    def counted(self: journal.PartFile, at: int, piece: memoryview) -> None:
        if next(left) == write:
            saved[journal_file] = journal_file.read_bytes()  # first: what it vouches for is then in the other
            saved[part] = part.read_bytes()
            raise Killed
        put(self, at, piece)

    with patch.context() as patched:
        patched.setattr(journal.PartFile, "_put", counted)
        try:
            return await get(hub, part, connections)
        finally:
            for path, data in saved.items():
                path.write_bytes(data)


@given(st.lists(st.tuples(FAULT, st.integers(1, 60), DAMAGE, WHERE, st.sampled_from([1, 3])), min_size=1, max_size=4))
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
def test_any_sequence_of_faults_kills_and_resumes(
    hub: HubServer, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch,
    episodes: list[tuple[Faults, int, str, int, int]],
) -> None:  # fmt: skip
    """Ends with the right bytes or a clear error, never with a wrong file; and without faults it completes.

    No source gives sums of chunks, so a byte that was wrong on the wire before a kill is only found at the end: then
    the wrong bytes are gone, and the next download is right.
    """
    monkeypatch.setattr(download, "Head", functools.partial(journal.Head, chunk_bytes=CHUNK))
    monkeypatch.setattr(download, "_BUFFER_BYTES", CHUNK // 2)
    hub.repos["org/odd"] = Repo({"odd.gguf": ODD})
    part = tmp_path_factory.mktemp("odd") / "x.part"
    for faults, write, how, at, connections in episodes:
        hub.faults = dataclasses.replace(faults)
        try:
            assert asyncio.run(killed_at(write, hub, part, connections, monkeypatch)) == ODD_SHA256
            assert part.read_bytes() == ODD
        except (SourceError, Killed):
            pass
        damage(part, how, at)
    hub.faults = Faults()
    try:
        digest = asyncio.run(get(hub, part, 4))
    except ChecksumMismatch:
        assert any(faults.corrupt_at is not None for faults, *_ in episodes) and not part.exists()
        digest = asyncio.run(get(hub, part, 4))
    assert digest == ODD_SHA256
    assert part.read_bytes() == ODD
