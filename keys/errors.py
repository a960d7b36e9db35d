"""What can be wrong with a key file, and what to do about it."""

from __future__ import annotations


class KeyFileError(Exception):
    """A key, roster or certificate file cannot be used. Nothing was changed.

    problem: what is wrong. remedy: what to do. Neither ever holds a secret.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem}\n{self.remedy}"


class MissingFile(KeyFileError):
    """There is no such file."""


class ExposedFile(KeyFileError):
    """Others on this machine can read a private file or write to its folder."""


class DamagedFile(KeyFileError):
    """The file is truncated, altered, or something else than its name says."""


class WouldOverwrite(KeyFileError):
    """The file exists already; keys and rosters are never overwritten."""


class PassphraseNeeded(KeyFileError):
    """The file is sealed and no passphrase was given."""


class WrongPassphrase(KeyFileError):
    """The passphrase does not open the file."""


class UntrustedRoot(KeyFileError):
    """The root's key is not pinned here, or is another one than the one pinned."""


class RefusedRoster(KeyFileError):
    """The roster is genuine or not, but must not be used here and now."""
