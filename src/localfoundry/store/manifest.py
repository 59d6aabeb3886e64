"""What the store keeps of a version besides its bytes: an immutable manifest beside the files."""

from __future__ import annotations

from datetime import datetime

import msgspec

from localfoundry.catalog.model import Architecture
from localfoundry.formats.shape import ModelShape
from localfoundry.formats.template import TemplateCheck


class External(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whose the bytes of an adopted file are, and what the file looked like when its sum was taken.

    A shared file can be edited by its owner; `mtime_ns`, `inode` and the size are what tells without reading it.
    """

    owner: str  # "huggingface", "ollama", "lmstudio" or "file"
    path: str  # where the owner keeps it: absolute, links resolved
    linked: bool  # a hard link of ours (the bytes outlive the owner's name), else a symbolic link to `path`
    mtime_ns: int
    inode: int


class StoredFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file of a version: its relative name, size and content address; `external` where the bytes are not ours."""

    name: str
    size_bytes: int
    sha256: str
    external: External | None = None


class Adopted(msgspec.Struct, frozen=True, omit_defaults=True):
    """What another tool knew of an adopted model, as far as it could be translated.

    `parameters` has the names of the OpenAI API where there is one; `chat_template` is Jinja; `untranslated` says in
    words what was left. The owner's own texts are files of the version.
    """

    owner: str
    chat_template: str | None = None
    parameters: dict[str, float | int | bool | str | list[str]] = {}
    untranslated: tuple[str, ...] = ()


class Recipe(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a version was made out of another one. The same source, tools and options give the same model again.

    A `reencoded` version stands in for its source wherever an engine reads it better; one that was `quantized` or
    `compiled` is another model to choose. Errors are those of the tensor that is worst in it: the largest difference of
    a value as a share of the tensor's largest value, and the root mean square of the differences as a share of that of
    its values. None: not measured.
    """

    source_id: str  # as it was called then; it may be gone or have another number by now
    source_sha256: str  # of its main file
    target: str  # the tensor type, format or precision that it became
    changed: dict[str, str]  # the new type of each tensor type that changed
    tool: str  # with its version
    largest_error: float | None = None
    rms_error: float | None = None
    kind: str = "reencoded"  # "quantized", "compiled"
    options: dict[str, str] = {}
    tools: dict[str, str] = {}  # the versions of others that took part
    inputs: dict[str, str] = {}  # SHA-256 of each file that it was made of, beside the main one
    commit: str | None = None  # of the source's repository
    checked: dict[str, str] = {}  # what trying it before it appeared showed; the report beside its log has it in full

    @property
    def stands_in(self) -> bool:
        """Whether engines may be given it in place of its source."""
        return self.kind == "reencoded"


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
    shape: ModelShape | None = None  # what memory and speed depend on; None for versions older than this field
    chat_template_sha256: str | None = None
    template: TemplateCheck | None = None  # what trying the chat template showed; None where it was not tried
    adopted: Adopted | None = None
    recipe: Recipe | None = None  # of a version that was made here

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
