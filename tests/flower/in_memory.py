"""A SuperLink's app and state without its process: nodes, a run, and calls to it with real signatures."""

from __future__ import annotations

import base64
import datetime
import hashlib
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import httpx
import numpy as np
import pytest
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.app import Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID, TIMESTAMP_HEADER
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse, PushMessagesRequest, PushMessagesResponse
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PushObjectRequest, PushObjectResponse
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import (
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PushAppMessagesRequest,
    PushAppMessagesResponse,
)
from flwr.supercore.constant import (
    FLEET_HTTP_PUBLIC_KEY_HEADER,
    FLEET_HTTP_SIGNATURE_HEADER,
    NOOP_FEDERATION_ID,
    TASK_TOKEN_HEADER,
    TaskType,
)
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
)
from flwr.supercore.primitives.asymmetric import sign_message
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid.http_grid import HttpGrid
from flwr.superlink.routers.fleet import node_auth

from fedclient.bundle import PULL, PUSH, Bundle
from fedclient.packets import encode_packet
from fedserver.bundles import Bundles
from secagg.session import Packet
from tests.flower import pki
from tests.flower.federation import wait_until

main = pytest.importorskip("flwr.superlink.main")
PROTOBUF = {"content-type": PROTOBUF_MEDIA_TYPE}


@dataclass(frozen=True)
class SomeNode:
    """A site's node: what it signs with, and the id that the SuperLink gave it."""

    key: ec.EllipticCurvePrivateKey
    node_id: int

    @property
    def public(self) -> bytes:
        return self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    @property
    def node(self) -> Node:
        return Node(node_id=self.node_id)

    def headers(self, age_s: float = 0.0) -> dict[str, str]:
        """The signed time, as Flower's nodes send it. age_s: how long ago it was signed."""
        signed_at = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=age_s)
        return signed(self.key, self.public, signed_at.isoformat())


def signed(key: ec.EllipticCurvePrivateKey, public: bytes, timestamp: str) -> dict[str, str]:
    signature = sign_message(key, timestamp.encode())
    return {
        FLEET_HTTP_PUBLIC_KEY_HEADER: base64.b64encode(public).decode(),
        TIMESTAMP_HEADER: timestamp,
        FLEET_HTTP_SIGNATURE_HEADER: base64.b64encode(signature).decode(),
    }


