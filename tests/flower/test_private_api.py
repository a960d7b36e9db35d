"""What few modules use of Flower's private interface is still there; no other module uses any of it.

They are fedclient/fleet.py at a site, fedserver/bundles.py with bell.py in the SuperLink and fedserver/mailbox.py in a
ServerApp; fedserver/lean.py relies on how the console script ends.
"""

from __future__ import annotations

import ast
import asyncio
import importlib.metadata
import inspect
import json
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import HTTPException, Request
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.serde import message_from_proto
from flwr.proto import fleet_pb2, heartbeat_pb2, message_pb2, node_pb2, recorddict_pb2, runtime_pb2
from flwr.server.superlink.linkstate import LinkState
from flwr.supercore.dependencies.task import authenticate_task
from flwr.supercore.error import ApiErrorCode, FlowerError, http_error_translator
from flwr.supercore.inflatable import inflatable_object, inflatable_utils
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.object_store import ObjectStore
from flwr.supercore.primitives import asymmetric
from flwr.supercore.protobuf.client import ProtobufRequestContext
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.superlink.grid.http_grid import HttpGrid
from flwr.superlink.main import create_app
from flwr.superlink.routers.fleet import node_auth
from flwr.superlink.servicer.fleet import fleet_handlers
from flwr.superlink.servicer.runtime import runtime_handlers
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from packaging.version import Version
from starlette.responses import Response

from fedclient.fleet import SIGNED
from fedserver.lean import SETTINGS
from fedserver.superlink import InternalTls, SuperLink
from tests.flower import pki

ROOT = Path(__file__).parents[2]
PRIVATE = {"fedclient/fleet.py", "fedserver/bell.py", "fedserver/bundles.py", "fedserver/mailbox.py"}
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


def test_the_interceptor_signs_a_request_that_is_not_sent() -> None:
    key, request = pki.node_key(), httpx.Request("POST", "https://signed")
    context = ProtobufRequestContext("", node_pb2.Node(), request)
    NodeAuthHttpInterceptor(key, key.public_key()).intercept(context, lambda _: httpx.Response(200))
    assert {name for name in request.headers if name.startswith("flwr-")} == set(SIGNED)


@pytest.mark.parametrize(
    ("handler", "parameters"),
    [
        (fleet_handlers.push_messages, ["request", "state"]),
        (fleet_handlers.push_object, ["request", "state"]),
        (fleet_handlers.pull_messages, ["request", "state", "store"]),
        (fleet_handlers.confirm_message_received, ["request", "state", "store"]),
        (runtime_handlers.push_messages, ["request", "state", "task"]),
        (runtime_handlers.pull_messages, ["request", "state", "task"]),
        (authenticate_task, ["request", "token", "state"]),
        (node_auth.authenticate_node, ["request"]),
        (http_error_translator, ["request", "call_next"]),
        (asymmetric.bytes_to_public_key, ["public_key_bytes"]),
        (asymmetric.verify_signature, ["public_key", "message", "signature"]),
        (LinkState.store_message_and_object_tree, ["self", "message", "object_tree", "session_id"]),
        (LinkState.store_object, ["self", "run_id", "session_id", "object_id", "object_content"]),
        (LinkState.get_object, ["self", "run_id", "object_id"]),
        (LinkState.store_traffic, ["self", "run_id", "bytes_sent", "bytes_recv"]),
        (ObjectStore.delete, ["self", "object_id"]),
        (RuntimeHttpClient.PushObject, ["self", "request"]),
        (RuntimeHttpClient.PullObject, ["self", "request"]),
        (RuntimeHttpClient.ConfirmMessageReceived, ["self", "request"]),
    ],
)
def test_what_is_called_takes_what_it_is_given(handler: Callable[..., Any], parameters: list[str]) -> None:
    assert list(inspect.signature(handler).parameters) == parameters


def test_the_app_has_one_state_whose_methods_can_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    factory = create_app().state.linkstate_factory
    state = factory.state()
    for name in ("store_message_and_object_tree", "store_object"):
        monkeypatch.setattr(state, name, len)
        assert getattr(factory.state(), name) is len
    assert isinstance(state.object_store, ObjectStore)
    tree = message_pb2.ObjectTree(object_id="a" * 64, children=[message_pb2.ObjectTree(object_id="b" * 64)])
    state.object_store.preregister(1, tree)
    assert state.object_store.store["a" * 64].child_object_ids == ["b" * 64]


def test_the_apps_start_gives_requests_nothing_that_those_on_the_public_port_would_lack() -> None:
    app = create_app()

    async def given() -> Any:
        async with app.router.lifespan_context(app) as state:
            return state

    assert not asyncio.run(given())


