"""The site's agent against servers that fail, lie or flood: it ends in good time, with two lines and no traceback."""

from __future__ import annotations

import gzip
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE
from flwr.proto import fleet_pb2, heartbeat_pb2, message_pb2, recorddict_pb2

from fedclient import connection as limits
from fedclient import fleet
from fedclient.agent import CLOCK_REFUSED_S, serve
from fedclient.connection import Connection, ConnectionFailed, Event, NodeFile, Outage
from tests.flower import pki
from tests.flower.fake_server import Answer, answering
from tests.flower.toy_client import app

METADATA = message_pb2.Metadata(message_type="query.echo", dst_node_id=7, run_id=1, message_id="m", ttl=60)
ANNOUNCED = message_pb2.Message(metadata=METADATA, content=recorddict_pb2.RecordDict())
PullMessages = Callable[[], Any]
ON_THE_WAY = 16 << 20  # what the sockets between take before a sender notices that nobody reads


class FakeServer:
    """Answers Fleet calls; `polled` and `objects` say how. It knows no bundles, as a SuperLink without fedserver."""

    address = ""

    def __init__(self) -> None:
        self.polled: PullMessages = fleet_pb2.PullMessagesResponse
        self.objects: Callable[[str], Answer] = lambda name: Answer(500)
        self.calls: list[str] = []
        self.in_use: set[int] = set()
        self.refuses_with = 412
        self.stop = threading.Event()

    def __call__(self, path: str, content: bytes) -> Answer:
        call = path.rpartition("/")[2]
        self.calls.append(call)
        return getattr(self, call.replace("-", "_"), lambda _: Answer(404))(content)

    def activate_node(self, content: bytes) -> Answer:
        if self.in_use:
            return Answer(self.refuses_with)
        return _answer(fleet_pb2.ActivateNodeResponse(node_id=7))

    def deactivate_node(self, content: bytes) -> Answer:
        self.in_use.discard(fleet_pb2.DeactivateNodeRequest.FromString(content).node_id)
        return _answer(fleet_pb2.DeactivateNodeResponse())

    def send_node_heartbeat(self, content: bytes) -> Answer:
        return _answer(heartbeat_pb2.SendNodeHeartbeatResponse(success=True))

    def pull_messages(self, content: bytes) -> Answer:
        polled = self.polled()
        return polled if isinstance(polled, Answer) else _answer(polled)

    def pull_object(self, content: bytes) -> Answer:
        return self.objects(message_pb2.PullObjectRequest.FromString(content).object_id)

    def push_messages(self, content: bytes) -> Answer:
        self.stop.set()
        return _answer(fleet_pb2.PushMessagesResponse())


def _answer(message: Any) -> Answer:
    return Answer(200, message.SerializeToString())


@pytest.fixture
def server(issued: pki.Pki) -> Iterator[FakeServer]:
    fake = FakeServer()
    with answering(issued, fake) as fake.address:
        yield fake


@pytest.fixture
def connection(server: FakeServer, issued: pki.Pki, tmp_path: Path) -> Connection:
    return Connection(server.address, issued.ca, pki.node_key(), {"site": "a"}, tmp_path / "node.id")


def run(server: FakeServer, connection: Connection, retry_for_s: float = 1.2) -> list[Event]:
    events: list[Event] = []
    serve(app, connection, stop=server.stop, retry_for_s=retry_for_s, on_event=events.append)
    return events


def test_a_server_that_only_heartbeats_is_given_up_after_retry_for_s(
    server: FakeServer, connection: Connection
) -> None:
    server.polled = lambda: Answer(500)
    events: list[Event] = []
    with pytest.raises(ConnectionFailed, match="HTTP 500"):
        serve(app, connection, stop=server.stop, retry_for_s=1.2, on_event=events.append)
    assert [event.kind for event in events] == ["lost"]
    assert server.calls.count("pull-messages") <= 4


def test_an_outage_lasts_until_a_poll_succeeds_and_its_pauses_grow() -> None:
    now = 0.0
    outage = Outage(10.0, lambda: now)
    assert outage.end()
    assert [outage.begin(), outage.begin()] == [True, False]
    assert [outage.pause() for _ in range(4)] == [0.5, 1.0, 2.0, 4.0]
    now = 10.0
    assert outage.is_too_long()
    assert [outage.end(), outage.end(), outage.is_too_long(), outage.pause()] == [True, False, False, 0.5]


