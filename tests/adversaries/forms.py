"""How a scheme carries masked mode's messages and what its sites add up: all that the laboratory knows of schemes.

The laboratory speaks masked mode's messages. `masked_part` finds them in what a scheme sends, an `Envelopes` puts what
a scheme has around them back, and a `Form` says what the words of a vector are, which secrets hide them besides the
masks, what an open sum says, and how another world's vectors are made to look the same (worlds.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Protocol
from unittest import mock

import numpy as np

from secagg.ckks import cipher, frames
from secagg.ckks import payload as ckks_payload
from secagg.ckks.cipher import encrypt
from secagg.ckks.client import read_state, seeds_of
from secagg.ckks.decoding import decrypt
from secagg.ckks.keys import key_words
from secagg.ckks.messages import (
    BlindAdvert,
    BlindBox,
    BlindBundle,
    BlindRoster,
    BlindShares,
    blind_commitment,
    blind_roster_digest,
)
from secagg.ckks.payload import ZEROS, KeyAndCiphertext, read_key_sum, ring_of
from secagg.ckks.sampling import Residues, dither_seed, hedged_seed, one_time_key, residue_mask, update_digest
from secagg.config import RoundContext
from secagg.identity import SiteKeys
from secagg.labels import BLIND_AAD, BLIND_KEY, SIGN_BLIND_ADVERT
from secagg.masked.graph import place, tail_seed
from secagg.masked.messages import KeyAdvert, KeyRoster, ShareBundle, key_roster_digest
from secagg.masked.payload import Payload, QuantizedUpdate, quantizer_of
from secagg.masked.states import Advertised, decode_state
from secagg.primitives.aead import seal, unseal
from secagg.primitives.agreement import agree, derive, public_key
from secagg.primitives.prg import Stream
from secagg.session import Update, Words
from secagg.tally import Tally
from secagg.wire import Struct, tag_of
from tests.sim import Dice

Secrets = Mapping[bytes, bytes]  # by public value
GRID_DITHER = bytes(48)  # on the grid nothing is rounded


@dataclass
class Sent:
    """One vector of an honest site, as the laboratory's book-keeping has it. secret: by public value."""

    site: str
    context: RoundContext
    share_set: bytes
    name: bytes  # the digest in its signed message
    commitment: bytes  # of the seed that its self-masks come from
    tail: Words


@dataclass
class Open:
    """An open sum: which vectors, how often, and their words without masks and pads."""

    sent: Sequence[Sent]
    times: Sequence[int]
    words: Words
    secrets: Secrets


class Envelopes(Protocol):
    """What the server keeps of a scheme's own around the masked messages, and puts around them again."""

    def keep(self, context: RoundContext, head: bytes) -> None:
        """Takes note of a reply."""

    def around(self, context: RoundContext, receiver: str, message: Struct) -> Struct:
        """The request that carries this message; what a colluder has to add is made up."""


class Form(Protocol):
    """One scheme, as far as the laboratory has to know it."""

    blind: bool  # the server alone reads no sum

    def envelopes(self, colluders: Mapping[str, SiteKeys]) -> Envelopes: ...

    def payload(self, context: RoundContext, site: str = "", advert: KeyAdvert | None = None) -> Payload:
        """What vectors hold; site, advert: of a colluder that makes one."""

    def plain(self, context: RoundContext, update: Update) -> Words:
        """What a site adds to a sum that is open: weighted levels and tally, in the scheme's own packing."""

    def value(self, sum_: Open) -> Words:
        """What an open sum says, comparable with sums of `plain`."""

    def raised(self, context: RoundContext, sum_: Words, at: int, levels: int) -> Words:
        """A published sum with one value so many levels larger. at: below the number of words or coefficients."""

    def kept(self, context: RoundContext, state: bytes) -> dict[bytes, bytes]:
        """The secrets in a saved state whose masks may be in a sum, by public value."""

    def watched(self, drawn: list[bytes]) -> AbstractContextManager[Any]:
        """While it lasts, the one-time secrets that sites draw for a vector are noted."""

    def words(self, sent: Sent, update: Update, inside: Secrets) -> Words:
        """The masked words of a vector before any mask or pad."""

    def require_tail(self, sent: Sent, update: Update, inside: Secrets) -> None:
        """Asserts that the tail is this update's, under exactly the secrets it should be under."""

    def other_world(
        self, sent: Sequence[Sent], sums: Sequence[Mapping[int, int]], known: Secrets, inside: Secrets,
        here: Mapping[str, Update], there: Mapping[str, Update],
    ) -> AbstractContextManager[Any]:  # fmt: skip
        """While it lasts, sites with the other updates send the same tails."""


