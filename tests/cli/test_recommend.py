"""`foundry recommend` as it is typed: for this machine, for recorded ones, with wishes that contradict each other."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hardware.recorded import MACHINES, Recorded
from harness import Foundry
from localfoundry.cli.main import run
from localfoundry.engines.onnx import Onnx
from localfoundry.hardware.machine import Bandwidth, Machine, decode, encode
from localfoundry.hardware.survey import Probe, survey
from localfoundry.results import place, sharing, team_file
from localfoundry.results.models_json import Candidate
from localfoundry.store.manifest import Manifest
from results.shared_runs import around
from results.shared_runs import document as document_of
from results.shared_runs import run as run_of

NAMES = sorted(path.stem for path in MACHINES.glob("*.txt"))
MEASURED = Bandwidth(40e9, 4, 1.0, 2**26, 0.0, "made up")
Ask = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str], isolated: Path) -> Ask:
    """Runs the command in this process and gives exit status, document (or text) and standard error."""
    home = isolated / "foundry"
    home.mkdir(exist_ok=True)

    def call(*arguments: str, as_json: bool = True) -> tuple[int, Any, str]:
        code = run(["recommend", *arguments, *(["--json"] if as_json else [])])
        out, err = capsys.readouterr()
        return code, (json.loads(out) if as_json and out else out), err

    return call


def described(name: str, folder: Path, bandwidth: Bandwidth | None = MEASURED) -> Path:
    """A recorded machine's description in a file, with a bandwidth as if it had been measured."""
    recorded = Recorded.load(name)
    machine: Machine = survey(folder, Probe.NEVER, recorded, recorded.nvml)
    path = folder / f"{name}.json"
    path.write_bytes(encode(msgspec.structs.replace(machine, bandwidth=bandwidth)))
    return path


def in_set(document: Any) -> set[str]:
    return {each["id"] for each in (*document["chosen"], *document["others"])}


@pytest.mark.parametrize("name", NAMES)
def test_every_recorded_machine_gets_models_that_fit_it_or_a_reason(name: str, ask: Ask, tmp_path: Path) -> None:
    path = described(name, tmp_path)
    total = decode(path.read_bytes()).memory.total_bytes
    code, document, err = ask("--for-machine", str(path))
    assert document["machine"]["described"]
    if total is None:
        assert code == 1 and "fits the memory" in err and err.strip().endswith("--ram 16GB")
        assert not document["chosen"]
        return
    assert code == 0 and document["chosen"], err
    for each in (*document["chosen"], *document["others"]):
        assert each["memoryBytes"]["value"] <= document["machine"]["memoryBytes"] < total
        assert each["memoryBytes"]["source"] == "predicted"
    reasons = [each["why"] for each in document["leftOut"]]
    assert len(reasons) + len(in_set(document)) == document["candidates"] and all(reasons)


def test_a_machine_whose_bandwidth_is_not_known_gets_no_speeds(ask: Ask, tmp_path: Path) -> None:
    path = described("epyc-vm", tmp_path, bandwidth=None)
    code, document, _ = ask("--for-machine", str(path))
    assert code == 0
    assert all(each["decode"] is None for each in document["chosen"])
    code, _, err = ask("--for-machine", str(path), "--min-speed", "5")
    assert code == 1
    assert "foundry hardware --probe --json > machine.json, on that machine" in err


def test_what_was_measured_on_this_machine_says_nothing_of_another(ask: Ask, tmp_path: Path, isolated: Path) -> None:
    path = described("apple-m3-pro", tmp_path)
    before = ask("--for-machine", str(path))[1]
    from localfoundry.advice.machine import measured_as

    notes = [{"quantity": quantity, "engine": "", "machine": measured_as(), "kernel": kernel, "model": "", "ratio": 3.0}
             for quantity in ("decode", "prefill") for kernel in ("Q4_K", "Q4_1", "Q8_0", "Q6_K")]  # fmt: skip
    (isolated / "foundry" / "calibration.json").write_text(json.dumps({"version": 1, "notes": notes}))
    assert ask("--for-machine", str(path))[1] == before


