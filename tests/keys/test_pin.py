"""A site trusts one root, accepts what it signed, and never goes back to an older roster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from keys import pin
from keys.errors import KeyFileError, RefusedRoster, UntrustedRoot
from keys.pin import LOCK_FILE, accept_roster, pin_root, pinned_root
from keys.public import SitePublic
from keys.root import first_roster, without_site
from keys.store import SiteHome, init_site, read_own_public
from secagg.identity import Roster, sign_roster
from tests.keys.conftest import LATER, NOW, tree
from tests.keys.test_roster import PUBLICS, ROOT, ROOT_KEY, ROSTER, new_public, write

MakePublic = Callable[[str], SitePublic]


@pytest.fixture
def roster_of_site(site: SiteHome, make_public: MakePublic) -> Roster:
    """A roster that admits `site`, whose home trusts the root."""
    pin_root(site.home, ROOT_KEY)
    sites = [read_own_public(site.home), make_public("b"), make_public("c")]
    return first_roster(ROOT, "hospitals", sites, expires=LATER)


def test_a_site_without_a_pinned_root_accepts_no_roster(site: SiteHome, tmp_path: Path) -> None:
    with pytest.raises(UntrustedRoot, match="no root yet"):
        accept_roster(site, write(tmp_path / "r", ROSTER), NOW)


def test_a_pinned_root_is_never_replaced(site: SiteHome) -> None:
    pin_root(site.home, ROOT_KEY)
    pin_root(site.home, ROOT_KEY)
    with pytest.raises(UntrustedRoot, match="another root"):
        pin_root(site.home, bytes(32))
    assert pinned_root(site.home) == ROOT_KEY


def test_a_pin_that_others_can_write_is_not_trusted(site: SiteHome) -> None:
    pin_root(site.home, ROOT_KEY)
    (site.home / "root.pub").chmod(0o666)
    with pytest.raises(KeyFileError, match="others"):
        pinned_root(site.home)


def test_a_site_accepts_its_roster_again_and_the_next_one(
    site: SiteHome, roster_of_site: Roster, tmp_path: Path
) -> None:
    path = write(tmp_path / "r", roster_of_site)
    assert accept_roster(site, path, NOW) == accept_roster(site, path, NOW) == roster_of_site
    following = without_site(roster_of_site, ROOT, "b", NOW)
    assert accept_roster(site, write(path, following), NOW) == following


def test_an_old_roster_cannot_bring_a_revoked_site_back(site: SiteHome, roster_of_site: Roster, tmp_path: Path) -> None:
    accept_roster(site, write(tmp_path / "new", without_site(roster_of_site, ROOT, "b", NOW)), NOW)
    before = tree(site.home)
    with pytest.raises(RefusedRoster, match="epoch 2 was accepted"):
        accept_roster(site, write(tmp_path / "old", roster_of_site), NOW)
    assert tree(site.home) == before


def test_two_different_rosters_of_one_epoch_are_not_both_accepted(
    site: SiteHome, roster_of_site: Roster, tmp_path: Path
) -> None:
    accept_roster(site, write(tmp_path / "r", roster_of_site), NOW)
    twin = sign_roster(replace(roster_of_site, sites=roster_of_site.sites[1:]), ROOT)
    with pytest.raises(RefusedRoster, match="second roster of epoch 1"):
        accept_roster(site, write(tmp_path / "r", twin), NOW)


def test_a_home_serves_one_consortium(site: SiteHome, roster_of_site: Roster, tmp_path: Path) -> None:
    accept_roster(site, write(tmp_path / "r", roster_of_site), NOW)
    other = sign_roster(replace(roster_of_site, consortium="banks", epoch=9), ROOT)
    with pytest.raises(RefusedRoster, match="belongs to the consortium hospitals"):
        accept_roster(site, write(tmp_path / "r", other), NOW)


def test_a_roster_that_does_not_admit_the_site_is_refused(
    site: SiteHome, roster_of_site: Roster, tmp_path: Path
) -> None:
    strangers = [new_public("hospital-a"), *PUBLICS[1:]]
    rosters = [
        without_site(roster_of_site, ROOT, "hospital-a", NOW),
        first_roster(ROOT, "hospitals", strangers, expires=LATER),
        sign_roster(
            replace(roster_of_site, sites=tuple(replace(e, expires=NOW - 1) for e in roster_of_site.sites)),
            ROOT,
        ),
    ]
    for roster in rosters:
        with pytest.raises(RefusedRoster, match="does not admit"):
            accept_roster(site, write(tmp_path / "r", roster), NOW)
    assert not (site.home / "accepted-roster.json").exists()


def test_a_new_home_is_needed_for_a_new_root_and_works(tmp_path: Path) -> None:
    for index in range(2):
        home = init_site("a", tmp_path / str(index)).home
        pin_root(home, bytes([index]) * 32)
        assert pinned_root(home) == bytes([index]) * 32


def test_a_roster_is_accepted_by_one_process_at_a_time(
    site: SiteHome, roster_of_site: Roster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the last roster and the writing of the new one, nobody else may do either."""
    held: list[str] = []
    real = {name: getattr(pin, name) for name in ("_require_successor", "replace")}

    def noting(name: str) -> Callable[..., None]:
        def call(*arguments: object) -> None:
            with pytest.raises(Timeout):
                FileLock(site.home / LOCK_FILE, timeout=0).acquire()
            held.append(name)
            real[name](*arguments)

        return call

    for name in real:
        monkeypatch.setattr(pin, name, noting(name))
    accept_roster(site, write(tmp_path / "r", roster_of_site), NOW)
    assert held == ["_require_successor", "replace"]
