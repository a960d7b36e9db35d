"""Whether a session's transcript is true: its chain walked from the manifest on, each sum made again (spec §15.3)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Never

import numpy as np

from fedclient.settings import LocalError
from fedclient.transcript import MANIFEST, VECTORS, Damaged, FolderArchive, Transcript
from secagg.chain import Position
from secagg.config import Manifest, RoundContext, RoundHeader
from secagg.errors import Malformed, Misuse, Sealed, SecAggError
from secagg.identity import Roster
from secagg.initial import initial_adapter
from secagg.schemes import scheme_named
from secagg.session import Archive, Audit, InMemory, Mean, Packet, Words
from secagg.vector import Layout, Vector, adapter_digest

Step = Callable[[str], None]  # told before each piece of work what it is about
VectorsOf = Callable[[int], Archive]  # a round's masked vectors, as far as they are here
OpeningOf = Callable[[int, int], bytes]  # (round, attempt) -> what a site has to open that sum with; empty for nothing
ANOTHER_COPY = "get it from somebody else who took part in the session; the server and every site keep one"


class AuditError(LocalError):
    """The transcript is not that of rounds that went as they should: what is wrong, whose bytes, what to do."""

    code = "audit"


@dataclass(frozen=True, slots=True)
class Fixed:
    """What the session fixed before its first round."""

    manifest: Manifest
    roster: Roster
    layout: Layout


@dataclass(frozen=True, slots=True)
class Verified:
    """One round that went as it should, as far as the vectors that were there can tell.

    adapter: the digest of the adapter after it; None if the sum could not be read and no later record names it.
    is_recomputed: it was made from the sums; otherwise it stands in the next round's record, by its survivors' word.
    """

    round: int
    attempt: int
    quorum: int
    audit: Audit
    adapter: bytes | None
    is_recomputed: bool


def read_fixed(transcript: Transcript) -> Fixed:
    """Manifest, roster and layout, which belong together; the roster's signature is the one of the root it names.

    Whose root that is, is for the caller to check. Raises AuditError.
    """
    if not (transcript.folder / MANIFEST).exists():
        raise AuditError(f"{transcript.folder} holds no session", "give the folder that the session was kept in")
    try:
        found = Fixed(transcript.manifest(), transcript.roster(), transcript.layout())
    except Damaged as error:
        _fail_damaged(error)
    manifest, layout = found.manifest, found.layout
    for name, is_theirs in {
        "roster": found.roster.digest() == manifest.roster and _is_signed(found.roster),
        "layout": layout.digest() == manifest.layout and layout.size == manifest.size,
    }.items():
        if not is_theirs:
            raise AuditError(
                f"the {name} in {transcript.folder} is not the one that its manifest names, or was altered",
                f"the manifest's or the {name}'s file was changed: {ANOTHER_COPY}",
            )
    if not _has_its_adapter(manifest, layout):
        raise AuditError(
            f"the manifest in {transcript.folder} names another first adapter than its nonce gives",
            f"no honest site agreed to it: {ANOTHER_COPY}",
        )
    return found


def _has_its_adapter(manifest: Manifest, layout: Layout) -> bool:
    try:
        return adapter_digest(layout, initial_adapter(layout, manifest.nonce)) == manifest.initial_adapter
    except Misuse:  # tensors that are no LoRA factors
        return False


def _is_signed(roster: Roster) -> bool:
    try:
        roster.verify(roster.root_key, now=0)  # it may have expired since
    except Malformed:
        return False
    return True


def no_opening(_round: int, _attempt: int) -> bytes:
    """What there is to open sums with at the server, and in a site's home without its key."""
    return b""


def verify(
    transcript: Transcript, fixed: Fixed, wanted: Collection[int], vectors_of: VectorsOf, opening_of: OpeningOf,
    step: Step,
) -> Iterator[Verified]:  # fmt: skip
    """Walks the chain to the last wanted round, and gives what it found of each wanted one.

    A sum that cannot be read here is checked all the same; adapter and range of the next round are then those of its
    record. Raises AuditError at the first round that is wrong.
    """
    walk = _Walk(transcript, fixed, opening_of, step)
    for round_ in range(1, max(wanted) + 1):
        verified = walk.take(round_, vectors_of(round_) if round_ in wanted else InMemory())
        if round_ in wanted:
            yield verified


