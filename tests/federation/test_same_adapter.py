"""The same updates under every scheme: sites end with the same adapter, to the quantiser's step."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np

from fedserver.checkpoint import Checkpoint
from secagg.config import SERVER_READS_SUM
from secagg.initial import initial_adapter
from secagg.schemes import SCHEMES
from secagg.session import SHARED_KEY
from tests.federation.direct import LAYOUT, Bench
from tests.sim import VARIANTS, some_shared_key

LATE = "site-04"
ROUNDS = 2


def learnt(folder: Path, variant: str) -> np.ndarray:
    """What every site's final adapter has beyond the initial one; one site is missing from the first round."""
    scheme, *options = variant.split()
    key = some_shared_key()
    needs_key = SHARED_KEY in SCHEMES[scheme].needs
    bench = Bench(
        folder,
        options={
            "scheme": scheme, "server_reads_sum": SERVER_READS_SUM in options, "rounds": ROUNDS,
            "shared_key": key.name.hex() if needs_key else "",
        },
    )  # fmt: skip
    for name in bench.names:
        bench.consortium.keys[name] = replace(bench.consortium.keys[name], shared=(key,) if needs_key else ())
        bench.policies[name] = replace(bench.policies[name], schemes=(scheme,), server_reads_sum=bool(options))
    bench.restart(*bench.names)
    bench.link.alter_request = lambda where, packets: (
        None if where.site == LATE and where.kind == "answer" and where.round == 1 else packets
    )
    bench.run()
    assert bench.contributors() == [bench.but(LATE), bench.names]
    manifest = Checkpoint(Path(bench.plan.out) / "state").manifest()
    assert manifest is not None
    (bits,) = {bench.learners[name].saved.tobytes() for name in bench.names}  # type: ignore[union-attr]
    return np.frombuffer(bits, "<f4").astype(np.float64) - initial_adapter(LAYOUT, manifest.nonce)


def test_every_scheme_ends_with_the_same_adapter_to_the_quantisers_step(tmp_path: Path) -> None:
    found = {variant: learnt(tmp_path / variant.replace(" ", "-"), variant) for variant in VARIANTS}
    assert len(found) >= 4
    step = 2 / ((1 << 16) - 1)  # of the range 1, which no round widens here; each mean is off by one step at most
    for one, other in combinations(found, 2):
        error = found[one] - found[other]
        assert 0 < np.sqrt(np.mean(error**2)) < 2 * ROUNDS * step, (one, other)
