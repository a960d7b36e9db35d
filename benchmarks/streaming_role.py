"""One role of a round over a very long vector, in a process of its own, and the memory it took.

    python -m benchmarks.streaming_role FOLDER SCHEME SITES SIZE {site NAME | server | check NAME | open | audit}

Prints JSON: bytes of the process after its imports, bytes of its input, bytes at its peak. The roles are run one
after the other over one folder: every site, then the server, which has every site answer the check in a process of
its own, then a site that opens the sum, and an auditor. Whatever a role did not do itself it replays: sessions of
this benchmark draw from a fixed seed, so every process sees one round.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

from benchmarks.consortium import SessionRound, update_of
from fedclient.packets import encode_packet
from fedclient.transcript import FolderArchive, read_words
from secagg.session import Packet

_KIB = 1024


def peak_bytes() -> int:
    """The most memory this process has held: VmHWM, for ru_maxrss would count the parent's at the fork as well."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else _KIB)
    [line] = [each for each in status.read_text().splitlines() if each.startswith("VmHWM")]
    return int(line.split()[1]) * _KIB


def mask(folder: Path, round_: SessionRound, name: str, size: int) -> int:
    """The masking stage of one site up to the Flower message; gives the bytes of its update."""
    round_.until("mask")
    update = update_of(size, seed=round_.names.index(name))
    client = round_.give(name, update)
    reply = client.handle(round_.server.requests()[name])
    encode_packet(reply)
    _save(folder, name, reply)
    (folder / f"{name}.state").write_bytes(client.to_bytes())
    return update.values.nbytes


def serve(folder: Path, round_: SessionRound, arguments: list[str]) -> int:
    """All of the server's round, vectors arriving one at a time; it has no input but those."""
    round_.until("mask")
    round_.server.receive((name, _load(folder, name)) for name in round_.names)
    for name in round_.names:
        round_.clients[name] = round_.give(name, None, (folder / f"{name}.state").read_bytes())
    round_.until("check")
    for name, request in round_.server.requests().items():
        _save(folder, "record", request)
        (folder / f"{name}.state").write_bytes(round_.clients[name].to_bytes())
    round_.server.receive((name, _checked(folder, arguments, name)) for name in round_.names)
    _save(folder, "aggregate", round_.server.result().payload)
    return 0


def _checked(folder: Path, arguments: list[str], name: str) -> Packet:
    """A site's projections, made by a process of its own so that its memory is not the server's."""
    command = [sys.executable, "-m", "benchmarks.streaming_role", *arguments, "check", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    (folder / f"{name}.check.json").write_bytes(done.stdout)
    return Packet((folder / f"{name}.projections.head").read_bytes())


def check(folder: Path, round_: SessionRound, name: str) -> int:
    """A site's answer to the check; its input is the words it had sent, read back from its disk."""
    sent = read_words(folder / f"{name}.words")
    client = round_.give(name, None, (folder / f"{name}.state").read_bytes(), sent)
    _save(folder, f"{name}.projections", client.handle(Packet((folder / "record.head").read_bytes())))
    return sent.nbytes


def open_sum(folder: Path, round_: SessionRound) -> int:
    """The mean, after all checks; gives the bytes of the sum, its input."""
    aggregate = _load(folder, "aggregate")
    state = (folder / f"{round_.middle}.state").read_bytes()
    mean = round_.scheme.open(round_.site_context, aggregate, round_.opening(round_.middle, state))
    assert abs(float(mean.values.mean())) < 1e-4
    return 0 if aggregate.words is None else aggregate.words.nbytes


def audit(folder: Path, round_: SessionRound) -> int:
    """What the vectors say of the sum; gives the bytes of the sum, its input beside the archive."""
    aggregate = _load(folder, "aggregate")
    found = round_.scheme.audit(round_.site_context, aggregate, round_.archive)
    assert (found.wrong_words, found.missing, found.false) == (0, (), ())
    return 0 if aggregate.words is None else aggregate.words.nbytes


def _save(folder: Path, name: str, packet: Packet) -> None:
    (folder / f"{name}.head").write_bytes(packet.head)
    if packet.words is not None:
        packet.words.tofile(folder / f"{name}.words")


def _load(folder: Path, name: str) -> Packet:
    return Packet((folder / f"{name}.head").read_bytes(), read_words(folder / f"{name}.words"))


def _archive(folder: Path) -> FolderArchive:
    """The server's, on disk: only what is at hand is in memory."""
    (folder / "vectors").mkdir(exist_ok=True)
    return FolderArchive(folder / "vectors", lambda act, path, error: error)


def main(folder: Path, scheme: str, sites: int, size: int, role: str, name: str = "") -> None:
    """Plays the role and prints what it took."""
    baseline = peak_bytes()
    round_ = SessionRound(sites, size, archive=_archive(folder), scheme=scheme)
    roles = {
        "site": lambda: mask(folder, round_, name, size),
        "server": lambda: serve(folder, round_, [str(folder), scheme, str(sites), str(size)]),
        "check": lambda: check(folder, round_, name),
        "open": lambda: open_sum(folder, round_),
        "audit": lambda: audit(folder, round_),
    }
    given = roles[role]()
    print(json.dumps({"baseline": baseline, "input": given, "peak": peak_bytes()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:])
