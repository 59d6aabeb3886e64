"""Evidence for a model: what this home measured and what others did, never added up; nothing private leaves with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from localfoundry.results import evidence, models_json, sharing, team_file
from localfoundry.results.db import FILE_NAME, Results
from localfoundry.results.distribution import distribution
from localfoundry.results.rows import CandidateRow, ItemRow, Run, SampleRow, VoteRow, new_id
from localfoundry.results.share import share
from results.shared_runs import SHA, around, document, run, tasks

_AT = "2026-10-01T10:00:00.000+00:00"


def _sample(run_id: str, seq: int, itl_s: float | None = 0.01, ok: bool = True) -> SampleRow:
    return SampleRow(
        run_id, "m", "chat", "en", "c=1", seq, seq, f"p{seq}", ok, 0.2 if ok else None, 0.2 if ok else None, itl_s,
        1.0, 10, 0, 20, '{"answer": "private words"}',
    )  # fmt: skip


def _home(home: Path, runs: int = 1, **facts: object) -> list[str]:
    """A home whose results hold bench, items and votes."""
    made = []
    with Results(home / FILE_NAME) as results:
        for number in range(runs):
            name = new_id(1_700_000_000 + number)
            machine: dict[str, object] = {"cpu": "AMD EPYC", "threads": 2, "memory_bytes": 2**33, **facts}
            results.begin(
                Run(
                    name, "bench", _AT, machine=machine, protocol={"load": {"c": [1, 2]}, "prompts": "/home/ann/p.txt"}
                ),
                [CandidateRow(name, "m", "/home/ann/m.gguf", "org/m:1", SHA, "llama.cpp")],
            )
            for seq in range(8):
                results.add_sample(_sample(name, seq, 0.01 + seq / 10_000))
            results.add_sample(_sample(name, 8, None, ok=False))
            for item in range(4):
                results.add_item(
                    ItemRow(name, "m", "chat", f"i{item}", "en", item < 2 + number, '{"answer": "secret"}')
                )
            results.finish(name)
            made.append(name)
    return made


def test_what_was_measured_here_and_by_others_stands_apart(tmp_path: Path) -> None:
    _home(tmp_path)
    others = document(tasks(7, ["i0", "i1", "i2"], ["i3"]), run(8, around(0.02, 8)))
    team_file.write(tmp_path / team_file.FILE_NAME, others)
    found = evidence.known(tmp_path).of(file_sha256=SHA, task="chat")
    assert {a.source: (a.share.count, a.share.n) for a in found.accuracy} == {
        "measured here": (2, 4), "measured by others": (3, 4),
    }  # fmt: skip
    itl = {s.source: s for s in found.speeds if s.metric == "itl_s"}
    assert itl["measured here"].median == pytest.approx(0.01035)
    assert itl["measured here"].n == 8
    assert itl["measured here"].low is not None
    assert itl["measured by others"].median == pytest.approx(0.02, rel=0.03)
    assert itl["measured by others"].decode_tps == pytest.approx(50, rel=0.03)


def test_an_item_that_was_tried_twice_counts_once_as_it_went_last(tmp_path: Path) -> None:
    _home(tmp_path, runs=2)
    (found,) = evidence.known(tmp_path).of(file_sha256=SHA).accuracy
    assert found.share == share(3, 4)


def test_what_comes_back_from_the_team_is_no_second_opinion(tmp_path: Path) -> None:
    _home(tmp_path)
    with Results(tmp_path / FILE_NAME) as results:
        mine = sharing.shared(results, results.runs(), "ann")
    team_file.write(tmp_path / team_file.FILE_NAME, mine)
    found = evidence.known(tmp_path).of(file_sha256=SHA)
    assert {a.source for a in found.accuracy} == {"measured here"}


def test_a_model_is_found_by_its_bytes_or_by_its_id_in_any_version(tmp_path: Path) -> None:
    _home(tmp_path)
    known = evidence.known(tmp_path)
    assert known.of(model_id="org/m").accuracy
    assert known.of(model_id="org/m:1").speeds
    assert not known.of(model_id="org/m:2").accuracy
    assert not known.of(file_sha256="cd" * 32, model_id="org/m").accuracy, "other bytes under the same name"
    assert not known.of(file_sha256=SHA, task="code").accuracy


def test_an_outlier_is_told_with_its_speed(tmp_path: Path) -> None:
    runs = [run(n, around(0.01, n)) for n in (1, 2, 3)] + [run(4, around(0.02, 4))]
    team_file.write(tmp_path / team_file.FILE_NAME, document(*runs))
    found = evidence.known(tmp_path).of(file_sha256=SHA).speeds
    assert {speed.run for speed in found if speed.outlier} == {runs[-1].id}


def test_items_of_a_suite_that_was_changed_are_never_put_together(tmp_path: Path) -> None:
    """Two contents of one suite, merged from two people: each has its share, whichever of them comes first."""
    old, new = tasks(1, ["i0", "i1"], ["i2"], content="a1" * 32), tasks(2, ["i0"], ["i1", "i2"], content="b2" * 32)
    merged = models_json.merge(document(new), document(old))
    assert merged == models_json.merge(document(old), document(new))
    assert models_json.decode(models_json.encode(merged), "x") == merged
    team_file.write(tmp_path / team_file.FILE_NAME, merged)
    found = evidence.known(tmp_path).of(file_sha256=SHA).accuracy
    assert {(a.suite_sha256, a.share.count, a.share.n) for a in found} == {("a1" * 32, 2, 3), ("b2" * 32, 1, 3)}


def test_the_content_of_a_suite_goes_along_with_its_items(tmp_path: Path) -> None:
    with Results(tmp_path / FILE_NAME) as results:
        name = new_id()
        results.begin(Run(name, "eval", _AT), [CandidateRow(name, "m", "m", file_sha256=SHA)])
        for item, content in (("a", "a1" * 32), ("b", "a1" * 32), ("c", None)):
            results.add_item(ItemRow(name, "m", "chat", item, "en", True, "{}", content))
        results.finish(name)
        [found] = sharing.shared(results, results.runs(), None).runs
    assert [(task.suite_sha256, task.passed) for task in found.tasks] == [(None, ("c",)), ("a1" * 32, ("a", "b"))]


def test_what_is_read_fast_is_what_the_whole_rows_say(tmp_path: Path) -> None:
    """Evidence reads the columns that it needs; sums, values in their order and items are those of the full rows."""
    _home(tmp_path, runs=3)
    with Results(tmp_path / FILE_NAME) as results:
        for found in sharing.shared(results, results.runs(), None).runs:
            samples, items = results.samples(found.run), results.items(found.run)
            good = [row for row in samples if row.ok]
            [speed] = found.speed
            assert (speed.requests, speed.failed) == (len(samples), len(samples) - len(good))
            assert speed.prompt_tokens == sum(row.prompt_tokens or 0 for row in good)
            assert speed.completion_tokens == sum(row.completion_tokens or 0 for row in good)
            for metric in ("ttft_s", "ttfa_s", "itl_s", "latency_s"):
                assert getattr(speed, metric) == distribution([getattr(row, metric) for row in good])
            [task] = found.tasks
            assert task.passed == tuple(sorted(row.item for row in items if row.passed))
            assert task.failed == tuple(sorted(row.item for row in items if row.passed is False))
            assert found.id == models_json.address(found)


def test_a_home_without_results_is_no_evidence_and_gets_no_file(tmp_path: Path) -> None:
    assert evidence.known(tmp_path / "new").of(model_id="org/m") == evidence.Evidence()
    assert not (tmp_path / "new").exists()


def test_what_is_shared_holds_no_prompt_answer_path_or_secret(tmp_path: Path) -> None:
    _home(tmp_path, note="key sk-abcdefghijklmnop1234", weights="/home/ann/secret/m.gguf")
    with Results(tmp_path / FILE_NAME) as results:
        data = models_json.encode(sharing.shared(results, results.runs(), "ann"))
    models_json.decode(data, "x")
    for private in (b"private words", b"secret", b"/home", b"sk-abc"):
        assert private not in data
    assert b"m.gguf" in data
    assert b'"load.c": "1, 2"' in data


def test_a_run_that_still_goes_on_is_not_shared(tmp_path: Path) -> None:
    with Results(tmp_path / FILE_NAME) as results:
        results.begin(Run(new_id(), "bench", _AT))
        assert sharing.shared(results, results.runs(), None).runs == ()


def test_raters_can_be_left_unnamed_and_stay_told_apart(tmp_path: Path) -> None:
    with Results(tmp_path / FILE_NAME) as results:
        name = new_id()
        results.begin(Run(name, "rating", _AT), [CandidateRow(name, label, label) for label in ("x", "y")])
        for rater in ("ann", "bob", "judge:m"):
            results.add_vote(VoteRow(name, rater, "clarity", "course", "q.en", "x", "y", "x", "tie", _AT))
        results.finish(name)
        named, unnamed = (sharing.shared(results, results.runs(), None, anonymous=a).runs[0] for a in (False, True))
    assert [v.rater for v in named.votes] == ["ann", "bob", "judge:m"]
    raters = [v.rater for v in unnamed.votes]
    assert len(set(raters)) == 3
    assert raters[2] == "judge:m"
    assert not {"ann", "bob"} & set(raters)