@pytest.mark.parametrize(
    ("handlers", "call", "method"),
    [
        (fleet_handlers, "push_messages", "store_message_and_object_tree"),
        (fleet_handlers, "push_object", "store_object"),
        (runtime_handlers, "push_messages", "store_message_and_object_tree"),
        (runtime_handlers, "push_object", "store_object"),
    ],
)
def test_flowers_handlers_store_by_the_states_methods(handlers: Any, call: str, method: str) -> None:
    assert f"state.{method}(" in inspect.getsource(getattr(handlers, call))


def test_a_nodes_signature_is_checked_by_the_two_names_that_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    app, asked = create_app(), list[tuple[Any, ...]]()
    monkeypatch.setattr(node_auth, "bytes_to_public_key", bytes)
    monkeypatch.setattr(node_auth, "verify_signature", lambda *given: asked.append(given) or len(asked) == 1)
    signed_at = datetime.now(UTC).isoformat()
    values = dict(zip(SIGNED, (b64encode(b"key").decode(), signed_at, b64encode(b"signed").decode()), strict=True))
    headers = [(name.encode(), value.encode()) for name, value in values.items()]
    request = Request({"type": "http", "method": "POST", "path": "/", "headers": headers, "app": app})
    request.state.protobuf_request = fleet_pb2.ActivateNodeRequest(public_key=b"key")
    node_auth.authenticate_node(request)
    with pytest.raises(HTTPException):
        node_auth.authenticate_node(request)
    assert asked == [(b"key", signed_at.encode(), b"signed")] * 2


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (HTTPException(400, "no bundle"), 400),
        (FlowerError(ApiErrorCode.RUNTIME_AUTHENTICATION_FAILED, "who?"), 401),
        (ValueError("secret"), 500),
    ],
)
def test_an_error_in_a_call_is_an_answer_that_keeps_its_text(error: Exception, status: int) -> None:
    async def call(_: Request) -> Response:
        raise error

    request = Request({"type": "http", "method": "POST", "path": "/", "headers": [], "server": ("x", 1)})
    answer = asyncio.run(http_error_translator(request, call))
    assert answer.status_code == status
    assert b"secret" not in answer.body


def test_the_grid_shows_where_its_server_is() -> None:
    grid = HttpGrid("127.0.0.1:1", insecure=True, token="token")
    assert (grid._addr, grid._insecure, grid._cert, grid._token) == ("127.0.0.1:1", True, None, "token")
    assert isinstance(grid._runtime_client, RuntimeHttpClient)


def test_the_console_script_takes_our_options_and_ends_with_a_call_that_can_be_replaced(tmp_path: Path) -> None:
    issued = pki.issue(tmp_path / "pki")
    link = SuperLink(tmp_path / "link", InternalTls(issued.cert, issued.key, issued.ca))
    link._prepare()
    options = link._superlink_command()[4:]
    code = (
        "import json, sys, uvicorn\n"
        "from importlib.metadata import entry_points\n"
        "[script] = entry_points(group='console_scripts', name='flower-superlink')\n"
        "superlink = script.load()\n"
        "uvicorn.run = lambda **given: print(json.dumps({name: str(value) for name, value in given.items()}))\n"
        "superlink()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *options], env=link._env, capture_output=True, text=True, check=False
    )
    link.stop()
    assert done.returncode == 0, done.stderr[-2000:]
    given = json.loads(done.stdout.splitlines()[-1])
    assert set(given) == {"app", "reload", "access_log", "workers", *SETTINGS}
    assert f"{given['host']}:{given['port']}" == link.address
    assert (given["ssl_certfile"], given["ssl_keyfile"]) == (str(issued.cert), str(issued.key))
    assert (given["reload"], given["workers"]) == ("False", "1")


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
        (
            message_pb2.Metadata,
            {"run_id", "message_id", "src_node_id", "dst_node_id", "reply_to_message_id", "ttl"},
        ),
        (runtime_pb2.PushAppMessagesRequest, {"messages_list", "message_object_trees"}),
        (runtime_pb2.PushAppMessagesResponse, {"message_ids", "objects_to_push", "session_id"}),
        (runtime_pb2.PullAppMessagesRequest, {"message_ids"}),
        (runtime_pb2.PullAppMessagesResponse, {"messages_list", "message_object_trees"}),
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


def test_only_the_three_modules_import_private_flower_modules() -> None:
    offenders = [
        f"{path.relative_to(ROOT)}: {name}"
        for folder in ("fedclient", "fedserver", "keys", "secagg")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if str(path.relative_to(ROOT)) not in PRIVATE
        for name in _imports(path)
        if name.split(".")[0] == "flwr" and name not in PUBLIC
    ]
    assert offenders == []


def _imports(path: Path) -> list[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    named = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return named + [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
