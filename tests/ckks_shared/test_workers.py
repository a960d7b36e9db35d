"""What kills a process that runs TenSEAL is an error of one job, and no such process outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import psutil
import pytest

from secagg.ckks_shared import frames, worker, workers
from secagg.ckks_shared.keys import accept
from secagg.ckks_shared.params import SLOTS
from secagg.ckks_shared.workers import DECRYPT, ENCRYPT, LOAD, Failed, Worker, idle, require_secret, run, stop_idle
from secagg.errors import FaultyServer, FaultySite, Misuse
from tests.ckks_shared.made import residues_of, shared_round, with_sum
from tests.ckks_shared.test_keys import ME, dealt_as, scene
from tests.sim import some_shared_key

ONES = np.ones(SLOTS, "<i8").tobytes()


@pytest.fixture(autouse=True)
def _no_workers_before_or_after() -> Iterator[None]:
    stop_idle()
    yield
    stop_idle()


def pids() -> list[int]:
    return [each.process.pid for each in idle()]


def killed(number: int) -> None:
    """Kills every waiting process as a crash would, and waits until it is dead."""
    for each in idle():
        os.kill(each.process.pid, number)
        each.process.wait()


def test_both_sides_speak_of_the_same_jobs() -> None:
    for name in ("GENERATE", "LOAD", "ENCRYPT", "DECRYPT", "DONE", "HEAD_BYTES"):
        assert getattr(worker, name) == getattr(workers, name), name


def test_jobs_are_answered_in_order_by_as_many_processes_as_there_are_processors() -> None:
    secret = some_shared_key().secret
    jobs = [np.full(SLOTS, i, "<i8").tobytes() for i in range(9)]
    words = list(run(secret, ENCRYPT, jobs))
    assert list(run(secret, DECRYPT, words)) == jobs
    assert len(pids()) == min(os.cpu_count() or 1, len(jobs))


def test_processes_wait_for_the_next_jobs_and_take_another_key_when_asked() -> None:
    secret, other = some_shared_key().secret, workers.generate()
    (words,) = run(secret, ENCRYPT, [ONES])
    first = pids()
    with pytest.raises(Failed, match="refuses"):
        list(run(other, DECRYPT, [words]))
    assert list(run(secret, DECRYPT, [words])) == [ONES]
    assert pids() == first  # a refusal ends no process


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT])
def test_a_process_that_dies_between_jobs_is_replaced(number: int) -> None:
    secret = some_shared_key().secret
    (words,) = run(secret, ENCRYPT, [ONES])
    first = pids()
    killed(number)
    assert list(run(secret, DECRYPT, [words])) == [ONES]
    assert not set(first) & set(pids())


def test_a_process_that_dies_during_a_job_is_an_error_and_the_next_job_finds_another() -> None:
    dying = Worker()
    dying.load(some_shared_key().secret)
    os.kill(dying.process.pid, signal.SIGSTOP)  # so that the job is under way when the signal comes
    dying.send(ENCRYPT, ONES)
    os.kill(dying.process.pid, signal.SIGSEGV)
    os.kill(dying.process.pid, signal.SIGCONT)
    with pytest.raises(Failed, match="died"):
        dying.receive()
    assert dying.process.returncode == -signal.SIGSEGV
    with pytest.raises(Failed, match="died"):
        dying.send(ENCRYPT, ONES)
    assert len(list(run(some_shared_key().secret, ENCRYPT, [ONES]))) == 1


def dies_on(kind: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on every process that gets a job of this kind is killed by SIGSEGV, as SEAL would be."""
    send = Worker.send

    def fatal(self: Worker, which: bytes, job: bytes) -> None:
        if which == kind:
            os.kill(self.process.pid, signal.SIGSEGV)
            self.process.wait()
        send(self, which, job)

    monkeypatch.setattr(Worker, "send", fatal)


def test_a_crash_while_a_sum_is_opened_is_the_servers_fault_and_no_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    round_ = shared_round()
    aggregate = round_.run()
    with monkeypatch.context() as patched:
        dies_on(DECRYPT, patched)
        with pytest.raises(FaultyServer, match="does not decrypt"):
            round_.mean(aggregate)
    assert round_.mean(aggregate).contributors == round_.consortium.names


def test_a_crash_while_a_dealt_key_is_read_is_its_makers_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    consortium, dealt = scene()
    whole = dealt_as(consortium, dealt, some_shared_key())
    dies_on(LOAD, monkeypatch)
    with pytest.raises(FaultySite, match="site-01: the shared key is none"):
        accept(whole, consortium.keys[ME], consortium.roster)


def test_a_crash_while_a_site_encrypts_is_its_own_error_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    round_ = shared_round()
    client, request = round_.clients["site-01"], round_.server.requests()["site-01"]
    before = client.to_bytes()
    with monkeypatch.context() as patched:
        dies_on(ENCRYPT, patched)
        with pytest.raises(Misuse, match="died"):
            client.handle(request)
    assert client.to_bytes() == before
    assert client.handle(request).words is not None


