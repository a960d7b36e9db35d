"""One step inside a limit of a key, a date or a host passes, and one step outside it is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID

from keys.errors import DamagedFile, KeyFileError, MissingFile
from keys.params import CERTIFICATE_DAYS, DAY_S, LAST_DATE_S, MOST_DAYS, MOST_HOSTS, ROSTER_LIMIT
from keys.public import read_public_key, read_roster, render_public_key
from keys.root import expiry, first_roster, without_site
from keys.server import load_server, load_tls, read_certificate
from keys.store import load_site, read_own_public
from keys.strictjson import date_of, parse_object, require_fields, require_format
from keys.tls import alternative_names, issue_tls, load_authority
from secagg.errors import Malformed
from secagg.identity import sign_roster
from tests.keys.conftest import LATER, NOW
from tests.keys.test_roster import PUBLICS, ROOT, ROSTER, write


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


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity"])
def test_what_only_some_parsers_call_json_is_malformed(text: str) -> None:
    with pytest.raises(Malformed, match="is not JSON"):
        parse_object(f'{{"a": {text}}}'.encode())


def test_a_field_has_its_very_type_and_a_file_its_format() -> None:
    assert require_fields({"a": 1}, {"a": int}) == {"a": 1}
    for value in (True, 1.0, "1", None, [1]):
        with pytest.raises(Malformed, match="wrong type"):
            require_fields({"a": value}, {"a": int})
    require_format({"format": "x"}, "x")
    for other in ({"format": "y"}, {}, {"format": None}):
        with pytest.raises(Malformed, match="does not say"):
            require_format(other, "x")


def test_what_is_not_there_is_said_with_the_command_that_makes_it(tmp_path: Path) -> None:
    for read, remedy in (
        (lambda: load_server(tmp_path), "fedkeys server init"),
        (lambda: load_tls(tmp_path, NOW), "fedkeys tls"),
        (lambda: read_own_public(tmp_path), "fedkeys init"),
        (lambda: load_site(tmp_path), "fedkeys init"),
    ):
        with pytest.raises(MissingFile, match="holds no") as missing:
            read()
        assert remedy in missing.value.remedy


def test_a_consortium_is_called_as_sites_are() -> None:
    with pytest.raises(KeyFileError, match="not a name for a consortium"):
        first_roster(Ed25519PrivateKey.generate(), "St. Olav", PUBLICS, expires=LATER)


def test_a_roster_that_lists_no_p384_key_is_not_read_though_its_root_signed_it(tmp_path: Path) -> None:
    entries = tuple(replace(entry, node_key=b"junk") for entry in ROSTER.sites[:1])
    path = write(tmp_path / "roster.json", sign_roster(replace(ROSTER, sites=entries), ROOT))
    with pytest.raises(DamagedFile, match="node key"):
        read_roster(path)


def test_a_roster_file_of_exactly_the_limit_is_read_and_one_byte_more_is_not(tmp_path: Path) -> None:
    path = write(tmp_path / "roster.json", ROSTER)
    whole = path.read_bytes()
    path.write_bytes(whole + b" " * (ROSTER_LIMIT - len(whole)))
    assert read_roster(path) == ROSTER
    path.write_bytes(whole + b" " * (ROSTER_LIMIT - len(whole) + 1))
    with pytest.raises(DamagedFile, match="longer than"):
        read_roster(path)


def test_revocations_add_up(tmp_path: Path) -> None:
    roster = ROSTER
    keys = {entry.site: entry.identity_key for entry in roster.sites}
    for name in ("a", "b"):
        roster = without_site(roster, ROOT, name, NOW)
    assert set(roster.revoked) == {keys["a"], keys["b"]}
