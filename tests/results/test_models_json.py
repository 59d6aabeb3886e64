"""models.json: merged without a centre, checked against forgery, outliers found, nothing private in it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localfoundry.errors import DiskError, InvalidResults
from localfoundry.results import models_json, outliers, secrets_in, team_file
from localfoundry.results.distribution import distribution, median_interval
from localfoundry.results.models_json import Document, SharedRun, addressed, decode, encode, merge
from localfoundry.results.share import share
from results.shared_runs import SHA, around, document, local_id, run, tasks, votes

_SCHEMA = Path(models_json.__file__).with_name("models.schema.json")
_POOL = [run(n, around(0.01, n)) for n in range(1, 5)] + [tasks(5, ["a"], ["b"]), votes(6, 3), votes(6, 5)]


@st.composite
def _documents(draw: st.DrawFn) -> Document:
    chosen = draw(st.lists(st.sampled_from(_POOL), unique_by=lambda one: one.id))
    names = st.lists(st.sampled_from(["ann", "bob", "cy"]), unique=True).map(lambda found: tuple(sorted(found)))
    return document(*(msgspec.structs.replace(one, passed_on_by=draw(names)) for one in chosen))


@given(_documents(), _documents(), _documents())
@settings(max_examples=80)
def test_merging_is_commutative_associative_and_idempotent(a: Document, b: Document, c: Document) -> None:
    assert merge(a, b) == merge(b, a)
    assert merge(merge(a, b), c) == merge(a, merge(b, c)) == merge(a, b, c)
    assert merge(a, a) == a
    assert merge(merge(a, b), b) == merge(a, b)
    assert encode(merge(a, b)) == encode(merge(b, a))


@given(_documents(), _documents())
@settings(max_examples=40)
def test_a_merge_keeps_every_run_and_who_passed_it_on(a: Document, b: Document) -> None:
    merged = {one.id: set(one.passed_on_by) for one in merge(a, b).runs}
    wanted: dict[str, set[str]] = {}
    for one in (*a.runs, *b.runs):
        wanted.setdefault(one.id, set()).update(one.passed_on_by)
    assert merged == wanted


@given(_documents())
@settings(max_examples=40)
def test_what_is_written_is_read_again(one: Document) -> None:
    assert decode(encode(one), "x") == one


def test_the_schema_is_that_of_the_structs() -> None:
    """The mend: foundry results schema > src/localfoundry/results/models.schema.json"""
    assert json.loads(_SCHEMA.read_text("utf-8")) == models_json.schema()


@given(_documents())
@settings(max_examples=20)
def test_a_document_is_valid_by_its_schema(one: Document) -> None:
    jsonschema_rs.validator_for(json.loads(_SCHEMA.read_text("utf-8"))).validate(json.loads(encode(one)))


def test_the_schema_refuses_what_the_reader_refuses() -> None:
    validator = jsonschema_rs.validator_for(json.loads(_SCHEMA.read_text("utf-8")))
    sound = json.loads(encode(document(run(1, around(0.01, 1)))))
    for path, value in ((("id",), "1"), (("kind",), "magic"), (("run",), 7), (("secret",), "x")):
        changed = json.loads(json.dumps(sound))
        changed["runs"][0][path[0]] = value
        assert not validator.is_valid(changed)
        with pytest.raises(InvalidResults):
            decode(json.dumps(changed).encode(), "x")


# Hostile files


def _changed(**changes: Any) -> bytes:
    """A sound document with fields of its run replaced, its id left as it was."""
    content = json.loads(encode(document(run(1, around(0.01, 1)))))
    content["runs"][0] |= changes
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "truncated"),
        (b"[]", "Expected `object`"),
        (b"null", "Expected `object`"),
        (b'{"runs": []}', "schema"),
        (b'{"schema": 2, "runs": []}', "has schema 2"),
        (b'{"schema": 1, "runs": 3}', r"\$\.runs"),
        (b'{"schema": 1, "runs": [], "note": "x"}', "unknown field `note`"),
        (b'{"schema": 1, "runs": [' + b"[" * 100_000, "no models.json"),
        (b'{"schema": 1, "runs": ' + b'{"a":' * 50_000, "no models.json"),
        (b'{"schema": 1, "runs": \xff}', "no models.json"),
        (b'{"schema": NaN}', "no models.json"),
        (b'{"schema": 1e999}', "no models.json"),
        (b"[" * 10_000_001, "values; at most"),
        (b" " * (models_json.MAX_BYTES + 1), "bytes; at most"),
        (_changed(startedAt="yesterday"), "unknown field `startedAt`"),
        (_changed(started_at="yesterday"), "started_at"),
        (_changed(run="../../etc"), "regex"),
        (_changed(machine={"cpu": {"deep": 1}}), "machine"),
        (_changed(machine={"cpu": float("inf")}), "no models.json"),
        (_changed(machine={"cpu": "x" * 500}), "machine"),
        (_changed(speed=[{"label": "m"}]), "speed"),
        (_changed(candidates=[{"label": "m", "model": "m", "context": -1}]), "context"),
        (_changed(candidates=[{"label": "m", "model": "m", "context": 10**30}]), "context"),
        (_changed(candidates=[{"label": "m", "model": "m"}] * 201), "candidates"),
    ],
    ids=lambda value: value[:40].decode("latin-1") if isinstance(value, bytes) else None,
)
def test_a_hostile_file_is_refused_with_its_reason(data: bytes, words: str) -> None:
    with pytest.raises(InvalidResults, match=words):
        decode(data, "the file")


@given(st.binary(max_size=300))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    with pytest.raises(InvalidResults):
        decode(data, "x")


def test_a_figure_that_was_changed_is_noticed() -> None:
    """Also where summary and values were changed together, as the id is the hash of both."""
    one = run(1, around(0.02, 1))
    better = msgspec.structs.replace(run(1, around(0.01, 1)), id=one.id)
    with pytest.raises(InvalidResults, match="changed after it was measured, or forged"):
        decode(encode(document(better)), "x")


def test_a_summary_that_does_not_follow_from_its_values_is_refused() -> None:
    one = run(1, around(0.02, 1))
    (speed,) = one.speed
    assert speed.itl_s is not None
    wrong = msgspec.structs.replace(speed, itl_s=msgspec.structs.replace(speed.itl_s, median=0.001))
    with pytest.raises(InvalidResults, match="does not follow from its values"):
        decode(encode(document(addressed(msgspec.structs.replace(one, speed=(wrong,))))), "x")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"candidates": ()}, "no candidate"),
        ({"candidates": run(1).candidates * 2}, "one label"),
        ({"tasks": tasks(1, ["a"], ["a"]).tasks}, "there twice"),
    ],
)
def test_what_contradicts_itself_is_refused(changes: dict[str, Any], words: str) -> None:
    one = addressed(msgspec.structs.replace(run(1, around(0.02, 1)), **changes))
    with pytest.raises(InvalidResults, match=words):
        decode(encode(document(one)), "x")


def test_a_vote_for_a_third_model_is_refused() -> None:
    with pytest.raises(InvalidResults, match="chose 'z'"):
        decode(encode(document(votes(1, 2, choice="z"))), "x")


def test_a_run_that_stands_there_twice_is_refused() -> None:
    one = run(1)
    with pytest.raises(InvalidResults, match="twice"):
        decode(encode(Document(schema=1, runs=(one, one))), "x")


# Secrets and paths


@pytest.mark.parametrize(
    "text",
    [
        "sk-abcdefghijklmnop1234", "lf_" + "A1" * 20, "hf_" + "x" * 30, "ghp_" + "y" * 36, "Bearer abcdefgh12345678",
        "AKIAABCDEFGHIJKLMNOP", "https://me:pass@host/x", "-----BEGIN RSA PRIVATE KEY-----", "api_key=abcdef123",
        "/home/ann/models/m.gguf", "at /Users/ann/x", "C:\\Users\\ann\\m.gguf", "c:/models/m.gguf", "\\\\server\\share",
        "~/models", "~ann/models", "file:///etc/passwd", "cpu at /tmp/x",
    ],
)  # fmt: skip
def test_secrets_and_paths_are_refused_on_their_way_in_and_taken_out_on_their_way_out(text: str) -> None:
    for place in ("machine", "protocol", "versions"):
        with pytest.raises(InvalidResults, match=f"{place}.cpu (looks like it holds a secret|holds a path)") as caught:
            decode(encode(document(run(1, **{place: {"cpu": text}}))), "x")
        assert text not in caught.value.message
    with pytest.raises(InvalidResults):
        decode(encode(document(run(1, by=text))), "x")
    assert secrets_in.first({"x": secrets_in.cleaned(text)}) is None


@pytest.mark.parametrize(
    "text",
    ["qwen2.5-7b", "hf:Qwen/Qwen2.5-7B-Instruct-GGUF:Q4_K_M", "org/m:1", "Linux-6.1-x86_64", "c=4", "AMD EPYC 7/B",
     "tokens/s", "and/or", "https://api.example.com", "12:30", "phi-4-mini (64 tokens)", "AC/DC", "1/ITL"],
)  # fmt: skip
def test_what_is_neither_secret_nor_path_stays(text: str) -> None:
    assert secrets_in.first({"x": text}) is None
    assert secrets_in.cleaned(text) == text


@given(st.text(alphabet="/\\~:.CcabHhome …\n", max_size=60))
def test_nothing_that_was_cleaned_is_found_again(text: str) -> None:
    assert secrets_in.first({"x": secrets_in.cleaned(text)}) is None


# Outliers


def test_a_run_unlike_the_others_of_its_kind_is_flagged() -> None:
    slow = run(4, around(0.014, 4))
    found = outliers.flags([run(1, around(0.01, 1)), run(2, around(0.01, 2)), run(3, around(0.0101, 3)), slow])
    assert [flag.run for flag in found] == [slow.id]
    assert "itl_s" in found[0].why and "3 others" in found[0].why


def test_of_two_that_differ_both_are_flagged() -> None:
    assert len(outliers.flags([run(1, around(0.01, 1)), run(2, around(0.014, 2))])) == 2


def test_noise_another_machine_and_another_file_are_no_outliers() -> None:
    base = run(1, around(0.01, 1))
    assert outliers.flags([base, run(2, around(0.0115, 2))]) == []  # under 1.25
    assert outliers.flags([base, run(2, around(0.014, 2, spread=0.5))]) == []  # intervals touch
    assert outliers.flags([base, run(2, around(0.014, 2, n=5))]) == []  # too few to know
    assert outliers.flags([base, run(2, around(0.02, 2), machine={"cpu": "other"})]) == []
    other = msgspec.structs.replace(base.candidates[0], file_sha256="cd" * 32)
    assert outliers.flags([base, run(2, around(0.02, 2), candidates=(other,))]) == []


@given(st.permutations([run(n, around(0.01 * (1 + (n > 3)), n)) for n in range(1, 6)]))
@settings(max_examples=20)
def test_flags_do_not_depend_on_the_order_of_runs(runs: list[SharedRun]) -> None:
    assert outliers.flags(runs) == outliers.flags(sorted(runs, key=lambda one: one.id))


def test_a_rating_that_went_on_counts_once_and_with_all_its_votes() -> None:
    early, late = votes(6, 3), votes(6, 5)
    assert outliers.counted([early, late]) == outliers.counted([late, early]) == [late]
    assert outliers.flags([early, late]) == []


def test_two_contents_of_one_run_that_contradict_each_other_count_neither_and_are_flagged() -> None:
    """Somebody takes the id of another's run and gives it better figures."""
    true, forged = run(1, around(0.02, 1)), run(1, around(0.01, 2))
    assert outliers.counted([true, forged]) == []
    assert {flag.run for flag in outliers.flags([true, forged])} == {true.id, forged.id}


