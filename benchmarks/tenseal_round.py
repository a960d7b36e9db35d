"""Rounds of sums under one shared CKKS key, as users of TenSEAL write them and as NVIDIA FLARE does.

Every object has the steps of a round: `protect` at a site, `add` at the server over n sites' messages, `open` at a
site, each from bytes or values to bytes or values. Keys are made beforehand.
- OneVector: `ckks_vector` over the whole update, degree 4096, coefficient moduli [60, 46], scale 2^40, the context
  sent once; public-key encryption, as in TenSEAL's tutorials.
- EachTensor: degree 8192, [60, 40, 40], scale 2^40, one float in each slot, 64 tensors, each sent with the context;
  secret-key encryption. These are FLARE's settings (`nvflare.lighter.impl.he.HEBuilder`), through TenSEAL alone.
- Flare: the same through FLARE's own encryptor, serialiser, aggregator and decryptor, if the package is there.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Protocol

import numpy as np

TENSORS = 64
SCALE = 2.0**40


class SharedKeyRound(Protocol):
    """One round's steps."""

    name: str

    def protect(self, update: np.ndarray) -> list[bytes]:
        """What a site sends."""

    def add(self, messages: Sequence[list[bytes]]) -> list[bytes]:
        """What the server sends back."""

    def open(self, total: list[bytes], n: int) -> np.ndarray:
        """The mean."""


class OneVector:
    """TenSEAL as in its tutorials, one vector."""

    name = "TenSEAL, degree 4096, one vector"

    def __init__(self) -> None:
        self._ts = import_module("tenseal")
        self._secret = self._ts.context(self._ts.SCHEME_TYPE.CKKS, 4096, -1, [60, 46])
        self._secret.global_scale = SCALE
        self._sent = self._secret.serialize(save_secret_key=False, save_galois_keys=False, save_relin_keys=False)
        self._public = self._ts.context_from(self._sent)

    def protect(self, update: np.ndarray) -> list[bytes]:
        """The vector, and the context beside it."""
        return [self._ts.ckks_vector(self._public, update).serialize(), self._sent]

    def add(self, messages: Sequence[list[bytes]]) -> list[bytes]:
        """The context is read once: it is everybody's."""
        context = self._ts.context_from(messages[0][1])
        first, *rest = (self._ts.ckks_vector_from(context, message[0]) for message in messages)
        for each in rest:
            first += each
        return [first.serialize()]

    def open(self, total: list[bytes], n: int) -> np.ndarray:
        """Decrypted and divided."""
        return np.array(self._ts.ckks_vector_from(self._secret, total[0]).decrypt(), np.float32) / np.float32(n)


class EachTensor:
    """TenSEAL with FLARE's settings."""

    name = "TenSEAL, degree 8192, 64 tensors"

    def __init__(self, tensors: int = TENSORS) -> None:
        self._ts = import_module("tenseal")
        self._count = tensors
        symmetric = self._ts.ENCRYPTION_TYPE.SYMMETRIC
        self._secret = self._ts.context(self._ts.SCHEME_TYPE.CKKS, 8192, -1, [60, 40, 40], symmetric)
        self._secret.generate_relin_keys()
        self._secret.global_scale = SCALE

    def protect(self, update: np.ndarray) -> list[bytes]:
        """Each tensor with the context that its vector belongs to."""
        return [
            part
            for tensor in np.array_split(update, self._count)
            for part in self._plain(self._ts.ckks_vector(self._secret, tensor))
        ]

    @staticmethod
    def _plain(vector: Any) -> tuple[bytes, bytes]:
        return vector.serialize(), vector.context().serialize()

    def _vectors(self, message: list[bytes]) -> list[Any]:
        pairs = zip(message[::2], message[1::2], strict=True)
        return [self._ts.ckks_vector_from(self._ts.context_from(context), data) for data, context in pairs]

    def add(self, messages: Sequence[list[bytes]]) -> list[bytes]:
        """As FLARE: every vector with its own context."""
        total = self._vectors(messages[0])
        for message in messages[1:]:
            for place, each in enumerate(self._vectors(message)):
                total[place] = total[place] + each
        return [part for each in total for part in self._plain(each)]

    def open(self, total: list[bytes], n: int) -> np.ndarray:
        """Decrypted with the site's own secret key."""
        key = self._secret.secret_key()
        return np.concatenate([each.decrypt(secret_key=key) for each in self._vectors(total)]).astype(np.float32) / n


