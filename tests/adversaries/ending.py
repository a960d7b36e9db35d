"""How an adversary ends a round: records, projections of its colluders, and aggregates with any sum in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from secagg.masked.graph import challenge_seed
from secagg.masked.masks import Masks
from secagg.masked.messages import MaskedAggregate, Projections, Revealed, RoundRecord, sum_words_digest
from secagg.masked.opening import masks_in_sum, project_rest
from secagg.masked.payload import project_vector
from secagg.session import Packet, Words
from tests.adversaries.knowledge import seed_of, what_it_can_compute
from tests.adversaries.lab import Attempt, Story
from tests.adversaries.parties import expand, form_of
from tests.masked.stage import resigned


class Ending:
    """What the server can publish of an attempt that was opened: the truth, and lies made of it."""

    def __init__(self, attempt: Attempt, story: Story) -> None:
        """Takes what the adversary knows by now. Raises KeyError if the attempt is not open to it."""
        self.attempt, self.context = attempt, attempt.context
        self.known = what_it_can_compute(attempt.view)
        secrets = self.known.secrets
        adverts = {each.site: each for each in attempt.roster(story)}
        vectors = attempt.survivors(story)
        self.survivors = tuple(each.site for each in vectors)
        gone = sorted({each.site for each in attempt.statements(story)} - set(self.survivors))
        self.words = {attempt.site(w): words for w, words in attempt.words.items() if w in story.u3}
        proof = attempt.proof(story)
        assert proof is not None
        draft = RoundRecord(
            self.context.header, attempt.roster(story), attempt.statements(story), vectors, proof.signatures,
            tuple(Revealed(site, secrets[adverts[site].seed_commitment]) for site in self.survivors),
            tuple(Revealed(site, secrets[adverts[site].mask_key]) for site in gone), bytes(32),
        )  # fmt: skip
        self.payload = form_of(self.context).payload(self.context)
        self.masks = masks_in_sum(self.context, draft)
        self.sum = self.sum_of(self.survivors)
        Masks(self.masks.minus, self.masks.plus).apply(self.sum[: self.payload.words])
        self.record = replace(draft, sum_words=sum_words_digest(self.context.digest, self.sum))

    def sum_of(self, sites: Iterable[str]) -> Words:
        """The sum of these sites' vectors as it travels, masks on."""
        vectors, tails = [self.words[site] for site in sites], self.payload.tail_sum()
        total = np.sum([each[: self.payload.words] for each in vectors], axis=0, dtype=np.uint64)
        if not self.payload.tail_words:
            return total
        for each in vectors:
            tails.add(each[self.payload.words :])
        return np.concatenate([total, tails.words()])

    def term(self, site: str) -> Words:
        """What an honest survivor's vector adds to the published sum."""
        header = self.context.digest
        vector = next(e for e in self.known.vectors if e.site == site and e.context.digest == header)
        words, secrets = vector.words.copy(), {**self.known.secrets, **self.attempt.lab.inside()}
        for mask, sign in vector.masks.items():
            seed = seed_of(vector, mask, secrets)
            if mask.share_set and seed is not None:
                words -= expand(seed, words.size) * np.uint64(sign % (1 << 64))
        return np.concatenate([words, self.sum_of((site,))[words.size :]])

    def raised(self, at: int, levels: int) -> Words:
        """The sum with one value so many levels larger."""
        return form_of(self.context).raised(self.context, self.sum, at, levels)

    def record_of(self, words: Words) -> RoundRecord:
        """The record with this sum in it."""
        return replace(self.record, sum_words=sum_words_digest(self.context.digest, words))

    def projections(self, site: str, record: RoundRecord, words: Words) -> Projections:
        """What a site, whose key the caller has, signs of any vector."""
        seed = challenge_seed(self.context, record.transcript())
        return self.signed(site, record, project_vector(self.payload, seed, words))

    def signed(self, site: str, record: RoundRecord, values: Words) -> Projections:
        """Any 128 values under a site's signature."""
        draft = Projections(site, record.transcript(), values.astype("<u8").tobytes(), bytes(64))
        return resigned(self.context, self.attempt.lab.consortium.keys[site], draft)

    def fitting(self, colluder: str, record: RoundRecord, words: Words) -> Projections:
        """What a colluder signs to make a sum that of the survivors' vectors."""
        masked, others = words[: self.payload.words].copy(), [e for e in self.survivors if e != colluder]
        Masks(self.masks.plus, self.masks.minus).apply(masked)
        less, seed = [self.words[site] for site in others], challenge_seed(self.context, record.transcript())
        values = project_rest(self.payload, seed, [masked], words[self.payload.words :], less)
        return self.signed(colluder, record, values)

    def packet(self, record: RoundRecord, words: Words, signed: Iterable[Projections]) -> Packet:
        """An aggregate; the words of every survivor without projections travel behind the sum."""
        given: Mapping[str, Projections] = {each.site: each for each in signed}
        silent = [self.words[site] for site in self.survivors if site not in given]
        head = MaskedAggregate(record, tuple(given[site] for site in sorted(given)))
        return Packet(head.encode(), np.concatenate([words, *silent]))

    def with_a_colluder(self, words: Words, colluder: str) -> Packet:
        """Any sum, made to fit by a colluder that signs projections of the vector it takes."""
        record = self.record_of(words)
        return self.packet(record, words, [self.fitting(colluder, record, words)])
