"""Downloads against a server that does everything wrong that servers do."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub_server import Faults, HubServer, Repo
from localfoundry import config
from localfoundry.errors import (
    ChecksumMismatch,
    DiskFull,
    InvalidSetting,
    SourceError,
    SourceRefused,
    SourceUnreachable,
)
from localfoundry.sources.network import open_client
from localfoundry.sources.plan import PlannedFile
from localfoundry.store import journal
from localfoundry.store.download import Limits, fetch
from localfoundry.store.journal import CHUNK_BYTES, Head, PartFile, next_run
from localfoundry.store.progress import Tally

MIB = 1024 * 1024
SIZE = 20 * MIB + 12345
DATA = hashlib.shake_256(b"localfoundry").digest(SIZE)
SHA256 = hashlib.sha256(DATA).hexdigest()
FAST = Limits(stall_s=0.5, attempts=4, backoff_s=0.01, retry_after_cap_s=0.2)
ONE = dataclasses.replace(FAST, connections=1)


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        server.repos["org/repo"] = Repo({"a.gguf": DATA})
        yield server


def planned(hub: HubServer, **changes: object) -> PlannedFile:
    values: dict[str, object] = {
        "name": "a.gguf",
        "url": f"{hub.url}/org/repo/resolve/main/a.gguf",
        "size_bytes": SIZE,
        "sha256": SHA256,
        "headers": (("Authorization", "Bearer secret"),),
    }
    return PlannedFile(**(values | changes))  # type: ignore[arg-type]


async def get(file: PlannedFile, part: Path, tally: Tally | None = None, limits: Limits = FAST) -> str:
    async with open_client(stall_s=limits.stall_s) as client:
        return (await fetch(client, file, part, progress=tally, limits=limits, origin="hf:org/repo@abc")).sha256


def part_with(path: Path, data: bytes, head: Head | None = None) -> None:
    """A partial as a process leaves it that was killed after `data`."""
    etag = '"' + SHA256[:16] + '"'
    with PartFile(path, head or Head("a.gguf", SIZE, etag, SHA256)) as part:
        part.write(0, data)
        journal_then = path.with_suffix(".jsonl").read_bytes()
    path.with_suffix(".jsonl").write_bytes(journal_then)


async def test_a_file_arrives_whole_and_the_token_stays_at_home(hub: HubServer, tmp_path: Path) -> None:
    tally = Tally(SIZE)
    assert await get(planned(hub), tmp_path / "x.part", tally) == SHA256
    assert (tmp_path / "x.part").read_bytes() == DATA
    assert tally.percent == 100.0
    assert hub.asked("hub")[0]["authorization"] == "Bearer secret"
    assert all("authorization" not in headers for headers in hub.asked("storage"))


async def test_a_partial_goes_on_from_its_last_whole_chunk(hub: HubServer, tmp_path: Path) -> None:
    part_with(tmp_path / "x.part", DATA[: CHUNK_BYTES + 5 * MIB])
    assert await get(planned(hub), tmp_path / "x.part") == SHA256
    assert hub.served == SIZE - CHUNK_BYTES
    assert hub.asked("storage")[0]["if-range"].startswith('"')


async def test_a_damaged_chunk_on_the_disk_is_fetched_again(hub: HubServer, tmp_path: Path) -> None:
    part = tmp_path / "x.part"
    part_with(part, DATA[: 2 * CHUNK_BYTES])
    raw = bytearray(part.read_bytes())
    raw[CHUNK_BYTES + 3] ^= 1
    part.write_bytes(raw)
    assert await get(planned(hub), part) == SHA256
    assert hub.served == SIZE - CHUNK_BYTES


@pytest.mark.parametrize("text", [b"", b"{", b"\x00\xff", b'{"name":"a"}\n{"size":-1,"sha256":"x"}\n', b"[]\n"])
async def test_a_journal_that_is_not_one_costs_a_restart(hub: HubServer, tmp_path: Path, text: bytes) -> None:
    part_with(tmp_path / "x.part", DATA[: 2 * CHUNK_BYTES])
    (tmp_path / "x.jsonl").write_bytes(text)
    assert await get(planned(hub), tmp_path / "x.part") == SHA256


async def test_a_whole_partial_needs_no_request(hub: HubServer, tmp_path: Path) -> None:
    with PartFile(tmp_path / "x.part", Head("a.gguf", SIZE, None, SHA256)) as part:
        part.write(0, DATA)
        part.finish()
    assert await get(planned(hub), tmp_path / "x.part") == SHA256
    assert hub.requests == []


async def test_cut_connections_are_resumed_without_fetching_a_byte_twice(hub: HubServer, tmp_path: Path) -> None:
    hub.faults = Faults(times=3, cut_after=3 * MIB)
    assert await get(planned(hub), tmp_path / "x.part") == SHA256
    assert hub.served == SIZE


async def test_a_stalled_connection_is_dropped_and_resumed(hub: HubServer, tmp_path: Path) -> None:
    hub.faults = Faults(times=1, stall_after=3 * MIB)
    tally = Tally(SIZE)
    assert await get(planned(hub), tmp_path / "x.part", tally) == SHA256
    assert any("no bytes for" in note for note in tally.notes)
    assert hub.served == SIZE


async def test_a_slow_but_steady_connection_is_left_alone(hub: HubServer, tmp_path: Path) -> None:
    hub.repos["org/repo"].files["a.gguf"] = DATA[:MIB]
    hub.faults = Faults(pause_s=0.06)  # 16 pieces: about twice the stall time in all
    file = planned(hub, size_bytes=MIB, sha256=hashlib.sha256(DATA[:MIB]).hexdigest())
    started = time.monotonic()
    await get(file, tmp_path / "x.part")
    assert time.monotonic() - started > FAST.stall_s
    assert len(hub.asked("storage")) == 1


async def test_wrong_bytes_are_never_accepted(hub: HubServer, tmp_path: Path) -> None:
    hub.faults = Faults(corrupt_at=CHUNK_BYTES + 17)
    with pytest.raises(ChecksumMismatch) as caught:
        await get(planned(hub), tmp_path / "x.part")
    assert SHA256 in caught.value.message and "abc" in caught.value.message
    assert not (tmp_path / "x.part").exists() and not (tmp_path / "x.jsonl").exists()


async def test_200_to_a_range_request_starts_over(hub: HubServer, tmp_path: Path) -> None:
    """llama.cpp #12207: appended to the partial, the file grew past its size."""
    part_with(tmp_path / "x.part", DATA[:CHUNK_BYTES])
    hub.faults = Faults(ignore_range=True)
    assert await get(planned(hub), tmp_path / "x.part") == SHA256
    assert (tmp_path / "x.part").stat().st_size == SIZE


