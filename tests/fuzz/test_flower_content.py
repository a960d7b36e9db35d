"""What Flower's parser makes of hostile objects is a packet, a refusal, or malformed, and costs one site its answer."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from typing import Any, cast

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_id
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedclient import packets
from fedclient.packets import SiteRefusal, decode_answer, decode_packet, decode_packets, encode_packet
from fedserver.exchange import exchange
from fedserver.mailbox import PolledMailbox
from secagg.errors import Malformed
from secagg.session import Packet

UNHURRIED = [HealthCheck.too_slow]  # a busy machine is no fault of a content's
MAX_WORDS = 8
NAMES = st.sampled_from(["secagg", "words", "refusal", "secagg.0", "words.0", "secagg.1", "words.1", "x", ""])
SHAPES = st.lists(st.integers(-3, 9) | st.just(1 << 62) | st.booleans() | st.text(max_size=2), max_size=3).map(tuple)


def array(shape: tuple[Any, ...], dtype: object, stype: object, data: bytes) -> Array:
    """What Flower's parser gives: it looks at none of these, its constructor does."""
    made = Array("uint64", (1,), "x", b"x")
    made.data = data
    made.shape, made.dtype, made.stype = shape, dtype, stype  # type: ignore[assignment]
    return made


def array_record(arrays: dict[str, Array]) -> ArrayRecord:
    """The arrays as they are; the constructor would make new ones."""
    record = ArrayRecord()
    record.update(arrays)
    return record


ARRAYS = st.builds(
    array,
    SHAPES | st.just((2,)),
    st.sampled_from(["uint64", "int64", "", 5, None, []]),
    st.sampled_from([packets.STYPE, "numpy.ndarray", "", None]),
    st.binary(max_size=80) | st.just(bytes(16)),
)
PLAIN = st.integers(-9, 9) | st.floats() | st.booleans() | st.text(max_size=9) | st.binary(max_size=9)
CONFIGS = st.dictionaries(st.sampled_from(["head", "code", "site", "x"]), PLAIN, max_size=3).map(ConfigRecord)
RECORDS = (
    CONFIGS
    | st.dictionaries(st.sampled_from(["words", "x"]), ARRAYS, max_size=2).map(array_record)
    | st.dictionaries(st.text(max_size=3), st.integers(0, 9), max_size=2).map(MetricRecord)
)
CONTENTS = st.dictionaries(NAMES, RECORDS, max_size=4).map(RecordDict)


@settings(max_examples=150, suppress_health_check=UNHURRIED)
@given(CONTENTS)
def test_any_content_is_a_packet_a_refusal_or_malformed(content: RecordDict) -> None:
    for decode in (decode_packet, decode_answer, decode_packets):
        try:
            found = decode(content, max_words=MAX_WORDS)
        except Malformed:
            continue
        for each in found if isinstance(found, list) else [found]:
            assert isinstance(each, Packet | SiteRefusal)
            if isinstance(each, Packet) and each.words is not None:
                assert each.words.dtype == np.uint64 and 1 <= each.words.size <= MAX_WORDS


@pytest.mark.parametrize(
    "content",
    [ArrayRecord({}), ConfigRecord({}), Array("uint64", (1,), packets.STYPE, bytes(8)), Packet(b""), None, {}],
)
def test_another_of_flowers_objects_in_the_contents_place_is_malformed(content: object) -> None:
    for decode in (decode_packet, decode_answer, decode_packets):
        with pytest.raises(Malformed):
            decode(content, max_words=MAX_WORDS)


# ------------------------------------------------------------------ through Flower's own parser

BODIES: list[Any] = [
    None, 5, -1, 1.5, "x", [], {}, [[]], [0, 0], [-1], ["x"], {"a": 1}, "uint64", [1 << 40], True, [5, [6]],
]  # fmt: skip


def objects_of(message: Message) -> tuple[str, dict[str, bytes]]:
    """The message as a node uploads it: its own name, and every object's bytes by name."""
    nested = get_all_nested_objects(message)
    return message.object_id, {name: each.deflate() for name, each in nested.items()}


def replaced(root: str, objects: dict[str, bytes], name: str, content: bytes) -> tuple[str, dict[str, bytes]]:
    """The same objects with one of another content, and the new names of all that name it."""
    objects = dict(objects)
    del objects[name]
    new = get_object_id(content)
    parents = [each for each, data in objects.items() if name.encode() in data]
    objects[new] = content
    root = new if name == root else root
    for parent in parents:
        root, objects = replaced(root, objects, parent, objects[parent].replace(name.encode(), new.encode()))
    return root, objects


