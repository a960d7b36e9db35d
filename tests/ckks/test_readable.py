"""ckks mode with the option `server-reads-sum`: the same sum without pads, which the server opens (spec §13.8)."""

from __future__ import annotations

import numpy as np
import pytest

from secagg.ckks.payload import is_blind
from secagg.config import SERVER_READS_SUM, Policy, Setting
from secagg.errors import Malformed, Refused, Sealed
from secagg.masked.messages import KeyAdvert, MaskedVector
from secagg.schemes import cautions, scheme_named
from secagg.session import InMemory
from tests.ckks.sessions import ckks, payload_of
from tests.sim import READABLE, Consortium, Dice, Round, federation, plain_mean, random_update

SITES = Consortium(5).names


def readable(**options: object) -> Round:
    return federation(5, manifest={"scheme": READABLE, "bits": 16}, **options)


def test_the_server_opens_the_sum_with_nothing_but_the_aggregate_and_gets_the_sites_bits() -> None:
    round_ = readable(drop={"mask": [SITES[3]]})
    aggregate = round_.run()
    at_server = round_.scheme.open(round_.context, aggregate.payload)
    error = at_server.values - plain_mean(round_.updates, aggregate.contributors)
    assert np.sqrt(np.mean(error**2)) < 2 / ((1 << 16) - 1)  # a step of the range 1; the rotation is orthonormal
    for site in aggregate.contributors:
        mean = round_.mean(aggregate, site)
        assert (mean.values.tobytes(), mean.totals) == (at_server.values.tobytes(), at_server.totals)


def test_no_site_needs_keeps_or_lends_an_opening() -> None:
    round_ = readable()
    round_.run()
    assert {round_.opening(round_.clients[site].to_bytes(), site) for site in SITES} == {b""}


def test_a_blind_session_of_the_same_sites_stays_sealed_to_its_server() -> None:
    round_ = ckks()
    with pytest.raises(Sealed):
        round_.scheme.open(round_.context, round_.run().payload)


def test_one_vector_alone_is_as_hidden_as_in_masked_mode() -> None:
    """Its key words are under the masks, which a zero word shows, and its residues under the self-mask."""
    round_ = readable().until("consent")
    payload = payload_of(round_)
    zeros = slice(payload.params.key_words, payload.params.key_words + 8)
    assert all(round_.archive.get(site)[zeros].all() for site in SITES)


def test_the_messages_are_those_of_masked_mode() -> None:
    heads: dict[str, bytes] = {}
    readable(alter_reply=lambda phase, _, packet: (heads.setdefault(phase, packet.head), packet)[1]).run()
    KeyAdvert.decode(heads["advertise"])
    MaskedVector.decode(heads["mask"])


def test_a_request_of_a_blind_session_is_refused_in_it() -> None:
    blind, round_ = ckks().until("share"), readable().until("share")
    with pytest.raises(Malformed):
        round_.clients[SITES[0]].handle(blind.server.requests()[SITES[0]])


@pytest.mark.parametrize("value", ["", "no", "Yes", "yes ", "1"])
def test_the_option_is_yes_or_it_is_not_there(value: str) -> None:
    consortium = Consortium(5)
    manifest = consortium.manifest(10, scheme="ckks", options=(Setting(SERVER_READS_SUM, value),))
    scheme, context, keys = scheme_named("ckks"), consortium.context(manifest), consortium.keys[SITES[0]]
    with pytest.raises(Refused, match="is not yes"):
        scheme.require(manifest, keys)
    with pytest.raises(Refused, match="is not yes"):
        scheme.client(context, keys, Policy(server_reads_sum=True), random_update(0, 10), Dice(0))
    with pytest.raises(Refused, match="is not yes"):
        scheme.server(context, consortium.server_keys, InMemory())


def test_a_session_without_the_option_is_blind_and_another_option_is_refused() -> None:
    consortium = Consortium(5)
    keys = consortium.keys[SITES[0]]
    assert is_blind(consortium.manifest(10, scheme="ckks"))
    assert not is_blind(consortium.manifest(10, scheme=READABLE))
    scheme_named("ckks").require(consortium.manifest(10, scheme=READABLE), keys)
    with pytest.raises(Refused, match="no option colour"):
        scheme_named("ckks").require(consortium.manifest(10, scheme="ckks", options=(Setting("colour", "x"),)), keys)


def test_who_takes_part_is_told_that_the_server_reads_the_sum() -> None:
    (line,) = cautions("ckks", {SERVER_READS_SUM: "yes"})
    assert "the server reads the sum of every round" in line
    assert cautions("ckks", {}) == cautions("masked", {}) == ()
