"""A server's answer to a site's poll: a bundle or none, and of a bundle a delivery, no message, or unreadable."""

from __future__ import annotations

from collections.abc import Iterator

from flwr.proto.fleet_pb2 import PullMessagesResponse
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree
from flwr.proto.recorddict_pb2 import RecordDict
from google.protobuf.message import DecodeError

from fedclient.bundle import Bundle
from fedclient.fleet import Unreadable, _delivery


def one(data: bytes) -> None:
    """Reads the input as the answer's body."""
    try:
        bundle = Bundle.decode(data)
    except DecodeError:
        return
    assert bundle.encode() == data
    try:
        pulled = PullMessagesResponse.FromString(bundle.head)
        delivery = _delivery(pulled, bundle.parts)
    except (DecodeError, Unreadable):
        return
    assert len(delivery.contents) <= len(bundle.parts)


def seeds() -> Iterator[bytes]:
    """An answer without a message, and one with a message and its objects."""
    yield Bundle(PullMessagesResponse().SerializeToString()).encode()
    metadata = Metadata(message_type="query.x", src_node_id=1, dst_node_id=7, run_id=1, message_id="m", ttl=60)
    tree = ObjectTree(object_id="m", children=[ObjectTree(object_id="a"), ObjectTree(object_id="b")])
    pulled = PullMessagesResponse(
        messages_list=[Message(metadata=metadata, content=RecordDict())], message_object_trees=[tree]
    )
    yield Bundle(pulled.SerializeToString(), [b"first", b"second", b"third", b"more"]).encode()
