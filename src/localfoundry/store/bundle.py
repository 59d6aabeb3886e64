"""The bundle: versions of the store as one file, for machines without a network. Its form, and reading it safely.

    localfoundry-bundle.json     the index: manifests (commit, sums, template hash, licence), blobs, results, signer
    localfoundry-bundle.sig      64 bytes, where the index names a signer
    blobs/sha256/<hex>           each once, in the order of the index
    results/<name>.json          where asked for
    (two empty blocks)

A tar, uncompressed, because weights do not compress, because it is written and read in one pass, because every system
can take it apart without us, and because it has one description of each member, where a zip has two that may differ.
Index first, so that `show`, the space check and every refusal need a few kilobytes of a file of any size.

Reading trusts no tar library: the index says which members there are, how large and in which order, and from that
follows every byte of every header. A file whose headers, padding or length differ by one bit from those is refused
before anything is written: links, devices, paths, duplicates, lying sizes and trailing data have no way to be said.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec

from localfoundry.errors import BadBundle, DiskError, FoundryError
from localfoundry.sources.names import relative_name, sha256_hex, variant_name
from localfoundry.store.manifest import Manifest

INDEX_NAME = "localfoundry-bundle.json"
SIGNATURE_NAME = "localfoundry-bundle.sig"
SIGNATURE_BYTES = 64
MAX_INDEX_BYTES = 16 * 2**20
MAX_RESULT_BYTES = 16 * 2**20
BLOCK = 512
_END = bytes(2 * BLOCK)
_FORMAT, _VERSION = "localfoundry-bundle", 1
_MAX_PLAIN_SIZE = 8**11 - 1  # of the octal field; larger sizes stand in a pax record before the header
_SIZE_FIELD = re.compile(rb"[0-7]{11}\0")
_RESULT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}\.json")
_KEY = re.compile(r"[0-9a-f]{64}")
_MAX_TEXT = 2000

Size = Annotated[int, msgspec.Meta(ge=0, lt=2**50)]


class BundledBlob(msgspec.Struct, frozen=True):
    """Bytes of one or more files of the bundled versions."""

    sha256: str
    size_bytes: Size


class BundledResult(msgspec.Struct, frozen=True):
    """A result file of measurements."""

    name: str
    sha256: str
    size_bytes: Annotated[int, msgspec.Meta(ge=0, le=MAX_RESULT_BYTES)]


class Index(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a bundle holds. `signed_by` is an ed25519 public key in hex."""

    format: str
    version: int
    created_at: str
    created_by: str
    manifests: Annotated[tuple[Manifest, ...], msgspec.Meta(min_length=1, max_length=1000)]
    blobs: Annotated[tuple[BundledBlob, ...], msgspec.Meta(max_length=100_000)]
    results: Annotated[tuple[BundledResult, ...], msgspec.Meta(max_length=1000)] = ()
    signed_by: str | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """A member and where its bytes are: `header_offset` of its header, `offset` of its data."""

    name: str
    header: bytes
    header_offset: int
    size_bytes: int
    sha256: str | None = None

    @property
    def offset(self) -> int:
        return self.header_offset + len(self.header)

    @property
    def end(self) -> int:
        return self.offset + self.size_bytes + padding(self.size_bytes)


@dataclass(frozen=True, slots=True)
class Bundle:
    """An open bundle whose form was checked; the bytes of its blobs were not."""

    path: Path
    stream: BinaryIO
    index: Index
    index_sha256: str
    blobs: dict[str, Member]
    results: tuple[Member, ...]
    signature: bytes | None


def padding(size_bytes: int) -> int:
    """Zero bytes after data of this size."""
    return -size_bytes % BLOCK


def header(name: str, size_bytes: int) -> bytes:
    """The tar header of a regular file (POSIX ustar); with a pax record before it from 8 GiB on."""
    if size_bytes <= _MAX_PLAIN_SIZE:
        return _block(name, size_bytes, b"0")
    record = _pax_record("size", str(size_bytes))
    extended = _block(f"pax/{name}", len(record), b"x") + record + bytes(padding(len(record)))
    return extended + _block(name, 0, b"0")


