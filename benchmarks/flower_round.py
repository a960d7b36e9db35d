"""A whole round of Flower's SecAgg+ in one process: its own workflow at the server, its own mod at every site.

The messages go from one to the other as objects, as bytes only where Flower's functions make bytes of vectors. The
federation's averaging strategy is Flower's FedAvg, which the workflow calls at its end.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.client.mod.secure_aggregation.secaggplus_mod import secaggplus_mod
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.compat.common import recorddict_compat as compat
from flwr.server.client_manager import SimpleClientManager
from flwr.server.compat.grid_client_proxy import GridClientProxy
from flwr.server.compat.legacy_context import LegacyContext
from flwr.server.server_config import ServerConfig
from flwr.server.strategy import FedAvg
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD, Key
from flwr.supercore.task_identity import TaskIdentity

from benchmarks.flower_secagg import EXAMPLES, content_bytes
from benchmarks.stopwatch import Part, Seconds, Stopwatch

SITE, SERVER = "site", "server"
_WATCHED = Part(SITE, SITE, "whole")
_OTHERS = Part("others", SITE, "whole")


class _Grid:
    """Hands every message to its site and back; implements what the workflow uses of `flwr.serverapp.Grid`."""

    def __init__(self, watch: Stopwatch, update: np.ndarray, watched: int) -> None:
        self._watch, self._update, self._watched = watch, update, watched
        self._contexts: dict[int, Context] = {}
        self.up = self.down = 0

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """The sites' replies; while a site works the server's clock stands still."""
        return [self._deliver(each) for each in messages]

    def _deliver(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        context = self._contexts.setdefault(node, Context(1, node, {}, RecordDict(), {}))
        watched = node == self._watched
        with self._watch.at(_OTHERS):  # the wire is nobody's work
            sent = recorddict_to_proto(message.content)
            self.down += sent.ByteSize() if watched else 0
            own = Message(recorddict_from_proto(sent), metadata=message.metadata)  # type: ignore[call-overload]
        with self._watch.at(_WATCHED if watched else _OTHERS):
            reply = secaggplus_mod(own, context, self._train)
        with self._watch.at(_OTHERS):
            self.up += content_bytes(reply.content) if watched else 0
        return reply

    def _train(self, message: Message, _: Context) -> Message:
        """The site's app: its update is ready."""
        result = FitRes(Status(Code.OK, ""), ndarrays_to_parameters([self._update]), EXAMPLES, {})
        return Message(compat.fitres_to_recorddict(result, keep_input=False), reply_to=message)


def play(n: int, update: np.ndarray) -> tuple[dict[str, Seconds], int, int, np.ndarray]:
    """Seconds of one site and of the server, the site's bytes up and down, and the mean, of a round without dropouts.

    update: float32 (d,), the same at every site.
    """
    for name in ("flwr", "flower"):
        logging.getLogger(name).setLevel(logging.ERROR)
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 1  # which Flower's processes are born with
    watch = Stopwatch()
    grid = _Grid(watch, update, watched=n)
    context = _server_context(n, update.size, grid)
    workflow = SecAggPlusWorkflow(num_shares=1.0, reconstruction_threshold=2 / 3 if n > 2 else 1.0)
    with watch.at(Part(SERVER, SERVER, "whole")):
        workflow(grid, context)  # type: ignore[arg-type]
    [mean] = parameters_to_ndarrays(
        compat.arrayrecord_to_parameters(context.state.array_records[MAIN_PARAMS_RECORD], keep_input=True)
    )
    return {who: sum(watch.of(who).values(), Seconds()) for who in (SITE, SERVER)}, grid.up, grid.down, mean


def _server_context(n: int, size: int, grid: _Grid) -> LegacyContext:
    manager = SimpleClientManager()
    for node in range(1, n + 1):
        manager.register(GridClientProxy(node, grid, 1))  # type: ignore[arg-type]
    strategy = FedAvg(min_fit_clients=n, min_available_clients=n, min_evaluate_clients=n)
    bare = Context(1, 0, {}, RecordDict(), {})
    context = LegacyContext(bare, ServerConfig(num_rounds=1), strategy, manager)
    start = ndarrays_to_parameters([np.zeros(size, np.float32)])
    context.state.array_records[MAIN_PARAMS_RECORD] = compat.parameters_to_arrayrecord(start, keep_input=True)
    context.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({Key.CURRENT_ROUND: 1})
    return context
