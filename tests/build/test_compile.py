"""Compiling: its steps with a compiler that is played, what stops it, and what is left after each end."""

from __future__ import annotations

import json
import platform
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

import crash_points
import fake_compiler
from build.quantized_gguf import write_model
from build.test_reencode import filed
from harness import Foundry, wait_until
from hub_server import HubServer, Repo
from localfoundry import config
from localfoundry.build import checkpoint, compilation, installed, targets, toolchain
from localfoundry.build.compilation import Plan, Source, Trial
from localfoundry.errors import (
    BuildFailed,
    DiskFull,
    FoundryError,
    InsufficientMemory,
    MissingExtra,
    NotAModel,
    NotCompilable,
    UsageError,
)
from localfoundry.store.manifest import Manifest
from localfoundry.store.progress import Silent
from localfoundry.store.store import Store


class Workshop:
    """A played compiler, and compiling with it as the command does."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._monkeypatch = folder, monkeypatch
        self.switch()

    def switch(self, **switches: Any) -> None:
        monkeypatched = self._monkeypatch.setenv
        monkeypatched("FAKE_COMPILER", "")
        python = fake_compiler.install(self.folder, pid=str(self.folder / "pid"), **switches)
        monkeypatched("FOUNDRY_COMPILE_PYTHON", str(python))

    @property
    def store(self) -> Store:
        return Store(config.load().models_dir)

    def plan(self, source: Source, target: targets.Target | None = None, name: str | None = None) -> Plan:
        given = config.load()
        wanted = target or targets.parse("onnx", None, None, "cpu")
        return compilation.plan(given, self.store, toolchain.find(given), source, wanted, name)

    def make(self, made: Plan, tried: Callable[[Trial], dict[str, str]] | None = None) -> Manifest:
        given = config.load()
        return compilation.carry_out(given, self.store, toolchain.find(given), made, Silent(), tried=tried)[0]

    def calls(self) -> list[str]:
        return fake_compiler.calls(self.folder)

    def nothing_was_made(self) -> bool:
        return not self.store.manifests() and not self.store.damaged()


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    folder = tmp_path / "workshop"
    folder.mkdir()
    return Workshop(folder, monkeypatch)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return of_folder(fake_compiler.checkpoint(tmp_path / "tiny"))


def of_folder(path: Path) -> Source:
    return Source(f"file:{path}", "tiny", "tiny", folder=checkpoint.read(path))


def test_a_folder_becomes_a_version_with_its_whole_recipe(workshop: Workshop, source: Source) -> None:
    manifest = workshop.make(workshop.plan(source))
    assert (manifest.id, manifest.format, manifest.alias) == ("tiny-onnx-int4:1", "onnx", "tiny")
    assert {f.name for f in manifest.files} == {"genai_config.json", "model.onnx", "model.onnx.data"}
    recipe = manifest.recipe
    assert recipe is not None and recipe.kind == "compiled" and not recipe.stands_in
    assert recipe.target == "onnx int4 cpu" and recipe.source_id == source.words
    assert set(recipe.inputs) == {"config.json", "tokenizer.json", "tokenizer_config.json"}
    assert recipe.options["matmul_mixed_precision"] and recipe.tools["onnxruntime-genai"] == "1.0"
    assert workshop.store.plan_clean().is_empty, "the work folder is gone"
    assert workshop.make(workshop.plan(source)) == manifest, "the same again is not built again"
    assert workshop.calls() == ["onnx"]


def test_code_and_pickles_beside_the_weights_are_not_shown_to_a_compiler(workshop: Workshop, tmp_path: Path) -> None:
    folder = fake_compiler.checkpoint(tmp_path / "tiny", modeling__py=b"evil", pytorch_model__bin=b"\x80\x02evil")
    seen: list[str] = []

    def tried(trial: Trial) -> dict[str, str]:
        seen.extend(sorted(path.name for path in trial.source.iterdir()))
        return {}

    workshop.make(workshop.plan(of_folder(folder)), tried)
    assert seen == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


def test_another_content_of_the_folder_is_another_version(workshop: Workshop, tmp_path: Path) -> None:
    first = workshop.make(workshop.plan(of_folder(fake_compiler.checkpoint(tmp_path / "tiny"))))
    changed = fake_compiler.checkpoint(tmp_path / "tiny", tokenizer__json=b'{"other": 1}')
    workshop.make(workshop.plan(of_folder(changed)))
    assert workshop.calls() == ["onnx", "onnx"]
    assert first.recipe is not None and first.recipe.inputs != checkpoint.sums(checkpoint.read(changed), lambda _: None)


@pytest.mark.parametrize("fault", ["fail", "kill", "memory", "empty"])
def test_a_compiler_that_ends_badly_leaves_nothing_and_says_why(workshop: Workshop, source: Source, fault: str) -> None:
    workshop.switch(**{fault: "onnx"})
    with pytest.raises(BuildFailed) as refused:
        workshop.make(workshop.plan(source))
    words = {"fail": "not supported", "kill": "want of memory", "memory": "want of memory", "empty": "no model"}
    assert words[fault] in refused.value.message
    assert workshop.nothing_was_made()
    if fault == "fail":
        (log,) = config.load().log_dir.glob("compile-*.log")
        assert refused.value.hint == f"its log: {log}" and "not supported" in log.read_text()
    workshop.switch()
    assert workshop.make(workshop.plan(source)).id == "tiny-onnx-int4:1"


def test_finished_steps_are_taken_over(workshop: Workshop, tmp_path: Path) -> None:
    version = filed(workshop.store, write_model(tmp_path / "m.gguf", ("Q4_1", "Q8_0")), "m")
    made = workshop.plan(Source(version.id, version.name, version.alias, version=version))
    workshop.switch(fail="onnx")
    with pytest.raises(BuildFailed):
        workshop.make(made)
    workshop.switch()
    manifest = workshop.make(made)
    assert workshop.calls() == ["checkpoint", "onnx", "onnx"]
    assert manifest.name == "m-onnx-int4" and manifest.recipe is not None
    assert manifest.recipe.source_id == "m:1" and manifest.recipe.source_sha256 == version.files[0].sha256
    assert workshop.store.find("mix") == version, "an alias still means what it was made of"


def test_other_versions_of_the_tools_take_nothing_over(workshop: Workshop, tmp_path: Path) -> None:
    version = filed(workshop.store, write_model(tmp_path / "m.gguf", ("Q4_1", "Q8_0")), "m")
    source = Source(version.id, version.name, version.alias, version=version)
    workshop.switch(fail="onnx")
    with pytest.raises(BuildFailed):
        workshop.make(workshop.plan(source))
    workshop.switch(packages=fake_compiler.TOLD["packages"] | {"transformers": "2.0"})
    workshop.make(workshop.plan(source))
    assert workshop.calls() == ["checkpoint", "onnx", "checkpoint", "onnx"]


def test_a_kill_at_any_moment_leaves_no_half_version(tmp_path: Path) -> None:
    """The steps are played without children here, so that every change to the disk is one of ours."""
    assert crash_points.run("crash_compile", tmp_path) > 20


def compiling(foundry: Foundry, folder: Path) -> subprocess.Popen[bytes]:
    command = [foundry.executable, "model", "compile", str(folder), "--no-check"]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_compiler_ends_with_the_command(
    workshop: Workshop, foundry: Foundry, tmp_path: Path, number: signal.Signals
) -> None:
    workshop.switch(hang="onnx")
    child = compiling(foundry, fake_compiler.checkpoint(tmp_path / "tiny"))
    pid = int(wait_until(lambda: (workshop.folder / "pid").exists() and (workshop.folder / "pid").read_text(), 30,
                         "the compiler did not start"))  # fmt: skip
    compiler = psutil.Process(pid)
    child.send_signal(number)
    assert child.wait(30) == (130 if number == signal.SIGINT else -number)
    wait_until(lambda: not compiler.is_running() or compiler.status() == psutil.STATUS_ZOMBIE, 30, "it goes on")
    assert workshop.nothing_was_made()
    leftovers = workshop.store.plan_clean()
    assert not leftovers.is_empty, "cache clean knows what is left"
    workshop.store.execute(leftovers)
    assert workshop.store.plan_clean().is_empty


def test_of_two_at_the_same_thing_one_waits(workshop: Workshop, source: Source) -> None:
    made, found = workshop.plan(source), []
    threads = [threading.Thread(target=lambda: found.append(workshop.make(made))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [m.id for m in found] == ["tiny-onnx-int4:1"] * 2
    assert workshop.calls() == ["onnx"]


def test_a_trial_that_refuses_keeps_the_build_aside(workshop: Workshop, source: Source) -> None:
    def refuse(trial: Trial) -> dict[str, str]:
        assert (trial.staged / "genai_config.json").exists()
        assert workshop.nothing_was_made(), "nothing is visible while it is tried"
        raise UsageError("too bad")

    made = workshop.plan(source)
    with pytest.raises(UsageError, match="too bad"):
        workshop.make(made, refuse)
    assert workshop.nothing_was_made()
    manifest = workshop.make(made, lambda _: {"perplexity": "1.4"})
    assert workshop.calls() == ["onnx"], "it is not built again"
    assert manifest.recipe is not None and manifest.recipe.checked == {"perplexity": "1.4"}


def test_building_again_is_compared_file_by_file(workshop: Workshop, source: Source) -> None:
    given, made = config.load(), workshop.plan(source)

    def verify() -> compilation.Verified:
        return compilation.verify(given, workshop.store, toolchain.find(given), made, Silent())

    with pytest.raises(NotCompilable, match="nothing to compare"):
        verify()
    workshop.make(made)
    assert verify().same
    other = workshop.folder / "other"
    other.mkdir()
    fake_compiler.onnx_folder(other)
    (other / "model.onnx.data").write_bytes(b"\1" * 1000)
    workshop.switch(folder=str(other))
    assert [file.name for file in verify().files if not file.same] == ["model.onnx.data"]


# Bad input: each is said before a compiler is started


@pytest.mark.parametrize(
    ("files", "config_json", "words"),
    [
        ({"model__safetensors": None}, None, "no weights as safetensors"),
        ({"model__safetensors": None, "pytorch_model__bin": b"\x80\x02"}, None, "runs code when it is loaded"),
        ({"tokenizer__json": None}, None, "has no tokenizer"),
        ({"config__json": None}, None, "has no config.json"),
        ({"config__json": b'{"a":' * 5000}, None, "not sound JSON"),
        ({"config__json": b" " * 2_000_000}, None, "at most"),
        ({}, {"model_type": "llama"}, "does not say what the model is"),
        ({}, {"architectures": ["x" * 4000]}, "does not say what the model is"),
        ({}, fake_compiler.CONFIG | {"num_hidden_layers": -3}, "not a count"),
        ({"model__safetensors": fake_compiler.safetensors(64)[:-8]}, None, "tensors need"),
        (
            {"model.safetensors.index.json": b'{"weight_map": {"a": "../../etc/passwd"}}'},
            None,
            "leaves its folder",
        ),
        (
            {"model.safetensors.index.json": b'{"weight_map": {"a": "model-00002-of-00002.safetensors"}}'},
            None,
            "lacks model-00002",
        ),
    ],
)  # fmt: skip
def test_a_folder_that_is_no_model_is_refused_by_its_reason(
    tmp_path: Path, files: dict[str, bytes | None], config_json: dict[str, Any] | None, words: str
) -> None:
    folder = fake_compiler.checkpoint(tmp_path / "bad", config_json, **files)
    with pytest.raises((NotCompilable, NotAModel)) as refused:
        checkpoint.read(folder)
    assert words in refused.value.message


def test_an_architecture_that_the_builder_does_not_know(workshop: Workshop, tmp_path: Path) -> None:
    folder = fake_compiler.checkpoint(tmp_path / "t", fake_compiler.CONFIG | {"architectures": ["BertModel"]})
    with pytest.raises(NotCompilable, match="does not know BertModel") as refused:
        workshop.plan(of_folder(folder))
    assert refused.value.hint is not None and "--format gguf" in refused.value.hint
    assert workshop.calls() == []


def test_packages_that_are_missing_are_named_with_the_command(workshop: Workshop, source: Source) -> None:
    workshop.switch(packages={"transformers": "5.0"}, architectures=[])
    with pytest.raises(MissingExtra, match="torch, onnxruntime-genai, onnx-ir") as refused:
        workshop.plan(source)
    assert refused.value.hint == "pip install 'localfoundry[compile]'"


def test_a_python_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    for path, words in (("/nowhere/python", "cannot run"), ("/bin/false", "does not tell")):
        monkeypatch.setenv("FOUNDRY_COMPILE_PYTHON", path)
        with pytest.raises(BuildFailed, match=words) as refused:
            toolchain.find(config.load())
        assert refused.value.hint


def test_too_little_disk_or_memory_is_said_with_numbers(
    workshop: Workshop, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    made = workshop.plan(source)
    monkeypatch.setattr("localfoundry.store.disk.free_bytes", lambda _: 1_000_000)
    with pytest.raises(DiskFull, match=r"1\.0 MB are free"):
        workshop.make(replace(made, free_disk_bytes=1_000_000))
    monkeypatch.undo()
    with pytest.raises(InsufficientMemory, match=r"needs about .* of memory, and 1\.0 MB are free"):
        workshop.make(replace(made, free_memory_bytes=1_000_000))
    assert workshop.calls() == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--format", "tflite"), "onnx, gguf, openvino"),
        (("--precision", "int3"), "precisions are int4"),
        (("--precision", "fp16"), "onnx for cpu is made in int4, int8, fp32"),
        (("--quant", "Q4_0"), "--quant is for GGUF"),
        (("--format", "gguf", "--quant", "Q9"), "not Q9"),
        (("--format", "gguf", "--device", "cuda"), "only ONNX is compiled for a device"),
        (("--device", "npu"), "devices are"),
        (("--max-loss", "a lot"), "--max-loss is a share"),
        (("--name", "../x"), "cannot name a model"),
    ],
)
def test_what_cannot_be_asked_for(words: tuple[str, ...], said: str) -> None:
    from localfoundry.cli.compile import share
    from localfoundry.sources.names import variant_name

    options = dict(zip(words[::2], words[1::2], strict=True))
    with pytest.raises(FoundryError) as refused:
        targets.parse(options.get("--format", "onnx"), options.get("--precision"), options.get("--quant"),
                      options.get("--device", "cpu"))  # fmt: skip
        share(options.get("--max-loss", "15%"))
        variant_name(options.get("--name", "x"))
    assert said in refused.value.message


def test_a_gguf_to_gguf_names_the_command_for_that(workshop: Workshop, tmp_path: Path) -> None:
    version = filed(workshop.store, write_model(tmp_path / "m.gguf", ("Q4_1", "Q8_0")), "m")
    source = Source(version.id, version.name, version.alias, version=version)
    for precision, command in (("int8", "reencode"), ("int4", "quantize")):
        with pytest.raises(NotCompilable) as refused:
            workshop.plan(source, targets.parse("gguf", precision, None, "cpu"))
        assert refused.value.hint is not None and f"foundry model {command} mix --to" in refused.value.hint


# GGUF and OpenVINO


def engine(*, quantizer: str | None) -> None:
    """An installed native engine: the converter, which the played Python answers for, and a quantizer."""
    build = installed.Build(
        name="1.2-cpu", version="1.2", told="", source_sha256="0" * 64, gpu="cpu", machine=platform.machine(),
        system=platform.system(), instructions=(), processor="", compiler="", options=(), built_at="", seconds=1,
        size_bytes=1,
    )  # fmt: skip
    folder = installed.folder(config.load(), build)
    (folder / "share").mkdir(parents=True)
    (folder / "share" / "convert_hf_to_gguf.py").write_text("")
    (folder / "build.json").write_bytes(msgspec.json.encode(build))
    (folder / "bin").mkdir()
    for name, script in (("llama-server", "exit 1"), ("llama-quantize", quantizer)):
        if script is not None:
            (folder / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / "bin" / name).chmod(0o755)


def test_gguf_is_converted_and_then_quantized(workshop: Workshop, source: Source) -> None:
    engine(quantizer='cp "$1" "$2"')
    plain = workshop.make(workshop.plan(source, targets.parse("gguf", None, "f16", "cpu")))
    assert (plain.name, plain.format, [f.name for f in plain.files]) == ("tiny-f16", "gguf", ["tiny-F16.gguf"])
    small = workshop.make(workshop.plan(source, targets.parse("gguf", None, "q4_k_m", "cpu")))
    assert small.recipe is not None and small.recipe.tools["llama-quantize"] == "1.2-cpu"
    assert small.recipe.options == {"outtype": "f16", "type": "Q4_K_M"}
    assert workshop.calls() == ["gguf", "gguf"]


@pytest.mark.parametrize(
    ("script", "said"), [("exit 3", "status 3"), ("true", "left no model"), ("echo x > $2", "left")]
)
def test_a_quantizer_that_ends_badly_leaves_nothing(workshop: Workshop, source: Source, script: str, said: str) -> None:
    engine(quantizer=script)
    with pytest.raises(BuildFailed, match=said):
        workshop.make(workshop.plan(source, targets.parse("gguf", "int4", None, "cpu")))
    assert workshop.nothing_was_made()


@pytest.mark.parametrize(("form", "quant"), [("gguf", "Q8_0"), ("gguf", "Q4_K_M"), ("openvino", None)])
def test_what_is_missing_of_llama_cpp_is_named_with_the_command(
    workshop: Workshop, source: Source, monkeypatch: pytest.MonkeyPatch, form: str, quant: str | None
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    if quant == "Q4_K_M":
        engine(quantizer=None)
    with pytest.raises(MissingExtra) as refused:
        workshop.plan(source, targets.parse(form, None, quant, "cpu"))
    assert ("llama-quantize" if quant == "Q4_K_M" else "convert_hf_to_gguf.py") in refused.value.message
    assert refused.value.hint == "foundry engine install llama.cpp --native"


def test_openvino_refuses_in_its_own_words_what_it_cannot_write(workshop: Workshop, source: Source) -> None:
    """The step is OpenVINO's own; a GGUF without weights is not for it, and no version appears."""
    engine(quantizer=None)
    with pytest.raises(UsageError, match="no OpenVINO folder can be made of it"):
        workshop.make(workshop.plan(source, targets.parse("openvino", None, None, "cpu")))
    assert workshop.nothing_was_made() and workshop.calls() == ["gguf"]


