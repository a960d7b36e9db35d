"""A site's private keys: made once, readable by nobody else, refused when anything is odd."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keys import files, keyfile, store
from keys.errors import (
    DamagedFile,
    ExposedFile,
    KeyFileError,
    MissingFile,
    PassphraseNeeded,
    WouldOverwrite,
    WrongPassphrase,
)
from keys.keyfile import Owner, new_key_file, open_key_file
from keys.root import init_root, load_root
from keys.server import init_server, load_server
from keys.store import SiteHome, default_home, init_site, load_site
from tests.keys.conftest import tree

PASSPHRASE = "correct horse battery"


def test_a_site_loads_the_keys_it_made(site: SiteHome) -> None:
    loaded = load_site(site.home)
    assert loaded.name == "hospital-a"
    assert loaded.keys.public == site.keys.public
    assert loaded.keys.sign(b"label") == site.keys.sign(b"label")
    assert loaded.node_key.private_numbers() == site.node_key.private_numbers()
    assert isinstance(loaded.node_key.curve, ec.SECP384R1)
    assert loaded.state_key == site.state_key
    assert len(loaded.state_key) == 32


def test_the_private_file_and_folder_are_private_under_any_umask(tmp_path: Path) -> None:
    for umask in (0o000, 0o022, 0o777):
        before = os.umask(umask)
        try:
            home = tmp_path / f"home-{umask}"
            init_site("a", home) if umask != 0o777 else _init_in_made_folder(home)
        finally:
            os.umask(before)
        assert stat.S_IMODE((home / "site.key").stat().st_mode) == 0o600
        assert stat.S_IMODE(home.stat().st_mode) == 0o700


def _init_in_made_folder(home: Path) -> None:
    home.mkdir()
    home.chmod(0o700)
    init_site("a", home)


def test_the_key_file_is_never_readable_by_others_even_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    sync = os.fsync

    def spy(handle: int) -> None:
        modes.append(os.fstat(handle).st_mode)
        sync(handle)

    monkeypatch.setattr(files.os, "fsync", spy)
    before = os.umask(0)
    try:
        init_root(tmp_path / "root.key")
    finally:
        os.umask(before)
    assert [stat.S_IMODE(mode) for mode in modes if stat.S_ISREG(mode)] == [0o600]
    assert any(stat.S_ISDIR(mode) for mode in modes), "the folder's entry is not durable"


def test_no_key_is_ever_overwritten(site: SiteHome, tmp_path: Path) -> None:
    init_root(tmp_path / "root.key")
    init_server(tmp_path / "server")
    before = tree(tmp_path)
    for make in (
        lambda: init_site("hospital-a", site.home),
        lambda: init_site("another", site.home),
        lambda: init_root(tmp_path / "root.key"),
        lambda: init_server(tmp_path / "server"),
    ):
        with pytest.raises(WouldOverwrite):
            make()
    assert tree(tmp_path) == before


def test_a_home_is_made_whole_or_not_at_all(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (home / "site.pub").write_text("somebody's")
    with pytest.raises(WouldOverwrite):
        init_site("a", home)
    assert tree(home) == {"site.pub": b"somebody's"}


def test_a_name_taken_while_we_write_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(_: object, target: Path) -> None:
        Path(target).write_text("first")
        raise FileExistsError(17, "File exists")

    monkeypatch.setattr(files.os, "link", link)
    with pytest.raises(WouldOverwrite):
        init_root(tmp_path / "root.key")
    assert tree(tmp_path) == {"root.key": b"first"}


def test_a_dangling_link_in_the_place_of_a_key_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "root.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(WouldOverwrite):
        init_root(tmp_path / "root.key")
    assert not (tmp_path / "elsewhere").exists()


def test_files_are_made_where_the_file_system_has_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(files.os, "link", link)
    public = init_root(tmp_path / "root.key")
    assert load_root(tmp_path / "root.key").public_key().public_bytes_raw() == public
    assert [path.name for path in tmp_path.iterdir()] == ["root.key"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o601])
def test_a_key_file_that_others_can_reach_is_refused(site: SiteHome, mode: int) -> None:
    (site.home / "site.key").chmod(mode)
    with pytest.raises(ExposedFile) as caught:
        load_site(site.home)
    assert "chmod 600" in caught.value.remedy
    assert stat.S_IMODE((site.home / "site.key").stat().st_mode) == mode


def test_a_home_that_others_can_write_to_is_refused(site: SiteHome) -> None:
    site.home.chmod(0o770)
    with pytest.raises(ExposedFile):
        load_site(site.home)


def test_keys_are_not_made_in_a_folder_that_others_can_look_into(tmp_path: Path) -> None:
    home = tmp_path / "open"
    home.mkdir()
    home.chmod(0o755)
    with pytest.raises(ExposedFile):
        init_site("a", home)
    assert list(home.iterdir()) == []


def test_the_roots_and_the_servers_exposed_keys_are_refused_too(tmp_path: Path) -> None:
    init_root(tmp_path / "root.key")
    server = init_server(tmp_path / "server").home
    for path in (tmp_path / "root.key", server / "signing.key"):
        path.chmod(0o644)
    with pytest.raises(ExposedFile):
        load_root(tmp_path / "root.key")
    with pytest.raises(ExposedFile):
        load_server(server)


def test_a_missing_key_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(MissingFile) as caught:
        load_site(tmp_path / "nowhere")
    assert "fedkeys init" in caught.value.remedy
    with pytest.raises(MissingFile):
        load_root(tmp_path / "root.key")
    with pytest.raises(MissingFile):
        load_server(tmp_path)


def test_a_passphrase_seals_every_secret_of_the_file(tmp_path: Path) -> None:
    site = init_site("a", tmp_path / "a", PASSPHRASE)
    text = (tmp_path / "a" / "site.key").read_text()
    secrets_held = [site.keys.identity.private_bytes_raw(), site.state_key]
    assert not any(secret.hex() in text for secret in secrets_held)
    assert {key: json.loads(text)[key] for key in "nrp"} == {"n": 1 << 17, "r": 8, "p": 1}
    assert load_site(tmp_path / "a", PASSPHRASE).state_key == site.state_key


def test_a_wrong_or_missing_passphrase_opens_nothing_and_changes_nothing(tmp_path: Path) -> None:
    init_site("a", tmp_path / "a", PASSPHRASE)
    before = tree(tmp_path)
    with pytest.raises(WrongPassphrase):
        load_site(tmp_path / "a", "correct horse buttery")
    with pytest.raises(PassphraseNeeded):
        load_site(tmp_path / "a")
    assert tree(tmp_path) == before


def test_a_passphrase_for_a_file_that_has_none_is_an_error(site: SiteHome) -> None:
    with pytest.raises(KeyFileError, match="not sealed"):
        load_site(site.home, PASSPHRASE)


def test_a_short_passphrase_makes_no_key(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="fewer than 12"):
        init_site("a", tmp_path / "a", "short")
    assert not (tmp_path / "a").exists()


def test_two_ways_of_typing_the_same_letter_are_one_passphrase(tmp_path: Path, cheap_scrypt: None) -> None:
    init_root(tmp_path / "root.key", "caf\u00e9 caf\u00e9 caf\u00e9")
    load_root(tmp_path / "root.key", "cafe\u0301 cafe\u0301 cafe\u0301")


@pytest.fixture
def cheap_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The least cost that a file may ask for, so that many files can be tried."""
    monkeypatch.setattr(keyfile, "SCRYPT_N", 1 << 14)


