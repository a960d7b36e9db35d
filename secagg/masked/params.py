"""The numbers of masked mode and where they come from (spec §11.1)."""

from typing import Final

from secagg.primitives.aead import OVERHEAD
from secagg.primitives.shamir import SHARE_BYTES

NAME: Final = "masked"
SECRET: Final = 32  # bytes of an X25519 secret and of a self-mask seed
BOX: Final = 2 * SHARE_BYTES + OVERHEAD  # one share of the mask key, one of the self-mask seed, sealed
MOST_LIARS: Final = 2  # false shares of one secret that are told from true ones; the search grows as n^2
