"""The shared key reaches exactly the sites that it was dealt to, from exactly the site that says so, or nobody."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from nacl.bindings import crypto_sign_ed25519_pk_to_curve25519
from nacl.public import PublicKey, SealedBox

from secagg.ckks_shared import keys as shared_keys
from secagg.ckks_shared.keys import (
    MAX_SECRET,
    DealtKey,
    SharedKeyBox,
    SharedKeys,
    accept,
    deal,
    key_name,
    new_shared_key,
)
from secagg.enrol import MAX_OPENING
from secagg.errors import FaultyPeerOrServer, FaultySite, Malformed, Refused, SecAggError
from secagg.identity import RosterEntry, SharedKey, SiteKeys, sign_roster
from secagg.labels import SHARED_KEY_BOX, SIGN_SHARED_KEYS
from tests.ckks_shared.made import context_bytes
from tests.sim import Consortium, Dice, some_shared_key

MAKER, ME = "site-01", "site-03"


def scene(n: int = 4) -> tuple[Consortium, SharedKeys]:
    consortium = Consortium(n)
    return consortium, deal(consortium.keys[MAKER], consortium.roster, some_shared_key())


def resigned(consortium: Consortium, dealt: SharedKeys) -> SharedKeys:
    """The same under the maker's true signature: what a lying maker would send."""
    return replace(dealt, signature=consortium.keys[dealt.maker].sign(SIGN_SHARED_KEYS, dealt.unsigned()))


def sealed(consortium: Consortium, octets: bytes, site: str = ME) -> SharedKeyBox:
    public = PublicKey(crypto_sign_ed25519_pk_to_curve25519(consortium.keys[site].public))
    return SharedKeyBox(site, SealedBox(public).encrypt(octets))


def lying(consortium: Consortium, dealt: SharedKeys, octets: bytes, **changes: object) -> SharedKeys:
    """A file whose box for this site holds these bytes, and whose fields are changed."""
    boxes = tuple(sealed(consortium, octets) if box.site == ME else box for box in dealt.boxes)
    return resigned(consortium, replace(dealt, boxes=boxes, **changes))  # type: ignore[arg-type]


def test_every_other_site_gets_the_key_and_its_maker_needs_no_box() -> None:
    consortium, dealt = scene(5)
    again = SharedKeys.decode(dealt.encode())
    assert [box.site for box in again.boxes] == [site for site in consortium.names if site != MAKER]
    for site in consortium.names[1:]:
        assert accept(again, consortium.keys[site], consortium.roster) == some_shared_key()
    with pytest.raises(Refused, match="not dealt to this site"):
        accept(again, consortium.keys[MAKER], consortium.roster)


def test_two_keys_are_not_the_same_and_no_name_tells_of_a_secret() -> None:
    one, other = some_shared_key(), new_shared_key()
    assert one.name != other.name
    assert one.secret != other.secret
    assert one.name == key_name(one.secret)
    assert one.name not in one.secret


def test_a_key_fits_an_opening_that_a_peer_lends() -> None:
    assert len(some_shared_key().secret) < MAX_SECRET
    assert MAX_SECRET + 1000 < MAX_OPENING


def test_a_hundred_sites_are_dealt_to_in_one_file() -> None:
    names = tuple(f"s{i:031d}" for i in range(100))
    boxes = tuple(SharedKeyBox(name, bytes(64_304)) for name in names)
    whole = SharedKeys(names[0], bytes(32), bytes(32), boxes, bytes(64))
    assert SharedKeys.decode(whole.encode()) == whole


def test_nothing_of_the_key_shows_outside_the_boxes_or_in_print() -> None:
    _, dealt = scene()
    secret = some_shared_key().secret
    octets = dealt.encode()
    assert all(secret[at : at + 16] not in octets for at in range(0, len(secret) - 16, 997))
    inner = DealtKey(SHARED_KEY_BOX, MAKER, ME, bytes(32), some_shared_key().name, secret)
    assert "secret" not in f"{inner!r}{some_shared_key()!r}"


def test_who_is_not_on_the_roster_with_its_key_neither_deals_nor_accepts() -> None:
    consortium, dealt = scene()
    stranger = SiteKeys(ME, Consortium(3, seed=1).keys[ME].identity)
    with pytest.raises(Refused, match="another one"):
        accept(dealt, stranger, consortium.roster)
    with pytest.raises(Refused, match="another one"):
        deal(stranger, consortium.roster, some_shared_key())
    with pytest.raises(Refused, match="not on the roster"):
        deal(replace(stranger, site="site-99"), consortium.roster, some_shared_key())


def test_a_key_cannot_be_sealed_to_a_roster_key_of_low_order() -> None:
    consortium = Consortium(3)
    entries = (*consortium.roster.sites[:2], RosterEntry("site-03", bytes([1]) + bytes(31), b"node", 2**40))
    roster = sign_roster(replace(consortium.roster, sites=entries), consortium.root)
    with pytest.raises(FaultySite, match="site-03: nothing can be sealed"):
        deal(consortium.keys[MAKER], roster, some_shared_key())


def test_a_file_of_another_roster_is_refused() -> None:
    consortium, dealt = scene()
    later = sign_roster(replace(consortium.roster, epoch=2), consortium.root)
    with pytest.raises(Refused, match="another roster"):
        accept(dealt, consortium.keys[ME], later)


