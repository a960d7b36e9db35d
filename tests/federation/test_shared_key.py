"""Sessions under a key that the sites share: every site holds it, allows the scheme by name, and uses a key once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from fedclient.store import StoreError, UsedKeys
from fedclient.timings import TIMINGS, kept
from fedserver.plan import ServerError
from secagg.ckks_shared.messages import SumRecord
from secagg.config import Setting
from secagg.enrol import RoundStart
from secagg.errors import FaultyServer, Refused
from secagg.masked.messages import sum_words_digest
from secagg.schemes import scheme_named
from secagg.session import SHARED_KEY, Packet
from tests.federation.direct import Bench, Where
from tests.sim import Consortium, some_shared_key

ME = "site-01"


def shared(folder: Path, out: str = "out", allowed: bool = True) -> Bench:
    """Five sites that hold one key, and a server that knows its name."""
    key = some_shared_key()
    bench = Bench(folder, options={"scheme": "ckks-shared", "shared_key": key.name.hex(), "out": str(folder / out)})
    for name in bench.names:
        bench.consortium.keys[name] = replace(bench.consortium.keys[name], shared=(key,))
        schemes = (*bench.policies[name].schemes, *(("ckks-shared",) if allowed else ()))
        bench.policies[name] = replace(bench.policies[name], schemes=schemes)
    bench.restart(*bench.names)
    return bench


def reasons(bench: Bench) -> set[str]:
    return {str(error) for _, error in bench.link.refusals}


def test_sites_end_with_the_mean_and_the_server_with_nothing(tmp_path: Path) -> None:
    bench = shared(tmp_path)
    result = bench.run()
    assert result.adapter is None
    assert len({bench.learners[name].saved.tobytes() for name in bench.names}) == 1  # type: ignore[union-attr]
    error = bench.learners[ME].saved - bench.expected(result)
    assert abs(error).max() < 0.01
    answered = {phase for line in kept(bench.folder / ME / TIMINGS) for phase in line.seconds} - {"open", "train"}
    assert "contribute" in answered and "mask" not in answered
    (event,) = bench.events("protection")
    assert event["options"] == {SHARED_KEY: some_shared_key().name.hex()}
    assert event["cautions"] == [f"ckks-shared: {scheme_named('ckks-shared').caution}"]


def test_a_site_takes_no_part_unless_its_policy_names_the_scheme(tmp_path: Path) -> None:
    bench = shared(tmp_path, allowed=False)
    with pytest.raises(ServerError):
        bench.run()
    assert reasons(bench) == {"this site's policy: scheme ckks-shared is not allowed"}


def test_a_site_without_the_key_takes_no_part(tmp_path: Path) -> None:
    bench = shared(tmp_path)
    bench.consortium.keys[ME] = replace(bench.consortium.keys[ME], shared=())
    bench.restart(ME)
    bench.run(min_sites=4)
    assert "does not hold the shared key" in reasons(bench).pop()
    assert bench.contributors() == [bench.but(ME)] * 2


def test_a_key_serves_one_session(tmp_path: Path) -> None:
    first = shared(tmp_path)
    first.run()
    first.restart(*first.names)
    used = (tmp_path / ME / "shared-keys.log").read_text().split()
    assert used[0] == some_shared_key().name.hex()
    assert used[1] == first.session_folder(ME).name
    second = shared(tmp_path, "second")
    with pytest.raises(ServerError):
        second.run()
    assert reasons(second) == {"another session used this shared key; make a new one: fedkeys ckks-shared new"}


def made_up(aggregate: Packet) -> Packet:
    """The aggregate with another sum, which is one of ciphertexts and is named in the record."""
    record = SumRecord.decode(aggregate.head)
    assert aggregate.words is not None
    words = aggregate.words.copy()
    words[: words.size // 2] = 0
    named = sum_words_digest(record.opened.header.digest(), words)
    return Packet(replace(record, sum_words=named).encode(), words)


def test_a_key_under_which_a_sum_was_refused_is_given_up_for_good(tmp_path: Path) -> None:
    """Also for true sums: the server is not told a second time which of its sums is one of integers."""
    bench, lies = shared(tmp_path), iter((True, False))

    def once(where: Where, packets: Sequence[Packet]) -> Sequence[Packet]:
        lied_to = where.site == ME and where.kind == "start" and len(packets) > 1
        return [packets[0], made_up(packets[1])] if lied_to and next(lies) else packets

    bench.link.alter_request = once
    bench.run()
    assert bench.contributors() == [bench.names, bench.but(ME)]
    given_up = "a sum under this shared key was refused; make a new one: fedkeys ckks-shared new"
    first, *later = [error for where, error in bench.link.refusals if where.site == ME]
    assert isinstance(first, FaultyServer)
    assert {str(error) for error in later} == {given_up}
    assert (tmp_path / ME / "shared-keys.log").read_text().splitlines()[-1] == f"refused {some_shared_key().name.hex()}"
    bench.restart(ME)
    session = bytes.fromhex(bench.session_folder(ME).name)
    with pytest.raises(Refused, match="was refused"):
        bench.link.members[ME].handle("start", [Packet(RoundStart(session, 2, ()).encode())])


def test_a_session_that_asked_nothing_of_the_key_has_not_used_it(tmp_path: Path) -> None:
    first = shared(tmp_path)
    first.link.alter_request = lambda where, packets: None if where.kind == "start" else packets
    with pytest.raises(ServerError):
        first.run(attempts=1)
    assert not (tmp_path / ME / "shared-keys.log").exists()
    second = shared(tmp_path, "second")
    second.run()
    assert second.contributors() == [second.names] * 2


def test_two_sessions_that_a_site_agreed_to_cannot_both_use_the_key(tmp_path: Path) -> None:
    consortium = Consortium(5)
    manifests = [
        consortium.manifest(10, nonce=bytes([number]) * 32, options=(Setting(SHARED_KEY, "ab" * 32),))
        for number in (1, 2)
    ]
    used = UsedKeys(tmp_path)
    for manifest in manifests:
        used.require_unused(manifest)
    used.take(manifests[0])
    used.take(manifests[0])
    with pytest.raises(Exception, match="another session used this shared key"):
        used.take(manifests[1])
    used.take(consortium.manifest(10))
    assert len((tmp_path / "shared-keys.log").read_text().splitlines()) == 1


def test_a_list_of_used_keys_that_cannot_be_read_lets_no_key_be_used(tmp_path: Path) -> None:
    (tmp_path / "shared-keys.log").write_bytes(b"\xff")
    with pytest.raises(StoreError):
        UsedKeys(tmp_path).require_unused(Consortium(5).manifest(10, options=(Setting(SHARED_KEY, "ab" * 32),)))