def _block(name: str, size_bytes: int, kind: bytes) -> bytes:
    encoded = name.encode()
    assert len(encoded) <= 100, name
    fields = [
        encoded.ljust(100, b"\0"), b"0000644\0", b"0000000\0" * 2, b"%011o\0" % size_bytes, b"00000000000\0",
        b" " * 8, kind, bytes(100), b"ustar\x0000", bytes(64), b"0000000\0" * 2, bytes(155 + 12),
    ]  # fmt: skip
    plain = b"".join(fields)
    return plain[:148] + b"%06o\0 " % sum(plain) + plain[156:]


def _pax_record(key: str, value: str) -> bytes:
    """`LENGTH key=value\\n`, where the length counts itself."""
    rest = f" {key}={value}\n"
    length = len(rest) + 1
    while len(str(length)) + len(rest) != length:
        length = len(str(length)) + len(rest)
    return f"{length}{rest}".encode()


def layout(index: Index, index_bytes: int) -> tuple[list[Member], int]:
    """Every member in order, and the size of the whole file in bytes: both follow from the index."""
    wanted: list[tuple[str, int, str | None]] = [(INDEX_NAME, index_bytes, None)]
    if index.signed_by is not None:
        wanted.append((SIGNATURE_NAME, SIGNATURE_BYTES, None))
    wanted += [(f"blobs/sha256/{b.sha256}", b.size_bytes, b.sha256) for b in index.blobs]
    wanted += [(f"results/{r.name}", r.size_bytes, r.sha256) for r in index.results]
    members, at = [], 0
    for name, size, digest in wanted:
        member = Member(name, header(name, size), at, size, digest)
        members.append(member)
        at = member.end
    return members, at + len(_END)


@contextmanager
def opened(path: Path) -> Iterator[Bundle]:
    """A bundle, with its form checked and nothing else read. Raises BadBundle and DiskError."""
    try:
        stream = path.open("rb")
    except OSError as exc:
        raise DiskError(f"cannot read {path}: {exc.strerror}") from exc
    with stream:
        try:
            bundle = _read(path, stream)
        except OSError as exc:
            raise DiskError(f"cannot read {path}: {exc.strerror}") from exc
        yield bundle


def _read(path: Path, stream: BinaryIO) -> Bundle:
    size = os.fstat(stream.fileno()).st_size
    body = _index_bytes(path, stream)
    index = parse_index(body)
    members, expected = layout(index, len(body))
    if size != expected:
        what = "is cut off" if size < expected else "has something after its end"
        raise BadBundle(f"{path.name} {what}: {size} bytes, its index says {expected}")
    for member, following in zip(members, [*members[1:], None], strict=True):
        if read_at(stream, member.header_offset, len(member.header)) != member.header:
            raise BadBundle(f"{path.name} does not hold {member.name} where its index says")
        if any(read_at(stream, member.offset + member.size_bytes, padding(member.size_bytes))):
            raise BadBundle(f"{path.name} hides something behind {member.name}")
        if following is None and read_at(stream, member.end, len(_END)) != _END:
            raise BadBundle(f"{path.name} does not end where its index says")
    signed = index.signed_by is not None
    return Bundle(
        path=path,
        stream=stream,
        index=index,
        index_sha256=hashlib.sha256(body).hexdigest(),
        blobs={m.sha256: m for m in members if m.sha256 and m.name.startswith("blobs/")},
        results=tuple(m for m in members if m.name.startswith("results/")),
        signature=read_at(stream, members[1].offset, SIGNATURE_BYTES) if signed else None,
    )


def _index_bytes(path: Path, stream: BinaryIO) -> bytes:
    first = stream.read(BLOCK)
    if not first.startswith(INDEX_NAME.encode() + b"\0") or not _SIZE_FIELD.fullmatch(first[124:136]):
        raise BadBundle(f"{path.name} is not a bundle of localfoundry", hint="foundry bundle export MODEL FILE")
    size = int(first[124:135], 8)
    if size > MAX_INDEX_BYTES:
        raise BadBundle(f"the index of {path.name} has {size} bytes, more than {MAX_INDEX_BYTES}")
    body = stream.read(size)
    if first != header(INDEX_NAME, size) or len(body) < size:
        raise BadBundle(f"{path.name} is cut off or damaged in its index")
    return body


