"""The site's Flower ClientApp: messages in, the site's answers out, codes instead of texts when it refuses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Final, Protocol

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedclient.packets import SiteRefusal, decode_packets, encode_packet, encode_refusal
from fedclient.settings import LocalError
from fedclient.site import HANDLERS
from keys.console import notice
from secagg.errors import SecAggError
from secagg.session import Packet

MAX_WORDS: Final = 1 << 28  # 2 GiB: the protobuf limit of one message


class Member(Protocol):
    """A site as the app sees it: `fedclient.site.Site`, or one of the simulation."""

    def handle(self, kind: str, packets: Sequence[Packet]) -> Packet:
        """The reply to one request. Raises SecAggError or LocalError."""


SiteOf = Callable[[Context], Member]
Tell = Callable[[str, Exception], None]  # kind of the request, what went wrong; for the site's own terminal


def make_app(site_of: SiteOf, tell: Tell = lambda kind, error: None) -> ClientApp:
    """A ClientApp with one query handler per kind of request."""
    app = ClientApp()
    for kind in HANDLERS:
        app.query(kind)(_handler(kind, site_of, tell))
    return app


def _handler(kind: str, site_of: SiteOf, tell: Tell) -> Callable[[Message, Context], Message]:
    def handle(message: Message, context: Context) -> Message:
        try:
            packets = decode_packets(message.content, max_words=MAX_WORDS)
            content = encode_packet(site_of(context).handle(kind, packets))
        except (SecAggError, LocalError) as error:
            tell(kind, error)
            content = encode_refusal(SiteRefusal(error.code, getattr(error, "site", "")))
        except Exception as error:  # noqa: BLE001 - whatever it was, only a code may leave
            tell(kind, error)
            content = encode_refusal(SiteRefusal("error"))
        return Message(content, reply_to=message)

    return handle


CONSORTIUM: Final = "consortium"  # run-config key: the folder that `python -m fedserver.simulate` prepared
PARTITION: Final = "partition-id"  # node-config key, set by the simulation engine


def simulated_site(context: Context) -> Member:
    """The site that a virtual node of the simulation engine plays: the roster's, by partition."""
    folder = Path(str(context.run_config[CONSORTIUM]))
    return _simulated(folder, int(context.node_config[PARTITION]))


@cache
def _simulated(folder: Path, partition: int) -> Member:
    from fedclient.simulated import open_site

    return open_site(folder, partition)


def _tell(kind: str, error: Exception) -> None:
    notice(f"refused {kind}: {getattr(error, 'problem', error)}")


app = make_app(simulated_site, _tell)