@st.composite
def hostile(draw: st.DrawFn, root: str, objects: dict[str, bytes]) -> tuple[str, dict[str, bytes]]:
    """A reply of which one object says something else than it should."""
    kinds = sorted(objects, key=lambda each: objects[each].split(b" ")[0])  # names differ from run to run
    name = kinds[draw(st.integers(0, len(kinds) - 1))]
    head, _, body = objects[name].partition(b"\x00")
    kind, _, rest = head.partition(b" ")
    how = draw(st.sampled_from(("byte", "body", "field", "kind")))
    if how == "byte" and body:
        at = draw(st.integers(0, 999)) % len(body)
        body = body[:at] + bytes([body[at] ^ draw(st.integers(1, 255))]) + body[at + 1 :]
    elif how == "kind":
        kind = draw(st.sampled_from((b"Message", b"RecordDict", b"ArrayRecord", b"Array", b"ArrayChunk", b"Nothing")))
    else:
        try:
            value = json.loads(body)
        except ValueError:
            value = None
        if how == "field" and type(value) is dict and value:
            value[draw(st.sampled_from(sorted(value)))] = draw(st.sampled_from(BODIES))
        else:
            value = draw(st.sampled_from(BODIES))
        body = json.dumps(value).encode()
    rest = b" ".join([*rest.split(b" ")[:-1], b"%d" % len(body)])
    return replaced(root, objects, name, kind + b" " + rest + b"\x00" + body)


class Parsing:
    """A Grid that inflates what sites uploaded as Flower's does, in the thread that pulls."""

    def __init__(self, uploads: dict[int, tuple[str, dict[str, bytes]]]) -> None:
        self.uploads, self.nodes = uploads, dict[str, int]()

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        names = []
        for message in messages:
            name = f"message-{message.metadata.dst_node_id}"
            message.metadata.__dict__["_message_id"] = name
            self.nodes[name] = message.metadata.dst_node_id
            names.append(name)
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        [name] = message_ids
        root, objects = self.uploads[self.nodes[name]]
        message = cast(Message, inflate_object_from_contents(root, dict(objects)))
        message.metadata.__dict__["_message_id"] = name
        return [message]


@pytest.fixture(autouse=True)
def _task() -> Any:
    before = TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    yield
    TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id = before


def reply_of(node: int) -> tuple[str, dict[str, bytes]]:
    """The objects of an honest answer of this node, with words beside it."""
    request = Message(RecordDict(), node, "query.x")
    request.metadata.__dict__["_message_id"] = f"message-{node}"
    reply = Message(encode_packet(Packet(b"head", np.arange(4, dtype=np.uint64))), reply_to=request)
    reply.metadata.__dict__["_src_node_id"] = node
    return objects_of(reply)


def asked(uploads: dict[int, tuple[str, dict[str, bytes]]]) -> dict[str, Packet | SiteRefusal]:
    nodes = {f"site-{node}": node for node in uploads}
    requests = [(site, Packet(b"")) for site in nodes]
    mailbox = PolledMailbox(cast(Grid, Parsing(copy.deepcopy(uploads))))
    return dict(exchange(mailbox, nodes, requests, "query.x", 20.0, max_words=MAX_WORDS))


def test_an_honest_upload_is_read() -> None:
    answer = asked({1: reply_of(1)})["site-1"]
    assert isinstance(answer, Packet) and answer.words is not None and answer.words.tolist() == [0, 1, 2, 3]


@settings(max_examples=12, suppress_health_check=UNHURRIED)
@given(st.data())
def test_whatever_a_site_uploads_costs_it_its_own_answer_and_no_other(data: st.DataObject) -> None:
    honest = {node: reply_of(node) for node in (1, 2)}
    liars = {node: data.draw(hostile(*reply_of(node))) for node in range(3, 23)}
    answers = asked(honest | liars)
    assert isinstance(answers["site-1"], Packet) and isinstance(answers["site-2"], Packet)
    for site, answer in answers.items():
        assert isinstance(answer, Packet) or answer.code in ("malformed", "error", "gone"), site


@pytest.mark.parametrize("shape", ["5", "[[]]", '"x"', "null", "[1e999]", "[4, 4]"])
def test_a_shape_that_is_none_is_malformed_and_does_not_end_the_session(shape: str) -> None:
    root, objects = reply_of(1)
    [name] = [each for each, content in objects.items() if content.startswith(b"Array ")]
    head, _, body = objects[name].partition(b"\x00")
    body = body.replace(b"[4]", shape.encode())
    head = b" ".join([*head.split(b" ")[:-1], b"%d" % len(body)])
    upload = replaced(root, objects, name, head + b"\x00" + body)
    answers = asked({1: upload, 2: reply_of(2)})
    assert answers["site-1"] == SiteRefusal("malformed")
    assert isinstance(answers["site-2"], Packet)
