"""The starter model in the real engine, through the official clients."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from api.server import HELLO, Server, events, text_of, wait_gone
from harness import wait_until, workers_of
from localfoundry import config
from localfoundry.api.proxy import ask
from localfoundry.catalog.lookup import Catalog
from localfoundry.engines.base import Endpoint
from localfoundry.errors import WorkerCrashed
from localfoundry.service import loading, upstream
from localfoundry.service.service import Service
from localfoundry.store.manifest import Manifest
from localfoundry.store.store import Store

pytestmark = [pytest.mark.real_model, pytest.mark.usefixtures("starter")]

LLAMA_CPP = pytest.mark.engines("llama.cpp")  # its own figures and routes, or nothing that an engine has a part in
STARTER = "smollm2-135m"
CONTEXT = 512
_CACHE = Path(__file__).parents[2] / ".cache" / "test-models"
SKY: Any = [{"role": "user", "content": "In one short sentence: why is the sky blue?"}]


@pytest.fixture(scope="module")
def real(
    engine: str, starter_store: Path, pulled_starter: Manifest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A running service that has the starter model, and knows `embedder`: the same weights, for embeddings."""
    home = tmp_path_factory.mktemp("real")
    source = home / "embedder.gguf"
    source.write_bytes(_with_pooling(Store(_CACHE).main_file(pulled_starter).read_bytes()))
    variant = {"name": "embedder-q4_1", "version": 1, "format": "gguf", "source": f"file:{source}"}
    model = {"alias": "embedder", "tasks": ["embeddings"], "variants": [variant]}
    (home / "catalog.json").write_text(json.dumps({"models": [model]}))
    made = Server(home, FOUNDRY_CONTEXT_LENGTH=CONTEXT, FOUNDRY_CATALOG=home / "catalog.json", FOUNDRY_ENGINE=engine)
    made.has(starter_store)
    yield made.start()
    made.stop()


def _with_pooling(gguf: bytes) -> bytes:
    """The file with mean pooling stated in its header, as files of embedding models state theirs.

    The second key fills the addition up to 64 bytes, which keeps the tensors where the header says, aligned to 32.
    """

    def text(value: bytes) -> bytes:
        return struct.pack("<Q", len(value)) + value

    added = text(b"llama.pooling_type") + struct.pack("<II", 4, 1)
    added += text(b"x.pad") + struct.pack("<I", 8) + text(b"     ")
    assert len(added) == 64
    (keys,) = struct.unpack("<Q", gguf[16:24])
    return gguf[:16] + struct.pack("<Q", keys + 2) + added + gguf[24:]


@pytest.fixture
def client(real: Server) -> Iterator[OpenAI]:
    """Without retries: a test must see the first answer."""
    http = openai.DefaultHttpxClient(trust_env=False)
    with OpenAI(base_url=f"{real.url}/v1", api_key="any", max_retries=0, http_client=http) as made:
        yield made


@pytest.mark.quick
def test_chat(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=STARTER, messages=SKY, max_tokens=24)
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= 24
    assert answer.model.startswith(STARTER)