# ---------------------------------------------------------------------- masked mode


class Plain:
    """Masked mode's envelopes: none."""

    def keep(self, context: RoundContext, head: bytes) -> None:
        pass

    def around(self, context: RoundContext, receiver: str, message: Struct) -> Struct:
        return message


class MaskedForm:
    """The server opens the sum of packed words."""

    blind = False

    def envelopes(self, colluders: Mapping[str, SiteKeys]) -> Envelopes:
        return Plain()

    def payload(self, context: RoundContext, site: str = "", advert: KeyAdvert | None = None) -> Payload:
        return QuantizedUpdate(context)

    def plain(self, context: RoundContext, update: Update) -> Words:
        return np.concatenate([block.copy() for block in QuantizedUpdate(context).contribute(update, bytes).blocks()])

    def value(self, sum_: Open) -> Words:
        return sum_.words

    def raised(self, context: RoundContext, sum_: Words, at: int, levels: int) -> Words:
        out = sum_.copy()
        out[at : at + 1] += np.uint64(levels % (1 << 64))
        return out

    def kept(self, context: RoundContext, state: bytes) -> dict[bytes, bytes]:
        return _advertised(state)

    def watched(self, drawn: list[bytes]) -> AbstractContextManager[Any]:
        return nullcontext()

    def words(self, sent: Sent, update: Update, inside: Secrets) -> Words:
        return self.plain(sent.context, update)

    def require_tail(self, sent: Sent, update: Update, inside: Secrets) -> None:
        assert not sent.tail.size

    def other_world(
        self, sent: Sequence[Sent], sums: Sequence[Mapping[int, int]], known: Secrets, inside: Secrets,
        here: Mapping[str, Update], there: Mapping[str, Update],
    ) -> AbstractContextManager[Any]:  # fmt: skip
        return nullcontext()


def _advertised(state: bytes) -> dict[bytes, bytes]:
    found = decode_state(state[32:])
    if not isinstance(found, Advertised):
        return {}
    return {found.advert.mask_key: found.mask_secret, found.advert.seed_commitment: found.seed}


# ---------------------------------------------------------------------- ckks mode: envelopes


def masked_part(head: bytes) -> bytes:
    """Masked mode's message in a message of any scheme, or the message itself."""
    tag = tag_of(head)
    if tag == BlindAdvert.TAG:
        return BlindAdvert.decode(head).advert.encode()
    if tag == BlindRoster.TAG:
        return KeyRoster(tuple(each.advert for each in BlindRoster.decode(head).adverts)).encode()
    if tag == BlindShares.TAG:
        return BlindShares.decode(head).shares.encode()
    if tag == BlindBundle.TAG:
        return BlindBundle.decode(head).bundle.encode()
    return head


def colluders_blind(context: RoundContext, advert: KeyAdvert) -> tuple[bytes, bytes]:
    """A colluder's secret key for blind boxes and its blind seed, for this advert of its own."""
    dice = Dice(("blind", advert.site, context.digest, advert.seed_commitment))
    return dice(32), dice(32)


