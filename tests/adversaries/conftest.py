"""The federation's bench, for the attacks that need real sites with disks."""

from tests.federation.conftest import _same_nonces_in_every_run, bench, tmp_path

__all__ = ["_same_nonces_in_every_run", "bench", "tmp_path"]