@pytest.mark.parametrize("fault", [Faults(wrong_content_range=True), Faults(lose_content_range=True)])
async def test_a_range_that_was_not_asked_for_is_refused(hub: HubServer, tmp_path: Path, fault: Faults) -> None:
    part_with(tmp_path / "x.part", DATA[:CHUNK_BYTES])
    hub.faults = fault
    assert await get(planned(hub), tmp_path / "x.part") == SHA256  # the second time without a range


async def test_a_changed_etag_starts_over(hub: HubServer, tmp_path: Path) -> None:
    part_with(tmp_path / "x.part", b"\0" * CHUNK_BYTES, Head("a.gguf", SIZE, '"old"', SHA256))
    assert await get(planned(hub), tmp_path / "x.part") == SHA256
    assert hub.served == SIZE


async def test_416_discards_what_cannot_be_right(hub: HubServer, tmp_path: Path) -> None:
    """docker-agent #3262: a corrupt partial gave 416 for ever."""
    hub.repos["org/repo"].files["a.gguf"] = DATA[:MIB]
    part_with(tmp_path / "x.part", DATA[: 2 * CHUNK_BYTES], Head("a.gguf", None, '"' + "0" * 16 + '"', None))
    hub.faults = Faults(times=1, status=416)
    file = planned(hub, size_bytes=None, sha256=None)
    assert await get(file, tmp_path / "x.part") == hashlib.sha256(DATA[:MIB]).hexdigest()