def test_ram_stands_for_the_memory_of_the_machine(ask: Ask) -> None:
    small, large = ask("--ram", "4GB")[1], ask("--ram", "64GB")[1]
    assert small["machine"]["memoryBytes"] < 4e9 < large["machine"]["memoryBytes"]
    assert in_set(small) < in_set(large)
    assert all(each["memoryBytes"]["value"] <= 4e9 for each in small["chosen"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--ram", "4GB", "--task", "code"],
        ["--ram", "8GB", "--min-speed", "30"],
        ["--ram", "8GB", "--max-ttft", "3s", "--license", "permissive"],
        ["--ram", "6GB", "--ctx", "32k", "--top", "100"],
    ],
)
def test_what_is_said_to_change_the_choice_does_when_it_is_typed(
    arguments: list[str], ask: Ask, tmp_path: Path
) -> None:
    there = ["--for-machine", str(described("epyc-vm", tmp_path))]
    code, document, _ = ask(*arguments, *there)
    assert code == 0 and document["changes"]
    for change in document["changes"]:
        assert change["comesIn"] not in in_set(document)
        program, command, *typed = shlex.split(change["command"])
        assert (program, command) == ("foundry", "recommend")
        code, again, err = ask(*typed)
        assert code == 0 and change["comesIn"] in in_set(again), (change, err)


def test_wishes_that_contradict_each_other_are_told_apart_and_the_hint_works(ask: Ask, tmp_path: Path) -> None:
    there = ["--for-machine", str(described("epyc-vm", tmp_path))]
    wishes = ["--task", "code", "--ram", "4GB", "--min-speed", "100", "--license", "mit"]
    code, document, err = ask(*wishes, *there)
    assert code == 1 and document["passing"] == 0 and not document["chosen"]
    alone = {each["wish"]: each["pass"] for each in document["conflict"]["alone"]}
    assert alone["--task code"] > 0 and alone["--license mit"] > 0 and alone["--min-speed 100"] > 0
    assert 2 <= len(document["conflict"]["together"]) < len(alone)
    assert all(wish in err for wish in document["conflict"]["together"])
    hint = err.strip().split("try: ")[1]
    assert hint == document["conflict"]["try"]
    assert ask(*shlex.split(hint)[2:])[0] == 0
    code, text, _ = ask(*wishes, *there, as_json=False)
    assert code == 1 and "nobody passes these together" in text


