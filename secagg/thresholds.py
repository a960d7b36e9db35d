"""How many sites must agree, answer and survive: from n, declared colluders and dropouts (spec §7.2)."""

from __future__ import annotations

from dataclasses import dataclass

from secagg.errors import Misuse
from secagg.wire import MAX_SITES

MIN_SITES = 3


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The numbers of one session on the complete graph.

    n sites; c of them may collude with the server; d may drop out; t shares give a secret back;
    q signatures make a survivor set final; m is the fewest survivors a site unmasks for.
    """

    sites: int
    colluders: int
    dropouts: int
    threshold: int
    quorum: int
    least_survivors: int

    def __post_init__(self) -> None:
        """Raises Misuse unless 2t > n + c, t <= n - d, q = floor((n + c) / 2) + 1 and m is large enough."""
        n, c, d, t = self.sites, self.colluders, self.dropouts, self.threshold
        if not MIN_SITES <= n <= MAX_SITES:
            raise Misuse(f"the complete graph takes {MIN_SITES} to {MAX_SITES} sites, not {n}")
        if not (0 <= c < n and 0 <= d < n and 2 * t > n + c and t <= n - d):
            raise Misuse(f"{n} sites cannot bear {c} colluders and {d} dropouts with threshold {t}")
        if n == MIN_SITES and c > 1:
            raise Misuse("of three sites at most one may collude: two and the sum give the third away")
        if self.quorum != (n + c) // 2 + 1:
            raise Misuse("the quorum is floor((n + c) / 2) + 1")
        if not least_survivors(n, c, t) <= self.least_survivors <= n - d:
            raise Misuse(f"fewest survivors {self.least_survivors} must lie between the rule's and n - d")


def least_survivors(n: int, c: int, t: int) -> int:
    """max(t, c + 3): three honest terms hide each other; three sites are the exception, all must survive."""
    return n if n == MIN_SITES else max(t, c + 3)


def plan(n: int, colluders: int | None = None, dropouts: int | None = None, least: int = 0) -> Thresholds:
    """The thresholds for n sites; what is not given is a third colluding and the most dropouts it leaves.

    least: raise the fewest survivors to this. Raises Misuse if no threshold satisfies all conditions.
    """
    if not MIN_SITES <= n <= MAX_SITES:
        raise Misuse(f"the complete graph takes {MIN_SITES} to {MAX_SITES} sites, not {n}")
    c = max(1, (n - 1) // 3) if colluders is None else colluders
    t = (n + c) // 2 + 1
    fewest = max(least_survivors(n, c, t), least)
    d = max(0, n - fewest) if dropouts is None else dropouts
    if fewest > n - d:
        raise Misuse(
            f"{n} sites cannot bear {c} colluders and {d} dropouts: {fewest} sites must survive a round; "
            f"declare at most {max(0, n - fewest)} dropouts or fewer colluders"
        )
    return Thresholds(n, c, d, t, (n + c) // 2 + 1, fewest)