def read_at(stream: BinaryIO, offset: int, size: int) -> bytes:
    """Bytes of the file; fewer where it ends."""
    stream.seek(offset)
    return stream.read(size)


def parse_index(body: bytes) -> Index:
    """The index, with every name, sum and size in it checked. Raises BadBundle."""
    try:
        index = msgspec.json.decode(body, type=Index)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise BadBundle(f"the index is not that of a bundle: {exc}") from exc
    if index.format != _FORMAT or index.version != _VERSION:
        raise BadBundle(
            f"the bundle has the form {index.format[:40]!r} {index.version}; this version reads {_VERSION}",
            hint="update localfoundry",
        )
    try:
        _check(index)
    except BadBundle:
        raise
    except FoundryError as exc:
        raise BadBundle(f"the index is refused: {exc.message}") from exc
    return index


def _check(index: Index) -> None:
    sizes = {b.sha256: b.size_bytes for b in index.blobs}
    _unique([b.sha256 for b in index.blobs], "blob")
    _unique([r.name.lower() for r in index.results], "result")
    _unique([m.id.lower() for m in index.manifests], "version")
    used: set[str] = set()
    for manifest in index.manifests:
        _check_manifest(manifest)
        for file in manifest.files:
            if sizes.get(file.sha256) != file.size_bytes:
                raise BadBundle(f"{file.name} of {manifest.id} is not among the blobs, or has another size there")
            used.add(file.sha256)
    for digest in [*sizes, *(r.sha256 for r in index.results)]:
        if sha256_hex(digest) != digest:
            raise BadBundle(f"{digest} is not written in lower case")
    if used != sizes.keys():
        raise BadBundle("the index names blobs that no version has")
    for result in index.results:
        if not _RESULT.fullmatch(result.name) or len(result.name) > 80:
            raise BadBundle(f"{result.name[:100]!r} cannot be the name of a result")
    if index.signed_by is not None and not _KEY.fullmatch(index.signed_by):
        raise BadBundle("the index names a signer that is not an ed25519 public key in hex")
    _printable([index.created_at, index.created_by])


def _check_manifest(manifest: Manifest) -> None:
    variant_name(manifest.name)
    variant_name(manifest.alias)
    if not 1 <= manifest.version < 10**9 or not 1 <= len(manifest.files) <= 2000 or len(manifest.tasks) > 20:
        raise BadBundle(f"{manifest.id} has a version number, files or tasks that no version has")
    names = [relative_name(f.name).lower() for f in manifest.files]
    _unique([*names, "manifest.json"], "file")
    if any(part.startswith(".") for name in names for part in name.split("/")):
        raise BadBundle(f"{manifest.id} has a hidden file")
    if any(f.external is not None for f in manifest.files):
        raise BadBundle(f"{manifest.id} refers to a file outside the bundle")
    untranslated = manifest.adopted.untranslated if manifest.adopted else ()
    texts = (manifest.source, manifest.format, manifest.commit, manifest.license, manifest.quantization,
             manifest.architecture_name, manifest.chat_template_sha256, *manifest.tasks, *untranslated)  # fmt: skip
    _printable(text for text in texts if text is not None)


def _unique(names: list[str], what: str) -> None:
    if len(set(names)) < len(names):
        raise BadBundle(f"the index names a {what} twice")


def _printable(texts: Iterable[str]) -> None:
    """These are printed on terminals: no control characters, and no novel."""
    for text in texts:
        if len(text) > _MAX_TEXT or not text.isprintable():
            raise BadBundle(f"the index holds a text that cannot be printed: {text[:60]!r}")


def new_index(
    manifests: tuple[Manifest, ...], blobs: tuple[BundledBlob, ...], results: tuple[BundledResult, ...],
    signed_by: str | None, created_at: str,
) -> Index:  # fmt: skip
    from localfoundry import __version__

    return Index(
        _FORMAT, _VERSION, created_at, f"localfoundry {__version__}", manifests, blobs, results, signed_by=signed_by
    )