@dataclass
class Parcel:
    """A message with its id, its tree and the bytes of its objects, children first."""

    message: Message
    tree: ObjectTree = field(init=False)
    objects: dict[str, bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.message.metadata.__dict__["_message_id"] = self.message.object_id
        self.tree = get_object_tree(self.message)
        nested = get_all_nested_objects(self.message)
        names = dict.fromkeys(part.object_id for part in iterate_object_tree(self.tree))
        self.objects = {name: nested[name].deflate() for name in names}

    @property
    def name(self) -> str:
        return self.message.metadata.message_id

    @property
    def contents(self) -> list[bytes]:
        return list(self.objects.values())

    @property
    def proto(self) -> Any:
        return message_to_proto(remove_content_from_message(self.message))

    def reply(self, words: int = 0, head: bytes = b"reply", node: int | None = None) -> Parcel:
        """An answer to it, by the node it went to."""
        reply = Message(_content(words, head), reply_to=self.message)
        reply.metadata.__dict__["_src_node_id"] = node or self.message.metadata.dst_node_id
        return Parcel(reply)


def _content(words: int, head: bytes) -> RecordDict:
    random = np.random.default_rng(list(hashlib.sha256(head).digest()))
    vector = random.integers(0, 1 << 64, words, dtype=np.uint64) if words else None
    return encode_packet(Packet(head, vector))


class Link:
    """The app, its state, and who calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("bytes_to_public_key", "verify_signature"):  # which Bundles replaces
            monkeypatch.setattr(node_auth, name, getattr(node_auth, name))
        logging.getLogger("flwr").setLevel(logging.CRITICAL)
        self.app = main.create_app()
        self.state = self.app.state.linkstate_factory.state()
        self.bundles = Bundles(self.app)
        self.run, self.token = self.new_run()
        self.become(monkeypatch)

    def become(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Has messages made here be the run's ServerApp's."""
        for name, value in (("_run_id", self.run), ("_node_id", 1), ("_task_id", 1)):
            monkeypatch.setattr(TaskIdentity, name, value)

    def pending_run(self) -> int:
        """A run that nothing has begun yet."""
        kind = TaskType.SERVER_APP
        return self.state.create_run(None, None, "hash", {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, kind)

    def new_run(self) -> tuple[int, str]:
        """A run that is running, and its ServerApp's token."""
        run = self.pending_run()
        [info] = self.state.get_run_info(run_ids=[run])
        token = self.state.claim_task(info.primary_task_id)
        assert token is not None and self.state.activate_task(info.primary_task_id)
        return run, token

    def stop(self) -> None:
        assert self.state.stop_run(self.run)

    def node(self) -> SomeNode:
        """A site's node that is online."""
        key = pki.node_key()
        node = SomeNode(key, 0)
        node_id = self.state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, node.public, 0)
        assert self.state.activate_node(node_id, 3600)
        return SomeNode(key, node_id)

    def request(self, node: SomeNode, head: bytes = b"request", words: int = 0) -> Parcel:
        """A message for the node, not sent yet."""
        return Parcel(Message(_content(words, head), node.node_id, "query.x", ttl=60.0))

    def client(self) -> Caller:
        return Caller(self)

    def stored(self, parcel: Parcel) -> set[str]:
        """Those of its objects that the store holds."""
        return {name for name in parcel.objects if self.state.object_store.get(name)}

    def grid(self, address: str, issued: pki.Pki) -> HttpGrid:
        """The Grid of the run's ServerApp."""
        grid = HttpGrid(address, root_certificates=issued.ca.read_bytes(), token=self.token)
        [run] = self.state.get_run_info(run_ids=[self.run])
        grid.set_run(run)
        return grid


@contextmanager
def serving(app: Any, issued: pki.Pki) -> Iterator[str]:
    """HOST:PORT of the app, served over TLS from a thread."""
    config = uvicorn.Config(
        app, port=0, ssl_certfile=issued.cert, ssl_keyfile=issued.key,
        lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield f"127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


class Caller:
    """Calls of sites and of the ServerApp, by ordinary ways and in bundles."""

    def __init__(self, link: Link) -> None:
        self._link = link
        transport = httpx.ASGITransport(app=cast(Any, link.bundles))
        self.http = httpx.AsyncClient(transport=transport, base_url="https://superlink")

    async def __aenter__(self) -> Caller:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    @property
    def token(self) -> dict[str, str]:
        return {TASK_TOKEN_HEADER: self._link.token}

    async def post(self, path: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
        return await self.http.post(path, content=body, headers=PROTOBUF | headers)

    async def _bundle(self, path: str, bundle: Bundle, headers: dict[str, str]) -> Bundle:
        answer = await self.post(path, bundle.encode(), headers)
        assert answer.status_code == 200, (path, answer.text)
        return Bundle.decode(answer.content)

    # a site's

    async def poll(self, site: SomeNode, received: Sequence[Parcel] = ()) -> tuple[PullMessagesResponse, list[bytes]]:
        parts = [
            ConfirmMessageReceivedRequest(
                node=site.node, run_id=self._link.run, message_object_id=each.name
            ).SerializeToString()
            for each in received
        ]
        head = PullMessagesRequest(node=site.node).SerializeToString()
        answer = await self._bundle(f"/v1/fleet/{PULL}", Bundle(head, parts), site.headers())
        return PullMessagesResponse.FromString(answer.head), answer.parts

    async def answer(
        self, site: SomeNode, reply: Parcel, parts: Sequence[bytes] | None = None, tree: ObjectTree | None = None
    ) -> PushMessagesResponse:
        """Pushes a reply. parts: of its objects, else all."""
        head = announcement(site, reply, tree).SerializeToString()
        bundle = Bundle(head, list(reply.contents if parts is None else parts))
        return PushMessagesResponse.FromString((await self._bundle(f"/v1/fleet/{PUSH}", bundle, site.headers())).head)

    async def push_object(self, site: SomeNode, session: str, name: str, content: bytes) -> bool:
        request = PushObjectRequest(
            node=site.node, run_id=self._link.run, object_id=name, object_content=content, session_id=session
        )
        answer = await self.post("/v1/fleet/push-object", request.SerializeToString(), site.headers())
        assert answer.status_code == 200, answer.text
        return bool(PushObjectResponse.FromString(answer.content).stored)

    # the ServerApp's

    async def ask(self, *requests: Parcel, parts: Sequence[bytes] | None = None) -> PushAppMessagesResponse:
        head = requests_of(requests).SerializeToString()
        whole = dict.fromkeys(content for each in requests for content in each.contents)
        bundle = Bundle(head, list(whole if parts is None else parts))
        return PushAppMessagesResponse.FromString((await self._bundle(f"/v1/runtime/{PUSH}", bundle, self.token)).head)

    async def replies(self, *requests: Parcel) -> tuple[PullAppMessagesResponse, list[bytes]]:
        head = PullAppMessagesRequest(message_ids=[each.name for each in requests]).SerializeToString()
        answer = await self._bundle(f"/v1/runtime/{PULL}", Bundle(head), self.token)
        return PullAppMessagesResponse.FromString(answer.head), answer.parts


def announcement(site: SomeNode, reply: Parcel, tree: ObjectTree | None = None) -> PushMessagesRequest:
    return PushMessagesRequest(
        node=site.node, messages_list=[reply.proto], message_object_trees=[reply.tree if tree is None else tree]
    )


def requests_of(requests: Sequence[Parcel]) -> PushAppMessagesRequest:
    return PushAppMessagesRequest(
        messages_list=[each.proto for each in requests], message_object_trees=[each.tree for each in requests]
    )
