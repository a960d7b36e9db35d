"""The server's certificate names what sites dial, stands clocks a day apart, and never replaces another."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography import x509

from keys.errors import DamagedFile, ExposedFile, KeyFileError, MissingFile, WouldOverwrite
from keys.server import TlsPaths, load_tls, read_certificate
from keys.tls import issue_tls, load_authority
from tests.keys.conftest import NOW, tree

DAY = 86_400


def handshake(paths: TlsPaths, ca: Path, host: str) -> str:
    """The TLS version that a site which trusts `ca` and dials `host` agrees on."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(paths.certificate, paths.key)
    client = ssl.create_default_context(cafile=str(ca))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    near, far = socket.socketpair()
    with near, far:
        thread = threading.Thread(target=_accept, args=(server, far))
        thread.start()
        try:
            with client.wrap_socket(near, server_hostname=host) as wrapped:
                return wrapped.version() or ""
        finally:
            near.close()
            thread.join()


def _accept(server: ssl.SSLContext, far: socket.socket) -> None:
    try:
        with server.wrap_socket(far, server_side=True) as wrapped:
            wrapped.recv(1)
    except (ssl.SSLError, OSError):
        return


@pytest.fixture
def issued(tmp_path: Path) -> TlsPaths:
    """A certificate for two hosts, valid now."""
    return issue_tls(tmp_path / "tls", ["server.example", "10.0.0.5"], int(time.time()))


@pytest.mark.parametrize("host", ["server.example", "10.0.0.5"])
def test_a_site_that_trusts_the_ca_reaches_every_host_named(issued: TlsPaths, host: str) -> None:
    assert handshake(issued, issued.ca, host) == "TLSv1.3"


def test_another_host_or_another_ca_is_refused(issued: TlsPaths, tmp_path: Path) -> None:
    other = issue_tls(tmp_path / "other", ["server.example"], int(time.time()))
    for ca, host in ((issued.ca, "localhost"), (other.ca, "server.example")):
        with pytest.raises(ssl.SSLCertVerificationError):
            handshake(issued, ca, host)


@pytest.mark.parametrize("skew", [-DAY, DAY])
def test_a_clock_a_day_apart_still_finds_the_certificate_valid(tmp_path: Path, skew: int) -> None:
    paths = issue_tls(tmp_path / "tls", ["localhost"], int(time.time()) + skew)
    assert handshake(paths, paths.ca, "localhost")


def test_the_private_keys_are_private_and_exposed_ones_are_refused(issued: TlsPaths) -> None:
    now = int(time.time())
    assert load_tls(issued.ca.parent, now) == issued
    assert {path.stat().st_mode & 0o777 for path in issued.ca.parent.glob("*.key")} == {0o600}
    (issued.ca.parent / "ca.key").chmod(0o640)
    with pytest.raises(ExposedFile):
        load_authority(issued.ca.parent, now)
    issued.key.chmod(0o644)
    with pytest.raises(ExposedFile):
        load_tls(issued.ca.parent, now)


def test_an_expired_or_missing_certificate_is_a_clear_error(issued: TlsPaths, tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="has expired"):
        load_tls(issued.ca.parent, int(time.time()) + 826 * DAY)
    with pytest.raises(MissingFile):
        load_tls(tmp_path, NOW)
    issued.certificate.write_text("-----BEGIN CERTIFICATE-----\n")
    with pytest.raises(DamagedFile):
        load_tls(issued.ca.parent, NOW)


@pytest.mark.parametrize("name", ["ca.pem", "ca.key", "server.pem", "server.key"])
def test_no_certificate_or_key_is_overwritten(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "tls"
    folder.mkdir()
    folder.chmod(0o700)
    (folder / name).write_text("somebody's")
    with pytest.raises(WouldOverwrite):
        issue_tls(folder, ["localhost"], NOW)
    assert tree(folder) == {name: b"somebody's"}


def test_a_new_certificate_under_the_old_ca_needs_nothing_new_at_the_sites(issued: TlsPaths, tmp_path: Path) -> None:
    now = int(time.time())
    again = issue_tls(tmp_path / "new", ["moved.example"], now, authority=load_authority(issued.ca.parent, now))
    assert again.ca.read_bytes() == issued.ca.read_bytes()
    assert handshake(again, issued.ca, "moved.example")


def test_a_certificate_never_outlasts_its_ca(issued: TlsPaths) -> None:
    with pytest.raises(KeyFileError, match="expires before"):
        load_authority(issued.ca.parent, int(time.time()) + 3_000 * DAY)


def test_a_key_that_is_not_the_cas_signs_nothing(issued: TlsPaths) -> None:
    folder = issued.ca.parent
    (folder / "ca.key").write_bytes(issued.key.read_bytes())
    with pytest.raises(DamagedFile, match="does not belong"):
        load_authority(folder, int(time.time()))
    (folder / "ca.key").write_text("nothing")
    with pytest.raises(DamagedFile, match="not a private key"):
        load_authority(folder, int(time.time()))


@pytest.mark.parametrize(
    "hosts",
    [[], [""], ["a:80"], ["https://a"], ["10.0.0.256"], ["*.example"], ["a b"], ["a" * 64], ["h"] * 101],
)
def test_what_is_no_host_is_refused(tmp_path: Path, hosts: Sequence[str]) -> None:
    with pytest.raises(KeyFileError):
        issue_tls(tmp_path / "tls", hosts, NOW)
    assert list(tmp_path.iterdir()) == []


def test_a_host_given_twice_is_named_once(tmp_path: Path) -> None:
    paths = issue_tls(tmp_path / "tls", ["localhost", "LOCALHOST", "::1"], NOW)
    names = read_certificate(paths.certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.value.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(each) for each in names.value.get_values_for_type(x509.IPAddress)] == ["::1"]