@pytest.mark.parametrize("sealed", [False, True])
def test_every_truncation_of_a_key_file_is_refused(tmp_path: Path, sealed: bool, cheap_scrypt: None) -> None:
    passphrase = PASSPHRASE if sealed else None
    path = tmp_path / "root.key"
    init_root(path, passphrase)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 2, 7):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedFile):
            load_root(path, passphrase)


_BOTH = ["format", "role", "name", "public", "protection", "secret"]
_FIELDS = [(name, False) for name in [*_BOTH, "check"]] + [(name, True) for name in [*_BOTH, "salt", "n", "r", "p"]]


@pytest.mark.parametrize(("name", "sealed"), _FIELDS)
def test_an_alteration_of_any_field_of_a_key_file_is_refused(
    tmp_path: Path, name: str, sealed: bool, cheap_scrypt: None
) -> None:
    passphrase = PASSPHRASE if sealed else None
    init_site("a", tmp_path / "a", passphrase)
    path = tmp_path / "a" / "site.key"
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, name: _altered(name, value[name])}))
    with pytest.raises((DamagedFile, WrongPassphrase)):
        load_site(tmp_path / "a", passphrase)


def _altered(name: str, old: str | int) -> str | int:
    if isinstance(old, int):
        return old * 2
    if name in ("public", "secret", "check", "salt"):
        return ("1" if old[0] == "0" else "0") + old[1:]
    return {"role": "root", "name": "b", "protection": "none" if old == "scrypt" else "scrypt"}.get(name, old + "x")