@dataclass
class Blinds:
    """What the server keeps in ckks mode: blind adverts by the advert in them, boxes by the statement beside them."""

    colluders: Mapping[str, SiteKeys]
    adverts: dict[bytes, BlindAdvert] = field(default_factory=dict)
    boxes: dict[tuple[str, bytes], dict[str, BlindBox]] = field(default_factory=dict)
    latest: dict[str, dict[str, BlindBox]] = field(default_factory=dict)
    rosters: dict[tuple[bytes, bytes], BlindRoster] = field(default_factory=dict)

    def keep(self, context: RoundContext, head: bytes) -> None:
        if tag_of(head) == BlindAdvert.TAG:
            advert = BlindAdvert.decode(head)
            self.adverts[advert.advert.signature] = advert
        if tag_of(head) == BlindShares.TAG:
            message = BlindShares.decode(head)
            statement, boxes = message.shares.statement, {each.site: each for each in message.boxes}
            self.boxes[statement.site, statement.signature] = self.latest[statement.site] = boxes

    def around(self, context: RoundContext, receiver: str, message: Struct) -> Struct:
        if isinstance(message, KeyRoster):
            whole = BlindRoster(tuple(self._around(context, each) for each in message.adverts))
            self.rosters[context.digest, key_roster_digest(context.digest, message.adverts)] = whole
            return whole
        if isinstance(message, ShareBundle):
            senders = [each for each in message.statements if each.site != receiver]
            return BlindBundle(message, tuple(self._box(context, each, receiver) for each in senders))
        return message

    def _around(self, context: RoundContext, advert: KeyAdvert) -> BlindAdvert:
        if advert.signature in self.adverts and self.adverts[advert.signature].advert == advert:
            return self.adverts[advert.signature]
        if advert.site in self.colluders:
            return self._of_colluder(context, advert)
        anyone = next(iter(self.adverts.values()), None) or self._of_colluder(context, advert)
        beside = [each for each in self.adverts.values() if each.site == advert.site] or [anyone]
        return replace(beside[-1], site=advert.site, advert=advert)  # nobody signs that

    def _of_colluder(self, context: RoundContext, advert: KeyAdvert) -> BlindAdvert:
        secret, seed = colluders_blind(context, advert)
        where = place(context, advert.site) if advert.site in context.points else bytes(4)
        commitment = blind_commitment(context.digest, where, seed)
        draft = BlindAdvert(advert.site, advert, public_key(secret), commitment, bytes(64))
        if advert.site not in self.colluders:
            return draft
        signature = self.colluders[advert.site].sign(SIGN_BLIND_ADVERT, context.digest, draft.unsigned())
        return replace(draft, signature=signature)

    def _box(self, context: RoundContext, statement: Any, receiver: str) -> BlindBox:
        dealt = self.boxes.get((statement.site, statement.signature)) or self.latest.get(statement.site, {})
        if receiver in dealt:
            return BlindBox(statement.site, dealt[receiver].ciphertext)
        roster = self.rosters.get((context.digest, statement.key_roster))
        listed = {} if roster is None else {each.site: each for each in roster.adverts}
        if statement.site not in self.colluders or not {receiver, statement.site} <= listed.keys():
            return BlindBox(statement.site, bytes(48))
        assert roster is not None
        secret, seed = colluders_blind(context, listed[statement.site].advert)
        key, aad = blind_box(context, roster, secret, listed[receiver].blind_key, statement.site, receiver)
        return BlindBox(statement.site, seal(key, seed, aad))


def blind_box(
    context: RoundContext, roster: BlindRoster, secret: bytes, other: bytes, sender: str, receiver: str
) -> tuple[bytes, bytes]:
    """Key and associated data of a blind box, for whoever has one of the two secrets."""
    places = place(context, sender) + place(context, receiver)
    key = derive(agree(secret, other), context.digest, BLIND_KEY + places, 32)
    return key, BLIND_AAD + context.digest + blind_roster_digest(context.digest, roster.adverts) + places


def blind_seeds_dealt(
    context: RoundContext, roster: BlindRoster, sender: str, message: BlindShares, colluders: Iterable[str]
) -> dict[bytes, bytes]:
    """The blind seed in the boxes that were sealed to colluders, by commitment."""
    listed, found = {each.site: each for each in roster.adverts}, {}
    for box in (box for box in message.boxes if box.site in colluders):
        secret, _ = colluders_blind(context, listed[box.site].advert)
        key, aad = blind_box(context, roster, secret, listed[sender].blind_key, sender, box.site)
        found[listed[sender].commitment] = unseal(key, box.ciphertext, aad)
    return found


