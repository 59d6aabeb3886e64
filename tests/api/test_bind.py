"""Where the service listens and for whom: loopback by default, keys or a typed word for anything else, and HTTPS."""

from __future__ import annotations

import datetime
import ipaddress
import json
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from api.server import HELLO, Server, text_of
from localfoundry import config, instance
from localfoundry.access.bind import Bind, allowed, is_loopback
from localfoundry.access.keys import KeyFile
from localfoundry.api.tls import server_context
from localfoundry.errors import InvalidSetting, UnsafeBind

New = Callable[..., Server]


def ask(server: Server, path: str = "/v1/models", **headers: str) -> httpx2.Response:
    return server.http.get(path, headers=headers)


# Addresses


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.1", "::1"])
def test_addresses_of_this_machine_alone(address: str) -> None:
    assert is_loopback(address)


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.168.1.2", "10.0.0.1", "fe80::1%eth0", "", "localhost", "x"])
def test_all_other_addresses_count_as_reachable(address: str) -> None:
    assert not is_loopback(address)


def test_the_address_of_all_is_none_to_connect_to() -> None:
    assert Bind("0.0.0.0", 80, False, True, False).url == "http://127.0.0.1:80"
    assert Bind("::", 80, True, True, False).url == "https://[::1]:80"
    assert Bind("fe80::1", 80, False, True, False).url == "http://[fe80::1]:80"
    assert "lf_" not in repr(Bind("::", 80, True, True, False))


def test_a_bind_that_others_reach_wants_a_key_first(new_server: New) -> None:
    server = new_server(FOUNDRY_HOST="0.0.0.0")
    done = server.command("service", "start")
    assert done.returncode == 2
    assert "0.0.0.0" in done.stderr
    assert "foundry key create" in done.stderr
    assert "--insecure" in done.stderr
    assert instance.running(server.settings) is None
    assert not instance.state_file(server.settings).exists()

    key, _ = KeyFile(server.settings.keys_file).create("old", expires_days=1)
    text = server.settings.keys_file.read_text().replace(str(key.expires_at), "5")
    server.settings.keys_file.write_text(text)
    assert server.command("service", "start").returncode == 2, "a key that has expired is none"

    _, secret = KeyFile(server.settings.keys_file).create("app")
    server.start()
    assert server.url.startswith("http://127.0.0.1:")
    assert server.state.host == "0.0.0.0"
    assert ask(server).status_code == 401
    assert ask(server, Authorization=f"Bearer {secret}").status_code == 200
    assert server.command("service", "ps").returncode == 0
    KeyFile(server.settings.keys_file).revoke("app")
    assert ask(server).status_code == 401, "without any key left it does not open"


def test_insecure_must_be_typed_and_is_shown(new_server: New) -> None:
    """Neither the environment nor the settings file can say it, and it does not give the rights of the owner away."""
    server = new_server(FOUNDRY_HOST="0.0.0.0", FOUNDRY_INSECURE="1")
    server.fake("fake", tokens_per_second=2000)
    assert server.command("service", "start").returncode == 2
    file = server.settings.file
    file.write_text('{"insecure": true}')
    done = server.command("service", "start")
    assert done.returncode == 2
    assert "unknown key 'insecure'" in done.stderr
    file.unlink()

    done = server.command("service", "start", "--insecure")
    assert done.returncode == 0, done.stderr
    assert "INSECURE" in done.stderr
    server.http.base_url = server.url
    assert text_of(server.chat("fake", max_tokens=2)) == "token token"
    for path in ("/openai/unloadall", "/foundry/ps", "/foundry/cache"):
        assert ask(server, path).json()["error"]["code"] == "insufficient_scope"
    assert ask(server, "/openai/status").json()["modelDirPath"] == ""
    for words in (("service", "status"), ("status",)):
        assert "INSECURE" in server.command(*words).stdout
    assert json.loads(server.command("service", "status", "--json").stdout)["insecure"] is True
    assert server.command("model", "unload", "--all").returncode == 0
    log = (server.settings.log_dir / "audit.log").read_text()
    assert json.loads(log.splitlines()[0])["insecure"] is True

    done = server.command("service", "restart")
    assert done.returncode == 2, "it was typed for that start and not for this one"


def test_on_loopback_insecure_means_nothing(new_server: New) -> None:
    server = new_server(FOUNDRY_REQUIRE_KEY="always")
    assert server.command("server", "start", "--insecure").returncode == 0
    server.http.base_url = server.url
    assert not server.state.insecure
    assert ask(server).status_code == 401


