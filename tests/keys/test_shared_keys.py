"""A key that sites share: made at one, accepted by the others alone, sealed at rest, named to the server."""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from keys.dealt import read_dealt
from keys.errors import DamagedFile, ExposedFile, KeyFileError, PassphraseNeeded, RefusedRoster, WouldOverwrite
from keys.pin import accept_roster, pin_root
from keys.provision import Consortium, provision_consortium
from keys.public import read_site_public
from keys.root import first_roster, init_root, load_root
from keys.sharedfile import load_shared_keys, names_in, path_of, shared_key_file
from keys.sharedkey import accept_shared_key, forget_shared_key, held_keys, make_shared_key
from keys.store import SiteHome, init_site, load_site
from secagg.identity import Roster, SharedKey
from secagg.schemes import shared_keys
from secagg.session import SHARED_KEY
from tests.keys.conftest import NOW, tree

SITES = ("hospital-a", "hospital-b", "hospital-c")
NAME = bytes(range(32))


@dataclass(frozen=True)
class Made:
    """A consortium whose first site has made a key."""

    folder: Consortium
    sites: Mapping[str, SiteHome]
    roster: Roster
    key: SharedKey
    dealt: Path


@pytest.fixture
def made(tmp_path: Path) -> Made:
    folder = provision_consortium(tmp_path / "made", SITES, now=NOW)
    sites = {name: load_site(home) for name, home in folder.homes.items()}
    roster = accept_roster(sites["hospital-a"], folder.roster, NOW)
    dealt = tmp_path / "dealt.keys"
    return Made(folder, sites, roster, make_shared_key(sites["hospital-a"], roster, dealt), dealt)


def altered(path: Path, change: Callable[[shared_keys.SharedKeys], shared_keys.SharedKeys]) -> Path:
    """The file with something else in it."""
    other = path.with_name("other.keys")
    other.write_bytes(change(shared_keys.SharedKeys.decode(path.read_bytes())).encode())
    return other


def test_every_site_of_the_roster_ends_with_the_same_key_and_nobody_else_can_open_the_file(made: Made) -> None:
    secret = made.key.secret
    for name in SITES[1:]:
        assert accept_shared_key(made.sites[name], made.roster, made.dealt) == ("hospital-a", made.key)
    assert {load_site(home).keys.shared for home in made.folder.homes.values()} == {(made.key,)}
    sent = made.dealt.read_bytes()
    assert not any(secret[at : at + 16] in sent for at in range(0, len(secret) - 16, 16))


def test_the_server_takes_maker_and_name_from_the_file_and_nothing_else_of_it(made: Made) -> None:
    dealt = read_dealt(made.dealt, made.roster)
    assert (dealt.maker, dealt.key) == ("hospital-a", made.key.name)
    assert [each.site for each in dealt.boxes] == list(SITES[1:])


def test_a_file_that_its_maker_did_not_sign_is_refused_by_sites_and_server(made: Made) -> None:
    stranger = altered(made.dealt, lambda dealt: replace(dealt, maker="nobody"))
    with pytest.raises(RefusedRoster, match="nobody is not on the roster"):
        read_dealt(stranger, made.roster)
    forged = altered(made.dealt, lambda dealt: replace(dealt, key=NAME))
    with pytest.raises(RefusedRoster, match="not signed by its maker"):
        read_dealt(forged, made.roster)
    with pytest.raises(RefusedRoster, match="not signed by its maker"):
        accept_shared_key(made.sites["hospital-b"], made.roster, forged)
    assert names_in(made.folder.homes["hospital-b"]) == ()


def test_a_key_of_another_roster_is_refused(made: Made, tmp_path: Path) -> None:
    root_key = init_root(tmp_path / "other.key")
    publics = [read_site_public(home / "site.pub") for home in made.folder.homes.values()]
    other = first_roster(load_root(tmp_path / "other.key"), "other", publics, expires=NOW + 1)
    assert other.root_key == root_key
    with pytest.raises(RefusedRoster, match="another roster"):
        read_dealt(made.dealt, other)