TREE = message_pb2.ObjectTree(object_id="m")
GARBAGE = {
    "no tree": fleet_pb2.PullMessagesResponse(messages_list=[ANNOUNCED]),
    "no content": fleet_pb2.PullMessagesResponse(messages_list=[message_pb2.Message()], message_object_trees=[TREE]),
}


@pytest.mark.parametrize("pulled", GARBAGE.values(), ids=GARBAGE.keys())
def test_a_delivery_that_is_no_message_is_dropped(server: FakeServer, connection: Connection, pulled: Any) -> None:
    answers = iter([pulled])

    def poll() -> Any:
        if (answer := next(answers, None)) is None:
            server.stop.set()
        return answer or fleet_pb2.PullMessagesResponse()

    server.polled = poll
    assert [event.kind for event in run(server, connection)] == ["connected", "dropped", "stopped"]


def _endless(sent: list[int]) -> Iterable[bytes]:
    for _ in range(64):
        sent.append(1 << 20)
        yield bytes(1 << 20)


def _flood(server: FakeServer, objects: int) -> None:
    tree = message_pb2.ObjectTree(object_id="m")
    tree.children.extend(message_pb2.ObjectTree(object_id=f"{number}") for number in range(objects))
    server.polled = lambda: fleet_pb2.PullMessagesResponse(messages_list=[ANNOUNCED], message_object_trees=[tree])


def test_an_object_is_not_read_beyond_its_limit(server: FakeServer, connection: Connection) -> None:
    sent: list[int] = []
    _flood(server, 0)
    server.objects = lambda name: Answer(200, _endless(sent))
    assert [event.kind for event in run(server, connection)] == ["connected", "refused", "stopped"]
    assert sum(sent) <= fleet.MAX_ANSWER_BYTES + ON_THE_WAY


def test_an_answer_that_grows_when_unpacked_is_not_unpacked(server: FakeServer, connection: Connection) -> None:
    packed, bomb = {"content-encoding": "gzip"}, gzip.compress(b"")
    server.polled = lambda: Answer(200, bomb, packed)
    with pytest.raises(ConnectionFailed, match="which no fedserver does"):
        run(server, connection, retry_for_s=0.3)


def test_a_message_of_many_objects_is_not_fetched_beyond_its_limit(
    server: FakeServer, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "MAX_MESSAGE_BYTES", 10_000)
    answer = message_pb2.PullObjectResponse(object_found=True, object_available=True, object_content=bytes(1000))
    _flood(server, 1000)
    server.objects = lambda name: _answer(answer)
    assert [event.kind for event in run(server, connection)] == ["connected", "refused", "stopped"]
    assert server.calls.count("pull-object") <= 10_000 // 1000 + 2 * fleet.TRANSFERS


def test_an_agent_that_crashed_takes_its_place_back(server: FakeServer, connection: Connection) -> None:
    NodeFile(connection.node_file).write(7)
    server.in_use, server.polled = {7}, lambda: server.stop.set() or fleet_pb2.PullMessagesResponse()
    assert run(server, connection)[0].kind == "connected"


def test_a_cloned_home_does_not_evict_the_original(server: FakeServer, connection: Connection, tmp_path: Path) -> None:
    NodeFile(tmp_path / "original").write(7)
    shutil.copy(tmp_path / "original", connection.node_file)
    server.in_use = {7}
    with pytest.raises(ConnectionFailed, match="node key"):
        run(server, connection, retry_for_s=0.3)
    assert "deactivate-node" not in server.calls


def test_only_a_node_that_is_in_use_is_released(server: FakeServer, connection: Connection) -> None:
    NodeFile(connection.node_file).write(7)
    server.in_use, server.refuses_with = {7}, 403
    server.polled = lambda: server.stop.set() or fleet_pb2.PullMessagesResponse()  # else an agent that got in stays
    with pytest.raises(ConnectionFailed, match="HTTP 403"):
        run(server, connection, retry_for_s=0.3)
    assert "deactivate-node" not in server.calls


def test_the_clocks_limits_are_flowers() -> None:
    assert limits.CLOCK_BEHIND_S == TIMESTAMP_TOLERANCE
    assert limits.CLOCK_AHEAD_S == SYSTEM_TIME_TOLERANCE
    assert CLOCK_REFUSED_S < 10