def test_words_for_a_person(ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table, a sentence for each, no winner without evidence, why not the others; not longer than a screen."""
    monkeypatch.setattr(Onnx, "missing", lambda self: "not installed")
    there = ["--for-machine", str(described("epyc-vm", tmp_path))]
    code, text, err = ask("--ram", "8GB", "--min-speed", "30", *there, as_json=False)
    assert code == 0 and not err
    lines = text.splitlines()
    assert len(lines) <= 25
    assert "epyc-vm.json" in lines[0] and "--task chat --min-speed 30" in lines[0]
    assert "predicted" in lines[2]
    for words in ("no evidence", "No winner: quality was not measured.", "To find out: foundry eval ", "onnx files",
                  "What would change it:", "Left out", "Try one: foundry model run "):  # fmt: skip
        assert words in text, text


def test_what_the_guide_declares_is_called_declared(ask: Ask) -> None:
    _, document, _ = ask("--ram", "32GB")
    qualities = {each["alias"]: each["quality"] for each in document["chosen"]}
    assert list(qualities) == ["qwen2.5-7b", "phi-4", "phi-4-mini"]
    assert all(quality["source"] == "declared" and quality["score"] is None for quality in qualities.values())
    assert document["winner"] is None


def test_own_cached_models_are_candidates(starter: Manifest, ask: Ask, fake_model: Callable[..., str]) -> None:
    """With the shape from their own files; and an engine's own format is one that runs."""
    _, document, _ = ask("--top", "100", "--ram", "2GB")
    by_id = {each["id"]: each for each in (*document["chosen"], *document["others"])}
    own = by_id[starter.id]
    assert own["cached"] and own["diskBytes"] == starter.size_bytes
    assert own["memoryBytes"]["high"] < 1.2 * own["memoryBytes"]["value"]
    alias = fake_model()
    _, document, _ = ask("--ram", "2GB")
    assert alias in {left["alias"] for left in document["leftOut"]}


SHAPE = {
    "layers": 2, "hidden_size": 64, "ffn_size": 128, "attention_heads": 4, "kv_heads": 2, "head_dim": 16,
    "vocab_size": 1000, "tied_embeddings": True, "qkv_bias": False, "qk_norm": False, "context_length": 2048,
}  # fmt: skip


def suite(folder: Path, name: str, items: int) -> str:
    """A suite that an echo solves, and a model that always says 0 only once."""
    lines = [f"  - {{id: i{n}, prompt: say {n}, max_tokens: 1, checks: [{{contains: '{n}'}}], answer: '{n}', "
             "wrong: [x]}\n" for n in range(items)]  # fmt: skip
    file = folder / f"{name}.yaml"
    file.write_text(f"suite: {name}\nlanguage: en\nitems:\n{''.join(lines)}")
    return str(file)


@pytest.fixture
def two(fake_model: Callable[..., str], isolated: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Two cached models that differ in their answers only, with their shapes in the catalog."""
    aliases = fake_model("right", echo=True), fake_model("wrong", answer="0")
    variant = {"version": 1, "format": "fake", "quantization": "Q8_0"}
    models = [{"alias": a, "tasks": ["chat"], "architecture": SHAPE, "variants": [variant | {"name": a}]}
              for a in aliases]  # fmt: skip
    catalog = isolated / "catalog.json"
    catalog.write_text(json.dumps({"models": models}))
    monkeypatch.setenv("FOUNDRY_CATALOG", str(catalog))
    return aliases


def test_the_model_that_was_measured_to_be_better_is_named_with_its_evidence(
    foundry: Foundry, ask: Ask, two: tuple[str, str], isolated: Path
) -> None:
    right, wrong = (f"{alias}:1" for alias in two)
    _, before, _ = ask()
    assert {right, wrong} <= in_set(before) and before["winner"] is None
    assert before["findOut"].startswith("foundry eval ") and before["findOut"].endswith(" --suite chat")
    assert "No winner: quality was not measured" in ask(as_json=False)[1]
    foundry.ok("eval", right, wrong, "--suite", suite(isolated, "chat", 12))
    _, after, _ = ask()
    assert after["winner"] == right and after["findOut"] is None
    best = after["chosen"][0]
    assert best["id"] == right
    quality = best["quality"]
    assert (quality["source"], quality["score"], quality["items"], quality["suite"]) == ("measured here", 1, 12, "chat")
    assert 0.7 < quality["low"] < 0.8 and quality["high"] == 1
    text = ask(as_json=False)[1]
    assert f"Best quality of those that were measured, and shown: {right}." in text
    assert "quality: 1.00 (0.76 to 1.00, 12 items of chat), measured here in en" in text
    assert ask("--lang", "da")[1]["winner"] is None, "nothing was asked in Danish"


def test_a_suite_of_ones_own_counts_where_it_is_named(
    foundry: Foundry, ask: Ask, two: tuple[str, str], isolated: Path
) -> None:
    foundry.ok("eval", two[0], "--suite", suite(isolated, "mine", 12))
    assert ask()[1]["winner"] is None
    assert "quality was not measured" in ask(as_json=False)[1], "not with the suite of the task"
    _, text, _ = ask("--suite", "mine", as_json=False)
    assert "No winner: the quality of one model only was measured with the suite mine." in text
    foundry.ok("eval", two[1], "--suite", suite(isolated, "mine", 12))
    assert ask("--suite", "mine")[1]["winner"] == f"{two[0]}:1"


def test_what_others_measured_counts_as_theirs_and_what_is_damaged_is_told(
    foundry: Foundry, ask: Ask, two: tuple[str, str], isolated: Path
) -> None:
    foundry.ok("eval", *two, "--suite", suite(isolated, "chat", 12))
    home, shared = isolated / "foundry", isolated / "models.json"
    foundry.ok("results", "export", str(shared), "--by", "ann")
    for part in home.glob("results.db*"):
        part.unlink()
    foundry.ok("results", "merge", str(shared))
    _, document, _ = ask()
    assert document["winner"] == f"{two[0]}:1"
    assert document["chosen"][0]["quality"]["source"] == "measured by others"
    (home / "models.json").write_text("{")
    code, document, err = ask()
    assert code == 0 and document["winner"] is None
    assert "nothing that was measured counts: " in err
    (home / "models.json").unlink()
    (home / "results.db").write_bytes(b"rubbish" * 500)
    code, document, err = ask()
    assert code == 0 and document["winner"] is None and "set aside" in err


def test_a_speed_that_others_measured_counts_on_the_same_kind_of_machine_only(
    ask: Ask, two: tuple[str, str], isolated: Path, tmp_path: Path
) -> None:
    def shared(number: int, alias: str, **machine: Any) -> Any:
        candidate = Candidate("m", "m", model_id=f"{alias}:1", engine="fake")
        facts = sharing.facts(place.machine_facts()) | machine
        return run_of(number, around(0.02, number), machine=facts, candidates=(candidate,))

    runs = shared(1, two[0]), shared(2, two[1], cpu="another processor")
    team_file.write(isolated / "foundry" / "models.json", document_of(*runs))
    arguments = ("--top", "100", "--ram", "2GB")
    same, other = (next(each for each in ask(*arguments)[1]["chosen"] if each["alias"] == alias) for alias in two)
    assert same["decode"]["source"] == "measured by others" and 45 < same["decode"]["value"] < 55
    assert other["decode"] is None or other["decode"]["source"] == "predicted"
    there = ("--for-machine", str(described("epyc-vm", tmp_path)))
    assert all(each["decode"]["source"] == "predicted" for each in ask("--top", "100", *there)[1]["chosen"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not a machine"),
        (b"[]", "is not a machine"),
        (b'{"schema": 2}', "has schema 2; this version reads 1"),
        (b'{"schema": 1, "cpu": {}}', "is not a machine"),
        (b"[" * 200_000, "is not a machine"),
        (b" " * (2**20 + 10), "a machine is told in"),
        (b'\xff\xfe{"schema": 1}', "is not a machine"),
    ],
)
def test_a_file_that_is_no_machine_is_refused(content: bytes, words: str, ask: Ask, tmp_path: Path) -> None:
    path = tmp_path / "machine.json"
    path.write_bytes(content)
    code, _, err = ask("--for-machine", str(path))
    assert code == 2 and words in err


def test_a_machine_that_is_not_there(ask: Ask, tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        code, _, err = ask("--for-machine", str(path))
        assert code == 2 and "cannot read" in err and "foundry hardware --json > machine.json" in err


@pytest.mark.parametrize(
    "arguments",
    [["--ram", "8"], ["--ram", "-1GB"], ["--min-speed", "-5"], ["--max-ttft", "soon"], ["--task", "poetry"],
     ["--license", "none-such"], ["--ctx", "8q"], ["--lang", "danish!"]],
)  # fmt: skip
def test_nonsense_is_a_usage_error_with_a_command_to_type(arguments: list[str], ask: Ask) -> None:
    code, _, err = ask(*arguments)
    assert code == 2
    assert "try: foundry recommend --" in err


def test_the_real_command(foundry: Foundry) -> None:
    document = foundry.ok("recommend", "--json").json
    assert document["schema"] == 1 and document["candidates"] > 40
