"""What the server needs to go on after it died between two messages: the transcript and the attempts (spec §16.5)."""

from __future__ import annotations

import json
from pathlib import Path

from fedclient.transcript import MANIFEST, FolderArchive, Transcript
from fedserver.plan import ServerError
from secagg.config import Manifest
from secagg.errors import Malformed
from secagg.identity import Roster
from secagg.lanes import lanes_per_word
from secagg.session import Aggregate, Packet
from secagg.vector import Layout


class Checkpoint:
    """The server's transcript of a session, and which attempts were begun."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._transcript = Transcript(folder, _failed)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ServerError(f"cannot make {folder}: {error.strerror}", "choose another --out") from None

    def manifest(self) -> Manifest | None:
        """The session's manifest, if the session was agreed on. Raises ServerError."""
        path = self._folder / MANIFEST
        if not path.exists():
            return None
        try:
            return Manifest.decode(path.read_bytes())
        except (OSError, Malformed):
            raise ServerError(f"{path} is damaged", "start a new session with another --out") from None

    def save_session(self, manifest: Manifest, roster: Roster, layout: Layout) -> None:
        """Keeps what the session fixes, durably."""
        self._transcript.describe(manifest, roster, layout)

    def rounds(self) -> int:
        """How many rounds are finished."""
        return self._transcript.rounds()

    def begin_attempt(self, round_: int) -> int:
        """A number for the next attempt at this round that was never used before. Raises ServerError."""
        path = self._folder / "attempts.json"
        try:
            used = json.loads(path.read_text()) if path.exists() else {}
            attempt = int(used.get(str(round_), 0)) + 1
        except (OSError, ValueError, AttributeError, TypeError, OverflowError, RecursionError):
            raise ServerError(f"{path} is damaged", "start a new session with another --out") from None
        self._transcript.write(path.name, json.dumps(used | {str(round_): attempt}).encode())
        return attempt

    def archive(self) -> FolderArchive:
        """Takes the masked vectors of the attempt that begins; empty. Raises ServerError."""
        return self._transcript.archive()

    def hold(self, round_: int, attempt: int, blob: bytes) -> None:
        """Keeps what a server session needs to end its round, durably."""
        self._transcript.hold(round_, attempt, blob)

    def held(self, round_: int) -> tuple[int, bytes, FolderArchive] | None:
        """The attempt at this round whose server died after the sum was there, its blob and its archive."""
        return self._transcript.held(round_)

    def save_round(self, round_: int, attempt: int, aggregate: Aggregate, keep_vectors: int = -1) -> None:
        """Keeps a finished round with the vectors archived for it, durably, as a whole or not at all.

        keep_vectors: of how many rounds, the latest ones, vectors are kept; -1 = of all.
        """
        self._transcript.save(round_, attempt, aggregate.contributors, aggregate.payload)
        if 0 <= keep_vectors < round_:
            self._transcript.forget_vectors(round_ - keep_vectors)

    def aggregate(self, round_: int) -> Packet:
        """The aggregate of a finished round, read from disk. Raises Damaged."""
        return self._transcript.aggregate(round_)

    def vectors(self, round_: int) -> FolderArchive:
        """The masked vectors of a finished round, as far as they are kept."""
        return self._transcript.vectors(round_)

    def attempt(self, round_: int) -> int:
        """The attempt in which a finished round was made. Raises Damaged."""
        return self._transcript.attempt(round_)

    def size_of(self, round_: int) -> int:
        """Bytes of the aggregate of a finished round. Raises Damaged."""
        return self._transcript.size_of(round_)


def disk_bytes(manifest: Manifest, keep_vectors: int = -1) -> tuple[int, int]:
    """About how many bytes a round's transcript takes, and the whole session's: every sum, and n vectors a round.

    keep_vectors: of how many rounds vectors are kept; -1 = of all.
    """
    lanes = lanes_per_word(manifest.quantizer.lane_bits)
    vector = 8 * -(-manifest.size // lanes)
    kept = manifest.rounds if keep_vectors < 0 else min(keep_vectors, manifest.rounds)
    return vector * (len(manifest.sites) + 1), vector * (len(manifest.sites) * kept + manifest.rounds)


def _failed(act: str, path: Path, error: OSError) -> ServerError:
    problem = f"cannot {act} {path}: {error.strerror}"
    return ServerError(problem, "free some space, then go on with fedserver --resume")
