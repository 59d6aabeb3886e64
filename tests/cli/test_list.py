"""`model list` with fit and speed: what scripts read stays as it was, and the unknown comes after the known."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest

from harness import Foundry
from localfoundry import config
from localfoundry.advice.machine import measured_as
from localfoundry.catalog.lookup import Catalog
from localfoundry.catalog.model import Model, Variant
from localfoundry.cli import models, prospects
from localfoundry.fit.calibration import Calibration, Note
from localfoundry.hardware.survey import Probe, survey
from localfoundry.store.manifest import Manifest

HEADER = ["Alias", "Device", "Task", "File", "Size", "License", "Model", "ID", "Cached"]
FIGURES = ["Context", "Memory", "Fits", "Tokens/s"]


@pytest.fixture
def probed(isolated: Path) -> None:
    """A home in which the memory was probed; the figure itself is the machine's own."""
    home = config.load().home
    home.mkdir(parents=True, exist_ok=True)
    found = survey(home, Probe.ONCE)
    kept = json.loads((home / "hardware.json").read_text())
    kept["bandwidth"] = {"bytesPerS": 2e10, "threads": 2, "share": 1.0, "bufferBytes": 2**28, "measuredAt": 1.0,
                         "how": "of a test"}  # fmt: skip
    kept["doubt"] = None
    (home / "hardware.json").write_text(json.dumps(kept))
    assert found.memory.total_bytes


def test_without_an_option_the_lines_are_those_that_scripts_read(foundry: Foundry) -> None:
    done = foundry.ok("model", "list")
    assert done.out.splitlines()[0].split() == HEADER
    assert "predicted" not in done.out and done.err == ""
    assert "memoryBytes" not in foundry.ok("model", "list", "--json").json["models"][0]
    assert not (config.load().home / "hardware.json").exists(), "a plain list probed the machine"


@pytest.mark.usefixtures("probed")
@pytest.mark.parametrize("options", [("--fits",), ("--ctx", "8k"), ("--sort", "size")])
def test_asked_for_figures_come_behind_the_columns_that_scripts_read(
    foundry: Foundry, options: tuple[str, ...]
) -> None:
    lines = foundry.ok("model", "list", "--task", "code", *options).out.splitlines()
    assert lines[0].split() == HEADER + FIGURES
    small = next(line for line in lines if line.startswith("qwen2.5-coder-0.5b "))
    assert re.search(r"yes +[\d.]+ \([\d.]+ to [\d.]+\) predicted$", small)


@pytest.mark.usefixtures("probed")
def test_what_fits_is_listed_and_the_rest_is_counted_with_the_reason(foundry: Foundry) -> None:
    everything = foundry.ok("model", "list", "--fits", "--json").json["models"]
    assert {row["fit"] for row in everything} == {"fits"}
    done = foundry.ok("model", "list", "--fits", env={"FOUNDRY_MEMORY_LIMIT": "1000000000"})
    assert "phi-4" not in done.out
    assert " do not fit" in done.err or "gave memory back" in done.err
    assert "foundry model info NAME --explain" in done.err
    assert "layers and widths are not in the catalog" in done.err


@pytest.mark.usefixtures("probed")
def test_the_figures_are_json_with_interval_and_source(foundry: Foundry) -> None:
    rows = {row["alias"]: row for row in foundry.ok("model", "list", "--ctx", "2k", "--json").json["models"]}
    told = rows["qwen2.5-0.5b"]
    assert told["context"] == 2048 and told["fit"] in ("fits", "not now")
    for key in ("memoryBytes", "decodeTokensPerSecond", "prefillTokensPerSecond", "firstTokenSeconds", "loadSeconds"):
        assert told[key]["low"] <= told[key]["value"] <= told[key]["high"]
        assert told[key]["source"] == "predicted"
    unknown = rows["gemma-3-1b"]
    assert unknown["fit"] == "unknown" and unknown["memoryBytes"] is None and unknown["decodeTokensPerSecond"] is None
    assert unknown["whyUnknown"] == "its layers and widths are not in the catalog"


