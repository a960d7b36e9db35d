"""One site's upload of many bytes: through our gateway into the server's process, and as a plain HTTPS upload.

python -m benchmarks.upload ROLE FOLDER PORT WORDS TURNS

ROLE: server (gateway, SuperLink and a ServerApp that asks for the words), site, https-server or https-client. Keys and
certificates lie in FOLDER; the journal there says how long each upload took, from asking until the receiver has it, and
PUSHES beside it how long the site was at sending, until the SuperLink had confirmed the last piece.
"""

from __future__ import annotations

import os
import ssl
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import uvicorn
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from benchmarks.turns import Turns, note
from fedclient.agent import serve
from fedclient.connection import Connection
from fedclient.fleet import Fleet
from fedclient.packets import WORD_BYTES, encode_packet
from fedserver.exchange import exchange
from fedserver.gateway import Gateway
from fedserver.mailbox import mailbox_of
from fedserver.superlink import InternalTls, SuperLink
from fedserver.supervise import terminated_as_exit
from keys.provision import Consortium, paths_under
from keys.public import node_keys, read_roster
from keys.store import load_site
from keys.tls import issue_tls
from secagg.session import Packet

HOST: Final = "127.0.0.1"
SITES: Final = ("alesund", "bergen", "oslo")  # a roster has three; one uploads
SITE: Final = SITES[0]
CONSORTIUM: Final = "consortium"
JOURNAL: Final = "events.jsonl"
PUSHES: Final = "pushes.jsonl"
LOOK_S: Final = 0.05
PATIENCE_S: Final = 300.0

server = ServerApp()
client = ClientApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Asks the site for its words whenever it is its turn, for as long as the run lasts."""
    config = context.run_config
    folder, node, count = Path(str(config["folder"])), int(str(config["node"])), int(config["words"])
    turns, mailbox = Turns(Path(str(config["turns"]))), mailbox_of(grid)
    while node not in set(grid.get_node_ids()):
        time.sleep(LOOK_S)
    round_ = 0
    while True:
        round_ += 1
        turns.await_turn(round_)
        began, requests = time.monotonic(), [(SITE, Packet(b"upload"))]
        [(_, answer)] = exchange(mailbox, {SITE: node}, requests, "query.upload", PATIENCE_S, max_words=count)
        if not isinstance(answer, Packet) or answer.words is None or answer.words.size != count:
            raise RuntimeError(f"the site answered {answer}")
        _note(folder, round_, began)


@client.query("upload")
def upload(message: Message, context: Context) -> Message:
    """The words, made when the process began."""
    return Message(encode_packet(Packet(b"upload", _WORDS[0])), reply_to=message)


_WORDS: Final[list[np.ndarray]] = []


def _random_words(count: int) -> np.ndarray:
    return np.frombuffer(os.urandom(WORD_BYTES * count), "<u8").astype(np.uint64, copy=False)


def _note(folder: Path, round_: int, began: float) -> None:
    seconds = time.monotonic() - began
    note(folder / JOURNAL, {"event": "aggregated", "round": round_, "seconds_total": seconds})


def run_server(folder: Path, made: Consortium, port: int, words: int, turns: Path) -> None:
    """fedserver's parts, with another ServerApp."""
    work = folder / "run"
    loopback = issue_tls(work / "tls", (HOST,), int(time.time()))
    internal = InternalTls(loopback.certificate, loopback.key, loopback.ca)
    with terminated_as_exit(), SuperLink(work, internal) as link:
        nodes = link.register(node_keys(read_roster(made.roster)))
        with Gateway(link.handover, host=HOST, port=port, cert=made.tls.certificate, key=made.tls.key):
            run = link.start_run(
                server_app="benchmarks.upload:server", client_app="benchmarks.upload:client",
                config={"folder": str(folder), "node": str(nodes[SITE]), "words": words, "turns": str(turns)},
            )  # fmt: skip
            status = link.wait(run)
            raise SystemExit(f"{status.status} {status.details}\n{link.log_of_run(run)}")


def run_site(folder: Path, made: Consortium, port: int, words: int) -> None:
    """fedclient's agent, with another ClientApp."""
    push = Fleet.push

    def timed(*arguments: Any) -> int:
        began = time.monotonic()
        sent = push(*arguments)
        note(folder / PUSHES, {"event": "pushed", "seconds": time.monotonic() - began})
        return sent

    Fleet.push = timed  # type: ignore[method-assign,assignment]
    _WORDS.append(_random_words(words))
    keys = load_site(made.homes[SITE])
    connection = Connection(f"{HOST}:{port}", made.tls.ca, keys.node_key, node_file=keys.home / "node.id")
    serve(client, connection, stop=threading.Event(), retry_for_s=PATIENCE_S)


def run_https_server(made: Consortium, port: int) -> None:
    """Takes a body into memory and says how long it is; TLS as the gateway has it."""

    async def take(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(len(await request.body())))

    config = uvicorn.Config(
        Starlette(routes=[Route("/", take, methods=["POST"])]), host=HOST, port=port, log_level="warning",
        ssl_certfile=made.tls.certificate, ssl_keyfile=str(made.tls.key),
    )  # fmt: skip
    config.load()
    if config.ssl is not None:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
    uvicorn.Server(config).run()


def run_https_client(folder: Path, made: Consortium, port: int, words: int, turns: Path) -> None:
    """Posts as many bytes whenever it is its turn, over one connection."""
    body, allowed, round_ = _random_words(words).tobytes(), Turns(turns), 0
    with httpx.Client(verify=ssl.create_default_context(cafile=made.tls.ca), timeout=PATIENCE_S) as session:
        while True:
            round_ += 1
            allowed.await_turn(round_)
            began = time.monotonic()
            answer = session.post(f"https://{HOST}:{port}/", content=body).raise_for_status()
            if answer.text != str(len(body)):
                raise RuntimeError("the upload was not taken whole")
            _note(folder, round_, began)


def run(role: str, folder: Path, port: int, words: int, turns: Path) -> None:
    """Plays one role until it is ended."""
    made = paths_under(folder / CONSORTIUM, SITES)
    {
        "server": lambda: run_server(folder, made, port, words, turns),
        "site": lambda: run_site(folder, made, port, words),
        "https-server": lambda: run_https_server(made, port),
        "https-client": lambda: run_https_client(folder, made, port, words, turns),
    }[role]()


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
