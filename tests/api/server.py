"""A real running service with a home of its own, for tests that share one, and what they ask it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import psutil

from harness import BESIDE_OTHERS, Foundry, wait_until
from localfoundry import config, instance
from localfoundry.config import Settings
from localfoundry.instance import ServiceState
from localfoundry.sources.resolve import resolve
from localfoundry.store.manifest import Manifest
from localfoundry.store.pull import pull
from localfoundry.store.store import Store

HELLO = [{"role": "user", "content": "say something short"}]


class Server:
    """`foundry service start` in `home`, with settings given by environment name. `stop` ends it."""

    def __init__(self, home: Path, **settings: object) -> None:
        self.home = home
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "FOUNDRY_HOME": str(home / "foundry"),
            "FOUNDRY_PORT": "0",
            "FOUNDRY_LLAMA_SERVER": "bundled",
            **BESIDE_OTHERS,
            **{name: str(value) for name, value in settings.items()},
        }
        self.http = httpx2.Client(trust_env=False, timeout=30)

    @property
    def settings(self) -> Settings:
        return config.load(environ=self.env)

    @property
    def store(self) -> Store:
        return Store(self.settings.models_dir)

    @property
    def state(self) -> ServiceState:
        state = instance.running(self.settings)
        assert state is not None, "the service does not run"
        return state

    @property
    def url(self) -> str:
        return self.state.url

    def start(self) -> Server:
        done = self.command("service", "start")
        assert done.returncode == 0, done.stdout + done.stderr
        self.http.base_url = self.url
        return self

    def command(self, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [Foundry.executable, *arguments], env=self.env, capture_output=True, text=True, timeout=timeout,
            check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def stop(self) -> None:
        self.http.close()
        state = instance.running(self.settings)
        if state is not None:
            os.kill(state.pid, signal.SIGTERM)
            if not instance.wait_stopped(self.settings, 15):
                os.kill(state.pid, signal.SIGKILL)

    def fake(self, name: str, **switches: object) -> str:
        """Import a fake model with these switches and return its alias."""
        source = self.home / f"{name}.fake.json"
        source.write_text(json.dumps(switches))

        async def work() -> Manifest:
            return await pull(self.store, await resolve(str(source), settings=self.settings))

        return asyncio.run(work()).alias

    def has(self, store: Path) -> Server:
        """Begin with the models of another store, without a copy of their bytes."""
        shutil.copytree(store, self.settings.models_dir, copy_function=os.link, dirs_exist_ok=True)
        return self

    def again(self, manifest: Manifest, name: str, **changes: Any) -> Path:
        """Have a version a second time, under another name, without a copy of its bytes; its folder."""
        other = msgspec.structs.replace(manifest, name=name, alias=name, **changes)
        folder = self.store.folder(other)
        folder.mkdir(parents=True)
        for file in manifest.files:
            (folder / file.name).parent.mkdir(exist_ok=True)
            (folder / file.name).hardlink_to(self.store.folder(manifest) / file.name)
        (folder / "manifest.json").write_bytes(msgspec.json.encode(other))
        return folder

    # Asking

    def get(self, path: str, **options: Any) -> Any:
        answer = self.http.get(path, **options)
        assert answer.status_code == 200, answer.text
        return answer.json() if answer.content else None

    def post(self, path: str, body: object, status: int = 200) -> Any:
        answer = self.http.post(path, json=body)
        assert answer.status_code == status, f"{answer.status_code}: {answer.text}"
        return answer.json()

    def chat(self, model: str, status: int = 200, **fields: object) -> Any:
        return self.post("/v1/chat/completions", {"model": model, "messages": HELLO, **fields}, status)

    def error(self, model: str, status: int, **fields: object) -> dict[str, Any]:
        """The error object of a chat request that must fail with `status`."""
        error: dict[str, Any] = self.chat(model, status, **fields)["error"]
        assert isinstance(error["message"], str)
        assert {"message", "type", "param", "code"} <= set(error)
        return error

    @contextmanager
    def streaming(self, model: str, **fields: object) -> Iterator[Iterator[str]]:
        """Lines of a streamed chat answer that are not empty; leaving it closes the connection."""
        body = {"model": model, "messages": HELLO, "stream": True, **fields}
        with self.http.stream("POST", "/v1/chat/completions", json=body) as answer:
            if answer.status_code != 200:
                answer.read()
                raise AssertionError(answer.text)
            yield (line for line in answer.iter_lines() if line)

    def loaded(self, model: str) -> dict[str, Any] | None:
        """What `/foundry/ps` says of a model, by alias."""
        return next((m for m in self.get("/foundry/ps") if m["alias"] == model), None)

    def ask_worker(self, socket: str, path: str) -> Any:
        with httpx2.Client(transport=httpx2.HTTPTransport(uds=socket)) as client:
            return client.get(f"http://worker{path}").json()

    def counters(self, model: str) -> dict[str, int]:
        """How many tokens a fake model has generated, and how many answers it is at."""
        loaded = self.loaded(model)
        assert loaded is not None, f"{model} is not loaded"
        counts: dict[str, int] = self.ask_worker(loaded["socket"], "/counters")
        return counts

    def unload(self, model: str) -> None:
        self.post("/foundry/unload", {"model": model})


def events(lines: Iterator[str]) -> list[Any]:
    """The decoded events of a stream; the closing `[DONE]` stays as text."""
    data = [line.removeprefix("data: ") for line in lines]
    return [one if one == "[DONE]" else json.loads(one) for one in data]


def text_of(answer: Any) -> str:
    """The words of a plain chat answer."""
    return str(answer["choices"][0]["message"]["content"])


def wait_gone(pid: int, timeout_s: float) -> None:
    """Wait until a process has ended; one that nobody has waited for yet counts as ended."""

    def gone() -> bool:
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    wait_until(gone, timeout_s, f"process {pid} still runs")