@pytest.mark.parametrize(("n", "r", "p"), [(1 << 30, 8, 1), (1 << 10, 8, 1), (100_000, 8, 1), (1 << 17, 64, 1)])
def test_a_file_cannot_make_us_compute_an_absurd_or_a_weak_scrypt(
    tmp_path: Path, n: int, r: int, p: int, cheap_scrypt: None
) -> None:
    path = tmp_path / "root.key"
    init_root(path, PASSPHRASE)
    path.write_text(json.dumps({**json.loads(path.read_text()), "n": n, "r": r, "p": p}))
    with pytest.raises(DamagedFile, match="scrypt"):
        load_root(path, PASSPHRASE)


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", "\xff", '{"a":1,"a":2}', "[" * 100_000, "x" * 20_000])
def test_something_else_than_a_key_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "root.key"
    path.write_bytes(text.encode("latin-1"))
    path.chmod(0o600)
    with pytest.raises(DamagedFile):
        load_root(path)


def test_a_key_file_of_another_role_is_refused(site: SiteHome, tmp_path: Path) -> None:
    init_root(tmp_path / "root.key")
    (site.home / "site.key").write_bytes((tmp_path / "root.key").read_bytes())
    with pytest.raises(DamagedFile, match="not a site's"):
        load_site(site.home)


def test_a_secret_under_anothers_public_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "root.key"
    secret = Ed25519PrivateKey.generate().private_bytes_raw()
    files.write_new(new_key_file(path, Owner("root", "root", bytes(32)), secret, None))
    with pytest.raises(DamagedFile, match="public key is another one"):
        load_root(path)


def test_a_sites_secret_under_anothers_public_key_is_refused(site: SiteHome, tmp_path: Path) -> None:
    _, secret = open_key_file(site.home / "site.key", "site", 112, None)
    (tmp_path / "forged").mkdir(mode=0o700)
    path = tmp_path / "forged" / "site.key"
    files.write_new(new_key_file(path, Owner("site", "hospital-a", bytes(32)), secret, None))
    with pytest.raises(DamagedFile, match="public key is another one"):
        load_site(path.parent)


def test_a_secret_that_is_no_p384_key_is_refused(site: SiteHome, tmp_path: Path) -> None:
    (tmp_path / "forged").mkdir(mode=0o700)
    path = tmp_path / "forged" / "site.key"
    files.write_new(new_key_file(path, Owner("site", "hospital-a", site.keys.public), bytes(112), None))
    with pytest.raises(DamagedFile, match="no P-384 key"):
        load_site(path.parent)


def test_a_secret_of_the_wrong_length_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "root.key"
    files.write_new(new_key_file(path, Owner("root", "root", bytes(32)), bytes(31), None))
    with pytest.raises(DamagedFile, match="length"):
        open_key_file(path, "root", 32, None)


def test_printing_what_holds_secrets_shows_none(site: SiteHome, tmp_path: Path) -> None:
    server = init_server(tmp_path / "server")
    scalar = site.node_key.private_numbers().private_value
    shown = repr(site) + str(site) + repr(server) + repr(site.keys)
    shown += repr(new_key_file(tmp_path / "x", Owner("root", "root", bytes(32)), site.state_key, None))
    assert "hospital-a" in shown
    for secret in (site.state_key, site.keys.identity.private_bytes_raw(), scalar.to_bytes(48, "big")):
        assert secret.hex() not in shown
        assert repr(secret) not in shown


def test_the_usual_home_lies_in_the_users_data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_home("hospital-a") == tmp_path / "secagg-lora" / "hospital-a"


@pytest.mark.parametrize("name", ["", "..", "a/b", "A", "-a", "a" * 33, "a\n", "é"])
def test_a_bad_name_makes_no_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="not a name"):
        init_site(name, tmp_path / "home")
    with pytest.raises(KeyFileError, match="not a name"):
        store.default_home(name)
    assert list(tmp_path.iterdir()) == []
