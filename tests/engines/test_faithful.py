"""The table of tensor types that engines read as they are, held against the engine that is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from localfoundry import config
from localfoundry.build import reencode
from localfoundry.engines import faithful
from localfoundry.store.manifest import Manifest
from localfoundry.store.store import Store

READING = Path(__file__).parents[2] / "benchmarks" / "reading.py"
READ = ("F16", "Q8_0", "Q4_0", "Q6_K")
CHANGED = ("Q4_1", "Q4_K")
REFUSED = ("Q5_0", "BF16")


def test_openvino_reads_types_as_the_table_says(starter: Manifest) -> None:
    """The weights that its reader builds, beside those of the file; a release that reads better shows itself here."""
    path = Store(config.load().models_dir).main_file(starter)
    done = subprocess.run(
        [sys.executable, str(READING), str(path), *READ, *CHANGED, *REFUSED],
        capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    for kind in READ:
        assert found[kind] <= faithful.BOUND, kind
    for kind in CHANGED:
        said = faithful.reads("openvino", kind).changes
        assert said is not None and found[kind] == pytest.approx(said, rel=0.1), kind
    for kind in REFUSED:
        assert isinstance(found[kind], str), kind
    assert {kind for kind in found if faithful.reads("openvino", kind).faithful} == set(READ)


def test_what_is_read_badly_is_named_with_its_figure() -> None:
    words = faithful.words("openvino", ["F32", "Q8_0", "Q4_1", "Q5_0"])
    assert words is not None and "Q4_1" in words and "8.2%" in words and "Q5_0" in words and "Q8_0" not in words
    assert faithful.words("openvino", ["F32", "F16", "Q8_0", "Q4_0"]) is None
    assert faithful.words("llama.cpp", ["Q4_1", "IQ2_XXS"]) is None, "it defines the types"


def test_a_type_that_was_never_measured_is_not_given_to_an_engine() -> None:
    assert set(faithful.misread("openvino", ["Q8_0", "NEW_5"])) == {"NEW_5"}


def test_every_engine_reads_what_a_re_encoding_makes() -> None:
    for engine in faithful.TABLE:
        assert not faithful.misread(engine, ["F32", *(set(reencode.TARGETS) - {reencode.OPENVINO})])
