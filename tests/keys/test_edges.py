"""One step inside a limit of a key, a date or a host passes, and one step outside it is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from keys.errors import DamagedFile, KeyFileError
from keys.params import CERTIFICATE_DAYS, DAY_S, LAST_DATE_S, MOST_DAYS, MOST_HOSTS
from keys.public import read_public_key, render_public_key
from keys.root import expiry
from keys.server import load_tls, read_certificate
from keys.strictjson import date_of
from keys.tls import alternative_names, issue_tls, load_authority
from secagg.errors import Malformed
from tests.keys.conftest import NOW


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_public_key_has_32_bytes(tmp_path: Path, length: int) -> None:
    path = tmp_path / "root.pub"
    path.write_text(render_public_key("root", bytes(32)))
    assert read_public_key(path, "root") == bytes(32)
    path.write_text(json.dumps({**json.loads(path.read_text()), "key": "00" * length}))
    with pytest.raises(DamagedFile, match="32 bytes"):
        read_public_key(path, "root")


def test_a_date_lies_between_1970_and_the_end_of_9999() -> None:
    assert date_of(0) == "1970-01-01T00:00:00Z"
    assert date_of(LAST_DATE_S) == "9999-12-31T23:59:59Z"
    for seconds in (-1, LAST_DATE_S + 1):
        with pytest.raises(Malformed, match="1970 to 9999"):
            date_of(seconds)


def test_a_roster_lasts_a_day_to_ten_years_and_ends_before_the_year_10000() -> None:
    assert expiry(NOW, 1) == NOW + DAY_S
    assert expiry(NOW, MOST_DAYS) == NOW + MOST_DAYS * DAY_S
    assert expiry(LAST_DATE_S - DAY_S, 1) == LAST_DATE_S
    for now, days in ((NOW, 0), (NOW, MOST_DAYS + 1), (LAST_DATE_S - DAY_S + 1, 1)):
        with pytest.raises(KeyFileError, match="cannot last"):
            expiry(now, days)


def test_a_certificate_holds_to_its_last_second(tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    issue_tls(folder, ["localhost"], NOW)
    last = NOW + CERTIFICATE_DAYS * DAY_S
    load_tls(folder, last)
    with pytest.raises(KeyFileError, match="has expired"):
        load_tls(folder, last + 1)


def test_a_ca_signs_no_certificate_that_would_outlive_it(tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    issue_tls(folder, ["localhost"], NOW)
    last = NOW + (MOST_DAYS - CERTIFICATE_DAYS) * DAY_S
    load_authority(folder, last)
    with pytest.raises(KeyFileError, match="expires before a certificate would"):
        load_authority(folder, last + 1)


def test_a_certificate_names_one_to_a_hundred_hosts() -> None:
    hosts = [f"site-{number}.example" for number in range(MOST_HOSTS + 1)]
    assert len(alternative_names(hosts[:-1])) == MOST_HOSTS
    for wrong in ([], hosts):
        with pytest.raises(KeyFileError, match="cannot name"):
            alternative_names(wrong)


def test_the_certificates_say_what_they_are_for_and_no_more(tmp_path: Path) -> None:
    """A stolen server key can speak for the hosts it names until its certificate ends, and can sign nothing."""
    paths = issue_tls(tmp_path / "tls", ["localhost"], NOW)
    ca, server = (read_certificate(path).extensions for path in (paths.ca, paths.certificate))
    assert ca.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(True, 0)
    assert server.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(False, None)
    uses = [each.get_extension_for_class(x509.KeyUsage).value for each in (ca, server)]
    assert [(use.key_cert_sign, use.crl_sign, use.digital_signature) for use in uses] == [
        (True, True, False), (False, False, True),
    ]  # fmt: skip
    purposes = server.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.SERVER_AUTH]
    authority = load_authority(tmp_path / "tls", NOW)
    assert "key" not in repr(authority).replace("key_", "")