def test_a_maker_that_is_not_on_the_roster_is_refused() -> None:
    consortium, dealt = scene()
    with pytest.raises(Refused, match="not on the roster"):
        accept(replace(dealt, maker="site-99"), consortium.keys[ME], consortium.roster)


@pytest.mark.parametrize(
    "alter",
    [
        lambda dealt: replace(dealt, maker="site-02"),
        lambda dealt: replace(dealt, key=bytes(32)),
        lambda dealt: replace(dealt, boxes=dealt.boxes[1:]),
        lambda dealt: replace(dealt, boxes=(replace(dealt.boxes[0], sealed=dealt.boxes[1].sealed), *dealt.boxes[1:])),
        lambda dealt: replace(dealt, signature=bytes(64)),
    ],
    ids=["maker", "name", "box left out", "box exchanged", "signature"],
)
def test_whatever_is_altered_on_the_way_breaks_the_makers_signature(alter: Callable[[SharedKeys], SharedKeys]) -> None:
    consortium, dealt = scene()
    with pytest.raises(FaultyPeerOrServer, match="not signed by its maker"):
        accept(alter(dealt), consortium.keys[ME], consortium.roster)


def test_no_byte_of_the_file_can_be_altered() -> None:
    consortium, dealt = scene()
    octets = dealt.encode()
    for place in (each * len(octets) // 256 for each in Dice("file")(40)):
        altered = octets[:place] + bytes([octets[place] ^ 1]) + octets[place + 1 :]
        with pytest.raises(SecAggError):
            accept(SharedKeys.decode(altered), consortium.keys[ME], consortium.roster)


def test_a_box_that_was_sealed_to_another_site_does_not_open() -> None:
    consortium, dealt = scene()
    theirs = next(box for box in dealt.boxes if box.site == "site-02")
    mine = [replace(theirs, site=ME) if box.site == ME else box for box in dealt.boxes]
    with pytest.raises(FaultySite, match="site-01: its box with the shared key does not open"):
        accept(resigned(consortium, replace(dealt, boxes=tuple(mine))), consortium.keys[ME], consortium.roster)


def test_a_box_that_holds_no_dealt_key_is_the_makers_fault() -> None:
    consortium, dealt = scene()
    for octets in (b"\x00", b"\x80", some_shared_key().secret):
        with pytest.raises(FaultySite, match="site-01: its box with the shared key does not open"):
            accept(lying(consortium, dealt, octets), consortium.keys[ME], consortium.roster)


@pytest.mark.parametrize("field", ["label", "maker", "site", "roster", "key"])
def test_a_box_made_for_another_place_is_the_makers_fault(field: str) -> None:
    """So no box can be cut out of one file and passed on in another, by a maker or by whoever receives one."""
    consortium, dealt = scene()
    shared = some_shared_key()
    inner = DealtKey(SHARED_KEY_BOX, MAKER, ME, dealt.roster, shared.name, shared.secret)
    accept(lying(consortium, dealt, inner.encode()), consortium.keys[ME], consortium.roster)
    other = {"label": bytes(30), "maker": "site-02", "site": "site-02", "roster": bytes(32), "key": bytes(32)}
    wrong = replace(inner, **{field: other[field]})  # type: ignore[arg-type]
    with pytest.raises(FaultySite, match="what it sealed is not what it signed"):
        accept(lying(consortium, dealt, wrong.encode()), consortium.keys[ME], consortium.roster)


def dealt_as(consortium: Consortium, dealt: SharedKeys, shared: SharedKey) -> SharedKeys:
    inner = DealtKey(SHARED_KEY_BOX, MAKER, ME, dealt.roster, shared.name, shared.secret)
    return lying(consortium, dealt, inner.encode(), key=shared.name)


def test_a_secret_under_another_ones_name_is_the_makers_fault() -> None:
    consortium, dealt = scene()
    with pytest.raises(FaultySite, match="another name"):
        accept(dealt_as(consortium, dealt, SharedKey(bytes(32), some_shared_key().secret)), consortium.keys[ME],
               consortium.roster)  # fmt: skip


@pytest.mark.parametrize(
    "secret",
    [
        lambda: b"\x00",
        lambda: b"no context",
        lambda: some_shared_key().secret[:-1],
        lambda: context_bytes(secret=False),
        lambda: context_bytes(scale=20),
        lambda: context_bytes(bits=(50, 46)),
        lambda: context_bytes(symmetric=False),
        lambda: context_bytes(more=("galois",)),
        lambda: context_bytes(more=("relin",)),
    ],
    ids=["zero", "text", "short", "no secret", "scale", "moduli", "public key", "Galois keys", "relinearisation keys"],
)
def test_a_secret_that_is_no_key_of_these_parameters_is_the_makers_fault(secret: Callable[[], bytes]) -> None:
    consortium, dealt = scene()
    octets = secret()
    shared = SharedKey(key_name(octets), octets)
    with pytest.raises(FaultySite, match="site-01: the shared key is none"):
        accept(dealt_as(consortium, dealt, shared), consortium.keys[ME], consortium.roster)


def test_bytes_in_the_place_of_the_file_are_malformed() -> None:
    for octets in (b"\x00", b"\x80", b"\x86\x18\x51", bytes(100)):
        with pytest.raises(Malformed):
            SharedKeys.decode(octets)
    with pytest.raises(Malformed, match="longer than"):
        SharedKeys.decode(bytes(SharedKeys.LIMIT + 1))
    assert shared_keys.SharedKeys.LIMIT == 1 << 23
