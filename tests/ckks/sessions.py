"""Scenes for the tests of ckks sessions: a round driven to a phase, and the tools of those who cheat in it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from secagg.ckks.client import CkksClient, read_state, seeds_of
from secagg.ckks.messages import BlindAdvert, BlindBundle, BlindRoster, BlindShares
from secagg.ckks.payload import KeyAndCiphertext, pad_seed
from secagg.ckks.sampling import hedged_seed, one_time_key, update_digest
from secagg.ckks.states import Blind, BlindState, Opening
from secagg.identity import SiteKeys
from secagg.labels import SIGN_BLIND_ADVERT
from secagg.masked.graph import challenge_seed
from secagg.masked.masks import unmask
from secagg.masked.messages import (
    MaskedAggregate,
    MaskedVector,
    Projections,
    RoundOpen,
    RoundRecord,
    SurvivorProof,
    SurvivorSet,
    SurvivorSignature,
    UnmaskShares,
    masked_words_digest,
    sum_words_digest,
)
from secagg.masked.payload import project_vector
from secagg.session import Packet, Words
from secagg.wire import Struct
from tests.masked.stage import ME, PHASES, resigned
from tests.sim import Dice, Round, federation

REQUESTS = (RoundOpen, BlindRoster, BlindBundle, SurvivorSet, SurvivorProof, RoundRecord)
REPLIES = (BlindAdvert, BlindShares, MaskedVector, SurvivorSignature, UnmaskShares, Projections)
REQUEST_OF = dict(zip(PHASES, REQUESTS, strict=True))


def ckks(n: int = 5, size: int = 40, **options: Any) -> Round:
    """A federation in ckks mode."""
    return federation(n, size, manifest={"scheme": "ckks", **options.pop("manifest", {})}, **options)


def scene(phase: str, n: int = 5, **options: Any) -> Round:
    """A round whose server is about to send the phase's requests."""
    return ckks(n, **options).until(phase)


def request(round_: Round, site: str = ME) -> Any:
    """What an honest server would send the site now."""
    return REQUEST_OF[round_.server.phase].decode(round_.server.requests()[site].head)


def client_of(round_: Round, site: str = ME) -> CkksClient:
    """The site's session."""
    client = round_.clients[site]
    assert isinstance(client, CkksClient)
    return client


def payload_of(round_: Round) -> KeyAndCiphertext:
    """The payload as everybody but a contributor has it."""
    return KeyAndCiphertext(round_.site_context)


def state_of(round_: Round, site: str = ME) -> BlindState:
    """What the site keeps."""
    return read_state(round_.site_context, round_.clients[site].to_bytes())


def seeds(round_: Round) -> dict[str, bytes]:
    """Every site's own blind seed."""
    return {site: seeds_of(state_of(round_, site))[site] for site in round_.consortium.names}


def opening_of(blind_seeds: Mapping[str, bytes]) -> bytes:
    """An opening of these seeds."""
    return Opening(tuple(Blind(site, blind_seeds[site]) for site in sorted(blind_seeds))).encode()


def without_pads(round_: Round, words: Words, blind_seeds: Mapping[str, bytes]) -> Words:
    """The masked words of a sum or a vector without the pads of these sites."""
    left = words[: payload_of(round_).words].copy()
    unmask(left, (), [pad_seed(round_.context, site, seed) for site, seed in blind_seeds.items()])
    return left


def one_time_keys(round_: Round) -> dict[str, np.ndarray]:
    """Every site's one-time key, for a round at the phase "mask": the sites are given random bytes that we know."""
    keys, params = {}, payload_of(round_).params
    for site, update in round_.updates.items():
        saved, known = round_.clients[site].to_bytes(), Dice(("known", site))(32)
        parts = round_.site_context, round_.consortium.keys[site], round_.policy, saved, update
        round_.clients[site] = round_.scheme.restore(*parts, Dice(("known", site)))
        digest = update_digest(update.values, update.weight)
        seed = hedged_seed(known, round_.context.digest, round_.context.points[site], digest)
        keys[site] = one_time_key(seed, params.ring_size).astype(np.int64)
    return keys


def signed_advert(round_: Round, keys: SiteKeys, advert: BlindAdvert) -> BlindAdvert:
    """The advert, and the masked one in it, under fresh, valid signatures of these keys."""
    whole = replace(advert, advert=resigned(round_.context, keys, advert.advert))
    return replace(whole, signature=keys.sign(SIGN_BLIND_ADVERT, round_.context.digest, whole.unsigned()))


def signed_vector(round_: Round, site: str, packet: Packet, words: Words) -> Packet:
    """The site's vector with other words, under its own signature."""
    message = MaskedVector.decode(packet.head)
    other = replace(message, words=masked_words_digest(round_.context.digest, words))
    return Packet(resigned(round_.context, round_.consortium.keys[site], other).encode(), words)


def published(round_: Round, record: RoundRecord, words: Words, silent: Collection[str] = ()) -> Packet:
    """What a server would publish of this sum, all others having signed true projections for a record that names it."""
    record = replace(record, sum_words=sum_words_digest(round_.context.digest, words))
    transcript, signed, behind = record.transcript(), [], []
    for vector in record.vectors:
        sent = round_.archive.get(vector.site)
        if vector.site in silent:
            behind.append(sent)
            continue
        values = project_vector(payload_of(round_), challenge_seed(round_.context, transcript), sent)
        draft = Projections(vector.site, transcript, values.astype("<u8").tobytes(), bytes(64))
        signed.append(resigned(round_.context, round_.consortium.keys[vector.site], draft))
    return Packet(MaskedAggregate(record, tuple(signed)).encode(), np.concatenate([words, *behind]))


def box_of(items: Any, site: str) -> Any:
    """The entry of this site."""
    return next(each for each in items if each.site == site)


def heads(struct: type[Struct], packets: Mapping[str, Packet]) -> dict[str, Any]:
    """Decoded, by site."""
    return {site: struct.decode(packet.head) for site, packet in packets.items()}
