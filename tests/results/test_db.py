"""The results file: nothing that was added is lost, two may write, and what is damaged is set aside in words."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from localfoundry.errors import DamagedResults, DiskError, UnknownRun
from localfoundry.results.db import Results
from localfoundry.results.rows import CandidateRow, ItemRow, Judged, Run, SampleRow, Timed, VoteRow, new_id
from localfoundry.results.schema import STEPS

WRITER = """
import sys
from pathlib import Path
from localfoundry.results.db import Results
from results_samples import sample
path, run, label, count = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
with Results(path) as results:
    for number in range(count):
        results.add_sample(sample(run, label, number))
        print(number, flush=True)
"""


def sample(run: str, label: str, number: int) -> SampleRow:
    return SampleRow(
        run, label, "chat", "en", "c=1", number, 0, f"p{number}", True, 0.1, 0.1, 0.02, 1.5, 40, 0, 64, "{}"
    )


def begun(path: Path, *labels: str) -> str:
    run = Run(new_id(), "bench", "2026-01-01T00:00:00.000+00:00", protocol={"rounds": 5})
    with Results(path) as results:
        results.begin(run, [CandidateRow(run.id, label, "m") for label in labels])
    return run.id


def writer(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    (folder / "results_samples.py").write_text(
        "from localfoundry.results.rows import SampleRow\n"
        "def sample(run, label, number):\n"
        "    return SampleRow(run, label, 'chat', 'en', 'c=1', number, 0, f'p{number}', True, 0.1, 0.1, 0.02, 1.5,\n"
        "                     40, 0, 64, '{}')\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, *arguments], stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(folder)},
    )  # fmt: skip


def test_what_is_added_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "results.db"
    run = Run(new_id(), "eval", "2026-01-01T00:00:00.000+00:00", machine={"cpu": "æ"}, versions={"a": 1})
    candidate = CandidateRow(
        run.id, "m", "m", "m:1", "ab" * 32, "llama.cpp", "b1", "Q4_1", "GGUF", 2048, 2, price_in=0.15
    )
    item = ItemRow(run.id, "m", "reasoning", "sum-1", "da", None, '{"answer": "7"}')
    vote = VoteRow(run.id, "anna", "clarity", "chat", "1", "m", "n", "n", "tie", "2026-01-01T00:00:01.000+00:00")
    with Results(path) as results:
        results.begin(run, [CandidateRow(run.id, "m", "m")])
        results.set_candidate(candidate)
        results.add_sample(sample(run.id, "m", 1))
        results.add_item(item)
        first, second = results.add_vote(vote), results.add_vote(vote)
        results.remove_vote(second)
        results.finish(run.id, "interrupted", {"more": [1]})
    with Results(path) as results:
        [found] = results.runs("eval")
        assert results.runs("bench") == []
        assert (found.machine, found.status, found.protocol) == ({"cpu": "æ"}, "interrupted", {"more": [1]})
        assert found.finished_at is not None
        assert results.candidates(run.id) == [candidate]
        assert results.samples(run.id) == [sample(run.id, "m", 1)]
        assert results.items(run.id) == [item]
        assert [v.id for v in results.votes(criterion="clarity", rater="anna")] == [first]
        assert results.votes(rater="berta") == []
    if os.name != "nt":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_ids_sort_by_time() -> None:
    early, late = new_id(1_700_000_000.0), new_id(1_700_000_000.002)
    assert early < late
    assert len(early) == 26
    assert new_id(5.0) != new_id(5.0)


def test_a_run_is_found_by_id_end_start_baseline_and_last(tmp_path: Path) -> None:
    first, second = begun(tmp_path / "r.db"), begun(tmp_path / "r.db")
    with Results(tmp_path / "r.db") as results:
        results.set_baseline("good", first)
        results.set_baseline("good", second)
        assert results.run("good").id == second
        assert [results.run(name).id for name in (first, first[-6:].lower(), "last")] == [first, first, second]
        with pytest.raises(UnknownRun, match="2 runs are called"):
            results.run(first[:4])
        with pytest.raises(UnknownRun, match="no run is called 'better'"):
            results.run("better")
        results.remove_run(second)
        assert [run.id for run in results.runs()] == [first]


def test_measured_again_under_the_same_key_the_later_counts(tmp_path: Path) -> None:
    run = begun(tmp_path / "r.db", "m")
    with Results(tmp_path / "r.db") as results:
        results.add_sample(sample(run, "m", 1))
        results.add_sample(sample(run, "m", 1))
        assert len(results.samples(run)) == 1


def test_two_processes_write_at_once_and_no_row_is_lost(tmp_path: Path) -> None:
    run = begun(tmp_path / "r.db", "a", "b")
    processes = [writer(tmp_path, str(tmp_path / "r.db"), run, label, "200") for label in "ab"]
    assert [process.wait(60) for process in processes] == [0, 0]
    for process in processes:
        assert process.stdout is not None
        process.stdout.close()
    with Results(tmp_path / "r.db") as results:
        labels = [row.label for row in results.samples(run)]
    assert (labels.count("a"), labels.count("b")) == (200, 200)


def test_two_processes_make_the_file_at_once(tmp_path: Path) -> None:
    path = str(tmp_path / "r.db")
    code = f"from pathlib import Path; from localfoundry.results.db import Results; Results(Path({path!r}))"
    processes = [subprocess.Popen([sys.executable, "-W", "ignore", "-c", code]) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_a_killed_process_loses_nothing_that_it_had_added(tmp_path: Path) -> None:
    run = begun(tmp_path / "r.db", "m")
    process = writer(tmp_path, str(tmp_path / "r.db"), run, "m", "1000000")
    assert process.stdout is not None
    told = 0
    while told < 50:
        told = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    told = max([told, *(int(line) for line in process.stdout.read().splitlines() if line)])
    process.wait(30)
    process.stdout.close()
    with Results(tmp_path / "r.db") as results:
        assert len(results.samples(run)) >= told + 1


def test_what_is_written_together_is_there_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    run = begun(tmp_path / "r.db", "m")
    with Results(tmp_path / "r.db") as results:
        with pytest.raises(ZeroDivisionError), results.together():
            results.add_sample(sample(run, "m", 1))
            _ = 1 / 0
        assert results.samples(run) == []
        with results.together():
            results.add_sample(sample(run, "m", 1))
        assert len(results.samples(run)) == 1


@pytest.mark.parametrize("content", [b"this is no database" * 500, b"SQLite format 3\x00" + b"\xff" * 5000])
def test_a_file_that_is_no_database_is_set_aside_and_never_deleted(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "r.db"
    path.write_bytes(content)
    told: list[str] = []
    with Results(path, told.append) as results:
        assert results.runs() == []
    [kept] = [found for found in tmp_path.glob("r.db.damaged-*") if found.suffix not in ("-wal", "-shm")]
    assert kept.read_bytes() == content
    assert len(told) == 1
    assert kept.name in told[0]


def test_damage_that_shows_only_while_reading_is_set_aside_too(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    run = begun(path, "m")
    with Results(path) as results, results.together():
        for number in range(2000):
            results.add_sample(sample(run, "m", number))
    sqlite3.connect(path).execute("PRAGMA wal_checkpoint(TRUNCATE)").connection.close()
    with path.open("r+b") as file:
        file.seek(40 * 4096)
        file.write(b"\xa5" * 4096 * 10)
    results = Results(path)
    with pytest.raises(DamagedResults, match=r"set aside as r\.db\.damaged-"):
        results.samples(run)
    with Results(path) as fresh:
        assert fresh.runs() == []
    assert len(list(tmp_path.glob("r.db.damaged-*"))) == 1


def test_a_file_of_a_newer_version_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    run = begun(path)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(DiskError, match=f"is of version 99; this program reads up to version {len(STEPS)}"):
        Results(path)
    assert not list(tmp_path.glob("*damaged*"))
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT id FROM run").fetchall() == [(run,)]
    connection.close()


def test_a_file_of_an_older_version_is_taken_along_with_all_that_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    old = sqlite3.connect(path)
    for statement in STEPS[0]:
        old.execute(statement)
    run = new_id()
    old.execute("INSERT INTO run VALUES (?, 'eval', 'at', NULL, 'finished', '{}', '{}', '{}', 'mine')", (run,))
    old.execute("INSERT INTO item VALUES (?, 'm', 'chat', 'i', 'en', 1, '{}')", (run,))
    old.execute("PRAGMA user_version = 1")
    old.commit()
    old.close()
    with Results(path) as results:
        assert results.run("mine").id == run
        assert results.items(run) == [ItemRow(run, "m", "chat", "i", "en", True, "{}")]
    with sqlite3.connect(path) as now:
        assert now.execute("PRAGMA user_version").fetchone() == (len(STEPS),)
    now.close()


def test_times_and_passes_are_read_without_the_raw_texts(tmp_path: Path) -> None:
    """Raw texts are nine tenths of the file: an index holds all that evidence is made of."""
    path = tmp_path / "r.db"
    run = begun(path, "m")
    with Results(path) as results:
        for number in (2, 0, 1):
            results.add_sample(sample(run, "m", number))
        for name, passed in (("b", True), ("a", None), ("c", False)):
            results.add_item(ItemRow(run, "m", "chat", name, "en", passed, "{}", "ab"))
        assert results.timed(run) == [
            Timed(s.label, s.scenario, s.language, s.load, s.ok, s.ttft_s, s.ttfa_s, s.itl_s, s.latency_s,
                  s.prompt_tokens, s.completion_tokens)
            for s in results.samples(run)
        ]  # fmt: skip
        assert results.judged(run) == [
            Judged("m", "chat", "en", "b", True, "ab"),
            Judged("m", "chat", "en", "c", False, "ab"),
        ]
    with sqlite3.connect(path) as file:
        for kind, table in ((Timed, "sample"), (Judged, "item")):
            query = f"SELECT {', '.join(kind.__struct_fields__)} FROM {table} WHERE run = ? ORDER BY rowid"
            plan = file.execute(f"EXPLAIN QUERY PLAN {query}", (run,)).fetchall()
            assert any("COVERING INDEX" in step[-1] for step in plan), plan
    file.close()


def test_a_file_that_cannot_be_opened_is_told_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "r.db").mkdir()
    with pytest.raises(DiskError, match="cannot open"):
        Results(tmp_path / "r.db")
