"""A private key file says whose it is and how it is protected, or it is not read at all."""

from __future__ import annotations

import errno
import hashlib
import json
import stat
from pathlib import Path

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nacl.bindings import crypto_aead_chacha20poly1305_ietf_decrypt

from keys import files
from keys.errors import DamagedFile, KeyFileError
from keys.keyfile import KEY_FILE_LIMIT, Owner, new_key_file, read_owner
from keys.passphrase import read_passphrase_file
from keys.root import init_root
from keys.server import SIGNING_FILE, load_server
from keys.store import init_site

SEALED = {"protection": "scrypt", "salt": "00" * 16, "n": 1 << 17, "r": 8, "p": 1}


def altered(path: Path, **changes: object) -> Path:
    """The plain key file with some fields changed, or made to look sealed."""
    init_root(path)
    value = json.loads(path.read_text()) | changes
    if value["protection"] == "scrypt":
        del value["check"]
    path.write_text(json.dumps(value))
    return path


def test_a_file_that_looks_sealed_is_read_by_anybody_up_to_its_owner(tmp_path: Path) -> None:
    assert read_owner(altered(tmp_path / "root.key", **SEALED)).role == "root"


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({**SEALED, "salt": "00" * 15}, "salt has the wrong length"),
        ({**SEALED, "salt": "00" * 17}, "salt has the wrong length"),
        ({**SEALED, "n": (1 << 14) - 1}, "scrypt parameters"),
        ({**SEALED, "n": 1 << 13}, "scrypt parameters"),
        ({**SEALED, "n": 1 << 21}, "scrypt parameters"),
        ({**SEALED, "n": 3 << 15}, "scrypt parameters"),
        ({**SEALED, "r": 4}, "scrypt parameters"),
        ({**SEALED, "p": 2}, "scrypt parameters"),
        ({"protection": "rot13"}, "protected in an unknown way"),
        ({"more": 1}, "'more' is unknown"),
        ({"role": "king"}, "whose key it is"),
        ({"name": "A B"}, "whose key it is"),
        ({"public": "00" * 31}, "whose key it is"),
        ({"public": "00" * 33}, "whose key it is"),
    ],
)
def test_a_key_file_outside_the_format_has_no_owner(tmp_path: Path, changes: dict[str, object], rule: str) -> None:
    with pytest.raises(DamagedFile, match=rule):
        read_owner(altered(tmp_path / "root.key", **changes))


def test_a_servers_secret_under_anothers_public_key_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    secret = Ed25519PrivateKey.generate().private_bytes_raw()
    files.write_new(new_key_file(tmp_path / SIGNING_FILE, Owner("server", "server", bytes(32)), secret, None))
    with pytest.raises(DamagedFile, match="public key is another one"):
        load_server(tmp_path)


def test_a_key_file_of_exactly_the_limit_is_read_and_one_byte_more_is_not(tmp_path: Path) -> None:
    path = tmp_path / "root.key"
    init_root(path)
    whole = path.read_bytes()
    path.write_bytes(whole + b" " * (KEY_FILE_LIMIT - len(whole)))
    assert read_owner(path).role == "root"
    path.write_bytes(whole + b" " * (KEY_FILE_LIMIT - len(whole) + 1))
    with pytest.raises(DamagedFile, match="longer than"):
        read_owner(path)


def test_a_passphrase_of_eleven_characters_is_too_short_and_one_of_twelve_is_not(tmp_path: Path) -> None:
    owner = Owner("root", "root", bytes(32))
    with pytest.raises(KeyFileError, match="fewer than 12"):
        new_key_file(tmp_path / "root.key", owner, bytes(32), "x" * 11)
    new_key_file(tmp_path / "root.key", owner, bytes(32), "x" * 12)