@pytest.mark.usefixtures("probed")
@pytest.mark.parametrize(
    ("order", "key", "sign"), [("speed", "decodeTokensPerSecond", -1), ("memory", "memoryBytes", 1)]
)
def test_the_order_is_by_value_and_the_unknown_comes_last(foundry: Foundry, order: str, key: str, sign: int) -> None:
    rows = foundry.ok("model", "list", "--sort", order, "--json").json["models"]
    values = [row[key] and row[key]["value"] * sign for row in rows]
    known = [value for value in values if value is not None]
    assert known and values == sorted(known) + [None] * (len(values) - len(known))
    assert None in values


def test_equals_keep_their_order() -> None:
    variant = Variant("one", 1, "gguf", size_bytes=5)
    rows = [models.Row(Model(alias, ("chat",), (variant,)), variant, None) for alias in ("b", "A", "a", "B")]
    assert [row.model.alias for row in prospects.ordered(rows, "name")] == ["A", "a", "b", "B"]
    for order in ("size", "speed", "memory"):
        assert prospects.ordered(rows, order) == rows


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("8kg", "'8kg' is not a number of tokens"), ("-5", "'-5' is not a number"), ("1.5", "not a number of tokens"),
        ("0", "a context has from 1 to 4,194,304"), ("9G", "not a number"), ("5M", "5,242,880 tokens; a context has"),
        ("", "'' is not a number of tokens"),
    ],
)  # fmt: skip
def test_a_context_that_is_none_is_refused_with_the_form(foundry: Foundry, text: str, words: str) -> None:
    refused = foundry("model", "list", "--ctx", text)
    assert refused.code == 2 and refused.out == ""
    assert words in refused.err and "foundry model list --ctx 8k" in refused.err


@pytest.mark.real_model
@pytest.mark.usefixtures("probed")
def test_what_was_measured_here_says_so(foundry: Foundry, starter: Manifest) -> None:
    assert "predicted" in foundry.ok("model", "list", "--cached", "--sort", "speed").out
    note = Note("decode", "", measured_as(), "Q4_1", starter.files[0].sha256, 1.0)
    Calibration(config.load().home / "calibration.json").add(note)
    assert "measured here" in foundry.ok("model", "list", "--cached", "--sort", "speed").out
    told = foundry.ok("model", "list", "--cached", "--fits", "--json").json["models"][0]
    assert told["decodeTokensPerSecond"]["source"] == "measured here"
    assert told["memoryBytes"]["high"] < 1.1 * told["memoryBytes"]["value"]  # of its own header, not of the catalog


def test_a_machine_that_tells_nothing_gives_no_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from advice.test_machine import recorded
    from localfoundry.advice.machine import of_this

    blind = of_this(recorded("no-sensors", tmp_path, probed=False), config.load())
    monkeypatch.setattr(prospects, "here", lambda _: blind)
    model = Catalog.load().require("smollm2-135m")[0]
    row = models.Row(model, model.variants[0], None)
    outlook = prospects.Outlook(config.load(), None)
    assert outlook.look([row], fitting=True) == []
    [kept] = outlook.look([row], fitting=False)
    assert list(prospects.words([kept])) == [("8192", "367.8 MB", "unknown", "unknown")]
    assert outlook.document(row)["whyUnknown"] == "how much memory the machine has"


@pytest.mark.usefixtures("probed")
def test_of_a_large_catalog_every_line_arrives_once(foundry: Foundry, tmp_path: Path) -> None:
    shape = Catalog.load().require("qwen2.5-0.5b")[0].architecture
    made = []
    for n in range(3000):
        variant = Variant(f"m{n}-q8_0", 1, "gguf", f"hf:a/m{n}", "Q8_0", size_bytes=5 * 10**8 + n * 1000)
        made.append(Model(f"m{n}", ("chat",), (variant,), architecture=shape))
    path = tmp_path / "large.json"
    path.write_bytes(msgspec.json.encode({"models": made}))
    lines = foundry.ok("model", "list", "--sort", "speed", env={"FOUNDRY_CATALOG": str(path)}).out.splitlines()
    mine = [line.split()[0] for line in lines if line.startswith("m") and "-q8_0:1" in line and " yes " in line]
    assert len(mine) == len(set(mine)) == 3000