async def test_busy_servers_are_asked_again_when_they_say(hub: HubServer, tmp_path: Path) -> None:
    hub.faults = Faults(times=2, status=429, headers={"Retry-After": "3600"})
    tally = Tally(SIZE)
    assert await get(planned(hub), tmp_path / "x.part", tally) == SHA256  # 3600 s are capped
    assert sum("HTTP 429" in note for note in tally.notes) == 2


async def test_tries_are_bounded_and_the_partial_stays(hub: HubServer, tmp_path: Path) -> None:
    part_with(tmp_path / "x.part", DATA[:CHUNK_BYTES])
    hub.faults = Faults(status=503)
    with pytest.raises(SourceUnreachable, match="4 times in a row"):
        await get(planned(hub), tmp_path / "x.part")
    assert (tmp_path / "x.part").stat().st_size == CHUNK_BYTES


async def test_an_expired_address_is_asked_for_again(hub: HubServer, tmp_path: Path) -> None:
    hub.faults = Faults(times=1, expired=True)
    assert await get(planned(hub), tmp_path / "x.part") == SHA256
    assert len(hub.asked("hub")) == 2


async def test_a_refusal_says_what_to_accept_and_where(hub: HubServer, tmp_path: Path) -> None:
    hub.repos["org/repo"].gated = True
    with pytest.raises(SourceRefused) as caught:
        await get(planned(hub), tmp_path / "x.part")
    assert f"{hub.url}/org/repo" in str(caught.value.hint)


