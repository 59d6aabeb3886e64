"""A worker of OpenVINO as a process of its own, and a client of it."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2

from harness import wait_until
from localfoundry import config
from localfoundry.engines.base import Endpoint, LoadRequest
from localfoundry.engines.openvino import OpenVino

CONTEXT = 512
LOAD_S = 90


class Process:
    """A worker of its own, and a client of it."""

    def __init__(
        self, folder: Path, model: Path, device: str = "CPU", arguments: tuple[str, ...] = (), parallel: int = 4,
        tasks: tuple[str, ...] = ("chat",),
    ) -> None:  # fmt: skip
        self.socket = folder / "worker.sock"
        self.log = folder / "worker.log"
        endpoint = Endpoint(path=str(self.socket))
        request = LoadRequest(
            "tiny:1", model, endpoint, CONTEXT, parallel, tasks, engine_arguments=arguments, device=device
        )
        command = OpenVino().command(request, config.load(environ={}))
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command.argv, stdin=subprocess.PIPE, stderr=log)
        transport = httpx2.HTTPTransport(uds=str(self.socket))
        self.http = httpx2.Client(transport=transport, base_url="http://worker", timeout=60)

    def ready(self) -> Process:
        wait_until(lambda: self._listens() or self.process.poll() is not None, LOAD_S, "it does not get ready")
        assert self.process.poll() is None, self.log.read_text()
        return self

    def _listens(self) -> bool:
        """The socket is there a moment before anybody listens at it."""
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def ended(self) -> str:
        """What it wrote before it ended with an error."""
        assert self.process.wait(LOAD_S) == 1, self.log.read_text()
        return OpenVino().complaint(self.log.read_text())

    def stop(self) -> None:
        self.http.close()
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()

    def post(self, path: str, status: int = 200, **body: Any) -> Any:
        answer = self.http.post(path, json=body)
        assert answer.status_code == status, answer.text
        return answer.json()

    def complete(self, status: int = 200, **body: Any) -> Any:
        return self.post("/v1/completions", status, **{"prompt": "a sane hat", "max_tokens": 12, **body})

    def stream(self, **body: Any) -> Iterator[Any]:
        with self.http.stream("POST", "/v1/completions", json={"prompt": "a hat", "stream": True, **body}) as answer:
            for line in answer.iter_lines():
                if line and line != "data: [DONE]":
                    yield json.loads(line.removeprefix("data: "))

    def idle(self) -> bool:
        return not any(slot["is_processing"] for slot in self.http.get("/slots").json())
