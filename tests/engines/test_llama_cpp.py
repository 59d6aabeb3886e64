"""Command lines for llama.cpp, and what is read out of its log. The log lines are recorded from the bundled worker."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from localfoundry import config
from localfoundry.engines.base import Endpoint, LoadRequest
from localfoundry.engines.llama_cpp import LlamaCpp
from localfoundry.errors import InvalidSetting

LOADED = """\
0.00.000.492 I srv          init: initializing ...
0.00.002.925 I srv          init: build_info: b0-unknown
0.00.005.180 I srv    load_model: loading model '/home/ann lee/m/SmolLM2-135M-Instruct.Q4_1.gguf'
0.00.335.173 I load_tensors:   CPU_Mapped model buffer size =    92.10 MiB
0.00.339.110 I llama_context: n_ctx                 = 8192
0.00.340.197 I llama_context:        CPU  output buffer size =     1.50 MiB
0.00.340.432 I llama_kv_cache:        CPU KV buffer size =   180.00 MiB
0.00.457.168 I llama_kv_cache: size =  180.00 MiB (  8192 cells,  30 layers,  8/1 seqs), K (f16):   90.00 MiB
0.00.462.580 I sched_reserve:        CPU compute buffer size =    22.64 MiB
0.00.552.979 W srv          init: --cache-idle-slots requires --cache-ram, disabling
0.00.555.825 I srv          init: model loaded
"""
REFUSED = """\
0.00.001.801 I srv          init: build_info: b0-unknown
0.00.003.936 I srv    load_model: loading model '/home/ann lee/damaged/1/damaged.gguf'
0.00.030.002 I print_info: rope_finetuned        = unknown
0.00.033.920 E llama_model_load: error loading model: tensor 'blk.2.ffn_up.weight' data is not within the file bounds, model is corrupted or incomplete
0.00.033.952 E llama_model_load_from_file_impl: failed to load model
0.00.033.958 E cmn  common_init_: failed to load model '/home/ann lee/damaged/1/damaged.gguf'
0.00.033.967 I srv    operator(): operator(): cleaning up before exit...
0.00.034.467 E srv          init: exiting due to model loading error
error: Failed to init server, please check the input params.
"""  # noqa: E501
UNREADABLE = """\
0.00.033.958 E cmn  common_init_: failed to load model '/home/ann lee/damaged/1/damaged.gguf'
0.00.033.962 E srv    load_model: failed to load model, /home/ann/damaged/1/damaged.gguf
"""


def request(tmp_path: Path, **changes: object) -> LoadRequest:
    given: dict[str, object] = {
        "model_id": "m:1",
        "model_path": tmp_path / "m.gguf",
        "endpoint": Endpoint(path="/tmp/x/w.sock"),
        "context": 4096,
        "parallel": 8,
    }
    return LoadRequest(**(given | changes))  # type: ignore[arg-type]


def value(argv: tuple[str, ...], flag: str) -> str:
    return argv[argv.index(flag) + 1]


@pytest.fixture
def native(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program called llama-server, first on the PATH."""
    program = tmp_path / "bin" / "llama-server"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return program


def test_bundled_command_line(tmp_path: Path) -> None:
    command = LlamaCpp().command(request(tmp_path), config.load())
    assert command.engine == "llama.cpp (bundled)"
    assert command.argv[1:3] == ("-m", "localfoundry.workers.llama_cpp")
    assert value(command.argv, "--socket") == "/tmp/x/w.sock"
    assert value(command.argv, "--context") == "4096"
    assert value(command.argv, "--parallel") == "8"
    assert "--embeddings" not in command.argv
    assert command.reason == "the setting llamaServer says bundled"


@pytest.mark.parametrize(
    ("task", "bundled", "server"),
    [("embeddings", "--embeddings", "--embeddings"), ("rerank", "--rerank", "--reranking")],
)
def test_tasks_other_than_chat_are_asked_of_the_engine(
    tmp_path: Path, native: Path, monkeypatch: pytest.MonkeyPatch, task: str, bundled: str, server: str
) -> None:
    wanted = request(tmp_path, tasks=(task,))
    assert bundled in LlamaCpp().command(wanted, config.load()).argv
    monkeypatch.setenv("FOUNDRY_LLAMA_SERVER", "auto")
    assert server in LlamaCpp().command(wanted, config.load()).argv