@pytest.mark.parametrize("text", [b"\xff\xfe", b"", b"\n", b"one\ntwo\n"])
def test_a_passphrase_file_holds_one_line_of_text(tmp_path: Path, text: bytes) -> None:
    tmp_path.chmod(0o700)
    path = tmp_path / "passphrase"
    path.write_bytes(text)
    path.chmod(0o600)
    with pytest.raises(DamagedFile):
        read_passphrase_file(path)
    path.write_bytes(b"correct horse\r\n")
    assert read_passphrase_file(path) == "correct horse"


def test_a_home_cannot_be_made_where_a_file_stands(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    (tmp_path / "home").chmod(0o600)
    with pytest.raises(KeyFileError, match="not a folder"):
        files.make_private_folder(tmp_path / "home")


def test_a_sticky_folder_may_hold_a_private_file_and_may_not_be_a_home(tmp_path: Path) -> None:
    """As /tmp: others cannot replace our files in it, but they can look into it."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    init_root(shared / "root.key")
    assert read_owner(shared / "root.key").role == "root"
    with pytest.raises(files.ExposedFile):
        files.make_private_folder(shared)
    shared.chmod(0o777)
    with pytest.raises(files.ExposedFile, match="write to"):
        read_owner(shared / "root.key")


def test_a_file_that_takes_anothers_place_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "accepted"
    path.write_text("old")
    path.chmod(0o644)
    files.replace(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_key_file_is_what_the_format_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check and seal written out from spec §6.2 and opened by another library."""
    monkeypatch.setattr("keys.keyfile.SCRYPT_N", 1 << 14)
    public = init_root(tmp_path / "plain.key")
    plain = json.loads((tmp_path / "plain.key").read_text())
    owner = cbor2.dumps(["root", "root", public])
    secret = bytes.fromhex(plain["secret"])
    assert plain["check"] == hashlib.sha256(b"secagg-lora/v1 key check\x00" + owner + secret).hexdigest()
    public = init_root(tmp_path / "sealed.key", "correct horse battery")
    sealed = json.loads((tmp_path / "sealed.key").read_text())
    salt = bytes.fromhex(sealed["salt"])
    key = hashlib.scrypt(b"correct horse battery", salt=salt, n=1 << 14, r=8, p=1, dklen=32, maxmem=1 << 26)
    aad = b"secagg-lora/v1 key at rest\x00" + cbor2.dumps(["root", "root", public, salt, 1 << 14, 8, 1])
    opened = crypto_aead_chacha20poly1305_ietf_decrypt(bytes.fromhex(sealed["secret"]), aad, bytes(12), key)
    assert Ed25519PrivateKey.from_private_bytes(opened).public_key().public_bytes_raw() == public


def test_no_two_sealed_files_have_one_salt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The salt makes the key, and each key seals once."""
    monkeypatch.setattr("keys.keyfile.SCRYPT_N", 1 << 14)
    for name in "abc":
        init_root(tmp_path / name, "correct horse battery")
    assert len({json.loads((tmp_path / name).read_text())["salt"] for name in "abc"}) == 3


def test_no_two_sites_have_one_state_key(tmp_path: Path) -> None:
    made = [init_site(name, tmp_path / name) for name in "abc"]
    assert len({site.state_key for site in made}) == 3
    assert len({site.keys.public for site in made}) == 3


def test_a_name_taken_where_the_file_system_has_no_links_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(_: object, target: Path) -> None:
        Path(target).write_text("first")
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(files.os, "link", link)
    with pytest.raises(files.WouldOverwrite):
        init_root(tmp_path / "root.key")
    assert (tmp_path / "root.key").read_text() == "first"


def test_a_replaced_file_is_flushed_with_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    monkeypatch.setattr(files.os, "fsync", lambda handle: names.append(Path(f"/proc/self/fd/{handle}").readlink().name))
    files.replace(tmp_path / "accepted", b"new")
    assert [name.rpartition(".")[0] for name in names[:-1]] == [".accepted"]
    assert names[-1] == tmp_path.name


def test_a_full_disk_leaves_no_part_of_a_key_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(KeyFileError, match="no space left"):
        init_root(tmp_path / "root.key")
    assert list(tmp_path.iterdir()) == []