async def test_another_size_than_promised_is_refused_before_it_is_read(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(ChecksumMismatch, match="bytes"):
        await get(planned(hub, size_bytes=SIZE + 1), tmp_path / "x.part")


async def test_an_unknown_scheme_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        await get(PlannedFile("a.gguf", url="gopher://127.0.0.1/a"), tmp_path / "x.part")


async def test_a_disk_that_fills_keeps_the_partial_and_goes_on_later(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = 11 * MIB
    put = journal.PartFile._put

    def full(self: PartFile, at: int, piece: memoryview) -> None:
        if at + len(piece) > room:
            put(self, at, piece[:1000])  # a full disk takes some of it first
            raise OSError(errno.ENOSPC, "No space left on device")
        put(self, at, piece)

    with monkeypatch.context() as patch:
        patch.setattr(journal.PartFile, "_put", full)
        with pytest.raises(DiskFull, match="kept"):
            await get(planned(hub), tmp_path / "x.part", limits=ONE)
    served = hub.served
    assert await get(planned(hub), tmp_path / "x.part") == SHA256
    assert SIZE - room <= hub.served - served <= SIZE - CHUNK_BYTES


def test_a_tally_counts_each_file_once_and_never_goes_back() -> None:
    tally = Tally(200)
    for name in ("a", "a", "b"):  # a step may begin twice, after waiting for another process
        tally.start("Downloading", name, 100)
        tally.position(100 if name == "a" else 50)
    tally.start("Checking", "b", 100)
    tally.position(7)
    assert tally.percent == 75.0
    tally.start("Downloading", "b", 100)
    tally.position(0)
    assert tally.percent == 75.0


async def test_several_connections_share_a_file_and_the_hub_is_asked_once(hub: HubServer, tmp_path: Path) -> None:
    data = random.Random(1).randbytes(9 * CHUNK_BYTES + 77)
    hub.repos["org/repo"].files["a.gguf"] = data
    hub.faults = Faults(pause_s=0.0005)
    file = planned(hub, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    async with open_client(stall_s=5) as client:
        fetched = await fetch(client, file, tmp_path / "x.part", limits=Limits(connections=4))
    assert (tmp_path / "x.part").read_bytes() == data
    chunks = [hashlib.sha256(data[at : at + CHUNK_BYTES]).hexdigest() for at in range(0, len(data), CHUNK_BYTES)]
    assert json.loads(fetched.chunks) == {"chunk_bytes": CHUNK_BYTES, "sha256": chunks}
    assert hub.served == len(data) and hub.most_at_once == 4
    assert len(hub.asked("storage")) >= 5
    assert len(hub.asked("hub")) == 1


async def test_a_server_without_ranges_delivers_in_one_stream(hub: HubServer, tmp_path: Path) -> None:
    hub.faults = Faults(ignore_range=True)
    assert await get(planned(hub), tmp_path / "x.part") == SHA256
    assert hub.served == SIZE and len(hub.asked("storage")) == 1


async def test_a_server_that_forgets_ranges_on_the_way_starts_over_in_one_stream(
    hub: HubServer, tmp_path: Path
) -> None:
    part_with(tmp_path / "x.part", DATA[: CHUNK_BYTES + 5])
    hub.after = {2: Faults(ignore_range=True)}
    assert await get(planned(hub), tmp_path / "x.part") == SHA256
    assert (tmp_path / "x.part").read_bytes() == DATA


async def test_a_server_that_allows_one_connection_is_left_with_one(hub: HubServer, tmp_path: Path) -> None:
    data = random.Random(2).randbytes(6 * CHUNK_BYTES)
    hub.repos["org/repo"].files["a.gguf"] = data
    hub.faults = Faults(pause_s=0.0005)
    hub.most_allowed = 1
    file = planned(hub, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    assert await get(file, tmp_path / "x.part") == file.sha256
    assert hub.served == len(data)


async def test_an_orderly_end_vouches_for_unfinished_chunks(hub: HubServer, tmp_path: Path) -> None:
    with PartFile(tmp_path / "x.part", Head("a.gguf", SIZE, None, SHA256)) as part:
        part.write(CHUNK_BYTES, DATA[CHUNK_BYTES : CHUNK_BYTES + 5 * MIB])
        part.write(0, DATA[: 3 * MIB])
    assert await get(planned(hub), tmp_path / "x.part") == SHA256
    assert hub.served == SIZE - 8 * MIB


def test_a_run_does_not_come_to_a_chunk_that_has_begun_to_arrive(tmp_path: Path) -> None:
    """It would write over it from its start; what is there is kept, and the next run goes on behind it."""
    chunk = 1024
    with PartFile(tmp_path / "x.part", Head("a.gguf", 24 * chunk, None, SHA256, chunk_bytes=chunk)) as part:
        part.write(6 * chunk, b"x")  # and then the connection was cut
        first, second = part.take(1, 12), part.take(1, 12)
        assert first is not None and second is not None
        assert (first.start, first.end) == (0, 6 * chunk)
        assert second.start == 6 * chunk + 1
        part.write(0, b"y" * 6 * chunk)
        part.write(second.start, b"z" * (chunk - 1))
        assert part.size == 7 * chunk


@given(st.sets(st.integers(0, 60), min_size=1), st.integers(1, 16), st.integers(1, 12))
def test_a_run_is_a_stretch_of_what_is_missing(missing: set[int], connections: int, most: int) -> None:
    chunks = next_run(sorted(missing), connections, most)
    assert chunks[0] == min(missing) and set(chunks) <= missing and len(chunks) <= most


def test_a_bad_count_of_connections_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOUNDRY_DOWNLOAD_CONNECTIONS", "17")
    with pytest.raises(InvalidSetting, match="downloadConnections = '17'"):
        config.load()
