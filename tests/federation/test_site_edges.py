"""One step inside a bound a site goes on, one step outside it refuses: manifests, clocks, and questions out of turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedclient.site import CLOCK_SKEW_S, MAX_VALUE, Site, UpdateError, require_shareable
from fedclient.store import SessionStore
from secagg.chain import Position
from secagg.config import Manifest, Policy, Setting
from secagg.enrol import AttemptRef, Hello, Here, RoundStart, require_from
from secagg.errors import Refused
from secagg.labels import SIGN_ROUND_OPEN
from secagg.masked.messages import MaskedAggregate, RoundOpen
from secagg.primitives.signature import sign
from secagg.session import Metrics, Packet
from secagg.thresholds import plan
from tests.federation.direct import Bench, Where
from tests.sim import Dice

ME = "site-03"
EXPIRES = 2**40  # of every entry of the bench's roster


def asked_for_consent(bench: Bench, ask: Callable[[Manifest], None]) -> None:
    """Runs a round; in place of the honest question, `ask` gets the manifest first, once."""
    asked: list[bytes] = []

    def request(where: Where, packets: Sequence[Packet]) -> Sequence[Packet]:
        if where.kind == "consent" and where.site == ME and not asked:
            asked.append(packets[0].head)
            ask(Manifest.decode(packets[0].head))
        return packets

    bench.link.alter_request = request
    bench.run(rounds=1)
    assert asked


def over(manifest: Manifest, *sites: str) -> Manifest:
    """The same session over other sites, its thresholds right for their number."""
    kept = plan(len(sites))
    return replace(
        manifest, sites=sites, colluders=kept.colluders, dropouts=kept.dropouts, threshold=kept.threshold,
        quorum=kept.quorum, least_survivors=kept.least_survivors,
    )  # fmt: skip


def on_a_machine_of(bench: Bench, now: int) -> Site:
    """The site's process, on a machine with this clock."""
    return Site(
        bench.folder / ME, bench.consortium.keys[ME], bench.state_key(ME), bench.consortium.roster,
        bench.policies[ME], bench.learners[ME], Dice(("clock", now)), lambda: now,
    )  # fmt: skip


# ---------------------------------------------------------------------- manifests


def test_a_session_without_the_site_or_with_a_stranger_is_not_its_own(bench: Bench) -> None:
    """Even where its policy lets a session leave sites of the roster out."""
    bench.policies[ME] = Policy(whole_roster=False)
    bench.restart(ME)

    def ask(manifest: Manifest) -> None:
        for sites, says in ((bench.but(ME), "leaves this site out"), ((*bench.names, "site-99"), "site-99 is not on")):
            with pytest.raises(Refused, match=says):
                bench.link.members[ME].handle("consent", [Packet(over(manifest, *sites).encode())])
            assert bench.state(ME) == {}

    asked_for_consent(bench, ask)


def test_a_site_agrees_to_no_option_that_the_scheme_does_not_know(bench: Bench) -> None:
    def ask(manifest: Manifest) -> None:
        strange = replace(manifest, options=(Setting("colour", "red"),))
        with pytest.raises(Refused, match="has no option colour"):
            bench.link.members[ME].handle("consent", [Packet(strange.encode())])
        assert bench.state(ME) == {}

    asked_for_consent(bench, ask)


def test_an_entry_counts_until_two_days_after_its_expiry_and_not_a_second_longer(bench: Bench) -> None:
    def ask(manifest: Manifest) -> None:
        late = on_a_machine_of(bench, EXPIRES + CLOCK_SKEW_S + 1)
        with pytest.raises(Refused, match="site-01's entry on the roster has expired"):
            late.handle("consent", [Packet(manifest.encode())])
        assert on_a_machine_of(bench, EXPIRES + CLOCK_SKEW_S).handle("consent", [Packet(manifest.encode())]).head

    asked_for_consent(bench, ask)


def test_a_site_may_be_left_out_from_two_days_before_its_expiry_on_and_not_a_second_earlier(bench: Bench) -> None:
    def ask(manifest: Manifest) -> None:
        fewer = Packet(over(manifest, *bench.but("site-05")).encode())
        early = on_a_machine_of(bench, EXPIRES - CLOCK_SKEW_S - 1)
        with pytest.raises(Refused, match="site-05 is on the roster and left out"):
            early.handle("consent", [fewer])
        assert on_a_machine_of(bench, EXPIRES - CLOCK_SKEW_S).handle("consent", [fewer]).head

    asked_for_consent(bench, ask)


# ---------------------------------------------------------------------- updates


def test_a_value_of_two_to_the_64_may_be_shared_and_the_next_float_may_not(bench: Bench) -> None:
    seen: list[Manifest] = []
    asked_for_consent(bench, seen.append)
    metrics = Metrics(examples=1, train_loss=0.0, eval_loss=0.0, eval_tokens=0)
    values = np.zeros(seen[0].size, np.float32)
    for sign_ in (1, -1):
        values[3] = sign_ * np.float32(MAX_VALUE)
        require_shareable(seen[0], values, metrics)
        values[3] = sign_ * np.nextafter(np.float32(MAX_VALUE), np.float32(np.inf))
        with pytest.raises(UpdateError):
            require_shareable(seen[0], values, metrics)