def test_a_setting_that_wants_keys_is_stronger_than_the_word(tmp_path: Path) -> None:
    settings = config.load({"home": tmp_path, "require_key": "always"})
    with pytest.raises(UnsafeBind):
        allowed(settings, "192.168.1.2", insecure=True)
    KeyFile(settings.keys_file).create("app")
    assert allowed(settings, "192.168.1.2", insecure=True) == (True, False)


@pytest.mark.parametrize("host", ["::1", "::", "localhost", "127.0.0.2"])
def test_other_forms_of_address(new_server: New, host: str) -> None:
    server = new_server(FOUNDRY_HOST=host)
    _, secret = KeyFile(server.settings.keys_file).create("app")
    server.start()
    assert server.state.keys_required == (host == "::")
    assert ask(server, Authorization=f"Bearer {secret}").status_code == 200
    assert server.command("service", "ps").returncode == 0


def test_a_host_that_is_no_address_is_named(new_server: New) -> None:
    done = new_server(FOUNDRY_HOST="nowhere.invalid").command("service", "start")
    assert done.returncode == 2
    assert "nowhere.invalid" in done.stderr


# Host headers on a bind that others reach


def raw(server: Server, request: str, address: str = "127.0.0.1") -> bytes:
    port = int(server.url.rpartition(":")[2])
    with socket.create_connection((address, port), timeout=10) as connection:
        connection.sendall(request.encode("latin-1"))
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer


def test_the_host_header_is_checked_on_every_bind(new_server: New) -> None:
    """Elsewhere the check was skipped on other binds than loopback, and an empty Host passed it."""
    server = new_server(FOUNDRY_HOST="0.0.0.0", FOUNDRY_ALLOWED_HOSTS="Models.example.com")
    _, secret = KeyFile(server.settings.keys_file).create("app")
    server.start()

    def status(host: str | None, address: str = "127.0.0.1", version: str = "1.1", more: str = "") -> int:
        line = "" if host is None else f"Host: {host}\r\n"
        request = (
            f"GET /v1/models HTTP/{version}\r\n{line}{more}Authorization: Bearer {secret}\r\nConnection: close\r\n\r\n"
        )
        return int(raw(server, request, address).split(b" ")[1])

    for good in ("localhost", "127.0.0.1:80", "LOCALHOST", "models.example.com", "models.example.com:8443"):
        assert status(good) == 200, good
    for bad in ("", " ", "evil.example", "x@localhost", "localhost/x", "localhost:x", "a.models.example.com",
                "192.168.1.5", "127.0.0.2", "localhost localhost", "localhost,evil.example", "[::2]",
                "loc\xe4lhost"):  # fmt: skip
        assert status(bad) in (400, 403), bad
    assert status(None, version="1.0") == 403
    assert status(None) in (400, 403)
    assert status("localhost", more="Host: evil.example\r\n") in (400, 403)
    assert status("127.0.0.2", address="127.0.0.2") == 200, "the address that the connection arrived at"
    assert status("127.0.0.1", address="127.0.0.2") == 200
    assert status("127.0.0.3", address="127.0.0.2") == 403


# HTTPS


def certificate(folder: Path, name: str = "models.example.com", issued: bool = False) -> tuple[Path, Path]:
    """A certificate for a name that is not this machine's, and its key; of its own making, or with its authority's."""
    private = ec.generate_private_key(ec.SECP256R1())
    signer = ec.generate_private_key(ec.SECP256R1()) if issued else private
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "an authority")]) if issued else subject
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=3))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .sign(signer, hashes.SHA256())
    )
    pem, key = folder / f"{name}.pem", folder / f"{name}.key"
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return pem, key


def test_https_by_certificate_files(new_server: New, tmp_path: Path) -> None:
    pem, key = certificate(tmp_path)
    server = new_server(FOUNDRY_TLS_CERTIFICATE=pem, FOUNDRY_TLS_KEY=key)
    server.fake("fake", tokens_per_second=2000)
    server.start()
    assert server.url.startswith("https://127.0.0.1:")
    assert server.url in server.command("service", "status").stdout
    assert json.loads(server.command("service", "set", "--show").stdout)["serviceSettings"]["schema"] == "https"
    assert server.command("run", "fake", "--prompt", "x", "--max-tokens", "2").stdout.strip() == "token token"
    assert "fake:1" in server.command("service", "ps").stdout
    benched = server.command("bench", "fake", "--rounds", "1", "--max-tokens", "4", "--json")
    assert benched.returncode == 0, benched.stderr
    with httpx2.Client(
        trust_env=False, verify=ssl.create_default_context(cafile=str(pem)), base_url=server.url
    ) as http:
        body = {"model": "fake", "messages": HELLO, "max_tokens": 2}
        assert text_of(http.post("/v1/chat/completions", json=body).json()) == "token token"
        assert http.get("/openai/status").json()["endpoints"] == [server.url]
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{server.url}/health", trust_env=False)
    with pytest.raises(httpx2.RemoteProtocolError):
        httpx2.get(f"{server.url.replace('https', 'http')}/health", trust_env=False)


