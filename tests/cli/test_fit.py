"""`model info`: what a load would take, by context and by terms, of a version, a file, and the catalog's facts."""

from __future__ import annotations

from pathlib import Path

import pytest

from formats.gguf_file import tiny_llama
from harness import Foundry
from localfoundry import config
from localfoundry.cli import fit
from localfoundry.service import memory
from localfoundry.service.ledger import Budget
from localfoundry.store.manifest import Manifest


@pytest.mark.real_model
def test_contexts_and_terms_of_a_cached_model(foundry: Foundry, starter: Manifest) -> None:
    told = foundry.ok("model", "info", starter.alias, "--json").json["memory"]
    assert [row["context"] for row in told["contexts"]] == [512, 1024, 2048, 4096, 8192]
    totals = [row["totalBytes"] for row in told["contexts"]]
    assert totals == sorted(totals)
    assert told["source"] == "predicted"
    assert told["defaultContext"] == 8192 and told["exactShape"]
    assert sum(term["bytes"] for term in told["terms"]) == told["totalBytes"] == totals[-1]
    assert told["lowBytes"] < told["totalBytes"] < told["highBytes"]
    explained = foundry.ok("model", "info", starter.alias, "--explain").out
    for word in ("weights", "KV cache", "compute buffers", "process", "30 layers x 8,192 tokens", "predicted"):
        assert word in explained
    assert "Context  Weights" in foundry.ok("model", "info", starter.alias).out


def test_what_does_not_fit_is_said_with_the_context_that_does(
    starter: Manifest, isolated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """260 MB leave room for some contexts of the starter model and not for others."""
    monkeypatch.setattr(memory, "look", lambda *_: Budget(limit=300_000_000, others=30_000_000, reserve=10_000_000))
    told = fit.describe(config.load(), starter, None)
    assert told is not None and told["roomBytes"] == 260_000_000
    assert {row["context"]: row["fits"] for row in told["contexts"]} == {
        512: True, 1024: True, 2048: True, 4096: False, 8192: False,
    }  # fmt: skip
    assert 2048 <= told["defaultContext"] == told["largestContext"] < 4096
    assert told["totalBytes"] <= 260_000_000


def test_a_model_that_is_not_here_is_estimated_from_the_catalog_and_says_so(foundry: Foundry) -> None:
    told = foundry.ok("model", "info", "phi-4-mini", "--json").json["memory"]
    assert not told["exactShape"]
    assert told["highBytes"] > 1.1 * told["totalBytes"]  # what is deduced is not as sure as what is read
    assert "from the catalog's facts" in foundry.ok("model", "info", "phi-4-mini").out


def test_a_file_is_read_and_nonsense_in_it_refused(foundry: Foundry, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(tiny_llama())
    told = foundry.ok("model", "info", str(path), "--json").json["memory"]
    assert told["contexts"][-1]["context"] == 256
    path.write_bytes(tiny_llama(llama__attention__head_count_kv=9))
    refused = foundry("model", "info", str(path))
    assert refused.code != 0
    assert "impossible shape: 9 key-value heads for 4 attention heads" in refused.err
