"""Signatures of bundles: ed25519 over the sum of the index, which holds the sum of everything else.

`cryptography` is optional (`pip install 'localfoundry[sign]'`) and imported here alone, when a key is used. Keys are
files as `openssl genpkey -algorithm ed25519` (PEM) or `ssh-keygen -t ed25519` writes them; a public key may also be
given as its 64 hex digits. Keys with a passphrase are not read.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from localfoundry.errors import BadBundle, MissingExtra, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_MAX_KEY_BYTES = 64 * 1024
_HEX = re.compile(r"[0-9a-fA-F]{64}")


class Signer:
    """A private key. Raises MissingExtra where `cryptography` is not installed, UsageError for what is no such key."""

    def __init__(self, path: Path) -> None:
        self._key = _private(path)

    @property
    def public_key(self) -> str:
        """In hex."""
        return self._key.public_key().public_bytes_raw().hex()

    def sign(self, index_sha256: str) -> bytes:
        return self._key.sign(_message(index_sha256))


def public_key(text: str) -> str:
    """The key that `text` is or names, in hex. Raises UsageError, and MissingExtra where it is a file."""
    if _HEX.fullmatch(text):
        return text.lower()
    body = _read(Path(text))
    _require()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    load = serialization.load_ssh_public_key if body.startswith(b"ssh-") else serialization.load_pem_public_key
    try:
        key = load(body)
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise _no_key(Path(text), "public") from exc
    if not isinstance(key, Ed25519PublicKey):
        raise _no_key(Path(text), "public")
    return key.public_bytes_raw().hex()


def verify(signer: str, signature: bytes, index_sha256: str) -> None:
    """Raises BadBundle where the signature is not that of the signer (hex) over the index; MissingExtra."""
    _require()
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(signer)).verify(signature, _message(index_sha256))
    except (InvalidSignature, ValueError) as exc:
        raise BadBundle(f"the signature is not that of {signer} for this bundle") from exc


def _message(index_sha256: str) -> bytes:
    """With what it is for in it: the signature fits nothing else."""
    return b"localfoundry bundle 1\n" + index_sha256.encode()


def _private(path: Path) -> Ed25519PrivateKey:
    body = _read(path)
    _require()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    ssh = b"OPENSSH PRIVATE KEY" in body
    load = serialization.load_ssh_private_key if ssh else serialization.load_pem_private_key
    try:
        key = load(body, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise _no_key(path, "private") from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise _no_key(path, "private")
    return key


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(_MAX_KEY_BYTES)
    except (OSError, ValueError) as exc:
        raise UsageError(f"cannot read the key {path}: {exc}", hint="name the file of an ed25519 key") from exc


def _require() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError as exc:
        raise MissingExtra(
            "signatures need the package cryptography, which is not installed",
            hint="pip install 'localfoundry[sign]'",
        ) from exc


def _no_key(path: Path, kind: str) -> UsageError:
    return UsageError(
        f"{path} is not an ed25519 {kind} key without passphrase (PEM or OpenSSH)",
        hint="openssl genpkey -algorithm ed25519 -out key.pem; openssl pkey -in key.pem -pubout -out key.pub",
    )
