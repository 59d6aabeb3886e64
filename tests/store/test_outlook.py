"""What a dry run says, and that it does nothing."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

from harness import Foundry
from hub_server import HubServer
from localfoundry import config
from localfoundry.store.journal import Head, PartFile
from localfoundry.store.outlook import outlook
from localfoundry.store.pull import pull
from localfoundry.store.store import Store
from tiny_gguf import tiny_gguf

DATA = tiny_gguf(1_000_000)
SHA256 = hashlib.sha256(DATA).hexdigest()


def everything(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def test_a_dry_run_shows_the_plan_and_makes_nothing(hub: HubServer, foundry: Foundry, isolated: Path) -> None:
    before = everything(isolated)
    shown = foundry.ok("model", "download", "org/tiny-GGUF", "--dry-run")
    assert SHA256 in shown.out and "To fetch: 1.0 MB" in shown.out
    told = foundry.ok("model", "download", "org/tiny-GGUF", "--dry-run", "--json").json
    assert told["files"] == [
        {"name": "tiny-Q4_0.gguf", "sha256": SHA256, "size_bytes": len(DATA), "here_bytes": 0,
         "fetch_bytes": len(DATA), "needs_bytes": len(DATA)}
    ]  # fmt: skip
    assert (told["present"], told["fits"], told["commit"]) == (None, True, "c" * 40)
    assert told["free_bytes"] - told["free_after_bytes"] == len(DATA)
    assert hub.served == 0 and everything(isolated) == before


def test_what_is_here_is_not_fetched(hub: HubServer, foundry: Foundry) -> None:
    settings = config.load()
    store = Store(settings.models_dir)
    with PartFile(store.partial / f"{SHA256}.part", Head("tiny-Q4_0.gguf", len(DATA), None, SHA256)) as part:
        part.write(0, DATA[:300_000])
    told = foundry.ok("model", "download", "org/tiny-GGUF", "--dry-run", "--json").json
    assert (told["files"][0]["here_bytes"], told["fetch_bytes"]) == (300_000, 700_000)
    foundry.ok("model", "download", "org/tiny-GGUF")
    assert hub.served == 700_000
    told = foundry.ok("model", "download", "org/tiny-GGUF", "--dry-run", "--json").json
    assert (told["present"], told["fetch_bytes"], told["needs_bytes"]) == ("tiny-Q4_0:1", 0, 0)


def test_a_file_of_this_machine_needs_its_size(tmp_path: Path) -> None:
    from localfoundry.sources.resolve import resolve

    path = tmp_path / "m.gguf"
    path.write_bytes(DATA)
    store = Store(tmp_path / "store")
    plan = asyncio.run(resolve(str(path), settings=config.load()))
    view = outlook(store, plan)
    assert (view.fetch_bytes, view.files[0].needs_bytes, view.present) == (0, len(DATA), None)
    made = asyncio.run(pull(store, plan))
    assert store.find(str(path)) == made