def test_a_native_server_on_the_path_wins(tmp_path: Path, native: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOUNDRY_LLAMA_SERVER", "auto")
    command = LlamaCpp().command(request(tmp_path), config.load())
    assert command.engine == "llama.cpp (native)"
    assert str(native) in command.argv
    assert str(native) in command.reason
    assert value(command.argv, "--host") == "/tmp/x/w.sock"
    assert value(command.argv, "--ctx-size") == "4096"
    assert "--kv-unified" in command.argv
    assert value(command.argv, "--ctx-checkpoints") == "2", "as many as the estimate counts"


def test_streams_beside_a_long_prompt_do_not_wait_for_all_of_it(
    tmp_path: Path, native: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The native server computes 2,048 tokens of a prompt at a time if it is not told otherwise."""
    monkeypatch.setenv("FOUNDRY_LLAMA_SERVER", "auto")
    assert value(LlamaCpp().command(request(tmp_path), config.load()).argv, "--batch-size") == "512"
    for own in (("--ubatch-size", "1024"), ("-ub", "1024"), ("--ubatch-size=1024",)):
        argv = LlamaCpp().command(request(tmp_path, engine_arguments=own), config.load()).argv
        assert "--batch-size" not in argv, "parts as large as were asked for would not fit into it"
    embedding = LlamaCpp().command(request(tmp_path, tasks=("embeddings",)), config.load()).argv
    assert "--batch-size" not in embedding, "a text to embed must fit into one batch"


def test_without_a_native_server_the_bundled_one_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOUNDRY_LLAMA_SERVER", "auto")
    monkeypatch.setenv("PATH", str(tmp_path))
    command = LlamaCpp().command(request(tmp_path), config.load())
    assert command.engine == "llama.cpp (bundled)"
    assert command.reason == "no native llama-server is on the PATH"


def test_a_native_server_that_is_named_by_its_bare_name_is_found(
    tmp_path: Path, native: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program is started without a search of the PATH, so its full path must be in the command."""
    monkeypatch.setenv("FOUNDRY_LLAMA_SERVER", "llama-server")
    assert str(native) in LlamaCpp().command(request(tmp_path), config.load()).argv


@pytest.mark.parametrize("wanted", ["/nowhere/llama-server", "not-a-program"])
def test_a_setting_that_is_no_program_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    monkeypatch.setenv("FOUNDRY_LLAMA_SERVER", wanted)
    with pytest.raises(InvalidSetting, match="is not a program") as refused:
        LlamaCpp().command(request(tmp_path), config.load())
    assert wanted in refused.value.message
    assert refused.value.hint == "foundry service set --llama-server auto"


def test_a_file_that_cannot_be_run_is_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "llama-server").write_text("")
    monkeypatch.setenv("FOUNDRY_LLAMA_SERVER", str(tmp_path / "llama-server"))
    with pytest.raises(InvalidSetting):
        LlamaCpp().command(request(tmp_path), config.load())


def test_loopback_with_a_secret_keeps_the_secret_off_the_command_line(
    tmp_path: Path, native: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every user of a machine can read the command lines of its processes."""
    for setting in ("bundled", "auto"):
        monkeypatch.setenv("FOUNDRY_LLAMA_SERVER", setting)
        argv = LlamaCpp().command(request(tmp_path, endpoint=Endpoint(port=4711, secret="s3cret")), config.load()).argv
        assert value(argv, "--port") == "4711"
        assert not any("s3cret" in word for word in argv)


def test_memory_and_time_of_a_load_are_read_from_the_log() -> None:
    account = LlamaCpp().account(LOADED)
    mib = 2**20
    assert account.memory == {
        "weights": int(92.10 * mib),
        "kv_cache": 180 * mib,
        "compute": int(1.5 * mib) + int(22.64 * mib),
    }
    assert account.load_s == pytest.approx(0.555825)


def test_the_bundled_workers_own_figure_wins_over_the_clock() -> None:
    assert LlamaCpp().account(LOADED + "engine_load_s=0.4321\n").load_s == 0.4321


def test_an_account_is_not_complete_before_all_buffers_are_stated() -> None:
    """The engine writes from a thread of its own, which may be behind the worker's last word."""
    early = LOADED[: LOADED.index("0.00.462.580")] + "engine_load_s=0.4321\n"
    assert LlamaCpp().account(early).load_s is None


@pytest.mark.parametrize("log", ["", "nothing of use\n", "KV buffer size = many MiB\n"])
def test_a_log_without_figures_gives_none(log: str) -> None:
    account = LlamaCpp().account(log)
    assert account.memory == {}
    assert account.load_s is None


def test_a_complaint_names_the_cause() -> None:
    """`build_info: b0-unknown`, in every log, was once taken for the cause, because it holds the word unknown."""
    complaint = LlamaCpp().complaint(REFUSED)
    assert "tensor 'blk.2.ffn_up.weight' data is not within the file bounds" in complaint
    assert "unknown" not in complaint
    assert "0.00." not in complaint


def test_a_complaint_names_no_folder() -> None:
    """It reaches HTTP clients; a folder tells who uses this machine, also one with a space in its name."""
    complaint = LlamaCpp().complaint(UNREADABLE)
    assert complaint.count("damaged.gguf") == 2
    assert not any(word in complaint for word in ("home", "ann", "lee", "/"))


def test_a_complaint_without_a_known_word_is_the_last_lines() -> None:
    assert LlamaCpp().complaint("one\n\ntwo\nthree\n") == "two; three"
    assert LlamaCpp().complaint("") == ""
    assert "/" not in LlamaCpp().complaint("error: C:\\Users\\ann\\m.gguf and /srv/x/m.gguf are bad")
    assert "ann" not in LlamaCpp().complaint("error: C:\\Users\\ann\\m.gguf is bad")