@pytest.mark.quick
def test_chat_as_a_stream_with_usage(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model=STARTER, messages=SKY, max_tokens=16, stream=True, stream_options={"include_usage": True}, temperature=0
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert chunks[-1].usage is not None
    assert 0 < chunks[-1].usage.completion_tokens <= 16
    plain = client.chat.completions.create(model=STARTER, messages=SKY, max_tokens=16, temperature=0)
    assert text == plain.choices[0].message.content


async def test_the_asynchronous_client(real: Server) -> None:
    http = openai.DefaultAsyncHttpxClient(trust_env=False)
    async with AsyncOpenAI(base_url=f"{real.url}/v1", api_key="any", max_retries=0, http_client=http) as client:
        stream = await client.chat.completions.create(model=STARTER, messages=SKY, max_tokens=8, stream=True)
        chunks = [chunk async for chunk in stream]
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        answer = await client.completions.create(model=STARTER, prompt="Once upon a", max_tokens=4)
        assert answer.choices[0].text


def test_completions(client: OpenAI) -> None:
    answer = client.completions.create(model=STARTER, prompt="One, two, three, four,", max_tokens=12, temperature=0)
    assert "five" in answer.choices[0].text
    stopped = client.completions.create(
        model=STARTER, prompt="One, two, three, four,", max_tokens=12, temperature=0, stop=[" five"]
    )
    assert "five" not in stopped.choices[0].text
    assert stopped.choices[0].finish_reason == "stop"


def test_the_same_seed_gives_the_same_text_and_another_one_another(real: Server, client: OpenAI) -> None:
    def say(**fields: Any) -> str:
        answer = client.chat.completions.create(model=STARTER, messages=SKY, max_tokens=12, temperature=1, **fields)
        return answer.choices[0].message.content or ""

    assert say(seed=7) == say(seed=7)
    assert len({say(seed=seed) for seed in range(7, 10)}) > 1
    assert text_of(real.chat(STARTER, messages=SKY, max_tokens=12, temperature=1, random_seed=7)) == say(seed=7)


def test_logprobs(client: OpenAI, engine: str) -> None:
    others = 2 if engine == "llama.cpp" else 0  # the only one that tells the likeliest other tokens
    answer = client.chat.completions.create(
        model=STARTER, messages=SKY, max_tokens=3, logprobs=True, top_logprobs=others, temperature=0
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content) == 3
    assert all(one.logprob <= 0 and len(one.top_logprobs) == others for one in logprobs.content)


@pytest.mark.quick
@pytest.mark.parametrize("words", ["", "hello", "Grüße, 世界 <|im_end|> " * 3], ids=["empty", "word", "special"])
def test_counted_tokens_are_those_of_the_request(real: Server, words: str) -> None:
    """Chat template, system prompt and special tokens included; a client cuts its history by this number."""
    messages = [{"role": "user", "content": words}]
    counted = real.post("/v1/chat/completions/tokenizer/encode/count", {"model": STARTER, "messages": messages})
    assert counted.keys() == {"tokenCount"}
    answer = real.chat(STARTER, messages=messages, max_tokens=1)
    assert counted["tokenCount"] == answer["usage"]["prompt_tokens"]


def test_what_is_chosen_for_the_model_is_as_if_it_was_asked_for(real: Server) -> None:
    """The same text and the same count as with everything in the request, and another one without it."""
    chosen = {"system": "Answer in capital letters.", "temperature": 0, "maxTokens": 8, "repeatPenalty": 1.3}
    asked = {
        "messages": [{"role": "system", "content": chosen["system"]}, *SKY],
        "temperature": 0, "max_tokens": 8, "repeat_penalty": 1.3, "cache_prompt": False,
    }  # fmt: skip

    def counted() -> int:
        path = "/v1/chat/completions/tokenizer/encode/count"
        return int(real.post(path, {"model": STARTER, "messages": SKY})["tokenCount"])

    wanted = real.chat(STARTER, **asked)
    before = counted()
    real.settings.file.write_text(json.dumps({"models": {STARTER: chosen}}))
    try:
        wait_until(lambda: counted() != before, 5, "what is chosen is not in force")
        answer = real.chat(STARTER, messages=SKY, cache_prompt=False)
        assert text_of(answer) == text_of(wanted)
        assert answer["usage"]["completion_tokens"] == wanted["usage"]["completion_tokens"]
        assert answer["usage"]["prompt_tokens"] == wanted["usage"]["prompt_tokens"] == counted()
        assert text_of(real.chat(STARTER, messages=SKY, repeat_penalty=1)) != text_of(wanted)
    finally:
        real.settings.file.unlink()
    wait_until(lambda: counted() == before, 5, "what was chosen is still in force")


@pytest.mark.quick
@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_longer_than_the_context_is_refused_and_never_cut(client: OpenAI, stream: bool) -> None:
    long: Any = [{"role": "user", "content": "word " * 2000}]
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model=STARTER, messages=long, max_tokens=1, stream=stream)
    error: Any = refused.value.body
    assert error["code"] == "context_length_exceeded"
    assert error["prompt_tokens"] > 2000
    assert error["context_length"] == CONTEXT
    assert error["largest_context"] == 8192, "what the model was trained for: memory is no limit here"