class Flare:
    """NVIDIA FLARE's own code for the same settings; needs the package nvflare."""

    def __init__(self, tensors: int = TENSORS) -> None:
        self._he = {
            name: import_module(f"nvflare.app_opt.he.{name}")
            for name in ("model_encryptor", "model_decryptor", "intime_accumulate_model_aggregator")
        }
        self._count = tensors
        self.name = f"NVIDIA FLARE {import_module('nvflare').__version__}'s own code, 64 tensors"
        builder = import_module("nvflare.lighter.impl.he").HEBuilder()
        builder.initialize(None, None)
        self._context = import_module("tenseal").context_from(builder.get_serialized_context(is_client=True))
        self._apis = {name: import_module(f"nvflare.apis.{name}") for name in ("dxo", "event_type", "fl_context")}
        self._fobs: ModuleType = import_module("nvflare.fuel.utils.fobs")
        self._keys = import_module("nvflare.app_common.app_constant").AppConstants
        self._reserved = import_module("nvflare.apis.fl_constant").ReservedKey

    def _flow(self) -> Any:
        context = self._apis["fl_context"].FLContext()
        context.set_prop(self._keys.CURRENT_ROUND, 0)
        return context

    def protect(self, update: np.ndarray) -> list[bytes]:
        """The shareable of a site, encrypted by HEModelEncryptor, as FOBS bytes."""
        encryptor = self._he["model_encryptor"].HEModelEncryptor(weigh_by_local_iter=False)
        encryptor.tenseal_context, encryptor.encrypt_layers = self._context, [True]
        parts = {f"layer.{i}": each for i, each in enumerate(np.array_split(update, self._count))}
        dxo = self._apis["dxo"].DXO(self._apis["dxo"].DataKind.WEIGHT_DIFF, data=parts)
        dxo.set_meta_prop(self._apis["dxo"].MetaKey.NUM_STEPS_CURRENT_ROUND, 1)
        return [self._fobs.dumps(encryptor._process(dxo, self._flow()).to_shareable())]

    def add(self, messages: Sequence[list[bytes]]) -> list[bytes]:
        """HEInTimeAccumulateWeightedAggregator over the sites' shareables."""
        aggregator = self._he["intime_accumulate_model_aggregator"].HEInTimeAccumulateWeightedAggregator()
        flow = self._flow()
        aggregator.handle_event(self._apis["event_type"].EventType.START_RUN, flow)
        logging.disable(logging.ERROR)  # it reports that nobody listens to its events
        try:
            self._accept(aggregator, messages, flow)
        finally:
            logging.disable(logging.NOTSET)
        return [self._fobs.dumps(aggregator.aggregate(flow))]

    def _accept(self, aggregator: Any, messages: Sequence[list[bytes]], flow: Any) -> None:
        for number, message in enumerate(messages):
            shareable = self._fobs.loads(message[0])
            shareable.set_peer_props({self._reserved.IDENTITY_NAME: f"site-{number}"})
            shareable.add_cookie(self._keys.CONTRIBUTION_ROUND, 0)
            if not aggregator.accept(shareable, flow):
                raise RuntimeError("FLARE's aggregator refused a shareable")

    def open(self, total: list[bytes], n: int) -> np.ndarray:
        """HEModelDecryptor; FLARE's sum is divided by the server already."""
        decryptor = self._he["model_decryptor"].HEModelDecryptor()
        decryptor.tenseal_context = self._context
        dxo = self._apis["dxo"].from_shareable(self._fobs.loads(total[0]))
        keys = dxo.get_meta_prop(self._apis["dxo"].MetaKey.PROCESSED_KEYS)
        opened = decryptor.decryption(dxo.data, keys, self._flow())
        return np.concatenate([opened[f"layer.{i}"] for i in range(self._count)]).astype(np.float32)


def with_flares_settings(tensors: int = TENSORS) -> SharedKeyRound:
    """FLARE's own code where it is installed, else its settings through TenSEAL."""
    return Flare(tensors) if find_spec("nvflare") else EachTensor(tensors)