@pytest.mark.parametrize("content", [b"", b"{}", b"\x81\x18\x51"])
def test_something_else_than_a_dealt_key_is_named(made: Made, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(DamagedFile, match="is no dealt key"):
        read_dealt(tmp_path / "x", made.roster)


def test_a_box_that_does_not_open_or_a_file_without_one_is_named_with_its_maker(made: Made) -> None:
    """Signed by the maker all the same: it is the one that lies."""
    maker = made.sites["hospital-a"].keys

    def signed(dealt: shared_keys.SharedKeys) -> shared_keys.SharedKeys:
        return replace(dealt, signature=maker.sign(shared_keys.SIGN_SHARED_KEYS, dealt.unsigned()))

    first, second = shared_keys.SharedKeys.decode(made.dealt.read_bytes()).boxes
    swapped = altered(made.dealt, lambda dealt: signed(replace(dealt, boxes=(replace(first, sealed=second.sealed),))))
    with pytest.raises(DamagedFile, match="does not open"):
        accept_shared_key(made.sites["hospital-b"], made.roster, swapped)
    lacking = altered(made.dealt, lambda dealt: signed(replace(dealt, boxes=(second,))))
    with pytest.raises(DamagedFile, match="not dealt to this site"):
        accept_shared_key(made.sites["hospital-b"], made.roster, lacking)


def test_a_key_is_accepted_once_and_no_file_is_overwritten(made: Made) -> None:
    site = made.sites["hospital-b"]
    accept_shared_key(site, made.roster, made.dealt)
    before = tree(site.home)
    with pytest.raises(KeyFileError, match=r"holds the shared key \w+ already"):
        accept_shared_key(site, made.roster, made.dealt)
    with pytest.raises(WouldOverwrite):
        make_shared_key(site, made.roster, made.dealt)
    assert tree(site.home) == before


def test_a_site_that_is_not_on_the_roster_makes_no_key(made: Made, tmp_path: Path) -> None:
    stranger = init_site("hospital-d", tmp_path / "d")
    with pytest.raises(KeyFileError, match="no shared key can be made"):
        make_shared_key(stranger, made.roster, tmp_path / "d.keys")
    assert not (tmp_path / "d.keys").exists()


# ------------------------------------------------------------------ at rest


def test_at_rest_it_is_sealed_private_and_opens_with_site_key_alone(tmp_path: Path) -> None:
    site = init_site("hospital-a", tmp_path / "a", "correct horse battery")
    pin_root(site.home, init_root(tmp_path / "root.key"))
    key = SharedKey(NAME, b"a secret of many bytes" * 9)
    file = shared_key_file(site.home, site.state_key, key)
    assert file.mode == 0o600
    file.path.parent.mkdir(mode=0o700)
    file.path.write_bytes(file.data)
    file.path.chmod(file.mode)
    assert b"secret" not in file.data
    with pytest.raises(PassphraseNeeded):
        load_site(site.home)
    loaded = load_site(site.home, "correct horse battery")
    assert loaded.keys.shared == (key,)
    assert "secret" not in repr(loaded)


def test_files_of_a_new_key_are_private(made: Made) -> None:
    path = path_of(made.folder.homes["hospital-a"], made.key.name)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.chmod(0o640)
    with pytest.raises(ExposedFile):
        load_site(made.folder.homes["hospital-a"])


def test_a_key_file_that_was_altered_renamed_or_is_another_homes_is_named(made: Made) -> None:
    site = made.sites["hospital-a"]
    path = path_of(site.home, made.key.name)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DamagedFile, match="is damaged"):
        load_site(site.home)
    path.write_bytes(content[:10])
    with pytest.raises(DamagedFile, match="is damaged"):
        load_site(site.home)
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match="is damaged"):
        load_shared_keys(site.home, bytes(32))
    renamed = path.rename(path_of(site.home, NAME))
    with pytest.raises(DamagedFile, match="is damaged"):
        load_site(site.home)
    for name in ("ab.sealed", "no-name.sealed"):
        renamed = renamed.rename(renamed.with_name(name))
        with pytest.raises(DamagedFile, match="is damaged"):
            names_in(site.home)


# ------------------------------------------------------------------ list, forget


def test_a_key_says_which_session_used_it_and_goes_with_that_sessions_openings(made: Made) -> None:
    home = made.folder.homes["hospital-a"]
    assert [(each.name, each.session) for each in held_keys(home)] == [(made.key.name, "")]
    session = "5e" * 32
    (home / "shared-keys.log").write_text(f"{made.key.name.hex()} {session}\n")
    for folder in (session, "ab" * 32):
        (home / "state" / folder).mkdir(parents=True)
        (home / "state" / folder / "opening-1.1.sealed").write_bytes(b"x")
    held = forget_shared_key(home, made.key.name.hex()[:8])
    assert (held.name, held.session) == (made.key.name, session)
    assert [path.parent.name for path in home.rglob("opening-*")] == ["ab" * 32]
    assert load_site(home).keys.shared == ()
    assert (home / "shared-keys.log").exists()


@pytest.mark.parametrize("prefix", ["", "zz", "0" * 64])
def test_forgetting_takes_the_beginning_of_one_name(made: Made, prefix: str) -> None:
    with pytest.raises(KeyFileError, match="shared keys whose name begins with"):
        forget_shared_key(made.folder.homes["hospital-a"], prefix)
    assert len(held_keys(made.folder.homes["hospital-a"])) == 1


def test_provisioning_deals_a_key_if_the_scheme_needs_one(tmp_path: Path) -> None:
    made = provision_consortium(tmp_path / "made", SITES, now=NOW, needs={SHARED_KEY})
    (key,) = {load_site(home).keys.shared for home in made.homes.values()}
    assert len(key) == 1
    assert f'"shared_key": "{made.shared_key}"' in made.as_json()
    without = provision_consortium(tmp_path / "without", SITES, now=NOW, needs={"identity"})
    assert not without.shared_key.exists()
    assert "shared_key" not in without.as_json()
