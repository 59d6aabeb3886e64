"""Headers read from a hub on loopback: what is shown, how little is fetched, and each way it can fail."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from formats.gguf_file import ARRAY, STRING, U8, Typed, gguf, tiny_llama
from harness import Foundry
from hub_server import Faults, HubServer, Repo
from localfoundry import config
from localfoundry.errors import FoundryError, NotAModel, SourceError, SourceRefused, SourceUnreachable
from localfoundry.formats.summary import HeaderSummary
from localfoundry.sources import huggingface
from localfoundry.sources.plan import PlannedFile, PullPlan
from localfoundry.sources.reference import HubReference, parse
from localfoundry.sources.remote import BLOCK_BYTES, read_remote

SIZE = 96 * 2**20
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"t{n}" for n in range(5000))]


def large(**changes: object) -> bytes:
    """A sound model of 96 MiB, nearly all of it zeros."""
    metadata = {
        "general.architecture": "llama", "llama.context_length": 4096, "llama.block_count": 30,
        "llama.attention.head_count": 9, "llama.attention.head_count_kv": 3, "llama.embedding_length": 576,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": Typed(ARRAY, (STRING, TOKENS)),
        "tokenizer.ggml.eos_token_id": 2, "tokenizer.chat_template": CHATML, **changes,
    }  # fmt: skip
    return gguf(metadata, [("token_embd.weight", (576, SIZE // 576 // 4), 0, SIZE)])


def safetensors(**tensors: tuple[str, list[int], int]) -> bytes:
    entries, at = {}, 0
    for name, (kind, shape, size) in tensors.items():
        entries[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    header = json.dumps(entries).encode()
    return struct.pack("<Q", len(header)) + header + bytes(at)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


async def look(name: str) -> tuple[HeaderSummary, int]:
    parsed = parse(name)
    assert isinstance(parsed, HubReference)
    plan = await huggingface.plan(parsed, config.load(), to_run=False)
    return await read_remote(plan, config.load())


async def test_a_large_model_costs_a_small_part_of_it(hub: HubServer) -> None:
    hub.repos["org/model"] = Repo({"m-Q4_0.gguf": large(), "m-Q8_0.gguf": large()})
    found, fetched = await look("hf:org/model:Q8_0")
    assert (found.architecture, found.layers, found.attention_heads, found.kv_heads) == ("llama", 30, 9, 3)
    assert (found.context_length, found.tokenizer) == (4096, "gpt2")
    assert found.template is not None
    assert found.template.words() == "ok, ChatML, stops at <|im_end|>, no tools"
    assert fetched == hub.served <= 2**20 + BLOCK_BYTES
    assert len(hub.asked("storage")) == 1


async def test_a_long_vocabulary_takes_few_requests(hub: HubServer) -> None:
    tokens = Typed(ARRAY, (STRING, ["a token of usual length"] * 200_000))
    hub.repos["org/model"] = Repo({"m.gguf": large(**{"tokenizer.ggml.tokens": tokens})})
    found, fetched = await look("hf:org/model")
    assert found.template is not None and "not in this model's vocabulary" in found.template.warnings[0]
    assert fetched == hub.served < 12 * 2**20
    assert len(hub.asked("storage")) <= 6


async def test_safetensors_in_parts_with_their_configuration(hub: HubServer) -> None:
    one = safetensors(a=("BF16", [1000, 1000], 2_000_000), b=("F32", [10], 40))
    two = safetensors(c=("BF16", [2000, 1000], 4_000_000))
    shape = {"model_type": "qwen3", "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8,
             "max_position_embeddings": 40960}  # fmt: skip
    tokenizer = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "chat_template": CHATML}
    hub.repos["org/model"] = Repo({
        "model-00001-of-00002.safetensors": one, "model-00002-of-00002.safetensors": two,
        "config.json": json.dumps(shape).encode(), "tokenizer_config.json": json.dumps(tokenizer).encode(),
        "pytorch_model.bin": bytes(10),
    })  # fmt: skip
    found, fetched = await look("org/model")
    assert (found.format, found.architecture, found.layers, found.kv_heads) == ("safetensors", "qwen3", 28, 8)
    assert (found.parameters, found.quantization, found.tensor_types) == (3_000_010, "BF16", {"BF16": 2, "F32": 1})
    assert found.template is not None and found.template.ok
    assert fetched == hub.served < 2 * BLOCK_BYTES + 4000


async def test_an_onnx_folder(hub: HubServer) -> None:
    decoder = {"filename": "model.onnx", "num_hidden_layers": 32, "num_attention_heads": 24, "num_key_value_heads": 8}
    genai = {"model": {"type": "phi3", "context_length": 8192, "decoder": decoder}}
    files = {"cpu/genai_config.json": json.dumps(genai).encode(), "cpu/model.onnx": bytes(5_000_000)}
    hub.repos["org/model"] = Repo(files)
    found, _ = await look("org/model")
    assert (found.format, found.architecture, found.layers, found.context_length) == ("onnx", "phi3", 32, 8192)
    assert hub.served < 1000
    del files["cpu/model.onnx"]
    with pytest.raises(NotAModel, match=r"names 'model\.onnx', which is not there"):
        await look("org/model")


async def test_the_token_goes_to_the_hub_only(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repos["org/model"] = Repo({"m.gguf": tiny_llama()}, gated=True)
    with pytest.raises(SourceRefused, match="is gated"):
        await look("org/model")
    hub.token = "hf_secret"
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    await look("org/model")
    assert all(h.get("authorization") == "Bearer hf_secret" for h in hub.asked("hub"))
    assert hub.asked("storage") and not any("authorization" in h for h in hub.asked("storage"))


async def test_a_token_without_access_says_where_to_ask(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repos["org/model"] = Repo({"m.gguf": tiny_llama()}, gated=True)
    hub.token = "another"
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    with pytest.raises(SourceRefused, match="refused") as caught:
        await look("org/model")
    assert "accept the terms" in str(caught.value.hint)


async def test_offline_asks_nobody(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repos["org/model"] = Repo({"m.gguf": tiny_llama()})
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SourceUnreachable, match="offline"):
        await look("org/model")
    file = PlannedFile("m.gguf", url=f"{hub.url}/org/model/resolve/main/m.gguf")
    plan = PullPlan("m", None, "m", "hf:org/model", "gguf", (file,))
    with pytest.raises(SourceUnreachable, match="offline"):
        await read_remote(plan, config.load())
    assert not hub.requests


@pytest.mark.parametrize(
    ("faults", "kind", "reason"),
    [
        (Faults(status=503), SourceUnreachable, "HTTP 503"),
        (Faults(status=404), SourceRefused, "is not there"),
        (Faults(expired=True), SourceRefused, "HTTP 403"),
        (Faults(wrong_content_range=True), SourceError, "sent the range"),
        (Faults(lose_content_range=True), SourceError, "sent the range"),
        (Faults(cut_after=1000), SourceUnreachable, "could not be read"),
    ],
)
async def test_a_wrong_answer_is_never_read(
    hub: HubServer, faults: Faults, kind: type[FoundryError], reason: str
) -> None:
    hub.repos["org/model"] = Repo({"m.gguf": large()})
    hub.faults = faults
    with pytest.raises(kind, match=reason):
        await look("org/model")


async def test_one_cut_connection_is_tried_again(hub: HubServer) -> None:
    hub.repos["org/model"] = Repo({"m.gguf": large()})
    hub.faults = Faults(times=1, cut_after=1000)
    found, _ = await look("org/model")
    assert found.layers == 30


async def test_a_host_without_ranges_is_hung_up_on(hub: HubServer) -> None:
    """It begins to send the whole file; what it could push into the buffers of the connection is all that travels."""
    hub.repos["org/model"] = Repo({"m.gguf": large()})
    hub.faults = Faults(ignore_range=True)
    found, fetched = await look("org/model")
    assert found.layers == 30
    assert fetched < 2 * 2**20
    assert hub.served < 16 * 2**20


async def test_a_header_without_end_is_given_up(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("localfoundry.sources.remote.MAX_FETCHED_BYTES", 3 * 2**20)
    endless = gguf({"general.architecture": "llama", "a": Typed(ARRAY, (STRING, ["x" * 100] * 100_000)), "b": 1})
    hub.repos["org/model"] = Repo({"m.gguf": endless})
    with pytest.raises(NotAModel, match="more than 3,145,728 bytes"):
        await look("org/model")
    assert hub.served <= 3 * 2**20


async def test_what_is_no_model_says_so(hub: HubServer) -> None:
    hub.repos["org/model"] = Repo({"m.gguf": b"GGUF\x03\0\0\0" + struct.pack("<QQ", 0, 2**40)})
    with pytest.raises(NotAModel, match="number of keys"):
        await look("org/model")
    hub.repos["org/model"] = Repo(
        {"m.gguf": gguf({"general.architecture": "x", "a": Typed(ARRAY, (U8, [0] * 9))})[:-5]}
    )
    with pytest.raises(NotAModel, match="cut short"):
        await look("org/model")
    hub.repos["org/model"] = Repo({"pytorch_model.bin": b"\x80\x02"})
    with pytest.raises(NotAModel, match="pickle"):
        await look("org/model")


def test_the_command_shows_it_and_downloads_nothing(hub: HubServer, foundry: Foundry) -> None:
    hub.repos["org/model"] = Repo({"m-Q4_0.gguf": large()})
    shown = foundry.ok("model", "info", "hf:org/model:Q4_0")
    for line in ("Architecture:  llama", "Layers:        30", "Heads:         9 attention, 3 key-value",
                 "Context:       4096 tokens", "Tokenizer:     gpt2",
                 "Template:      ok, ChatML, stops at <|im_end|>, no tools"):  # fmt: skip
        assert line in shown.out
    assert "nothing was downloaded" in shown.err
    document = foundry.ok("model", "info", "org/model", "--json").json
    assert (document["layers"], document["template"]["family"]) == (30, "ChatML")
    assert document["fetchedBytes"] < 2**21
    assert foundry.ok("cache", "list", "--json").json["models"] == []
    offline = foundry("model", "info", "hf:org/model", env={"FOUNDRY_OFFLINE": "1"})
    assert offline.code == 3 and "offline" in offline.err
    assert "inside an archive" in foundry("model", "info", "smollm2-135m", "--remote").err


def test_a_model_of_the_catalog_is_looked_at_from_afar_only_when_asked(
    hub: HubServer, foundry: Foundry, tmp_path: Path
) -> None:
    hub.repos["org/model"] = Repo({"m-Q4_0.gguf": large()})
    variant = {"name": "known-q4", "version": 1, "format": "gguf", "source": "hf:org/model:Q4_0"}
    catalog = {"models": [{"alias": "known", "tasks": ["chat"], "variants": [variant]}]}
    (tmp_path / "catalog.json").write_text(json.dumps(catalog))
    env = {"FOUNDRY_CATALOG": str(tmp_path / "catalog.json")}
    assert "unknown until it is downloaded" in foundry.ok("model", "info", "known", env=env).out
    assert not hub.requests
    assert "Layers:        30" in foundry.ok("model", "info", "known", "--remote", env=env).out
    assert hub.served < 2**21
