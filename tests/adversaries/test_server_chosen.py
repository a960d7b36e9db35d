"""Can a server choose what protects the sites: threshold, quorum, modulus, quantiser, graph, suite, range?

All of it stands in the manifest that each site checks and whose digest is in every signature and key. A number that
breaks a rule does not decode. A valid manifest that differs is another session: what is signed in it counts nowhere
else, and each site judges it by its own policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from secagg.chain import Ledger, Position
from secagg.config import Manifest, RoundContext
from secagg.errors import FaultyPeerOrServer, FaultyServer, Malformed, Misuse, Refused
from secagg.masked.messages import KeyRoster, RoundOpen
from secagg.session import Packet
from secagg.thresholds import plan
from secagg.wire import encode_plain, field_rules
from tests.adversaries.lab import Attempt, Lab, Story
from tests.adversaries.worlds import views_are_identical
from tests.federation.direct import Bench, Where
from tests.sim import Dice

pytestmark = pytest.mark.usefixtures("scheme")

ME = "site-03"
COLLUDING = ("site-06", "site-07")
WEAKENED = {
    "threshold": 3, "quorum": 3, "least_survivors": 3, "colluders": 0, "dropouts": 3, "graph": 2, "suite": 2,
    "version": 2, "rule": 2,
}  # fmt: skip
QUANTIZERS = {
    "a lane of 8 bits": [16, 8, 1, 1, 0], "a lane of 64 bits": [16, 64, 1, 1, 0], "a lane of 0 bits": [16, 0, 1, 1, 0],
    "more levels than fit": [20, 21, 1, 1, 0], "more weight than fits": [16, 21, 100, 1, 0],
    "3 bits": [3, 8, 1, 1, 0], "no weight": [16, 21, 0, 1, 0], "a third rotation": [16, 21, 1, 2, 0],
}  # fmt: skip


def told(bench: Bench, change) -> BaseException:  # type: ignore[no-untyped-def]
    """What the site says to a manifest changed on the wire; the session goes on without a trace of it."""
    refusals: list[BaseException] = []

    def request(where: Where, packets: Sequence[Packet]) -> Sequence[Packet]:
        if where.kind == "consent" and where.site == ME and not refusals:
            before = bench.state(ME)
            plain = Manifest.decode(packets[0].head).plain()
            change(plain)
            with pytest.raises((Malformed, Misuse, Refused)) as refusal:
                bench.link.members[ME].handle("consent", [Packet(encode_plain([Manifest.TAG, *plain]))])
            refusals.append(refusal.value)
            assert bench.state(ME) == before
        return packets

    bench.link.alter_request = request
    bench.run(rounds=1)
    assert bench.contributors() == [bench.names]
    assert len({bytes(learner.saved) for learner in bench.learners.values() if learner.saved is not None}) == 1
    return refusals[0]


def place_of(name: str) -> int:
    return [each.name for each in field_rules(Manifest)].index(name)


@pytest.mark.parametrize("name", WEAKENED)
def test_a_manifest_with_a_number_that_protects_less_is_refused_and_begins_nothing(bench: Bench, name: str) -> None:
    def change(plain: list[object]) -> None:
        assert plain[place_of(name)] != WEAKENED[name]
        plain[place_of(name)] = WEAKENED[name]

    told(bench, change)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_a_quantiser_or_modulus_of_the_servers_own_choice_is_refused_and_begins_nothing(
    bench: Bench, name: str
) -> None:
    def change(plain: list[object]) -> None:
        plain[place_of("quantizer")] = QUANTIZERS[name]

    told(bench, change)


def weaker(manifest: Manifest) -> Manifest:
    """A valid session that declares one colluder instead of two: smaller threshold, quorum and survivor set."""
    numbers = plan(len(manifest.sites), 1)
    return replace(
        manifest, colluders=1, dropouts=numbers.dropouts, threshold=numbers.threshold, quorum=numbers.quorum,
        least_survivors=numbers.least_survivors,
    )  # fmt: skip


def told_another_manifest(lab: Lab, *sites: str) -> Attempt:
    """Puts these sites into a session with weaker numbers, which their policies allow; the server's side of it."""
    manifest = weaker(lab.manifest)
    for name in sites:
        party = lab.machines[name]
        party.manifest, party.position = manifest, Position.start(manifest)
        party.ledger = Ledger(manifest.digest())
    header = Position.start(manifest).header(manifest, 1)
    return Attempt(lab, RoundContext(manifest, lab.consortium.roster, header, lab.names))


def two_manifests(lab: Lab) -> None:
    """One site alone in a weaker session, the others in the one they agreed on; the adverts are tried on each other."""
    weak, strong = told_another_manifest(lab, ME), lab.attempt()
    others = tuple(name for name in lab.honest if name != ME)
    weak.advertise(ME)
    strong.advertise(*others)
    weak.adverts |= strong.adverts
    strong.adverts |= {ME: weak.adverts[ME]}
    whole = Story.of(*lab.names)
    for phase in ("share", "mask", "consent", "unmask"):
        getattr(weak, phase)(whole, ME)
        getattr(strong, phase)(whole, *others)
    for phase in ("share", "mask", "consent", "unmask"):
        getattr(weak, phase)(Story.of(ME, *COLLUDING), ME)
        getattr(strong, phase)(Story.of(*others, *COLLUDING), *others)


def test_a_site_that_is_told_another_threshold_than_the_others_is_alone_and_shows_nothing() -> None:
    known = views_are_identical(two_manifests, n=7, colluding=COLLUDING)
    assert known.open_to() == [dict.fromkeys(("site-01", "site-02", "site-04", "site-05"), 1)]
    assert ME not in {each.site for each in known.vectors}


def test_what_a_site_signs_under_one_manifest_is_refused_by_sites_under_another() -> None:
    lab = Lab(7, COLLUDING)
    weak, strong = told_another_manifest(lab, ME), lab.attempt()
    weak.refuses("site-01", weak.opening(), FaultyServer, "not opened by the session's server")
    strong.refuses(ME, strong.opening(), FaultyServer, "not opened by the session's server")
    weak.advertise(ME)
    strong.advertise(*(name for name in lab.honest if name != ME))
    strong.adverts[ME] = weak.adverts[ME]
    message = KeyRoster(strong.roster(Story.of(*lab.names)))
    strong.refuses("site-01", message, FaultyPeerOrServer, f"{ME}: its .*Advert is not signed for this attempt")


@pytest.mark.parametrize("name", ["suite", "graph", "range_q40", "adapter", "previous", "roster", "session", "scheme"])
def test_what_the_header_says_is_not_the_servers_to_choose(name: str) -> None:
    """Signed by the server for the header it wants and for the one the site expects: no advert for either."""
    lab = Lab(7, COLLUDING)
    attempt = lab.attempt()
    plain = [each.name for each in field_rules(type(attempt.context.header))]
    honest = attempt.opening().plain()
    header = list(honest[0])  # type: ignore[call-overload]
    value = header[plain.index(name)]
    header[plain.index(name)] = {int: lambda v: v + 1, bytes: lambda v: Dice(name)(len(v)), str: lambda v: "plain"}[
        type(value)
    ](value)
    for site in lab.honest:
        assert attempt.ask(site, Packet(encode_plain([RoundOpen.TAG, header, *honest[1:]]))) is None
        assert isinstance(attempt.refusals[site], FaultyServer | Malformed)
    attempt.advertise(*lab.honest)
    assert set(attempt.adverts) == set(lab.honest)
