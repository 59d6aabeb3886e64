"""A saved profile decides how its model is loaded, unless somebody asks for something else; real processes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from harness import native_on_path
from localfoundry.config import profiles
from localfoundry.config.profiles import Profile
from localfoundry.engines.choice import Wish
from localfoundry.results import place
from localfoundry.service import tuned
from localfoundry.service.planning import LoadOptions
from localfoundry.service.service import Service
from localfoundry.service.tuned import sha256_of
from localfoundry.sources.resolve import resolve
from localfoundry.store.manifest import Manifest
from localfoundry.store.pull import pull

CROOKED = {"fail_load": "the tensor is crooked"}


async def twofold(service: Service, **switches: object) -> Manifest:
    source = service.settings.home / "one.fake.json"
    source.write_text(json.dumps({"architecture": "twofold", **switches}))
    return await pull(service.store, await resolve(str(source), settings=service.settings))


def tune(service: Service, manifest: Manifest, **changes: object) -> Profile:
    """Save a profile for the second fake engine and return it."""
    made = Profile(
        machine=place.machine_id(), sha256=sha256_of(service.store, manifest), purpose="chat", model=manifest.id,
        tuned_at="2026-11-23T10:00:00+00:00", engine="fake2", engine_version="1", ratio=1.5, low=1.4, high=1.6,
        arguments=("--threads", "2"), parallel=3,
    )  # fmt: skip
    made = msgspec.structs.replace(made, **changes)
    profiles.save(service.settings.home, made)
    return made


async def test_a_profile_decides_how_its_model_is_loaded(running: Service) -> None:
    manifest = await twofold(running)
    profile = tune(running, manifest)
    model = await running.load(manifest.alias)
    plan = model.resident.plan
    assert (plan.engine, plan.parallel, plan.engine_arguments) == ("fake2", 3, ("--threads", "2"))
    assert plan.engine_reason == profile.words == "tuned on 2026-11-23 for chat: 1.50 x the default"


@pytest.mark.parametrize("changes", [{"machine": "another"}, {"sha256": "1" * 64}])
async def test_one_for_another_machine_or_file_is_not_used(running: Service, changes: dict[str, str]) -> None:
    manifest = await twofold(running)
    tune(running, manifest, **changes)
    assert (await running.load(manifest.alias)).resident.plan.engine == "fake"


async def test_a_damaged_file_of_profiles_stops_no_load(running: Service) -> None:
    manifest = await twofold(running)
    (running.settings.home / profiles.FILE_NAME).write_text("{")
    assert (await running.load(manifest.alias)).resident.plan.engine == "fake"


async def test_what_is_asked_for_wins(running: Service) -> None:
    manifest = await twofold(running)
    tune(running, manifest)
    assert (await running.load(manifest.alias, LoadOptions(engine="fake"))).resident.plan.engine == "fake"
    await running.unload(manifest.alias)
    for chosen in ({"engine": "fake"}, {"engine_arguments": ("--threads", "1")}, {"profile": "throughput"}):
        running.settings = replace(running.settings, models={manifest.alias: chosen})
        assert not (await running.load(manifest.alias)).resident.plan.tuned, chosen
        await running.unload(manifest.alias)
    running.settings = replace(running.settings, models={manifest.alias: {"parallel": 7}})
    plan = (await running.load(manifest.alias)).resident.plan
    assert plan.tuned and plan.parallel == 7, "the rest of the profile stays"


async def test_a_profile_that_fails_gives_way_and_is_not_tried_again(running: Service) -> None:
    """Its engine may do without it: here the only one that takes the model."""
    manifest = await twofold(running, **{"with": {"--threads 2": CROOKED}, "on": {"fake2": CROOKED}})
    tune(running, manifest, engine="fake")
    model = await running.load(manifest.alias)
    assert (model.engine.name, model.resident.plan.tuned) == ("fake", False)
    assert [str(one) for one in model.resident.plan.failed] == ["tuned profile: the tensor is crooked"]
    await running.unload(manifest.alias)
    again = await running.load(manifest.alias)
    assert not again.resident.plan.tuned and not again.resident.plan.failed


async def test_a_profile_whose_file_is_gone_is_not_used(running: Service) -> None:
    manifest = await twofold(running)
    gone = {"runs": "one-q8_0:1", "runs_sha256": "2" * 64}
    for target, command in (("Q8_0", "model reencode one --to q8_0"), (None, "tune one --for chat")):
        tune(running, manifest, **gone, runs_target=target)
        found = tuned.find(running.store, manifest, running.settings, Wish())
        assert found is not None and found.why_not == f"one-q8_0:1 is not on this disk: foundry {command}"
    assert not (await running.load(manifest.alias)).resident.plan.tuned


async def test_a_profile_whose_draft_model_is_gone_says_how_to_get_it(running: Service) -> None:
    manifest = await twofold(running)
    words = ("--spec-draft-model", "small:7")
    changes: dict[str, object] = {"engine": "fake", "arguments": words, "draft": "small:7", "draft_sha256": "3" * 64}
    for target, command in ((None, "foundry model download small"), ("Q4_0", "foundry model quantize one --to Q4_0")):
        tune(running, manifest, **changes, draft_target=target)
        found = tuned.find(running.store, manifest, running.settings, Wish())
        assert found is not None and found.candidate is None
        assert found.why_not == f"small:7, its draft model, is not on this disk: {command}"
    tune(running, manifest, **changes | {"draft_sha256": sha256_of(running.store, manifest)})
    found = tuned.find(running.store, manifest, running.settings, Wish())
    assert found is not None and found.candidate is not None
    assert found.arguments == ("--spec-draft-model", manifest.id), "as the same bytes are called here"


async def test_how_requests_come_prefers_a_profile_and_rules_none_out(running: Service) -> None:
    """What nobody chose must not undo what was tuned."""
    manifest = await twofold(running)
    store, settings = running.store, running.settings
    chat = tune(running, manifest)
    wish = Wish(profile="throughput", seen=True)
    assert (found := tuned.find(store, manifest, settings, wish)) is not None and found.profile == chat
    assert tuned.find(store, manifest, settings, Wish(profile="throughput")) is None
    other = tune(running, manifest, purpose="throughput", tuned_at="2020-01-01T00:00:00+00:00")
    assert (found := tuned.find(store, manifest, settings, wish)) is not None and found.profile == other


async def test_the_build_of_llama_cpp_that_was_tuned_is_the_one_that_is_loaded(
    starter: Manifest, running: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service takes a native one by itself, which here ends at once."""
    native_on_path(tmp_path, monkeypatch, "exit 1")
    running.settings = replace(running.settings, llama_server="auto")
    tune(running, starter, engine="llama.cpp", arguments=(), build="bundled")
    model = await running.load(starter.alias)
    assert (model.command.engine, model.resident.plan.tuned) == ("llama.cpp (bundled)", True)
    tune(running, starter, engine="llama.cpp", arguments=(), build="9.9.9-cpu")
    found = tuned.find(running.store, starter, running.settings, Wish())
    assert found is not None and found.candidate is None
    assert (found.why_not or "").endswith("it is not here: foundry engine install llama.cpp --native")