def test_no_altered_secret_gets_anything_but_a_refusal_or_a_dead_process() -> None:
    """Bytes of a true key, altered: some load, none is an outage of this process."""
    secret = some_shared_key().secret
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        altered = bytearray(secret)
        for _ in range(int(rng.integers(1, 4))):
            altered[int(rng.integers(0, 200 if rng.random() < 0.8 else len(secret)))] = int(rng.integers(0, 256))
        try:
            require_secret(bytes(altered))
        except Failed:
            refused += 1
    assert refused > 75
    assert list(run(secret, DECRYPT, run(secret, ENCRYPT, [ONES]))) == [ONES]


def test_a_thousand_altered_sums_are_opened_or_refused_and_no_process_dies_of_them() -> None:
    round_ = shared_round(3)
    aggregate = round_.run()
    assert aggregate.payload.words is not None
    rng, opened = np.random.default_rng(1), 0
    round_.mean(aggregate)
    before = pids()
    for _ in range(1000):
        words = aggregate.payload.words.copy()
        at = int(rng.integers(0, words.size))
        words[at] ^= np.uint64(1) << np.uint64(rng.integers(0, 64))
        try:
            round_.mean(with_sum(round_, aggregate, words))
            opened += 1
        except FaultyServer:
            continue
    assert opened < 1000 // 2  # a flip of a low bit is below the noise, and changes no integer
    assert pids() == before


@pytest.mark.parametrize("job", [b"", b"\x00" * 7, ONES[:-8], ONES + b"\x00"])
def test_a_job_of_another_size_is_refused_by_the_process(job: bytes) -> None:
    for kind in (ENCRYPT, DECRYPT):
        with pytest.raises(Failed, match="refuses"):
            list(run(some_shared_key().secret, kind, [job]))


def test_a_process_without_a_key_does_no_job() -> None:
    fresh = Worker()
    for kind in (ENCRYPT, DECRYPT):
        fresh.send(kind, ONES)
        with pytest.raises(Failed, match="refuses"):
            fresh.receive()
    fresh.stop()


def test_residues_above_the_modulus_are_refused_by_the_process_too() -> None:
    words = frames.pack(residues_of(0)) | np.uint64((1 << 60) - 1)
    with pytest.raises(Failed, match="refuses"):
        list(run(some_shared_key().secret, DECRYPT, [words.astype("<u8").tobytes()]))


def test_a_reply_that_claims_to_be_too_long_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "MOST_REPLY", 100)
    with pytest.raises(Failed, match="died"):
        list(run(some_shared_key().secret, ENCRYPT, [ONES]))


_PATCHED = """
import sys
sys.path[:] = {path!r}
import secagg.ckks_shared.worker as worker
worker.MOST_JOB_S = 1
worker.Jobs._generate = {job}
worker.main()
"""


def patched(job: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """A process as it is, but with a shorter time, whose one job does something else."""
    given = b"g" + len(data).to_bytes(8, "little") + data
    code = _PATCHED.format(path=sys.path, job=job)
    return subprocess.run([sys.executable, "-c", code], input=given, capture_output=True, timeout=60, check=False)


def test_a_job_that_does_not_end_ends_its_process() -> None:
    assert patched("lambda self, job: sum(range(10 ** 12)).to_bytes()").returncode == -signal.SIGALRM


def test_a_job_that_asks_for_too_much_memory_is_refused() -> None:
    done = patched("lambda self, job: bytes(1 << 33)")
    assert (done.returncode, done.stdout) == (0, worker.REFUSED + bytes(8))


def test_a_process_leaves_no_core_file_that_would_hold_the_key() -> None:
    done = patched("lambda self, job: repr(worker.resource.getrlimit(worker.resource.RLIMIT_CORE)).encode()")
    assert done.stdout.endswith(b"(0, 0)")


def test_what_a_library_prints_is_no_reply() -> None:
    done = patched("lambda self, job: worker.os.write(1, b'noise') and b'reply'")
    assert done.stdout == worker.DONE + (5).to_bytes(8, "little") + b"reply"


def test_a_job_longer_than_any_ends_the_process_before_it_is_read() -> None:
    given = b"g" + (worker.MOST_JOB + 1).to_bytes(8, "little")
    code = _PATCHED.format(path=sys.path, job="lambda self, job: b''")
    done = subprocess.run([sys.executable, "-c", code], input=given, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, b"")


_PARENT = """
import sys
sys.path[:] = {path!r}
from secagg.ckks_shared import workers
secret = workers.generate()
list(workers.run(secret, workers.ENCRYPT, [bytes(16384)] * 4))
print(*(each.process.pid for each in workers.idle()), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_processes_die_with_their_parent(number: int) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT.format(path=sys.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    children = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
    assert children and all(child.is_running() for child in children)
    os.kill(parent.pid, number)
    parent.wait()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []


def test_a_fork_of_a_site_uses_none_of_its_parents_processes() -> None:
    list(run(some_shared_key().secret, ENCRYPT, [ONES]))
    mine = pids()
    assert mine
    child = os.fork()
    if child == 0:
        os._exit(0 if pids() == [] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert pids() == mine
