"""One site of Flower's own SecAgg+, driven through the functions of its client mod, stage by stage.

The mod's functions are called as they stand, so the figures are of the code that a Flower client runs. Peers
are stand-ins: they have real keys, and what they send is sealed with the real keys and has the real lengths.
"""

from __future__ import annotations

from typing import Any, Final, cast

import numpy as np
from flwr.app import ConfigRecord, RecordDict
from flwr.app.typing import ConfigRecordValues
from flwr.client.mod.secure_aggregation.secaggplus_mod import (
    SecAggPlusState,
    _collect_masked_vectors,
    _setup,
    _share_keys,
    _unmask,
)
from flwr.common import Parameters, ndarrays_to_parameters
from flwr.common.secure_aggregation.crypto.symmetric_encryption import encrypt
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.common.secure_aggregation.secaggplus_utils import share_keys_plaintext_concat
from flwr.common.serde import recorddict_to_proto

EXAMPLES = 100
OWN = 1  # node ids are 1..n
SETTINGS: Final[dict[str, ConfigRecordValues]] = {  # the defaults of SecAggPlusWorkflow
    Key.CLIPPING_RANGE: 8.0,
    Key.TARGET_RANGE: 1 << 22,
    Key.MOD_RANGE: 1 << 32,
    Key.MAX_WEIGHT: 1000.0,
}


class FlowerSite:
    """A site with n - 1 neighbours that has dealt its shares; `replies` holds what it has sent."""

    def __init__(self, n: int, threshold: int) -> None:
        setting = {Key.SAMPLE_NUMBER: n, Key.SHARE_NUMBER: n, Key.THRESHOLD: threshold, **SETTINGS}
        states = {node: SecAggPlusState() for node in range(1, n + 1)}
        keys = {node: _setup(state, ConfigRecord(setting)) for node, state in states.items()}
        self._state = states[OWN]
        self._state.nid = OWN
        named: dict[str, ConfigRecordValues] = {
            str(node): [cast(bytes, each[Key.PUBLIC_KEY_1]), cast(bytes, each[Key.PUBLIC_KEY_2])]
            for node, each in keys.items()
        }
        self.replies: list[dict[str, Any]] = [keys[OWN], _share_keys(self._state, ConfigRecord(named))]
        self._boxes = self._boxes_of(range(2, n + 1))

    def _boxes_of(self, peers: range) -> ConfigRecord:
        """What peers would have sealed for this site; shares of any secret have one length."""
        state = self._state
        shares = state.rd_seed_share_dict[OWN], state.sk1_share_dict[OWN]
        plain = {peer: share_keys_plaintext_concat(peer, OWN, *shares) for peer in peers}
        boxes = [encrypt(state.ss2_dict[peer], plain[peer]) for peer in peers]
        return ConfigRecord({Key.CIPHERTEXT_LIST: boxes, Key.SOURCE_LIST: list(peers)})

    def mask(self, parameters: Parameters) -> dict[str, Any]:
        """The reply of the masking stage: boxes opened, update quantised, n masks made, bytes."""
        return _collect_masked_vectors(self._state, self._boxes, EXAMPLES, parameters)

    def unmask(self, n: int) -> dict[str, Any]:
        """The reply of the last stage when nobody has dropped out."""
        nodes = {Key.ACTIVE_NODE_ID_LIST: list(range(1, n + 1)), Key.DEAD_NODE_ID_LIST: []}
        return _unmask(self._state, ConfigRecord({Key.STAGE: Stage.UNMASK, **nodes}))


def parameters_of(values: np.ndarray) -> Parameters:
    """The update in the form in which the mod gets it."""
    return ndarrays_to_parameters([values])


def message_bytes(reply: dict[str, Any]) -> int:
    """Bytes of a reply's content as Flower encodes it."""
    return content_bytes(RecordDict({RECORD_KEY_CONFIGS: ConfigRecord(reply)}))


def content_bytes(content: RecordDict) -> int:
    """Bytes of a message's content as protobuf."""
    return int(recorddict_to_proto(content).ByteSize())
