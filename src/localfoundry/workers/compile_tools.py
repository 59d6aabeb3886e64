"""What the Python that runs this has for compiling, as one line of JSON: versions, and what the builder can build.

The builder's architectures are read from its source, where it compares the name with each that it knows: importing it
imports torch, which takes seconds. Plain Python, and nothing of this product: see `compile_child.py`.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import json
import platform
from pathlib import Path

_PACKAGES = (
    "torch", "transformers", "accelerate", "onnxruntime-genai", "onnx", "onnx-ir", "onnxruntime", "safetensors", "gguf",
    "sentencepiece", "numpy", "protobuf", "tokenizers",
)  # fmt: skip


def main() -> None:
    builder = _builder()
    found = {
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name)) is not None},
        "architectures": sorted(_architectures(builder.read_text(encoding="utf-8"))) if builder else [],
    }
    print(json.dumps(found))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _builder() -> Path | None:
    spec = importlib.util.find_spec("onnxruntime_genai")
    places = list(spec.submodule_search_locations or []) if spec else []
    found = (Path(place) / "models" / "builder.py" for place in places)
    return next((path for path in found if path.is_file()), None)


def _architectures(source: str) -> set[str]:
    """Texts that `config.architectures[0]` is compared with."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare) and ast.unparse(node.left) == "config.architectures[0]":
            names |= {str(c.value) for c in node.comparators if isinstance(c, ast.Constant)}
    return names


if __name__ == "__main__":
    main()
