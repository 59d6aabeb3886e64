"""The acceptance test: `foundry-local-sdk` 0.5.1, unmodified, with our `foundry` first on the PATH."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from harness import Foundry
from localfoundry import config
from localfoundry.catalog.model import Model

PROGRAM = Path(__file__).with_name("sdk_program.py")


def program(*arguments: str) -> tuple[str, str]:
    """What a Python program that ends well wrote, with the tested `foundry` first on its PATH."""
    path = os.pathsep.join([str(Path(Foundry.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=110, check=False,
        stdin=subprocess.DEVNULL, env=os.environ | {"PATH": path, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout, done.stderr


@pytest.mark.real_model
def test_a_program_written_for_foundry_local(foundry: Foundry, course: list[Model]) -> None:
    """Starts the service, downloads, loads, answers, unloads; a second program finds the service."""
    assert version("foundry-local-sdk") == "0.5.1"
    variant = course[0].variants[0]
    out, err = program(str(PROGRAM), "phi-4-mini")
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    # The daemon must not hold the pipes that it inherited: `subprocess.run` came back, so it does not.
    assert "🟢 Service is Started on http://127.0.0.1:" in out
    assert "Downloading model with alias 'phi-4-mini'" in out
    assert "100%" in err, "the progress bar of the SDK saw no percent"
    assert (
        foundry.ok("service", "status").out.strip().endswith(found["endpoint"].removesuffix("/v1") + "/openai/status")
    )
    assert found["running"]
    assert found["location"] == str(config.load().models_dir)
    assert {"phi-4-mini", "qwen2.5-7b", "deepseek-r1-7b", "smollm2-135m"} <= set(found["catalog"])
    assert found["id"] == found["by_name"] == variant.id
    assert found["cached"] == found["loaded"] == found["models"] == [variant.id]
    assert found["upgradeable"] is False
    assert found["answer"].strip()
    assert found["streamed"].strip()
    assert found["left"] == []
    out, _ = program("-c", "from foundry_local import FoundryLocalManager as M; print(M().endpoint)")
    assert out == found["endpoint"] + "\n", "a second program did not find the running service"


@pytest.mark.parametrize("name", ["nosuchmodel", "phi-4-mini"])
def test_loading_what_is_not_there_is_an_error_that_the_sdk_understands(
    foundry: Foundry, course: list[Model], name: str
) -> None:
    foundry.ok("service", "start")
    text = f"""
from foundry_local import FoundryLocalManager
try:
    FoundryLocalManager().load_model({name!r})
except ValueError as exc:
    print(exc)
"""
    out, _ = program("-c", text)
    assert ("not found in the catalog" if name == "nosuchmodel" else "has not been downloaded yet") in out
    assert "phi-4-mini" in {model.alias for model in course}
