"""Which engine runs a model, as the command line says it and takes it: a service with the two fake engines."""

from __future__ import annotations

from collections.abc import Callable

from harness import Foundry

TWOFOLD = {"architecture": "twofold"}
CROOKED = {"fail_load": "the tensor is crooked"}


def test_the_engine_that_was_chosen_is_said_everywhere(foundry: Foundry, fake_model: Callable[..., str]) -> None:
    """One service, from the first look at a model to another engine asked for by name."""
    name = fake_model("parrot", **TWOFOLD)
    info = foundry.ok("model", "info", name)
    assert "Engine:        fake (" in info.out and "    then       fake2 (" in info.out
    chosen = foundry.ok("model", "info", name, "--json").json["engines"]
    assert [one["engine"] for one in chosen["candidates"]] == ["fake", "fake2"]
    run = foundry.ok("model", "run", name, "-p", "hello", "--verbose", "--engine", "fake2").out
    assert "Engine:   fake2 on CPU, because it was asked for; the file is a fake model" in run
    beside = foundry.ok("service", "ps", "--verbose").err  # the table is for programs, too
    assert f"{name}:1 runs in fake2 on CPU, because it was asked for" in beside
    [loaded] = foundry.ok("service", "ps", "--json").json["models"]
    assert (loaded["engine"], loaded["engine_name"], loaded["file"]) == ("fake2", "fake2", f"{name}:1")
    again = foundry.ok("model", "load", name, "--engine", "fake", "--json").json
    assert again["engine"] == "fake"


def test_an_engine_that_gave_way_is_named_with_the_reason(foundry: Foundry, fake_model: Callable[..., str]) -> None:
    name = fake_model("parrot", **TWOFOLD, on={"fake": CROOKED})
    run = foundry.ok("model", "run", name, "-p", "hello", "--verbose").out
    assert "Engine:   fake2 on CPU, because " in run
    assert "          not fake: the tensor is crooked" in run
    told = foundry.ok("service", "logs").out
    assert f"load of {name}:1: fake: the tensor is crooked; trying fake2" in told
    refused = foundry("model", "load", name, "--engine", "fake")
    assert refused.code == 6 and "the tensor is crooked" in refused.err


def test_a_wrong_engine_gets_the_nearest_names(foundry: Foundry, fake_model: Callable[..., str]) -> None:
    name = fake_model("parrot", **TWOFOLD)
    refused = foundry("model", "load", name, "--engine", "openvion")
    assert refused.code == 2
    assert "no engine is called 'openvion'" in refused.err and "did you mean: openvino" in refused.err
    refused = foundry("config", "set", "engine", "openvion")
    assert refused.code == 2 and "llama.cpp, openvino, onnx" in refused.err


def test_one_model_is_measured_in_an_engine_and_compared_in_two(
    foundry: Foundry, fake_model: Callable[..., str]
) -> None:
    name = fake_model("parrot", **TWOFOLD, tokens_per_second=400)
    quick = ("--rounds", "2", "--max-tokens", "8")
    document = foundry.ok("bench", "run", name, "--engine", "fake2", *quick, "--json").json
    assert document["candidates"][0]["engine"] == "fake2"
    compared = foundry.ok("compare", name, f"{name}@engine=fake2", *quick, "--json").json
    assert {row["label"]: row["engine"] for row in compared["candidates"]} == {
        name: "fake",
        f"{name}@engine=fake2": "fake2",
    }