# ---------------------------------------------------------------------- ckks mode: vectors


class CkksForm:
    """The server adds up ciphertexts; who has the survivors' blind seeds opens the sum of keys, and so the sum."""

    blind = True

    def envelopes(self, colluders: Mapping[str, SiteKeys]) -> Envelopes:
        return Blinds(colluders)

    def payload(self, context: RoundContext, site: str = "", advert: KeyAdvert | None = None) -> Payload:
        seed = b"" if advert is None else colluders_blind(context, advert)[1]
        return KeyAndCiphertext(context, site, seed)

    def plain(self, context: RoundContext, update: Update) -> Words:
        levels, tally = _integers(context, update, GRID_DITHER)
        return np.concatenate([*(each.astype(np.uint64) for each in levels), tally])

    def value(self, sum_: Open) -> Words:
        """By the product's own decryption: whoever may open a sum opens it so."""
        context, payload = sum_.sent[0].context, KeyAndCiphertext(sum_.sent[0].context)
        assert set(sum_.times) == {1}
        tails, masks = payload.tail_sum(), {}
        for each in sum_.sent:
            tails.add(each.tail)
            masks[each.site] = tail_seed(context, each.share_set, each.site, sum_.secrets[each.commitment])
        keys, tally = read_key_sum(payload.params, sum_.words, len(sum_.sent))
        residues = payload.unmasked(tails.words(), masks)
        sums = decrypt(payload.params, context.digest, keys, residues, survivors=len(sum_.sent))
        return np.concatenate([*sums, tally])

    def raised(self, context: RoundContext, sum_: Words, at: int, levels: int) -> Words:
        """Delta times the levels on one coefficient, mod every prime."""
        params, out = ring_of(context.manifest), sum_.copy()
        numbers = out[KeyAndCiphertext(context).words :].view("<u4")
        for row, prime in enumerate(params.primes):
            numbers[row * params.coefficients(0) + at] += np.uint32((levels << params.delta_bits) % prime)
        return out

    def kept(self, context: RoundContext, state: bytes) -> dict[bytes, bytes]:
        whole = read_state(context, state)
        found = _advertised(whole.masked)
        for site, seed in seeds_of(whole).items():
            found[blind_commitment(context.digest, place(context, site), seed)] = seed
        return found

    def watched(self, drawn: list[bytes]) -> AbstractContextManager[Any]:
        def noted(*parts: Any) -> bytes:
            drawn.append(hedged_seed(*parts))
            return drawn[-1]

        return mock.patch.object(ckks_payload, "hedged_seed", noted)

    def words(self, sent: Sent, update: Update, inside: Secrets) -> Words:
        key = one_time_key(inside[sent.name], ring_of(sent.context.manifest).ring_size)
        _, tally = _integers(sent.context, update, GRID_DITHER)
        return np.concatenate([key_words(ring_of(sent.context.manifest), key), np.zeros(ZEROS, np.uint64), tally])

    def require_tail(self, sent: Sent, update: Update, inside: Secrets) -> None:
        params, seed = ring_of(sent.context.manifest), inside[sent.name]
        levels, _ = _integers(sent.context, update, dither_seed(seed))
        blocks = encrypt(params, sent.context.digest, seed, levels)
        mask = tail_seed(sent.context, sent.share_set, sent.site, inside[sent.commitment])
        assert frames.write(params, cipher.blind(params, mask, blocks)).tobytes() == sent.tail.tobytes()

    def other_world(
        self, sent: Sequence[Sent], sums: Sequence[Mapping[int, int]], known: Secrets, inside: Secrets,
        here: Mapping[str, Update], there: Mapping[str, Update],
    ) -> AbstractContextManager[Any]:  # fmt: skip
        """The hedged seed is a random oracle's answer, a ciphertext without its mask a pseudorandom one.

        One that is under a self-mask which the adversary lacks is shifted through that mask, any other through
        a s + e itself: under an open sum of keys such shifts add up to nothing, for all that is known of the
        a s + e is that sum, and without one they may be any.
        """
        moved = [_moved(each, here[each.site], there[each.site]) for each in sent]
        for terms in sums:
            for blocks in zip(*(moved[index] for index in terms), strict=True):
                total = sum(block * times for block, times in zip(blocks, terms.values(), strict=True))
                assert not (total % _moduli(sent[min(terms)].context)).any(), "the worlds have different open sums"
        names = [inside[each.name] for each in sent]
        tails = [each.tail.tobytes() for each in sent]
        assert len(set(names)) == len(set(tails)), "two ciphertexts have one key"
        samples, masks, opened = {}, {}, {}
        for each, shift in zip(sent, moved, strict=True):
            mask = tail_seed(each.context, each.share_set, each.site, inside[each.commitment])
            if each.commitment in known:
                samples[inside[each.name]] = opened[mask] = shift
            else:
                masks[mask] = shift
        digests = {_named(there[site]): _named(here[site]) for site in here}
        return _programmed(samples, masks, opened, digests)


