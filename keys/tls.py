"""How the server proves its address: a CA of its own, given to the sites, and a certificate under it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from keys.errors import DamagedFile, KeyFileError
from keys.files import PRIVATE, PUBLIC, NewFile, make_private_folder, read_private, write_new
from keys.params import CERTIFICATE_DAYS, CERTIFICATE_LIMIT, CLOCK_SKEW_DAYS, MOST_DAYS, MOST_HOSTS
from keys.server import TlsPaths, read_certificate, tls_files

CA_KEY_FILE: Final = "ca.key"
_HOST: Final = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*"
)


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA: its certificate, and the key it signs with."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)


def issue_tls(folder: Path, hosts: Sequence[str], now: int, *, authority: Authority | None = None) -> TlsPaths:
    """The paths of a new server certificate for these hosts, under a new CA unless one is given.

    hosts: names and addresses that sites connect to. now: seconds since 1970. Raises KeyFileError.
    """
    names = alternative_names(hosts)
    moment = datetime.fromtimestamp(now, UTC)
    signer = authority or _new_authority(moment)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _server_certificate(signer, key, names, moment)
    paths = tls_files(folder)
    make_private_folder(folder)
    write_new(
        NewFile(paths.ca, signer.certificate.public_bytes(Encoding.PEM), PUBLIC),
        NewFile(folder / CA_KEY_FILE, _pem(signer.key), PRIVATE),
        NewFile(paths.certificate, certificate.public_bytes(Encoding.PEM), PUBLIC),
        NewFile(paths.key, _pem(key), PRIVATE),
    )
    return paths


def load_authority(folder: Path, now: int) -> Authority:
    """The CA that an earlier `issue_tls` left in the folder. Raises KeyFileError."""
    path = folder / CA_KEY_FILE
    certificate = read_certificate(tls_files(folder).ca)
    try:
        key = load_pem_private_key(read_private(path, CERTIFICATE_LIMIT), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise DamagedFile(f"{path} is not a private key in PEM", "make a new CA, without --ca") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not _is_of(certificate, key):
        raise DamagedFile(f"{path} does not belong to ca.pem", "make a new CA, without --ca")
    if datetime.fromtimestamp(now, UTC) + timedelta(days=CERTIFICATE_DAYS) > certificate.not_valid_after_utc:
        raise KeyFileError(
            f"the CA in {folder} expires before a certificate would",
            "make a new CA, without --ca, and send its ca.pem to every site",
        )
    return Authority(certificate, key)


def _is_of(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> bool:
    try:
        return certificate.public_key() == key.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return False


def alternative_names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    """The certificate's names for these hosts, without repeats. Raises KeyFileError."""
    if not 1 <= len(hosts) <= MOST_HOSTS:
        raise KeyFileError(f"a certificate cannot name {len(hosts)} hosts", f"give 1 to {MOST_HOSTS} with --host")
    return [_alternative_name(host) for host in dict.fromkeys(host.lower() for host in hosts)]


def _alternative_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if not _HOST.fullmatch(host) or host.rpartition(".")[2].isdigit():
        raise KeyFileError(
            f"{host[:80]!r} is not a host name or an address",
            "give it without scheme and port, such as server.example or 10.0.0.5",
        )
    return x509.DNSName(host)


def _new_authority(moment: datetime) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"secagg-lora CA {moment:%Y-%m-%d}")
    builder = _builder(name, name, key, moment, MOST_DAYS).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    return Authority(_usage(builder, certificates=True).sign(key, hashes.SHA256()), key)


def _server_certificate(
    signer: Authority, key: ec.EllipticCurvePrivateKey, names: list[x509.GeneralName], moment: datetime
) -> x509.Certificate:
    issuer = signer.key.public_key()
    builder = _builder(_name("secagg-lora server"), signer.certificate.subject, key, moment, CERTIFICATE_DAYS)
    return (
        _usage(builder, certificates=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer), critical=False)
        .sign(signer.key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, moment: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - timedelta(days=CLOCK_SKEW_DAYS))
        .not_valid_after(moment + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(builder: x509.CertificateBuilder, *, certificates: bool) -> x509.CertificateBuilder:
    usage = x509.KeyUsage(
        digital_signature=not certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificates,
        crl_sign=certificates,
        encipher_only=False,
        decipher_only=False,
    )
    return builder.add_extension(usage, critical=True)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
