"""Packets and refusals survive Flower's records, and nothing else is taken for one."""

from __future__ import annotations

import sys
from subprocess import run

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedclient import packets
from fedclient.packets import (
    MAX_HEAD_BYTES,
    MAX_PACKETS,
    REFUSAL_CODES,
    SiteRefusal,
    decode_answer,
    decode_packet,
    decode_packets,
    encode_packet,
    encode_packets,
    encode_refusal,
)
from secagg import errors
from secagg.errors import Malformed, Misuse
from secagg.session import Packet

WORDS = np.array([0, 1, 2**64 - 1], dtype=np.uint64)
HEAD = ConfigRecord({"head": b"head"})


def array_record(**changes: object) -> ArrayRecord:
    fields: dict[str, object] = {
        "dtype": "uint64",
        "shape": (3,),
        "stype": packets.STYPE,
        "data": WORDS.tobytes(),
    }
    return ArrayRecord({"words": Array(**(fields | changes))})


def test_a_packet_comes_back_as_it_was_sent() -> None:
    back = decode_packet(encode_packet(Packet(b"head", WORDS)), max_words=3)
    assert back.head == b"head"
    assert back.words is not None
    assert back.words.dtype == np.uint64
    assert back.words.tolist() == WORDS.tolist()


def test_a_packet_without_words_comes_back_without() -> None:
    assert decode_packet(encode_packet(Packet(b"")), max_words=0) == Packet(b"")


def test_words_travel_as_raw_little_endian_bytes_in_one_array() -> None:
    [array] = encode_packet(Packet(b"", WORDS))["words"].values()
    assert array.data == b"".join(int(word).to_bytes(8, "little") for word in WORDS)


def test_decoded_words_are_a_view_and_are_sent_on_without_a_copy() -> None:
    content = encode_packet(Packet(b"", WORDS))
    raw = content["words"]["words"].data
    back = decode_packet(content, max_words=3)
    assert np.shares_memory(back.words, np.frombuffer(raw, np.uint8))
    assert encode_packet(back)["words"]["words"].data is raw


@pytest.mark.parametrize("view", [WORDS[::-1], np.repeat(WORDS, 2)[::2]])
def test_a_strided_view_is_sent_in_its_own_order(view: np.ndarray) -> None:
    assert decode_packet(encode_packet(Packet(b"", view)), max_words=3).words.tolist() == view.tolist()


def test_a_reversed_view_of_received_bytes_is_not_sent_as_those_bytes() -> None:
    received = decode_packet(encode_packet(Packet(b"", WORDS)), max_words=3).words
    again = decode_packet(encode_packet(Packet(b"", received[::-1])), max_words=3).words
    assert again.tolist() == WORDS[::-1].tolist()


def test_packets_with_the_same_words_share_one_record() -> None:
    shared: packets.SharedArrays = {}
    first, second = (encode_packet(Packet(head, WORDS), shared) for head in (b"a", b"b"))
    assert first["words"] is second["words"]