# Distributions


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60))
def test_a_median_lies_in_its_interval(values: list[float]) -> None:
    found = distribution(values)
    if found.low is not None and found.high is not None:
        assert found.low <= found.median <= found.high
    assert (found.low is None) == (len(values) < 6)


@pytest.mark.parametrize("n", [6, 10, 25, 100, 1001])
def test_the_interval_of_a_median_covers_at_its_stated_rate(n: int) -> None:
    """Exactly, by the binomial: the chance that so many of n values lie below the median."""
    found = median_interval(list(range(n)))
    assert found is not None
    low = int(found[0])
    outside = 2 * sum(_binomial(n, k) for k in range(low + 1))
    assert outside <= 0.0501
    assert outside + 2 * _binomial(n, low + 1) > 0.049  # and is no wider than it has to be


def _binomial(n: int, k: int) -> float:
    import math

    return math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2))


def test_wilsons_interval_is_that_of_the_literature() -> None:
    """Newcombe (1998), table I: 81 of 263 gives 0.2553 to 0.3662; 0 of 20 gives 0 to 0.1611."""
    found, none = share(81, 263), share(0, 20)
    assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662)
    assert (none.low, round(none.high, 4)) == (0.0, 0.1611)


# The file


def test_a_merge_of_files_takes_all_or_nothing(tmp_path: Path) -> None:
    target, good, bad = (tmp_path / name for name in ("models.json", "good.json", "bad.json"))
    team_file.write(target, document(run(1)))
    team_file.write(good, document(run(2)))
    bad.write_bytes(_changed(status="unknown"))
    before = target.read_bytes()
    with pytest.raises(InvalidResults, match=r"bad\.json"):
        team_file.merge_into(target, [good, bad])
    assert target.read_bytes() == before
    _, new = team_file.merge_into(target, [good])
    assert new == 1
    after = target.read_bytes()
    assert team_file.merge_into(target, [good, target])[1] == 0
    assert target.read_bytes() == after


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "models.json"
    team_file.write(target, document(run(1)))
    before = target.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskError, match="No space left"):
        team_file.write(target, document(run(2)))
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["models.json"]


def test_a_folder_or_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "", "absent.json"):
        with pytest.raises(InvalidResults, match="there is no file"):
            team_file.read(tmp_path / name)


def test_equal_contents_have_equal_ids_whoever_passes_them_on() -> None:
    assert run(1, by="ann").id == run(1, by="bob").id != run(2).id
    assert run(1).run == local_id(1)
    assert SHA in encode(document(run(1))).decode()
