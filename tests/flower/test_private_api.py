"""What fedclient/fleet.py uses of Flower's private interface is still there; nobody else uses any of it."""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.serde import message_from_proto
from flwr.proto import fleet_pb2, heartbeat_pb2, message_pb2, recorddict_pb2
from flwr.supercore.inflatable import inflatable_object, inflatable_utils
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PUBLIC = {"flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.serverapp.strategy", "flwr.simulation"}


def test_the_flower_release_is_one_that_was_tried() -> None:
    assert Version("1.40") <= Version(importlib.metadata.version("flwr")) < Version("1.43")


@pytest.mark.parametrize(
    "method",
    [
        "ActivateNode",
        "DeactivateNode",
        "SendNodeHeartbeat",
        "PullMessages",
        "PushMessages",
        "PullObject",
        "PushObject",
        "ConfirmMessageReceived",
    ],
)
def test_the_fleet_client_takes_one_request(method: str) -> None:
    assert list(inspect.signature(getattr(FleetHttpClient, method)).parameters) == ["self", "request"]


def test_the_fleet_client_takes_a_tls_context_and_a_timeout() -> None:
    parameters = inspect.signature(FleetHttpClient).parameters
    assert {"base_url", "interceptors", "verify", "timeout"} <= set(parameters)
    client = FleetHttpClient("https://127.0.0.1:1")
    assert client._client.follow_redirects in (True, False)
    client.close()


def test_the_interceptors_take_what_they_are_given() -> None:
    assert list(inspect.signature(NodeAuthHttpInterceptor).parameters) == ["private_key", "public_key"]
    assert "component_name" in inspect.signature(RuntimeVersionHttpInterceptor).parameters


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        (fleet_pb2.ActivateNodeRequest, {"public_key", "heartbeat_interval"}),
        (fleet_pb2.ActivateNodeResponse, {"node_id"}),
        (fleet_pb2.DeactivateNodeRequest, {"node_id"}),
        (fleet_pb2.PullMessagesRequest, {"node"}),
        (fleet_pb2.PullMessagesResponse, {"messages_list", "message_object_trees"}),
        (
            fleet_pb2.PushMessagesRequest,
            {"node", "messages_list", "message_object_trees", "clientapp_runtime_list"},
        ),
        (fleet_pb2.PushMessagesResponse, {"objects_to_push", "session_id"}),
        (heartbeat_pb2.SendNodeHeartbeatRequest, {"node", "heartbeat_interval"}),
        (heartbeat_pb2.SendNodeHeartbeatResponse, {"success"}),
        (message_pb2.PullObjectRequest, {"node", "run_id", "object_id"}),
        (message_pb2.PullObjectResponse, {"object_found", "object_available", "object_content"}),
        (
            message_pb2.PushObjectRequest,
            {"node", "run_id", "object_id", "object_content", "session_id"},
        ),
        (message_pb2.ConfirmMessageReceivedRequest, {"node", "run_id", "message_object_id"}),
        (message_pb2.ObjectTree, {"object_id", "children"}),
    ],
)
def test_the_wire_messages_have_the_fields_we_set_and_read(message: type, fields: set[str]) -> None:
    assert fields <= set(message.DESCRIPTOR.fields_by_name)


def test_a_message_survives_being_taken_apart_and_put_together() -> None:
    metadata = message_pb2.Metadata(message_type="query.echo", dst_node_id=7)
    proto = message_pb2.Message(metadata=metadata, content=recorddict_pb2.RecordDict())
    message = message_from_proto(proto)  # what arrives first: metadata, and an empty content
    message.content = RecordDict({"secagg": ConfigRecord({"head": b"head"})})
    objects = inflatable_object.get_all_nested_objects(message)
    contents = {name: part.deflate() for name, part in objects.items()}
    assert all(inflatable_object.get_object_id(content) == name for name, content in contents.items())
    again = inflatable_utils.inflate_object_from_contents(message.object_id, contents)
    assert isinstance(again, Message)
    assert again.metadata.message_type == "query.echo"
    assert again.content["secagg"]["head"] == b"head"


def test_only_the_fleet_module_imports_private_flower_modules() -> None:
    offenders = [
        f"{path.relative_to(ROOT)}: {name}"
        for folder in ("fedclient", "fedserver", "keys", "secagg")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path != ROOT / "fedclient" / "fleet.py"
        for name in _imports(path)
        if name.split(".")[0] == "flwr" and name not in PUBLIC
    ]
    assert offenders == []


def _imports(path: Path) -> list[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    named = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return named + [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