class _Walk:
    """Where a site that opened the rounds so far stands."""

    def __init__(self, transcript: Transcript, fixed: Fixed, opening_of: OpeningOf, step: Step) -> None:
        self._transcript, self._fixed, self._step = transcript, fixed, step
        self._opening_of = opening_of
        self._scheme = scheme_named(fixed.manifest.scheme)
        self._position = Position.start(fixed.manifest)
        self._adapter: Vector | None = initial_adapter(fixed.layout, fixed.manifest.nonce)  # None: a sum was not read

    def take(self, round_: int, vectors: Archive) -> Verified:
        """Audits and opens the next round. The audit comes first: it can name the site where opening cannot."""
        self._step(f"round {round_}")
        try:
            return self._take(round_, _Told(vectors, lambda site: self._step(f"round {round_}: {site}")))
        except Damaged as error:
            _fail_damaged(error, f"round {round_}: ")
        except SecAggError as error:
            raise AuditError(
                f"round {round_}: {error}",
                f"round {round_} of this transcript, or of what stands before it, was altered or never accepted by a "
                f"site: {ANOTHER_COPY}",
            ) from None

    def _take(self, round_: int, vectors: Archive) -> Verified:
        manifest = self._fixed.manifest
        attempt, aggregate = self._transcript.attempt(round_), self._transcript.aggregate(round_)
        if self._adapter is None:
            self._position = self._placed_by(self._scheme.header(aggregate))
        context = RoundContext(manifest, self._fixed.roster, self._position.header(manifest, attempt))
        audit = self._scheme.audit(context, aggregate, vectors)
        _require_true(round_, audit, bool(vectors.sites()))
        mean = self._opened(context, aggregate)
        if audit.survivors != self._transcript.contributors(round_):
            raise AuditError(
                f"round {round_}: round.json lists other survivors than the record, {', '.join(audit.survivors)}",
                f"round.json was altered since: {ANOTHER_COPY}",
            )
        digest = self._advance(round_, audit, mean)
        return Verified(round_, attempt, manifest.quorum, audit, digest, self._adapter is not None)

    def _opened(self, context: RoundContext, aggregate: Packet) -> Mean | None:
        """The mean, or None if only a site can read the sum; every check that takes no opening is made."""
        try:
            return self._scheme.open(context, aggregate, self._opening_of(context.header.round, context.header.attempt))
        except Sealed:
            return None

    def _advance(self, round_: int, audit: Audit, mean: Mean | None) -> bytes | None:
        """Goes behind the round; gives the digest of the adapter there, if it is known."""
        if mean is None or self._adapter is None:
            self._adapter = None
            self._position = replace(self._position, round=round_, transcript=audit.transcript)
            return self._named_by_next(round_)
        self._adapter = np.add(self._adapter, mean.values, dtype=np.float32)
        digest = adapter_digest(self._fixed.layout, self._adapter)
        self._position = self._position.after(mean, digest)
        return digest

    def _placed_by(self, header: RoundHeader) -> Position:
        """The position before a round whose adapter and range nobody here can make: those of its record."""
        return replace(self._position, adapter=header.adapter, range_q40=header.range_q40)

    def _named_by_next(self, round_: int) -> bytes | None:
        """The adapter that the next record says its round began with, if there is such a record."""
        try:
            return self._scheme.header(self._transcript.aggregate(round_ + 1)).adapter
        except (Damaged, SecAggError):
            return None  # whoever audits that round will be told


class _Told:
    """An archive that says whose vector is read next."""

    def __init__(self, archive: Archive, tell: Step) -> None:
        self._archive, self._tell = archive, tell

    def put(self, site: str, words: Words) -> None:
        self._archive.put(site, words)

    def get(self, site: str) -> Words:
        self._tell(site)
        return self._archive.get(site)

    def sites(self) -> Set[str]:
        return self._archive.sites()


def _require_true(round_: int, audit: Audit, has_vectors: bool) -> None:
    """Raises AuditError that names every site whose bytes are wrong, and says what that means for the sum."""
    at, wrong = f"rounds/{round_:06d}", []
    if audit.altered:
        wrong.append(f"the words of {', '.join(audit.altered)} are not those it signed")
    if audit.missing and has_vectors:
        wrong.append(f"the words of {', '.join(audit.missing)} are missing, and those of other sites are there")
    if audit.false:
        wrong.append(f"the projections of {', '.join(audit.false)} are not of the words it signed")
    if audit.wrong_words:
        which = "the one its record names" if audit.is_named else "not the one its record names"
        wrong.append(
            f"the sum differs from the vectors' in {audit.wrong_words:,} of {audit.words:,} words, and is {which}"
        )
    if not wrong:
        return
    if audit.false:
        remedy = f"{audit.false[0]} lied in the check of the sum: do not use the adapter; have its key revoked"
        remedy += "" if audit.wrong_words != 0 else "; this round's sum is right all the same"
    elif audit.altered or audit.missing:
        remedy = f"the files in {at}/{VECTORS} were changed or lost: restore them; without any, the sum is checked "
        remedy += "against the signed projections"
    elif audit.is_named:
        remedy = "the server gave out a false sum: do not use the adapter, and do not go on with this server"
    else:
        remedy = f"{at}/words.u64 was altered since: {ANOTHER_COPY}"
    raise AuditError(f"round {round_}: {'; '.join(wrong)}", remedy)


def _fail_damaged(error: Damaged, where: str = "") -> Never:
    if error.path.parent.name == VECTORS:
        problem, remedy = f"the words of {error.path.stem} are not whole in {error.path}", "restore that file"
    else:
        problem, remedy = f"{error.path} is damaged or missing", ANOTHER_COPY
    raise AuditError(where + problem, remedy) from None


def unwritable(act: str, path: Path, error: OSError) -> AuditError:
    """For a Transcript that is only read."""
    return AuditError(f"cannot {act} {path}: {error.strerror}", "an audit writes nothing; look at the disk")


def vectors_in(folder: Path) -> VectorsOf:
    """The vectors in a copy of the server's `rounds`, or in a folder that holds those of one round."""

    def of_round(round_: int) -> FolderArchive:
        inside = folder / f"{round_:06d}" / VECTORS
        return FolderArchive(inside if inside.is_dir() else folder, unwritable)

    return of_round
