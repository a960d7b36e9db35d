"""How an adversary ends a round: records, projections of its colluders, and aggregates with any sum in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from secagg.masked.graph import challenge_seed
from secagg.masked.masks import Masks
from secagg.masked.messages import MaskedAggregate, Projections, Revealed, RoundRecord, sum_words_digest
from secagg.masked.opening import masks_in_sum
from secagg.projection import project
from secagg.session import Packet, Words
from tests.adversaries.knowledge import what_it_can_compute
from tests.adversaries.lab import Attempt, Story
from tests.masked.stage import resigned


class Ending:
    """What the server can publish of an attempt that was opened: the truth, and lies made of it."""

    def __init__(self, attempt: Attempt, story: Story) -> None:
        """Takes what the adversary knows by now. Raises KeyError if the attempt is not open to it."""
        self.attempt, self.context = attempt, attempt.context
        secrets = what_it_can_compute(attempt.view).secrets
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
        masks = masks_in_sum(self.context, draft)
        self.sum = np.sum([self.words[site] for site in self.survivors], axis=0, dtype=np.uint64)
        Masks(masks.minus, masks.plus).apply(self.sum)
        self.record = replace(draft, sum_words=sum_words_digest(self.context.digest, self.sum))

    def record_of(self, words: Words) -> RoundRecord:
        """The record with this sum in it."""
        return replace(self.record, sum_words=sum_words_digest(self.context.digest, words))

    def projections(self, site: str, record: RoundRecord, words: Words) -> Projections:
        """What a site, whose key the caller has, signs of any words."""
        transcript = record.transcript()
        values = project(challenge_seed(self.context, transcript), words).astype("<u8").tobytes()
        keys = self.attempt.lab.consortium.keys[site]
        return resigned(self.context, keys, Projections(site, transcript, values, bytes(64)))

    def packet(self, record: RoundRecord, words: Words, signed: Iterable[Projections]) -> Packet:
        """An aggregate; the words of every survivor without projections travel behind the sum."""
        given: Mapping[str, Projections] = {each.site: each for each in signed}
        silent = [self.words[site] for site in self.survivors if site not in given]
        head = MaskedAggregate(record, tuple(given[site] for site in sorted(given)))
        return Packet(head.encode(), np.concatenate([words, *silent]))

    def with_a_colluder(self, words: Words, colluder: str) -> Packet:
        """Any sum, made to fit by a colluder that signs projections of the vector it takes."""
        record = self.record_of(words)
        shifted = self.words[colluder] + (words - self.sum)
        return self.packet(record, words, [self.projections(colluder, record, shifted)])
