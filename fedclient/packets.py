"""How a packet or a refusal travels as the content of a Flower message (spec §17.1).

A head is bytes in the ConfigRecord "secagg"; the vector beside it is one Array of raw little-endian words in
the ArrayRecord "words", so that Flower moves it in chunks and nothing parses it. A refusal is a code from a
fixed list and at most the name of the site to blame: never text, since the other end reads every byte of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from secagg.errors import Malformed, Misuse
from secagg.session import Packet, Words
from secagg.wire import NAME

MAX_HEAD_BYTES: Final = 4 << 20
MAX_PACKETS: Final = 64  # packets in one message: one protocol message and the aggregates a site missed
WORD_BYTES: Final = 8
STYPE: Final = "secagg.words.le"
DTYPE: Final = "uint64"
HEAD: Final = "secagg"
WORDS: Final = "words"
REFUSAL: Final = "refusal"

REFUSAL_CODES: Final = frozenset(
    {
        "error",  # anything the site has no better word for
        "gone",  # the site is not connected, or its answer expired; the server's side says so
        "misuse",
        "malformed",
        "refused",
        "faulty-server",
        "faulty-site",
        "faulty-peer-or-server",
        "too-few-sites",
        "sealed",
        "data",
        "local-error",
        "model",
        "server",
        "settings",
        "storage",
        "training",
    }
)


@dataclass(frozen=True, slots=True)
class SiteRefusal:
    """A site's answer when it will not take part: why, as a code, and which site it blames, if any."""

    code: str
    site: str = ""

    def __post_init__(self) -> None:
        if self.code not in REFUSAL_CODES:
            raise Malformed("the refusal's code is not on the list")
        if self.site and not NAME.fullmatch(self.site):
            raise Malformed("the refusal names no valid site")


Record = ArrayRecord | MetricRecord | ConfigRecord
SharedArrays = dict[int, tuple[Words, ArrayRecord]]  # by id of the words; keeping them keeps the ids theirs


def encode_packet(packet: Packet, shared: SharedArrays | None = None) -> RecordDict:
    """The content that carries one packet.

    shared: give the same dict for several packets, and those with the same words array share one record.
    Raises Misuse if the head or the words are outside the limits.
    """
    return RecordDict(_encode(packet, HEAD, WORDS, shared))


def encode_packets(packets: Sequence[Packet], shared: SharedArrays | None = None) -> RecordDict:
    """The content that carries 1 to MAX_PACKETS packets, in order."""
    if not 1 <= len(packets) <= MAX_PACKETS:
        raise Misuse(f"a message carries 1 to {MAX_PACKETS} packets, not {len(packets)}")
    records: dict[str, Record] = {}
    for index, packet in enumerate(packets):
        records |= _encode(packet, f"{HEAD}.{index}", f"{WORDS}.{index}", shared)
    return RecordDict(records)


def encode_refusal(refusal: SiteRefusal) -> RecordDict:
    """The content that carries a refusal."""
    return RecordDict({REFUSAL: ConfigRecord({"code": refusal.code, "site": refusal.site})})


def decode_packet(content: RecordDict, *, max_words: int) -> Packet:
    """The one packet in this content. Raises Malformed.

    max_words: the longest vector the caller expects; 0 allows none. The words are a read-only view.
    """
    _require_records(content)
    return _decode(content, HEAD, WORDS, set(content), max_words)


def decode_packets(content: RecordDict, *, max_words: int, max_packets: int = MAX_PACKETS) -> list[Packet]:
    """The packets in this content, in order. Raises Malformed.

    max_words bounds each vector, max_packets their number.
    """
    _require_records(content)
    heads = [name for name in content if name.startswith(f"{HEAD}.")]
    if not 1 <= len(heads) <= min(max_packets, MAX_PACKETS):
        raise Malformed("the message holds too many packets or none")
    pairs = [(f"{HEAD}.{index}", f"{WORDS}.{index}") for index in range(len(heads))]
    if strangers := set(content) - {name for pair in pairs for name in pair}:
        raise Malformed(f"the message holds {len(strangers)} unknown records")
    return [_decode(content, head, words, set(content) & {head, words}, max_words) for head, words in pairs]


def decode_answer(content: RecordDict, *, max_words: int) -> Packet | SiteRefusal:
    """What a site answered: a packet or a refusal. Raises Malformed."""
    _require_records(content)
    if REFUSAL not in content:
        return decode_packet(content, max_words=max_words)
    record = content[REFUSAL]
    if len(content) != 1 or not isinstance(record, ConfigRecord) or set(record) != {"code", "site"}:
        raise Malformed("the refusal has unknown parts")
    code, site = record["code"], record["site"]
    if not isinstance(code, str) or not isinstance(site, str):
        raise Malformed("the refusal's code and site must be text")
    return SiteRefusal(code, site)


def _require_records(content: object) -> None:
    """Raises Malformed for another of Flower's objects, which its parser lets stand in the content's place."""
    if not isinstance(content, RecordDict):
        raise Malformed("the message's content is not a dict of records")


def _encode(packet: Packet, head: str, words: str, shared: SharedArrays | None) -> dict[str, Record]:
    if len(packet.head) > MAX_HEAD_BYTES:
        raise Misuse(f"a head has at most {MAX_HEAD_BYTES} bytes")
    records: dict[str, Record] = {head: ConfigRecord({"head": packet.head})}
    if packet.words is not None:
        records[words] = _array_record(packet.words, {} if shared is None else shared)
    return records


def _array_record(words: Words, shared: SharedArrays) -> ArrayRecord:
    if words.dtype != np.uint64 or words.ndim != 1 or words.size == 0:
        raise Misuse("words must be a vector of one or more uint64")
    if id(words) not in shared:
        array = Array(dtype=DTYPE, shape=(words.size,), stype=STYPE, data=_little_endian(words))
        shared[id(words)] = words, ArrayRecord({WORDS: array})
    return shared[id(words)][1]


def _little_endian(words: Words) -> bytes:
    raw = words.base  # words that were decoded from bytes are sent on as those bytes, without a copy
    whole = isinstance(raw, bytes) and len(raw) == words.nbytes and words.flags.c_contiguous
    if isinstance(raw, bytes) and whole and words.dtype == np.dtype("<u8"):
        return raw
    return words.astype("<u8", copy=False).tobytes()


def _decode(content: RecordDict, head: str, words: str, present: set[str], max_words: int) -> Packet:
    if head not in present or not present <= {head, words}:
        raise Malformed("the message's records are not those of a packet")
    return Packet(_head(content[head]), _words(content[words], max_words) if words in present else None)


def _head(record: object) -> bytes:
    if not isinstance(record, ConfigRecord) or set(record) != {"head"}:
        raise Malformed("the head's record has unknown parts")
    head = record["head"]
    if not isinstance(head, bytes) or len(head) > MAX_HEAD_BYTES:
        raise Malformed(f"the head is not bytes, or longer than {MAX_HEAD_BYTES}")
    return head


def _words(record: object, max_words: int) -> Words:
    if not isinstance(record, ArrayRecord) or set(record) != {WORDS}:
        raise Malformed("the words' record has unknown parts")
    array = record[WORDS]
    size = array.shape[0] if len(array.shape) == 1 else -1
    if array.dtype != DTYPE or array.stype != STYPE or type(size) is not int:
        raise Malformed("the words are not a vector of uint64 words")
    if not 1 <= size <= max_words or len(array.data) != size * WORD_BYTES:
        raise Malformed(f"the words' length is not their shape's, or outside 1..{max_words}")
    return np.frombuffer(array.data, dtype="<u8").astype(np.uint64, copy=False)
