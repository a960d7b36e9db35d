"""How a site stays connected to a Flower server: it polls, hands each message to its app, and replies.

A stock SuperNode runs code that the server sends. This agent never asks for that code: the app it calls is
the one installed at the site, and what leaves after a failure is a code, never the text of an exception.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Literal

import httpx
import tenacity
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from fedclient.connection import (
    RETRYABLE,
    ClockRefused,
    Connection,
    ConnectionFailed,
    Event,
    KeyRefused,
    NodeFile,
    Outage,
    explain,
    explain_loss,
)
from fedclient.fleet import HEARTBEAT_S, Delivery, Fleet, RunOver, Unreadable
from fedclient.packets import REFUSAL, SiteRefusal, encode_refusal
from secagg.errors import SecAggError

FAST_POLL_S: Final = 0.04  # right after a message: the next one of the round is near
IDLE_POLL_S: Final = 0.5
POLL_GROWTH: Final = 1.4
CONFIRM_AFTER_S: Final = 0.2
HEARTBEATS_PER_INTERVAL: Final = 3
KEY_REFUSED_S: Final = 75.0  # Flower's own agent leaves a dead node online for at most 60 s
CLOCK_REFUSED_S: Final = 5.0  # a few tries: no clock is put right by waiting
APP_GRACE_S: Final = 2.0  # how long a stop waits for the app to finish what it does


def serve(
    app: ClientApp,
    connection: Connection,
    *,
    stop: threading.Event,
    retry_for_s: float = 600.0,
    on_event: Callable[[Event], None] = lambda _: None,
) -> None:
    """Answers the server's messages until `stop` is set. Raises ConnectionFailed.

    The app runs in a thread of its own; when `stop` is set it gets APP_GRACE_S, then is left behind.
    retry_for_s: how long the server may be out of reach, at the start or later, before this gives up.
    """
    agent = FleetAgent(app, connection, Fleet(connection, stop), stop=stop, retry_for_s=retry_for_s, on_event=on_event)
    try:
        agent.run()
    finally:
        agent.close()


class FleetAgent:
    """One site's connection, over as many losses and server restarts as `retry_for_s` allows."""

    def __init__(
        self,
        app: ClientApp,
        connection: Connection,
        fleet: Fleet,
        *,
        stop: threading.Event,
        retry_for_s: float,
        on_event: Callable[[Event], None],
    ) -> None:
        self._app, self._connection, self._fleet = app, connection, fleet
        self._stop, self._tell, self._retry_for_s = stop, on_event, retry_for_s
        self._outage = Outage(retry_for_s)
        self._node_file = NodeFile(connection.node_file)
        self._node: int | None = None
        self._closed = threading.Event()

    def run(self) -> None:
        """Connects, answers, and connects again when the server was lost, until `stop` is set."""
        threading.Thread(target=self._heartbeats, name="fleet-heartbeat", daemon=True).start()
        while not self._stop.is_set():
            node = self._connect()
            if node is None:
                break
            try:
                self._answer_messages(node)
            except (httpx.HTTPError, ValueError) as error:
                self._lose(error)
        self._tell(Event("stopped"))

    def close(self) -> None:
        """Gives the node back, so that a restart is accepted at once, and closes the connection."""
        self._closed.set()
        if self._node is not None:
            with suppress(httpx.HTTPError, ValueError):
                self._fleet.deactivate(self._node)
        self._fleet.close()

    # connecting

    def _lose(self, error: httpx.HTTPError | ValueError) -> None:
        """Waits before the next try. Raises ConnectionFailed if the server has been away too long."""
        if self._outage.begin():
            self._tell(Event("lost", f"lost the server: {explain_loss(error, self._connection)}"))
        if self._outage.is_too_long():
            raise explain(error, self._connection) from error
        self._stop.wait(self._outage.pause())

    def _found(self) -> None:
        """A poll was answered, so this site is connected."""
        if self._outage.end():
            self._tell(Event("connected", f"connected to {self._connection.server}"))

    def _connect(self) -> int | None:
        """The node to act as, or None if `stop` was set first."""
        started, told = time.monotonic(), set[str]()

        def worth_another_try(error: BaseException) -> bool:
            if not isinstance(error, ConnectionFailed) or error.lasting:
                return False
            late = time.monotonic() - started >= min(_patience(error), self._retry_for_s)
            return not late and not self._outage.is_too_long()

        def tell_once(state: tenacity.RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            if isinstance(error, ConnectionFailed) and error.problem not in told:
                told.add(error.problem)
                self._tell(Event("waiting", error.problem))

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(worth_another_try),
            stop=tenacity.stop_when_event_set(self._stop),
            wait=tenacity.wait_exponential_jitter(initial=0.2, max=4.0, jitter=0.2),
            sleep=tenacity.sleep_using_event(self._stop),
            before_sleep=tell_once,
            reraise=True,
        )
        try:
            return retrying(self._enter)
        except ConnectionFailed:
            if self._stop.is_set():
                return None
            raise

    def _enter(self) -> int:
        try:
            if self._node is None or not self._is_still_known(self._node):
                self._node = self._activate()
        except (httpx.HTTPError, ValueError) as error:
            raise explain(error, self._connection) from error
        return self._node

    def _is_still_known(self, node: int) -> bool:
        try:
            return self._fleet.beat(node)
        except httpx.HTTPStatusError as error:
            if error.response.status_code in RETRYABLE:
                raise
            return False

    def _activate(self) -> int:
        try:
            node = self._fleet.activate()
        except httpx.HTTPStatusError as error:
            in_use = error.response.status_code == httpx.codes.PRECONDITION_FAILED
            if not in_use or not self._release_earlier_node():
                raise
            node = self._fleet.activate()
        self._node_file.write(node)
        return node

    def _release_earlier_node(self) -> bool:
        """Whether the place that this site held before a crash was given back."""
        node = self._node_file.read()
        if node is None:
            return False
        try:
            self._fleet.deactivate(node)
        except (ValueError, httpx.HTTPStatusError):
            return False
        return True

    def _heartbeats(self) -> None:
        while not self._closed.wait(HEARTBEAT_S / HEARTBEATS_PER_INTERVAL):
            if self._node is not None:
                with suppress(httpx.HTTPError, ValueError):  # the polling thread notices a loss and names it
                    self._fleet.beat(self._node)

    # answering

    def _answer_messages(self, node: int) -> None:
        pause = FAST_POLL_S
        while not self._stop.is_set():
            asked = time.monotonic()
            try:
                delivery = self._fleet.poll(node)
                self._found()
                if delivery is not None:
                    self._answer(node, delivery)
                    pause = FAST_POLL_S
                    continue
            except RunOver:
                self._tell(Event("dropped", "the run is over; its message is dropped"))
            except Unreadable:
                self._found()
                self._tell(Event("dropped", "the server sent what is no message; it is dropped"))
            self._rest(pause, time.monotonic() - asked)
            pause = min(pause * POLL_GROWTH, IDLE_POLL_S)

    def _rest(self, pause: float, held: float) -> None:
        """Waits before the next poll, less what the gateway has held the last one."""
        if max(pause, held) > CONFIRM_AFTER_S:
            self._fleet.confirm()
        self._stop.wait(max(0.0, pause - held))

    def _answer(self, node: int, delivery: Delivery) -> None:
        started = time.monotonic()
        reply = self._reply(node, delivery)
        seconds = time.monotonic() - started
        if reply is None:
            return
        size = self._fleet.push(node, reply, seconds)
        refused = reply.has_error() or REFUSAL in reply.content
        kind: Literal["refused", "answered"] = "refused" if refused else "answered"
        self._tell(Event(kind, "", delivery.announced.metadata.message_type, size, seconds))

    def _reply(self, node: int, delivery: Delivery) -> Message | None:
        """What the app answers; a refusal if it fails; None if `stop` came first."""
        announced = delivery.announced
        try:
            message = self._fleet.pull(node, delivery)
            context = Context(
                run_id=announced.metadata.run_id,
                node_id=node,
                node_config=dict(self._connection.node_config),
                state=RecordDict(),  # never kept: it would be keyed by an id that the server chooses
                run_config={},
            )
            reply = self._run_app(message, context)
        except (httpx.HTTPError, RunOver):
            raise
        except Exception as error:  # noqa: BLE001 - whatever the app raises, only a code leaves
            code = error.code if isinstance(error, SecAggError) else "error"
            return Message(encode_refusal(SiteRefusal(code)), reply_to=announced)
        if reply is not None and reply.has_error():
            return Message(Error(reply.error.code, ""), reply_to=announced)
        return reply

    def _run_app(self, message: Message, context: Context) -> Message | None:
        results: list[Message] = []
        errors: list[BaseException] = []

        def work() -> None:
            try:
                results.append(self._app(message=message, context=context))
            except BaseException as error:  # noqa: BLE001 - handed to the polling thread below
                errors.append(error)

        worker = threading.Thread(target=work, name="fleet-app", daemon=True)
        worker.start()
        while worker.is_alive() and not self._stop.is_set():
            worker.join(0.1)
        worker.join(APP_GRACE_S)
        if errors:
            raise errors[0] if isinstance(errors[0], Exception) else RuntimeError("the app ended its thread")
        return results[0] if results else None


def _patience(error: ConnectionFailed) -> float:
    """How long this failure may go away by itself."""
    if isinstance(error, ClockRefused):
        return CLOCK_REFUSED_S
    return KEY_REFUSED_S if isinstance(error, KeyRefused) else float("inf")