def _integers(context: RoundContext, update: Update, dither: bytes) -> tuple[list[np.ndarray], Words]:
    """Weighted levels in blocks of the ring, and the tally."""
    levels = quantizer_of(context).levels(update.values, update.weight, Stream(dither))
    blocks = [block.copy() for block in levels.weighted(ring_of(context.manifest).block_values)]
    return blocks, Tally.of(update.metrics, update.weight, levels.clipped, levels.peak_q40).words()


def _moduli(context: RoundContext) -> np.ndarray:
    return np.array(ring_of(context.manifest).primes, np.int64)[:, None]


def _moved(sent: Sent, here: Update, there: Update) -> list[np.ndarray]:
    """What the one update's coefficients have more than the other's, mod q, block by block."""
    params, nothing = ring_of(sent.context.manifest), bytes(64)
    with (
        mock.patch.object(cipher, "errors", lambda seed, block, count: np.zeros(count, np.int8)),
        mock.patch.object(cipher, "one_time_key", lambda seed, count: np.zeros(count, np.int8)),
    ):
        one, other = (
            list(encrypt(params, sent.context.digest, nothing, _integers(sent.context, each, GRID_DITHER)[0]))
            for each in (here, there)
        )
    moduli = _moduli(sent.context)
    return [(a.astype(np.int64) - b) % moduli for a, b in zip(one, other, strict=True)]


def _named(update: Update) -> bytes:
    return update_digest(update.values, update.weight)


Shifts = Mapping[bytes, Sequence[np.ndarray]]  # by the seed of what is shifted


@contextmanager
def _programmed(samples: Shifts, masks: Shifts, opened: Shifts, digests: Mapping[bytes, bytes]) -> Iterator[None]:
    """samples: of a s + e. masks: of self-masks. opened: of a s + e by self-mask, for the sites that open the sum."""

    def shifted(residues: Residues, params: Any, shift: Sequence[np.ndarray] | None, block: int) -> Residues:
        if shift is None:
            return residues
        return ((residues + shift[block]) % np.array(params.primes, np.int64)[:, None]).astype(np.uint32)

    def encrypted(params: Any, header: bytes, seed: bytes, levels: Any) -> Iterator[Residues]:
        for block, residues in enumerate(encrypt(params, header, seed, levels)):
            yield shifted(residues, params, samples.get(seed), block)

    def masked(by: Shifts) -> Callable[[Any, bytes, int], Residues]:
        return lambda params, seed, block: shifted(residue_mask(params, seed, block), params, by.get(seed), block)

    def digest(values: Any, weight: int) -> bytes:
        found = update_digest(values, weight)
        return digests.get(found, found)

    with ExitStack() as stack:
        for module, name, what in (
            (ckks_payload, "encrypt", encrypted), (cipher, "residue_mask", masked(masks)),
            (ckks_payload, "residue_mask", masked(opened)), (ckks_payload, "update_digest", digest),
        ):  # fmt: skip
            stack.enter_context(mock.patch.object(module, name, what))
        yield


FORMS: Mapping[str, Form] = {"masked": MaskedForm(), "ckks": CkksForm()}  # the schemes that go through masked mode
