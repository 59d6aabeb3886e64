"""Foundry Local as a side of `engines.py`: its Python SDK runs a folder in this process, as its applications do.

    PYTHON benchmarks/foundry_local.py FOLDER

PYTHON is one with `pip install foundry-local-sdk==2.2.1`. The folder is registered in the SDK's local catalog;
telemetry that it does not need is off. Every line read is `{"texts": [...], "tokens": n}`: the texts are asked all at
once, each by a thread of its own, greedily. Every line written is `{"wall_s": ..., "answers": [{"ttft_s", "wall_s",
"tokens"}, ...]}`; the first one is `{"load_s": ...}`. The SDK streams a chunk for each token and counts none: tokens
are chunks.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as home:
        manager, model, load_s = load(folder, home)
        _say({"load_s": load_s})
        for line in sys.stdin:
            wanted = json.loads(line)
            _say(at_once(model, wanted["texts"], wanted["tokens"]))
        model.unload()
        manager.close()


def load(folder: Path, home: str) -> tuple[Any, Any, float]:
    from foundry_local_sdk import Configuration, FoundryLocalManager
    from foundry_local_sdk.catalog import CatalogType
    from foundry_local_sdk.model_info import ModelInfoBuilder

    FoundryLocalManager.initialize(
        Configuration(
            app_name="benchmark",
            app_data_dir=home,
            model_cache_dir=f"{home}/models",
            logs_dir=f"{home}/logs",
            disable_nonessential_telemetry=True,
        )
    )
    manager = FoundryLocalManager.instance
    about = ModelInfoBuilder()
    about.set_string_property("task", "chat-completion")
    model = manager.get_catalog(CatalogType.LOCAL).register_model(str(folder), f"{folder.name.lower()}:1", about)
    began = time.perf_counter()
    model.load()
    return manager, model, time.perf_counter() - began


def at_once(model: Any, texts: list[str], tokens: int) -> dict[str, Any]:
    answers: list[dict[str, float]] = []
    gate = threading.Barrier(len(texts) + 1)
    threads = [threading.Thread(target=_ask, args=(model, text, tokens, gate, answers)) for text in texts]
    for thread in threads:
        thread.start()
    gate.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    return {"wall_s": time.perf_counter() - began, "answers": answers}


def _ask(model: Any, text: str, tokens: int, gate: threading.Barrier, answers: list[dict[str, float]]) -> None:
    client = model.get_chat_client()
    client.settings.max_tokens = tokens
    client.settings.temperature = 0.0
    gate.wait()
    began = time.perf_counter()
    first: float | None = None
    count = 0
    for chunk in client.complete_streaming_chat([{"role": "user", "content": text}]):
        if chunk.choices and chunk.choices[0].delta and chunk.choices[0].delta.content:
            first = first or time.perf_counter()
            count += 1
    done = time.perf_counter()
    answers.append({"ttft_s": (first or done) - began, "wall_s": done - began, "tokens": count})


def _say(words: dict[str, Any]) -> None:
    print(json.dumps(words), flush=True)


if __name__ == "__main__":
    main()
