"""Masked mode's own payload has no tail, and says so to whoever asks for one."""

from __future__ import annotations

import pytest

from secagg.errors import Misuse
from secagg.masked.payload import QuantizedUpdate
from tests.sim import Consortium, Dice, random_update


def test_a_payload_without_a_tail_gives_none() -> None:
    consortium = Consortium(5)
    payload = QuantizedUpdate(consortium.context(consortium.manifest(40)))
    assert payload.tail_words == payload.tail_sum_words == 0
    for ask in (lambda: payload.contribute(random_update(0, 40), Dice(0)).tail(bytes(48)), payload.tail_sum().words):
        with pytest.raises(Misuse, match="no tail"):
            ask()
