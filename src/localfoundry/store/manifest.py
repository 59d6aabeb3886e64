"""What the store keeps of a version besides its bytes: an immutable manifest beside the files."""

from __future__ import annotations

from datetime import datetime

import msgspec

from localfoundry.catalog.model import Architecture
from localfoundry.formats.template import TemplateCheck


class StoredFile(msgspec.Struct, frozen=True):
    """A file of a version: its relative name, size and content address."""

    name: str
    size_bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True):
    """One version, complete and verified. Written once, never changed."""

    name: str
    version: int
    alias: str
    source: str
    format: str
    files: tuple[StoredFile, ...]
    created_at: str  # ISO 8601, UTC
    commit: str | None = None
    license: str | None = None
    quantization: str | None = None
    tasks: tuple[str, ...] = ("chat",)
    context_length: int | None = None  # from the file's own header
    architecture_name: str | None = None  # general.architecture of a GGUF
    architecture: Architecture | None = None
    parameters: int | None = None
    chat_template_sha256: str | None = None
    template: TemplateCheck | None = None  # what trying the chat template showed; None where it was not tried

    @property
    def id(self) -> str:
        return f"{self.name}:{self.version}"

    @property
    def created_epoch(self) -> int:
        """Seconds since the epoch, as the OpenAI API counts."""
        return int(datetime.fromisoformat(self.created_at).timestamp())

    @property
    def size_bytes(self) -> int:
        return sum(f.size_bytes for f in self.files)
