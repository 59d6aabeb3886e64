"""Builds the stores of other tools as those tools write them, for tests."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tiny_gguf import tiny_gguf

COMMIT = "c" * 40


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def hf_repository(root: Path, repo: str, files: dict[str, bytes], commit: str = COMMIT) -> Path:
    """`models--ORG--REPO` with links from the snapshot to blobs, as huggingface_hub makes it."""
    folder = root / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(commit)
    (folder / "blobs").mkdir(exist_ok=True)
    for name, data in files.items():
        large = name.endswith((".gguf", ".safetensors", ".onnx"))
        blob = folder / "blobs" / (sha256(data) if large else hashlib.sha1(data).hexdigest())
        blob.write_bytes(data)
        link = folder / "snapshots" / commit / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path("/".join([".."] * (2 + name.count("/")))) / "blobs" / blob.name)
    return folder


def ollama_model(
    root: Path, name: str = "tiny", tag: str = "1b", weights: bytes | None = None, **texts: bytes
) -> Path:  # fmt: skip
    """A manifest and its blobs; `texts` are further layers by kind. Returns the manifest's path."""
    layers = {"model": tiny_gguf() if weights is None else weights, **texts}
    blobs = root / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    entries = []
    for kind, data in layers.items():
        (blobs / f"sha256-{sha256(data)}").write_bytes(data)
        entries.append(layer(kind, f"sha256:{sha256(data)}", len(data)))
    return ollama_manifest(root, json.dumps({"schemaVersion": 2, "layers": entries}).encode(), name, tag)


def layer(kind: str, digest: str, size: int) -> dict[str, object]:
    return {"mediaType": f"application/vnd.ollama.image.{kind}", "digest": digest, "size": size}


def ollama_manifest(root: Path, body: bytes, name: str = "tiny", tag: str = "1b") -> Path:
    path = root / "manifests" / "registry.ollama.ai" / "library" / name / tag
    path.parent.mkdir(parents=True, exist_ok=True)
    (root / "blobs").mkdir(exist_ok=True)
    path.write_bytes(body)
    return path


def safetensors(values: bytes = b"\0" * 16) -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [len(values) // 4], "data_offsets": [0, len(values)]}}).encode()
    return len(header).to_bytes(8, "little") + header + values
