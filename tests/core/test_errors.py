"""The type of an error says who is to blame, survives pickling, and its code may leave the site."""

from __future__ import annotations

import pickle

import pytest

from secagg import errors
from secagg.errors import FaultyPeerOrServer, FaultySite, SecAggError, TooFewSites

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, SecAggError)]


def test_every_kind_of_error_has_a_code_of_its_own() -> None:
    public = [kind for kind in KINDS if not kind.__name__.startswith("_")]
    assert len({kind.code for kind in public}) == len(public) == 9


@pytest.mark.parametrize(
    "error", [FaultySite("site-01", "rule"), FaultyPeerOrServer("site-01", "rule"), TooFewSites(3, 4)], ids=repr
)
def test_an_error_crosses_a_process_border_whole(error: SecAggError) -> None:
    back = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (type(back), str(back), vars(back)) == (type(error), str(error), vars(error))
