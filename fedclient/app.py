"""The site's Flower ClientApp: messages in, the site's answers out, codes instead of texts when it refuses."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Final

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedclient.packets import SiteRefusal, decode_packets, encode_packet, encode_refusal
from fedclient.settings import LocalError
from fedclient.site import HANDLERS, Site
from secagg.errors import SecAggError

MAX_WORDS: Final = 1 << 28  # 2 GiB: the protobuf limit of one message

SiteOf = Callable[[Context], Site]
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
        return Message(content, reply_to=message)

    return handle


CONSORTIUM: Final = "consortium"  # run-config key: the folder of a provisioned consortium


def simulated_site(context: Context) -> Site:
    """The site that a virtual node of the simulation engine plays: the roster's, by partition."""
    folder = Path(str(context.run_config[CONSORTIUM]))
    return _simulated(folder, int(context.node_config["partition-id"]))


@lru_cache(maxsize=4)
def _simulated(folder: Path, partition: int) -> Site:
    from fedclient.simulated import open_site

    return open_site(folder, partition)


app = make_app(simulated_site)