def test_a_certificate_of_an_authority_is_trusted_for_itself(new_server: New, tmp_path: Path) -> None:
    """The state file has the service's own certificate; with its authority's, anything that one issued would pass."""
    pem, key = certificate(tmp_path, issued=True)
    authority, _ = certificate(tmp_path, "authority.example.com")
    pem.write_text(pem.read_text() + authority.read_text())
    server = new_server(FOUNDRY_TLS_CERTIFICATE=pem, FOUNDRY_TLS_KEY=key)
    server.start()
    assert server.command("service", "ps").returncode == 0
    assert server.state.certificate is not None
    assert server.state.certificate.count("BEGIN CERTIFICATE") == 1


def test_nothing_older_than_tls_1_2(new_server: New, tmp_path: Path) -> None:
    pem, key = certificate(tmp_path)
    server = new_server(FOUNDRY_TLS_CERTIFICATE=pem, FOUNDRY_TLS_KEY=key)
    server.start()

    def handshake(version: ssl.TLSVersion) -> str | None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = version
        port = int(server.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), 10) as plain, context.wrap_socket(plain) as secure:
            return secure.version()

    assert handshake(ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
    assert handshake(ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
    with pytest.warns(DeprecationWarning), pytest.raises((ssl.SSLError, OSError)):
        handshake(ssl.TLSVersion.TLSv1_1)


def test_the_command_line_trusts_the_services_own_certificate_and_no_other(new_server: New, tmp_path: Path) -> None:
    """Whoever takes the port gets neither the owner's token nor an answer believed."""
    pem, key = certificate(tmp_path)
    other, _ = certificate(tmp_path, "other.example.com")
    server = new_server(FOUNDRY_TLS_CERTIFICATE=pem, FOUNDRY_TLS_KEY=key)
    server.start()
    file = instance.state_file(server.settings)
    state: dict[str, Any] = json.loads(file.read_bytes())
    assert state["certificate"].strip() == pem.read_text().strip()
    file.write_text(json.dumps(state | {"certificate": other.read_text()}))
    done = server.command("service", "ps")
    assert done.returncode == 5
    assert "CERTIFICATE_VERIFY_FAILED" in done.stderr


def wrong_files(folder: Path) -> dict[str, tuple[dict[str, Path], str]]:
    pem, key = certificate(folder)
    _, foreign = certificate(folder, "other.example.com")
    (folder / "empty").write_text("")
    secret = serialization.load_pem_private_key(key.read_bytes(), None).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    )
    (folder / "locked").write_bytes(secret)
    cert, private = "FOUNDRY_TLS_CERTIFICATE", "FOUNDRY_TLS_KEY"
    return {
        "no key": ({cert: pem}, "tlsKey"),
        "no certificate": ({private: key}, "tlsCertificate"),
        "missing": ({cert: folder / "none", private: key}, "tlsCertificate"),
        "a folder": ({cert: pem, private: folder}, "tlsKey"),
        "empty": ({cert: folder / "empty", private: key}, "tlsCertificate"),
        "another's key": ({cert: pem, private: foreign}, "tlsKey"),
        "swapped": ({cert: key, private: pem}, "tlsCertificate"),
        "with a password": ({cert: pem, private: folder / "locked"}, "password"),
    }


def test_files_that_cannot_be_used_stop_the_start_by_name(new_server: New, tmp_path: Path) -> None:
    cases = wrong_files(tmp_path)
    for case, (files, named) in cases.items():
        given = config.load(environ={name: str(path) for name, path in files.items()})
        with pytest.raises(InvalidSetting) as caught:
            server_context(given)
        assert named in caught.value.message, case
    server = new_server(**cases["another's key"][0])
    done = server.command("service", "start")
    assert done.returncode == 2, done.stderr
    assert "tlsKey" in done.stderr
    assert instance.running(server.settings) is None