def test_an_answer_that_reaches_the_end_of_the_context_says_so(client: OpenAI) -> None:
    """`length`, and no more tokens than the context holds: the engine may neither shift it nor go round."""
    long: Any = [{"role": "user", "content": "Repeat the word word for ever. " + "word " * 440}]
    answer = client.chat.completions.create(
        model=STARTER, messages=long, max_tokens=400, temperature=0, extra_body={"ignore_eos": True}
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.total_tokens <= CONTEXT + 1


def test_requests_at_once_share_the_context_and_are_all_answered(real: Server) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: real.chat(STARTER, max_tokens=8), range(10)))
    assert all(text_of(answer) for answer in answers)


@LLAMA_CPP
def test_what_is_said_of_a_load(real: Server) -> None:
    real.chat(STARTER, max_tokens=1)
    loaded = real.loaded(STARTER)
    assert loaded is not None
    assert loaded["engine"] == "llama.cpp (bundled)"
    assert loaded["context"] == CONTEXT
    assert 90 * 2**20 < loaded["memory"]["weights"] < 95 * 2**20
    # 2 * 30 layers * 3 heads * 64 values * 512 tokens * 2 bytes
    assert loaded["memory"]["kv_cache"] == pytest.approx(2 * 30 * 3 * 64 * CONTEXT * 2, rel=0.01)
    assert loaded["memory"]["process"] > loaded["memory"]["kv_cache"]
    assert 0 < loaded["engine_load_s"] < loaded["load_s"]
    log = next(real.settings.log_dir.glob("worker-smollm2-135m*.log")).read_text()
    assert re.search(r"n_batch\s*= 512", log), "streams stand still beside a long prompt"


def _slots_idle(real: Server, socket: str) -> bool:
    return not any(slot["is_processing"] for slot in real.ask_worker(socket, "/slots"))


def _tokens_of_the_last_answer(real: Server) -> int:
    """Of prompt and answer together, as the engine says when a slot is free again."""
    log = next(real.settings.log_dir.glob("worker-smollm2-135m*.log"))
    stopped = r"stop processing: n_tokens = (\d+)"
    return int(wait_until(lambda: re.findall(stopped, log.read_text()), 5, "the engine does not say so")[-1])


