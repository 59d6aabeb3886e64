"""Re-encoded versions: their bytes, their place in the store, and what stops one from being made."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from gguf import GGUFReader, quants

import crash_points
from build.quantized_gguf import write_model
from harness import Foundry
from localfoundry import config
from localfoundry.build import reencode, rewrite
from localfoundry.errors import DamagedModel, DiskFull, LossyEncoding, MissingExtra, UsageError
from localfoundry.formats.gguf import read_gguf
from localfoundry.sources.plan import PlannedFile, PullPlan
from localfoundry.store.manifest import Manifest
from localfoundry.store.pull import pull
from localfoundry.store.store import Store
from store_crashes import assert_clean, assert_sound

MIXED = ("Q4_1", "Q5_K", "F16", "Q8_0", "Q6_K", "F32", "Q4_0")


@pytest.fixture
def store() -> Store:
    return Store(config.load().models_dir)


def filed(store: Store, path: Path, name: str = "mixed") -> Manifest:
    plan = PullPlan(name, None, "mix", f"file:{path}", "gguf", (PlannedFile(path.name, local=path),))
    return asyncio.run(pull(store, plan))


@pytest.fixture
def mixed(store: Store, tmp_path: Path) -> Manifest:
    return filed(store, write_model(tmp_path / "mixed.gguf", MIXED))


def made(store: Store, source: Manifest, target: str = "Q8_0") -> Manifest:
    return reencode.carry_out(store, reencode.plan(store, source, target))


def tensors(path: Path) -> dict[str, Any]:
    return {t.name: (t.tensor_type.name, quants.dequantize(t.data, t.tensor_type)) for t in GGUFReader(path).tensors}


def metadata(path: Path) -> dict[str, Any]:
    fields = GGUFReader(path).fields
    return {k: f.contents() for k, f in fields.items() if not k.startswith("GGUF.") and k != "general.file_type"}


def test_only_what_is_read_badly_changes_and_little(store: Store, mixed: Manifest) -> None:
    new = made(store, mixed)
    before, after = tensors(store.main_file(mixed)), tensors(store.main_file(new))
    assert list(before) == list(after)
    for name, (kind, values) in before.items():
        found, weights = after[name]
        assert weights.shape == values.shape
        if kind in ("F32", "F16", "Q8_0", "Q4_0"):
            assert np.array_equal(weights, values), name
        assert found == (kind if kind in ("F32", "F16") else "Q8_0")
        assert np.abs(weights - values).max() <= rewrite.LARGEST_ERROR * np.abs(values).max()
    assert metadata(store.main_file(new)) == metadata(store.main_file(mixed))
    assert read_gguf(store.main_file(new)).quantization == "Q8_0"


def test_the_version_stands_beside_its_source(store: Store, mixed: Manifest) -> None:
    new = made(store, mixed)
    assert (new.name, new.alias, new.quantization) == ("mixed-q8_0", "mix", "Q8_0")
    assert new.recipe is not None
    assert (new.recipe.source_id, new.recipe.source_sha256) == (mixed.id, mixed.files[0].sha256)
    assert new.recipe.changed == {"Q4_0": "Q8_0", "Q4_1": "Q8_0", "Q5_K": "Q8_0", "Q6_K": "Q8_0"}
    assert 0 < new.recipe.rms_error < rewrite.RMS_ERROR
    assert store.find("mix") == mixed, "the alias means what it meant before"
    assert store.find("mixed-q8_0") == new
    assert made(store, mixed) == new, "made once"
    assert reencode.find(store, mixed, "Q8_0") == new
    store.remove(mixed)
    assert store.find("mix") == new
    assert_sound(store)
    store.remove(new)
    assert list(store.blobs.iterdir()) == []


def test_the_same_source_gives_the_same_bytes(store: Store, mixed: Manifest) -> None:
    first = made(store, mixed)
    store.remove(first)
    again = made(store, mixed)
    assert again.files == first.files
    plan = reencode.plan(store, mixed)
    assert plan.present == again
    assert plan.size_bytes == again.size_bytes


def test_f16_and_another_alignment(store: Store, tmp_path: Path) -> None:
    source = filed(store, write_model(tmp_path / "a.gguf", ("Q4_1", "BF16"), alignment=64), "aligned")
    new = made(store, source, "F16")
    assert new.recipe is not None and new.recipe.changed == {"BF16": "F16", "Q4_1": "F16"}
    assert new.recipe.largest_error < 2**-11
    header = read_gguf(store.main_file(new))
    assert header.header_bytes % 64 == 0 and all(t.offset % 64 == 0 for t in header.tensors)
    assert set(header.tensor_types) == {"F16", "F32"}


def test_bfloat16_becomes_half_precision_without_a_change(store: Store, tmp_path: Path) -> None:
    source = filed(store, write_model(tmp_path / "b.gguf", ("BF16",)), "brain")
    new = made(store, source)
    assert new.recipe is not None and new.recipe.changed == {"BF16": "F16"}
    assert new.recipe.largest_error < 2**-20, "only what is below the smallest float16"


@pytest.mark.parametrize(
    ("kinds", "target", "words"),
    [
        (("F16", "Q8_0"), "Q8_0", "nothing to re-encode"),
        (("Q4_1",), "Q4_0", "not Q4_0"),
        (("Q4_1", "TQ1_0"), "Q8_0", "TQ1_0"),
    ],
)
def test_what_cannot_be_re_encoded_is_said(
    store: Store, tmp_path: Path, kinds: tuple[str, ...], target: str, words: str
) -> None:
    source = filed(store, write_model(tmp_path / "c.gguf", kinds), "other")
    with pytest.raises(UsageError, match=words):
        reencode.plan(store, source, target)


def test_weights_that_are_no_numbers_are_refused_by_the_tensor_s_name(store: Store, tmp_path: Path) -> None:
    path = write_model(tmp_path / "d.gguf", ("Q4_1", "Q4_1"))
    header = read_gguf(path)
    data = bytearray(path.read_bytes())
    at = header.header_bytes + header.tensors[-1].offset
    data[at : at + 2] = np.float16(np.inf).tobytes()
    path.write_bytes(data)
    source = filed(store, path, "infinite")
    with pytest.raises(LossyEncoding, match=header.tensors[-1].name):
        made(store, source)
    assert store.manifests() == [source]
    assert_clean(store)


def test_a_damaged_source_is_not_re_encoded(store: Store, mixed: Manifest) -> None:
    path = store.main_file(mixed)
    path.chmod(0o600)
    with path.open("rb+") as file:
        file.seek(-1, 2)
        file.write(b"\x77")
    with pytest.raises(DamagedModel, match="not what was verified"):
        made(store, mixed)
    assert store.manifests() == [mixed]


def test_room_is_left_over(store: Store, mixed: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = reencode.plan(store, mixed)
    monkeypatch.setattr("localfoundry.store.disk.free_bytes", lambda _: plan.needs_bytes - 1)
    assert not reencode.plan(store, mixed).fits
    with pytest.raises(DiskFull, match="left over"):
        reencode.carry_out(store, plan)
    assert_clean(store)


def test_without_numpy_it_says_what_to_install(store: Store, mixed: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = reencode.plan(store, mixed)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="numpy") as failed:
        reencode.carry_out(store, plan)
    assert failed.value.hint == "pip install 'localfoundry[reencode]'"


def test_a_plan_imports_no_numpy(store: Store, mixed: Manifest) -> None:
    """The service makes plans; only the process that carries one out pays for the import."""
    code = (
        "import sys; from pathlib import Path; from localfoundry.build import reencode; "
        "from localfoundry.store.store import Store; store = Store(Path(sys.argv[1])); "
        "source = store.find('mixed'); print(reencode.plan(store, source).fits, 'numpy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(store.root)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["True", "False"]


class Ended(Exception):
    """What a progress raises to end the work."""


def test_it_can_be_ended_at_any_piece(store: Store, mixed: Manifest) -> None:
    class Impatient:
        def start(self, step: str, name: str, total: int | None) -> None:
            self.step = step

        def position(self, done: int) -> None:
            if self.step == "Re-encoding":
                raise Ended

        def note(self, text: str) -> None:
            pass

    with pytest.raises(Ended):
        reencode.carry_out(store, reencode.plan(store, mixed), Impatient())
    assert store.manifests() == [mixed]
    assert_clean(store)
    assert made(store, mixed).recipe is not None


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_killed_at_every_step(tmp_path: Path) -> None:
    """A crash at any change to the disk leaves no version or the whole one; the rules are in crash_reencode.py."""
    assert crash_points.run("crash_reencode", tmp_path) > 10


def in_child(store: Store, *arguments: str, limit: int | None = None) -> subprocess.CompletedProcess[str]:
    """The module as the service starts it; `limit`: on the address space, in bytes."""

    def bound() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    return subprocess.run(
        [sys.executable, "-m", "localfoundry.build.reencode", str(store.root), *arguments],
        capture_output=True, text=True, check=False, timeout=60, preexec_fn=bound,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip


def test_a_process_of_its_own_says_how_far_it_is(store: Store, mixed: Manifest) -> None:
    done = in_child(store, mixed.id, "Q8_0")
    assert done.returncode == 0, done.stderr
    shares = [float(line) for line in done.stdout.split()]
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert reencode.find(store, mixed, "Q8_0") is not None
    refused = in_child(store, "nobody", "Q8_0")
    assert refused.returncode != 0 and "nobody is not on this disk" in refused.stderr


def test_memory_does_not_grow_with_a_tensor(store: Store, tmp_path: Path) -> None:
    """A tensor that is 268 MB as float32 is re-encoded in little more address space than that, libraries included."""
    source = filed(store, write_model(tmp_path / "large.gguf", ("Q4_0",), rows=262_144), "large")
    done = in_child(store, source.id, "Q8_0", limit=300_000_000)
    assert done.returncode == 0, done.stderr[-500:]


def test_the_command(foundry: Foundry, store: Store, mixed: Manifest, tmp_path: Path) -> None:
    shown = foundry.ok("model", "reencode", "mix", "--dry-run", "--json").json
    assert shown["present"] is None and shown["fits"]
    assert {"type": "Q4_1", "to": "Q8_0", "tensors": 1} in shown["changes"]
    assert store.manifests() == [mixed]
    assert "mixed-q8_0:1 was made" in foundry.ok("model", "reencode", "mix").out
    again = foundry.ok("model", "reencode", "mix", "--json").json
    assert again["id"] == again["present"] == "mixed-q8_0:1"
    assert again["sizeBytes"] == shown["sizeBytes"]
    assert "made here: mixed:1 with Q4_0 as Q8_0, Q4_1 as Q8_0" in foundry.ok("model", "info", "mix").out
    assert "mixed-q8_0:1" in foundry.ok("cache", "du").out
    locked = foundry.ok("lock", "--file", str(tmp_path / "foundry.lock"))
    assert "mixed-q8_0:1 was made here and is not locked" in locked.err
    foundry.ok("cache", "remove", "mixed:1", "--yes")
    assert "mixed-q8_0" in foundry.ok("cache", "list").out
    refused = foundry("model", "reencode", "mixed-q8_0")
    assert refused.code != 0 and "nothing to re-encode" in refused.err


def test_the_recipe_is_kept_with_the_version(store: Store, mixed: Manifest) -> None:
    kept = msgspec.json.decode((store.folder(made(store, mixed)) / "manifest.json").read_bytes())
    assert kept["recipe"]["source_sha256"] == mixed.files[0].sha256
    assert kept["source"] == f"reencoded:{mixed.id}"