# From the hub


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Any:
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def test_a_repository_is_fetched_pinned_and_compiled(
    workshop: Workshop, foundry: Foundry, hub: HubServer, tmp_path: Path
) -> None:
    repo = files_of(fake_compiler.checkpoint(tmp_path / "r", modeling__py=b"evil", pytorch_model__bin=b"\x80\x02"))
    hub.repos["org/tiny"] = Repo(repo)
    plan = foundry.ok("model", "compile", "org/tiny", "--dry-run", "--json").json
    assert plan["source"] == f"hf:org/tiny@{'c' * 40}" and plan["fetchBytes"] > 0
    assert workshop.nothing_was_made()
    foundry.ok("model", "compile", "org/tiny", "--no-check")
    fetched, compiled = sorted(workshop.store.manifests(), key=lambda m: m.format != "safetensors")
    assert not {"modeling.py", "pytorch_model.bin"} & {f.name for f in fetched.files}
    assert compiled.name == "tiny-onnx-int4" and compiled.commit == "c" * 40 and compiled.license == "apache-2.0"
    assert compiled.recipe is not None and compiled.recipe.commit == "c" * 40
    shown = foundry.ok("model", "info", compiled.name).out
    assert f"made here: hf:org/tiny@{'c' * 40} as onnx int4 cpu" in shown
    served = hub.served
    foundry.ok("model", "compile", "org/tiny", "--no-check", "--name", "again")
    assert hub.served == served, "what was fetched is taken from the store"