@LLAMA_CPP
def test_a_client_that_leaves_a_plain_answer_frees_the_slot(real: Server) -> None:
    """Asked for a plain answer, this engine does not look whether anybody is still there: it generated to the end."""
    real.chat(STARTER, max_tokens=1)
    loaded = real.loaded(STARTER)
    assert loaded is not None
    body = {"model": STARTER, "messages": SKY, "max_tokens": 450, "ignore_eos": True}
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.post(f"{real.url}/v1/chat/completions", json=body, timeout=httpx2.Timeout(5, read=0.4))
    wait_until(lambda: _slots_idle(real, loaded["socket"]), 20, "the engine still generates")
    assert _tokens_of_the_last_answer(real) < 400, "it was not ended: it came to its end"


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", {"messages": SKY, "max_tokens": 12}),
        ("/v1/chat/completions", {"messages": SKY, "max_tokens": 6, "n": 2}),
        ("/v1/chat/completions", {"messages": SKY, "max_tokens": 40, "stop": ["blue", "."]}),
        pytest.param(
            "/v1/chat/completions", {"messages": SKY, "max_tokens": 5, "logprobs": True, "top_logprobs": 2},
            marks=LLAMA_CPP,
        ),
        ("/v1/chat/completions", {"messages": SKY, "max_tokens": 40, "response_format": {"type": "json_object"}}),
        ("/v1/completions", {"prompt": "The sky is", "max_tokens": 8}),
        pytest.param("/v1/completions", {"prompt": "The sky is", "max_tokens": 4, "logprobs": 2}, marks=LLAMA_CPP),
    ],
)  # fmt: skip
def test_a_plain_answer_is_what_the_engine_says_itself(
    real: Server, engine: str, path: str, fields: dict[str, Any]
) -> None:
    """Plain answers are put together from streams; nothing may be lost or changed by that."""
    real.chat(STARTER, max_tokens=1)
    loaded = real.loaded(STARTER)
    assert loaded is not None
    body = {"model": STARTER, "temperature": 0, "seed": 1, "cache_prompt": False, **fields}
    with httpx2.Client(transport=httpx2.HTTPTransport(uds=loaded["socket"]), timeout=60) as worker:
        own = worker.post(f"http://worker{path}", json=body)
    assert own.status_code == 200, own.text
    answer, expected = _comparable(real.post(path, body)), _comparable(own.json())
    if "n" in fields:  # of several choices the engine counts one
        expected["usage"] |= {"completion_tokens": 12, "total_tokens": expected["usage"]["prompt_tokens"] + 12}
    if engine != "llama.cpp":  # whose cache a request can leave aside
        del answer["usage"]["prompt_tokens_details"], expected["usage"]["prompt_tokens_details"]
    assert answer == expected


def _comparable(answer: dict[str, Any]) -> dict[str, Any]:
    """Without what differs from one request to the next."""
    for changing in ("id", "created", "timings"):
        assert answer.pop(changing)
    for choice in answer["choices"]:
        for call in choice.get("message", {}).get("tool_calls", []):
            assert call.pop("id")
    return answer


@LLAMA_CPP
def test_a_client_that_goes_away_frees_the_slot(real: Server) -> None:
    real.chat(STARTER, max_tokens=1)
    loaded = real.loaded(STARTER)
    assert loaded is not None
    with real.streaming(STARTER, max_tokens=450, ignore_eos=True) as lines:
        next(lines)
        assert not _slots_idle(real, loaded["socket"])
    wait_until(lambda: _slots_idle(real, loaded["socket"]), 20, "the engine still generates")
    assert _tokens_of_the_last_answer(real) < 400, "it was not ended: it came to its end"


def test_a_worker_that_is_killed_ends_its_stream_with_an_error(real: Server, client: OpenAI) -> None:
    with real.streaming(STARTER, max_tokens=450, ignore_eos=True) as lines:
        next(lines)
        loaded = real.loaded(STARTER)
        assert loaded is not None
        os.kill(loaded["pid"], signal.SIGKILL)
        seen = events(lines)
    assert seen[-1] == "[DONE]"
    assert seen[-2]["error"]["code"] == "worker_crashed"
    assert client.chat.completions.create(model=STARTER, messages=SKY, max_tokens=2).choices[0].message.content


@LLAMA_CPP
def test_the_official_client_sees_a_killed_worker_as_an_error(real: Server, client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model=STARTER, messages=SKY, max_tokens=450, stream=True, extra_body={"ignore_eos": True}
    )
    with pytest.raises(openai.APIError, match="ended while it was answering"):
        for _ in stream:
            loaded = real.loaded(STARTER)
            if loaded is not None:
                with contextlib.suppress(ProcessLookupError):  # events that were under way come after the kill
                    os.kill(loaded["pid"], signal.SIGKILL)


