"""Compiling a model, for `crash_points`: the compiler is a function here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fake_compiler
from localfoundry import config
from localfoundry.build import checkpoint, child, compilation, targets, toolchain
from localfoundry.build.compilation import Source
from localfoundry.formats import bounded_json, detect, gguf, onnx, render, shape, split, summary, template
from localfoundry.store.progress import Silent
from localfoundry.store.store import Store
from store_crashes import assert_clean, assert_sound

_IMPORTED = (bounded_json, detect, gguf, onnx, render, shape, split, summary, template)  # once, and not in each child


def make(folder: Path) -> None:
    fake_compiler.checkpoint(folder / "tiny")


def work(folder: Path) -> None:
    child.run = _played  # type: ignore[assignment]
    given = config.load({"home": folder / "home", "cache_dir": folder / "store"}, environ={})
    tools = toolchain.Toolchain("3.11", fake_compiler.TOLD["packages"], ("LlamaForCausalLM",), "python")
    source = Source("file:tiny", "tiny", "tiny", folder=checkpoint.read(folder / "tiny"))
    store = Store(folder / "store")
    made = compilation.plan(given, store, tools, source, targets.parse("onnx", None, None, "cpu"), None)
    compilation.carry_out(given, store, tools, made, Silent())


def _played(command: Sequence[str], *_: Any, **__: Any) -> child.Ended:
    fake_compiler.onnx_folder(Path(command[command.index("--output") + 1]))
    return child.Ended(0.1, 1)


def check(folder: Path) -> None:
    store = Store(folder / "store")
    if not store.root.exists():
        return
    assert_sound(store)
    assert [m.name for m in store.manifests()] in ([], ["tiny-onnx-int4"])


def check_done(folder: Path) -> None:
    store = Store(folder / "store")
    assert [m.name for m in store.manifests()] == ["tiny-onnx-int4"]
    store.execute(store.plan_clean())
    assert_clean(store)