@pytest.mark.parametrize(
    ("files", "config_json", "words"),
    [
        ({}, fake_compiler.CONFIG | {"architectures": ["BertModel"]}, "does not know BertModel"),
        ({"model__safetensors": None, "pytorch_model__bin": b"\x80\x02"}, None, "runs code when it is loaded"),
        ({"model__safetensors": None}, None, "no weights as safetensors"),
        ({"tokenizer__json": None}, None, "has no tokenizer"),
    ],
)
def test_nothing_is_fetched_of_a_repository_that_cannot_be_compiled(
    workshop: Workshop, foundry: Foundry, hub: HubServer, tmp_path: Path, files: dict[str, bytes | None],
    config_json: dict[str, Any] | None, words: str,
) -> None:  # fmt: skip
    hub.repos["org/bad"] = Repo(files_of(fake_compiler.checkpoint(tmp_path / "r", config_json, **files)))
    refused = foundry("model", "compile", "org/bad")
    assert refused.code == 2 and words in refused.err, refused.err
    fetched = {path.rpartition("/")[2] for _, path, _ in hub.requests if "/resolve/" in path}
    assert fetched <= {"config.json"} and workshop.nothing_was_made()


# The result is tried


def test_a_result_is_tried_in_a_service_of_its_own_and_refused_where_it_is_bad(
    workshop: Workshop, foundry: Foundry, tmp_path: Path
) -> None:
    """A graph of random weights against a source that finds all bytes alike: far apart, and allowed only if asked."""
    import tiny_onnx

    workshop.switch(folder=str(tiny_onnx.write(workshop.folder / "result")))
    folder = fake_compiler.checkpoint(tmp_path / "tiny")
    refused = foundry("model", "compile", str(folder), timeout=110)
    assert refused.code == 2 and "worse than its source by" in refused.err, refused.err
    assert "keep it anyway: foundry model compile" in refused.err
    assert workshop.nothing_was_made()
    (path,) = config.load().log_dir.glob("compile-*.json")
    assert str(path) in refused.err
    report = json.loads(path.read_text())
    assert (Path(report["build"]) / "model.onnx").exists(), "the build was kept aside"
    assert "perplexity: " in path.with_suffix(".txt").read_text("utf-8")
    assert report["engine"] == "onnx" and report["fidelity"]["perplexity"]["value"] - 1 == report["loss"] > 0.15
    assert not report["accepted"] and report["bench"]["decode_tps"] > 0 and report["steps"][0]["name"] == "onnx"
    done = foundry.ok("model", "compile", str(folder), "--max-loss", "100000%", "--json", timeout=110).json
    assert done["made"] and done["recipe"]["checked"]["perplexity"]
    assert workshop.calls() == ["onnx", "reference"], "neither was made twice"
    assert not list(workshop.store.tmp.iterdir())