@LLAMA_CPP
def test_embeddings(real: Server, client: OpenAI) -> None:
    done = real.command("model", "download", "embedder")
    assert done.returncode == 0, done.stderr
    answer = client.embeddings.create(model="embedder", input=["the sky is blue", "the sky is blue", "cats eat fish"])
    first, same, other = (item.embedding for item in answer.data)
    assert len(first) == len(same) == len(other) == 576
    assert first == pytest.approx(same, abs=1e-3)
    assert first != pytest.approx(other, abs=1e-3)
    as_floats = client.embeddings.create(model="embedder", input="the sky is blue", encoding_format="float")
    assert as_floats.data[0].embedding == pytest.approx(first, abs=1e-3)


def test_embeddings_of_a_chat_model_are_refused_for_good(client: OpenAI) -> None:
    """Not as an error that clients repeat by themselves."""
    with pytest.raises(openai.BadRequestError, match="does not support embeddings"):
        client.embeddings.create(model=STARTER, input="hello")


@LLAMA_CPP
def test_a_damaged_file_is_told_in_the_engines_words(real: Server, pulled_starter: Manifest, tmp_path: Path) -> None:
    import msgspec

    file = real.store.main_file(pulled_starter)
    [whole] = pulled_starter.files
    other = msgspec.structs.replace(whole, sha256="0" * 64)  # so that no re-encoding of the whole file stands in for it
    damaged = msgspec.structs.replace(
        pulled_starter, name="damaged", alias="damaged", source="file:/damaged.gguf", files=(other,)
    )
    folder = real.store.folder(damaged)
    folder.mkdir(parents=True)
    (folder / file.name).write_bytes(file.read_bytes()[:60_000_000])
    (folder / "manifest.json").write_bytes(msgspec.json.encode(damaged))
    error = real.error("damaged", 400)
    assert error["code"] == "load_failed"
    assert "model is corrupted or incomplete" in error["message"]
    assert str(real.home) not in json.dumps(error)
    assert text_of(real.chat(STARTER, max_tokens=2))


@LLAMA_CPP
def test_a_service_that_is_killed_takes_its_worker_with_it(real: Server) -> None:
    """The next start works although state and sockets are left over. Last here: it replaces the module's service."""
    real.chat(STARTER, max_tokens=1)
    pid = real.state.pid
    workers = [process.pid for process in workers_of(pid)]
    assert workers
    with pytest.raises(httpx2.HTTPError), real.streaming(STARTER, max_tokens=450, ignore_eos=True) as lines:
        next(lines)
        os.kill(pid, signal.SIGKILL)
        for _ in lines:
            pass
    for worker in workers:
        wait_gone(worker, 5)
    real.start()
    assert text_of(real.chat(STARTER, max_tokens=2))


async def test_over_loopback_the_worker_asks_for_its_secret(
    starter: Manifest, isolated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where there are no Unix sockets: any process of the machine can reach the port."""
    import asyncio
    import socket

    def loopback(_: Path) -> Endpoint:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return Endpoint(port=probe.getsockname()[1], secret="s3cret")

    monkeypatch.setattr(loading, "new_endpoint", loopback)
    monkeypatch.setenv("FOUNDRY_CONTEXT_LENGTH", "512")
    settings = config.load()
    settings.log_dir.mkdir(parents=True)
    service = Service(settings, Catalog.load(), Store(settings.models_dir), Path(tempfile.mkdtemp()))
    body = json.dumps({"messages": HELLO, "max_tokens": 2}).encode()
    async with service.lease(STARTER) as model:
        answer = json.loads(await ask(model, "/v1/chat/completions", body))
        assert answer["usage"]["completion_tokens"] == 2
        for secret in (None, "wrong"):
            stranger = Endpoint(port=model.worker.endpoint.port, secret=secret)
            response = await upstream.request(stranger, "POST", "/v1/chat/completions", body)
            response.close()
            assert response.status == 401
        model.worker._process.kill()
        with pytest.raises(WorkerCrashed):
            await ask(model, "/v1/chat/completions", body)
    async with asyncio.timeout(10):
        await service.close()
