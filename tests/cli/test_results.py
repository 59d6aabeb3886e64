"""`foundry results`: out of one home, into another, by the real command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness import Foundry
from localfoundry import config
from localfoundry.results.db import FILE_NAME, Results
from localfoundry.results.rows import CandidateRow, ItemRow, Run, new_id

_AT = "2026-10-01T10:00:00.000+00:00"


@pytest.fixture
def measured() -> str:
    """A home with one finished run; its id."""
    name = new_id()
    with Results(config.load().home / FILE_NAME) as results:
        results.begin(
            Run(name, "eval", _AT, machine={"cpu": "c"}), [CandidateRow(name, "m", "m", file_sha256="ab" * 32)]
        )
        for item in ("a", "b"):
            results.add_item(ItemRow(name, "m", "chat", item, "en", item == "a", "{}"))
        results.finish(name)
    return name


def test_results_go_from_one_home_to_another(foundry: Foundry, measured: str, tmp_path: Path) -> None:
    file = tmp_path / "models.json"
    told = foundry.ok("results", "export", str(file), "--by", "team a")
    assert told.out == "" and "1 run written" in told.err
    assert "is sound: 1 run" in foundry.ok("results", "validate", str(file)).out
    other = {"FOUNDRY_HOME": str(tmp_path / "other")}
    assert foundry.ok("results", "merge", str(file), "--json", env=other).json["new"] == 1
    assert foundry.ok("results", "merge", str(file), "--json", env=other).json["new"] == 0
    (run,) = foundry.ok("results", "show", "--json", env=other).json["runs"]
    assert (run["run"], run["passed_on_by"], run["source"]) == (measured, ["team a"], "others")
    assert run["tasks"] == [{"label": "m", "suite": "chat", "language": "en", "passed": ["a"], "failed": ["b"]}]
    assert "2 items" in foundry.ok("results", "show", env=other).out


def test_export_to_standard_output_is_a_document_and_nothing_else(foundry: Foundry, measured: str) -> None:
    found = foundry.ok("results", "export", "-", "--run", measured[-6:]).json
    assert [run["run"] for run in found["runs"]] == [measured]


def test_a_file_that_was_tampered_with_is_refused_by_every_command(
    foundry: Foundry, measured: str, tmp_path: Path
) -> None:
    file = tmp_path / "models.json"
    foundry.ok("results", "export", str(file))
    changed = json.loads(file.read_text("utf-8"))
    changed["runs"][0]["tasks"][0]["passed"] = ["a", "b"]
    del changed["runs"][0]["tasks"][0]["failed"]
    file.write_text(json.dumps(changed))
    for command in ("validate", "merge", "show"):
        refused = foundry("results", command, str(file))
        assert refused.code == 2
        assert "changed after it was measured, or forged" in refused.err
    assert not (config.load().home / "models.json").exists()


def test_without_results_there_is_nothing_to_show(foundry: Foundry) -> None:
    assert foundry.ok("results", "show").out == "No results yet\n"


def test_the_schema_is_printed_as_it_is_shipped(foundry: Foundry) -> None:
    from localfoundry.results import models_json

    shipped = Path(models_json.__file__).with_name("models.schema.json")
    assert foundry.ok("results", "schema").out == shipped.read_text("utf-8")
