"""The errors that the fedserver command shows in two lines."""

from typing import Final

from fedserver.gateway import GatewayFailed
from fedserver.superlink import SuperLinkFailed

FAILURES: Final = (GatewayFailed, SuperLinkFailed)
