"""What the choice of an engine rests on, gathered for the starter model: its file has a type that OpenVINO misreads."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest

from localfoundry import config
from localfoundry.build import reencode
from localfoundry.config import Settings
from localfoundry.engines.choice import Choice
from localfoundry.errors import NotRunnable
from localfoundry.fit import of_file
from localfoundry.service import choosing
from localfoundry.store.manifest import Manifest, Recipe
from localfoundry.store.store import Store

RECIPE = Recipe("smollm2:1", "", "Q8_0", {"Q4_1": "Q8_0"}, "localfoundry", 0.0, 0.0)


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("localfoundry.engines.openvino.OpenVino.missing", lambda self: None)


def choose(manifest: Manifest, engine: str | None = None, failed: str | None = None, **settings: object) -> Choice:
    given: Settings = dataclasses.replace(config.load(), **settings)  # type: ignore[arg-type]
    wish = choosing.wish_of(manifest, given, engine=engine)
    not_reencoded = {manifest.id: failed} if failed else {}
    return choosing.choose(Store(given.models_dir), manifest, given, wish, not_reencoded)


def why_not(found: Choice) -> str:
    [one] = found.left_out
    assert one.engine == "openvino"
    return one.why


def test_a_quick_re_encoding_is_planned_and_named(starter: Manifest) -> None:
    first, second = choose(starter, profile="throughput").candidates
    assert (first.engine.name, first.reencode_to, second.engine.name) == ("openvino", "openvino", "llama.cpp")
    assert "Q4_1" in first.reason and "made at the load" in first.reason


def test_a_slow_one_is_left_to_the_person_unless_the_engine_was_asked_for(
    starter: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "QUICK_S", 0.1)
    found = choose(starter, profile="throughput")
    assert [c.engine.name for c in found.candidates] == ["llama.cpp"]
    assert why_not(found).endswith(f": foundry model reencode {starter.alias} --to openvino")
    assert choose(starter, engine="openvino").candidates[0].reencode_to == "openvino"


def test_none_is_made_where_the_setting_says_never_or_it_failed_before(starter: Manifest) -> None:
    assert "the setting reencode says never" in why_not(choose(starter, reencode="never"))
    with pytest.raises(NotRunnable, match="the setting reencode says never") as refused:
        choose(starter, engine="openvino", reencode="never")
    assert refused.value.hint == f"foundry model reencode {starter.alias} --to openvino"
    assert "re-encoding it failed (the disk is full)" in why_not(choose(starter, failed="the disk is full"))


def test_none_is_made_where_the_disk_has_no_room(starter: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("localfoundry.store.disk.free_bytes", lambda folder: 600_000_000)
    assert "the disk has no room for a re-encoding" in why_not(choose(starter))


def test_one_that_is_there_is_used_and_a_form_of_the_engines_own_is_used_first(
    starter: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = starter.files[0].sha256
    recipe = msgspec.structs.replace(RECIPE, source_sha256=sha256)
    shape = starter.shape or of_file(Store(config.load().models_dir).main_file(starter))
    assert shape is not None
    groups = tuple(msgspec.structs.replace(g, type="Q8_0" if g.type == "Q4_1" else g.type) for g in shape.weights)
    gguf = msgspec.structs.replace(
        starter, name="smol-q8_0", recipe=recipe, shape=msgspec.structs.replace(shape, weights=groups),
        files=(msgspec.structs.replace(starter.files[0], sha256="1" * 64),),
    )  # fmt: skip
    folder = msgspec.structs.replace(starter, name="smol-ir", format="openvino", recipe=recipe, shape=None)
    known = [starter, gguf]
    monkeypatch.setattr(Store, "manifests", lambda self: list(known))
    monkeypatch.setattr(reencode, "plan", lambda *_: pytest.fail("one is there"))
    assert [c.runs for c in choose(starter).candidates] == [None, "smol-q8_0:1"]
    known.append(folder)
    assert [c.runs for c in choose(starter, profile="throughput").candidates] == ["smol-ir:1", None]
    assert [c.runs for c in choose(gguf, profile="throughput").candidates] == [None, None]


def test_how_its_requests_came_counts_where_nobody_chose_a_profile(starter: Manifest) -> None:
    def engines(**settings: object) -> tuple[list[str], str]:
        given: Settings = dataclasses.replace(config.load(), **settings)  # type: ignore[arg-type]
        wish = choosing.wish_of(starter, given, seen="throughput")
        found = choosing.choose(Store(given.models_dir), starter, given, wish).candidates
        return [c.engine.name for c in found], found[0].reason

    order, reason = engines()
    assert order == ["openvino", "llama.cpp"]
    assert "that is how most of its last requests came" in reason
    order, reason = engines(profile="chat")
    assert order == ["llama.cpp", "openvino"]
    assert "last requests" not in reason
