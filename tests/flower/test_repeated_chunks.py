"""A site that lists one chunk many times costs the server no more memory than the longest vector it asked for."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.inflatable.inflatable_object import InflatableObject, get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from fedclient.packets import WORD_BYTES, WORDS, SiteRefusal, decode_packet, encode_packet
from fedserver.exchange import exchange
from fedserver.inflation import MAX_LIST_BYTES, at_most
from fedserver.mailbox import mailbox_of
from secagg.errors import Malformed
from secagg.session import Packet
from tests.flower.federation import SITES, Federation

MIB = 1 << 20
CHUNK = np.random.default_rng(1).integers(0, 1 << 64, MIB // 2 // WORD_BYTES, dtype=np.uint64)  # half a MiB
FITTING = 32
MAX_WORDS = FITTING * CHUNK.size  # 16 MiB
TOO_MANY = 16 * FITTING
ZEROS = 0  # in a request: a vector of MAX_WORDS zeros, which Flower cuts into equal chunks of 5 MiB and a rest
# Chunks, the buffer they go into, which grows by an eighth at a time, its copy, and what else Flower holds: under four.
MAX_PEAK_BYTES = 4 * MAX_WORDS * WORD_BYTES

site_app = ClientApp()
server_app = ServerApp()


def repeat(array: Array, times: int) -> None:
    """Makes the Array of one chunk claim that chunk so many times, as Flower will upload it."""
    [chunk] = array.slice_array()
    array.shape = (times * array.shape[0],)
    array.__dict__["_chunks"] = [chunk] * times


def repeated(times: int) -> RecordDict:
    content = encode_packet(Packet(b"", CHUNK))
    repeat(content[WORDS][WORDS], times)
    return content


@site_app.query("words")
def answer(message: Message, context: Context) -> Message:
    times = int(decode_packet(message.content, max_words=0).head)
    zeros = Packet(b"", np.zeros(MAX_WORDS, np.uint64))
    return Message(encode_packet(zeros) if times == ZEROS else repeated(times), reply_to=message)


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    config, report = context.run_config, []
    mailbox = mailbox_of(grid)
    tracemalloc.start()
    for times in (ZEROS, FITTING, TOO_MANY):
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        nodes = {SITES[0]: int(config["node"])}
        requests = [(SITES[0], Packet(str(times).encode()))]
        [(_, got)] = exchange(mailbox, nodes, requests, "query.words", 30.0, max_words=MAX_WORDS)
        _, peak = tracemalloc.get_traced_memory()
        report.append([_sort_of(got), peak - before])
        del got
    Path(str(config["out"])).write_text(json.dumps(report))


def _sort_of(got: Packet | SiteRefusal) -> str:
    if isinstance(got, SiteRefusal):
        return got.code
    if not np.any(got.words):
        return f"{got.words.size} zeros"
    return "repeated" if np.array_equal(got.words, np.tile(CHUNK, FITTING)) else "other"


@pytest.mark.processes
@pytest.mark.timeout(120)
def test_an_upload_that_repeats_a_chunk_beyond_the_longest_vector_is_refused_before_it_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And equal chunks within that length pass, as those of zeros do."""
    monkeypatch.setattr("tests.flower.federation.app", site_app)
    federation, out = Federation(tmp_path), tmp_path / "report.json"
    with federation.server() as link, federation.agents(SITES[:1]):
        apps = {"server_app": f"{__name__}:server_app", "client_app": f"{__name__}:site_app"}
        run = link.start_run(**apps, config={"node": str(federation.nodes[SITES[0]]), "out": str(out)})
        assert link.wait(run).is_completed, link.log_of_run(run)
    answers, peaks = zip(*json.loads(out.read_text()), strict=True)
    assert answers == (f"{MAX_WORDS} zeros", "repeated", "malformed")
    assert max(peaks) < MAX_PEAK_BYTES < TOO_MANY * CHUNK.nbytes


def inflate(content: InflatableObject) -> InflatableObject:
    """The content as Flower's Grid puts it together from its uploaded objects."""
    contents = {name: part.deflate() for name, part in get_all_nested_objects(content).items()}
    return inflate_object_from_contents(content.object_id, contents)


@pytest.mark.parametrize("times", [1, 2, FITTING])
def test_a_vector_of_the_limit_passes_and_one_a_byte_above_it_is_refused(times: int) -> None:
    with at_most(times * CHUNK.nbytes):
        assert len(inflate(repeated(times))[WORDS][WORDS].data) == times * CHUNK.nbytes
    with at_most(times * CHUNK.nbytes - 1), pytest.raises(Malformed):
        inflate(repeated(times))


def test_many_vectors_of_one_reply_share_its_limit() -> None:
    content = repeated(2)
    content["more"] = repeated(3)[WORDS]
    with at_most(5 * CHUNK.nbytes):
        inflate(content)
    with at_most(5 * CHUNK.nbytes - 1), pytest.raises(Malformed):
        inflate(content)


def test_where_no_vector_is_asked_for_none_is_put_together() -> None:
    with at_most(0), pytest.raises(Malformed):
        inflate(repeated(1))


def test_a_list_of_chunks_that_is_itself_long_is_not_read() -> None:
    content = encode_packet(Packet(b"", CHUNK))
    repeat(content[WORDS][WORDS], MAX_LIST_BYTES)
    with at_most(MAX_WORDS * WORD_BYTES), pytest.raises(Malformed, match="list"):
        inflate(content)


def test_outside_the_limit_flower_is_as_it_was() -> None:
    with at_most(0):
        pass
    assert len(inflate(repeated(FITTING))[WORDS][WORDS].data) == MAX_WORDS * WORD_BYTES
