"""HTTPS by certificate files: what is loaded has been tried before the service says that it is ready."""

from __future__ import annotations

import re
import ssl
from pathlib import Path

from localfoundry.config import Settings
from localfoundry.errors import InvalidSetting

_FIRST = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def server_context(settings: Settings) -> tuple[ssl.SSLContext, str] | None:
    """The context to serve with, and the service's own certificate as PEM; None where none is set.

    TLS 1.2 at least. Raises InvalidSetting that names the setting.
    """
    certificate, key = settings.tls_certificate, settings.tls_key
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        given, missing = ("tlsKey", "tlsCertificate") if certificate is None else ("tlsCertificate", "tlsKey")
        raise InvalidSetting(f"{given} is set and {missing} is not: HTTPS needs both", hint=f"set {missing}")
    text = _read("tlsCertificate", certificate)
    _read("tlsKey", key)
    own = _FIRST.search(text)
    if own is None:
        raise InvalidSetting(f"tlsCertificate = {certificate} holds no certificate in PEM form")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except _Encrypted:
        raise InvalidSetting(
            f"tlsKey = {key} is protected by a password, which a service cannot be asked for",
            hint=f"openssl pkey -in {key} -out KEYFILE, and chmod 600 KEYFILE",
        ) from None
    except (ssl.SSLError, OSError) as exc:
        raise InvalidSetting(
            f"tlsCertificate = {certificate} and tlsKey = {key} cannot be used together: {exc}",
            hint="the key must be the one the certificate was made for, both in PEM form",
        ) from exc
    return context, own[0].decode("ascii", "replace") + "\n"


class _Encrypted(Exception):
    pass


def _no_password() -> str:
    raise _Encrypted  # without this, OpenSSL asks a terminal that a service does not have


def _read(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise InvalidSetting(f"{setting} = {path} cannot be read: {exc.strerror}") from exc