def opening(bench: Bench, manifest: Manifest) -> Sequence[Packet]:
    """The honest request for a first advert."""
    header = Position.start(manifest).header(manifest, 1)
    draft = RoundOpen(header, bench.names, bytes(64))
    key = bench.consortium.server_keys.identity
    signed = replace(draft, signature=sign(key, SIGN_ROUND_OPEN, header.digest(), draft.unsigned()))
    return [Packet(AttemptRef(header.session, 1, 1).encode()), Packet(signed.encode())]


def test_a_site_that_was_not_asked_to_train_has_nothing_to_mask(bench: Bench) -> None:
    asked: list[str] = []

    def request(where: Where, packets: Sequence[Packet]) -> Sequence[Packet]:
        if where.kind == "start" and where.site == ME:
            manifest = manifest_of(bench)
            before = bench.state(ME)
            with pytest.raises(Refused, match="holds no update for the round"):
                bench.link.members[ME].handle("answer", opening(bench, manifest))
            assert bench.state(ME) == before
            asked.append(where.site)
        return packets

    bench.link.alter_request = request
    bench.assert_right(bench.run(rounds=1), bench.names)
    assert asked


def manifest_of(bench: Bench) -> Manifest:
    return Manifest.decode((bench.session_folder(ME) / "manifest.cbor").read_bytes())


def test_a_site_takes_no_part_in_a_round_beyond_the_sessions_last(bench: Bench) -> None:
    bench.run(rounds=1)
    manifest = manifest_of(bench)
    for round_ in (1, 2, 3):
        with pytest.raises(Refused, match=f"round {round_} is not the next one of this session"):
            bench.link.members[ME].handle("start", [Packet(RoundStart(manifest.digest(), round_, ()).encode())])
    assert bench.learners[ME].trained == [1]


def test_a_site_proves_itself_over_the_nonce_it_was_asked_with(bench: Bench) -> None:
    """An answer that somebody recorded proves nothing to whoever asks anew."""
    for nonce in (Dice("one")(32), Dice("two")(32)):
        reply = bench.link.members[ME].handle("hello", [Packet(Hello(nonce).encode())])
        here = Here.decode(reply.head)
        assert here.nonce == nonce
        assert require_from(bench.consortium.roster, ME, here) == here


# ---------------------------------------------------------------------- what the site keeps


def test_a_site_keeps_every_round_that_it_opened(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """And keeps it before its own place in the chain: a place whose round is missing could not be audited."""
    order: list[tuple[str, int]] = []
    for name in ("save_round", "save_position"):
        monkeypatch.setattr(SessionStore, name, noting(order, name, getattr(SessionStore, name)))
    bench.run(rounds=2)
    rounds = [(name, n) for n in (1, 2) for name in ("save_round", "save_position")]
    assert [each for each in order if each[0] == "save_round"] == [("save_round", 1)] * 5 + [("save_round", 2)] * 5
    assert order[: 2 * 1] == rounds[:2]
    kept = bench.session_folder(ME) / "rounds"
    assert sorted(path.name for path in kept.iterdir()) == ["000001", "000002"]
    assert (kept / "000002" / "head.cbor").read_bytes() == (
        Path(bench.plan.out) / "state" / "rounds" / "000002" / "head.cbor"
    ).read_bytes()


def noting(order: list[tuple[str, int]], name: str, real: Callable[..., None]) -> Callable[..., None]:
    def call(store: SessionStore, first: Any, *rest: Any) -> None:
        order.append((name, first if isinstance(first, int) else first.round))
        real(store, first, *rest)

    return call


def test_a_restarted_site_still_vouches_for_the_words_it_sent(bench: Bench) -> None:
    def request(where: Where, packets: Sequence[Packet]) -> Sequence[Packet]:
        if where.site == ME and where.asks("check"):
            bench.restart(ME)
        return packets

    bench.link.alter_request = request
    bench.assert_right(bench.run(rounds=1), bench.names)
    head = (Path(bench.plan.out) / "state" / "rounds" / "000001" / "head.cbor").read_bytes()
    assert [each.site for each in MaskedAggregate.decode(head).projections] == list(bench.names)
    assert not bench.link.refusals


# ---------------------------------------------------------------------- what the disk says


def shorter(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def gone(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    ("name", "how", "code"),
    [
        ("adapter-1.f32", shorter, "refused"),
        ("adapter-1.f32", gone, "storage"),
        ("update-2.meta", shorter, "storage"),
        ("update-2.f32", shorter, "misuse"),
    ],
)
def test_a_file_that_lacks_a_value_costs_the_site_the_round(
    bench: Bench, name: str, how: Callable[[Path], None], code: str
) -> None:
    def request(where: Where, packets: Sequence[Packet]) -> Sequence[Packet]:
        if where.site == ME and where.asks("advertise", 2):
            how(bench.session_folder(ME) / name)
            bench.restart(ME)
        return packets

    bench.link.alter_request = request
    bench.run(rounds=2)
    assert bench.contributors() == [bench.names, bench.but(ME)]
    assert bench.codes(ME)[0] == ("advertise", code)