def test_several_packets_come_back_in_order() -> None:
    sent = [Packet(b"%d" % index, WORDS if index % 3 else None) for index in range(12)]
    back = decode_packets(encode_packets(sent), max_words=3)
    assert [packet.head for packet in back] == [packet.head for packet in sent]
    assert [packet.words is None for packet in back] == [packet.words is None for packet in sent]


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"words": array_record()},
        {"secagg": HEAD, "extra": ConfigRecord({})},
        {"secagg": HEAD, "words.0": array_record()},
        {"secagg": ConfigRecord({})},
        {"secagg": ConfigRecord({"head": "text"})},
        {"secagg": ConfigRecord({"head": [b"head"]})},
        {"secagg": ConfigRecord({"head": b"head", "more": 1})},
        {"secagg": ConfigRecord({"head": bytes(MAX_HEAD_BYTES + 1)})},
        {"secagg": MetricRecord({"head": 1})},
        {"secagg": HEAD, "words": ConfigRecord({})},
        {"secagg": HEAD, "words": ArrayRecord({})},
        {"secagg": HEAD, "words": ArrayRecord({"other": array_record()["words"]})},
        {"secagg": HEAD, "words": array_record(dtype="int64")},
        {"secagg": HEAD, "words": array_record(stype="numpy.ndarray")},
        {"secagg": HEAD, "words": array_record(shape=(1, 3))},
        {"secagg": HEAD, "words": array_record(shape=())},
        {"secagg": HEAD, "words": array_record(shape=(-3,))},
        {"secagg": HEAD, "words": array_record(shape=(True,), data=bytes(8))},
        {"secagg": HEAD, "words": array_record(shape=(0,), data=b"")},
        {"secagg": HEAD, "words": array_record(shape=(2,))},
        {"secagg": HEAD, "words": array_record(data=WORDS.tobytes()[:-1])},
        {"secagg": HEAD, "words": array_record(shape=(4,), data=bytes(32))},
    ],
)
def test_anything_but_a_packet_is_malformed(content: dict[str, object]) -> None:
    with pytest.raises(Malformed):
        decode_packet(RecordDict(content), max_words=3)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"secagg": HEAD},
        {"secagg.1": HEAD},
        {"secagg.00": HEAD},
        {"secagg.0": HEAD, "secagg.2": HEAD},
        {"secagg.0": HEAD, "words.1": array_record()},
        {"secagg.0": HEAD, "secagg": HEAD},
        {f"secagg.{index}": HEAD for index in range(4)},
    ],
)
def test_anything_but_a_bounded_list_of_packets_is_malformed(content: dict[str, object]) -> None:
    with pytest.raises(Malformed):
        decode_packets(RecordDict(content), max_words=3, max_packets=3)


@pytest.mark.parametrize(
    "packet",
    [
        Packet(bytes(MAX_HEAD_BYTES + 1)),
        Packet(b"", np.zeros(0, np.uint64)),
        Packet(b"", np.zeros((1, 1), np.uint64)),
        Packet(b"", np.zeros(1, np.int64)),  # type: ignore[arg-type]
    ],
)
def test_a_packet_outside_the_limits_is_not_sent(packet: Packet) -> None:
    with pytest.raises(Misuse):
        encode_packet(packet)


@pytest.mark.parametrize("count", [0, MAX_PACKETS + 1])
def test_a_list_outside_the_limits_is_not_sent(count: int) -> None:
    with pytest.raises(Misuse):
        encode_packets([Packet(b"")] * count)


def test_a_refusal_comes_back_as_a_code_and_a_name() -> None:
    refusal = SiteRefusal("faulty-site", "hospital-b")
    assert decode_answer(encode_refusal(refusal), max_words=0) == refusal


@pytest.mark.parametrize(
    "record",
    [
        {"code": "error"},
        {"code": "error", "site": "", "text": "why"},
        {"code": "patient 17 has flu", "site": ""},
        {"code": "error", "site": "Patient 17"},
        {"code": 1, "site": ""},
        {"code": "error", "site": ["a"]},
    ],
)
def test_a_refusal_with_free_text_is_malformed(record: dict[str, object]) -> None:
    with pytest.raises(Malformed):
        decode_answer(RecordDict({"refusal": ConfigRecord(record)}), max_words=0)


def test_a_refusal_beside_a_packet_is_malformed() -> None:
    content = RecordDict({"secagg": HEAD, "refusal": ConfigRecord({"code": "error", "site": ""})})
    with pytest.raises(Malformed):
        decode_answer(content, max_words=0)


def test_every_error_of_the_core_has_a_refusal_code() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "code")]
    assert {kind.code for kind in kinds} <= REFUSAL_CODES


def test_reading_packets_loads_nothing_heavy() -> None:
    heavy = {"torch", "ray", "uvicorn", "fastapi", "sqlalchemy"}
    code = f"import sys, fedclient.packets; print(*{heavy} & set(sys.modules))"
    assert run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


@pytest.mark.parametrize(
    "content",
    [
        {"refusal": ConfigRecord({"code": ["error"], "site": ""})},
        {"refusal": MetricRecord({"code": 1, "site": 2})},
        {"refusal": array_record()},
        {"secagg": HEAD, "words": ConfigRecord({"words": b"abc"})},
        {"secagg": HEAD, "words": MetricRecord({"words": 1})},
        {"secagg": array_record()},
    ],
)
def test_a_record_of_another_kind_is_malformed_and_nothing_worse(content: dict[str, object]) -> None:
    with pytest.raises(Malformed):
        decode_answer(RecordDict(content), max_words=3)
