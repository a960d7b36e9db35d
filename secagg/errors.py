"""Who is to blame: one error type per culprit, because the caller's next act depends on it (spec §3.4)."""


class SecAggError(Exception):
    """Base of every error the core raises; `code` is what may leave a site (spec §16.4)."""

    code = "error"


class Misuse(SecAggError):
    """Our own caller broke the contract of a function."""

    code = "misuse"


class Malformed(SecAggError):
    """Bytes did not decode to exactly one valid value."""

    code = "malformed"


class Refused(SecAggError):
    """The site's own policy or durable log forbids the answer; nothing was computed or sent."""

    code = "refused"


class FaultyServer(SecAggError):
    """The server sent something that the protocol forbids."""

    code = "faulty-server"


class _NamesSite(SecAggError):
    def __init__(self, site: str, rule: str) -> None:
        super().__init__(f"{site}: {rule}")
        self.site = site
        self.rule = rule

    def __reduce__(self) -> tuple[type["_NamesSite"], tuple[str, str]]:
        return type(self), (self.site, self.rule)


class FaultySite(_NamesSite):
    """The named site sent something that the protocol forbids, provably (its signature is on it)."""

    code = "faulty-site"


class FaultyPeerOrServer(_NamesSite):
    """The named site or the server altered something; the site that sees it cannot tell which."""

    code = "faulty-peer-or-server"


class TooFewSites(SecAggError):
    """Fewer sites are alive than the threshold asks for; nobody's fault."""

    code = "too-few-sites"

    def __init__(self, alive: int, threshold: int) -> None:
        super().__init__(f"{alive} sites are left, the threshold is {threshold}")
        self.alive = alive
        self.threshold = threshold

    def __reduce__(self) -> tuple[type["TooFewSites"], tuple[int, int]]:
        return type(self), (self.alive, self.threshold)


class Sealed(SecAggError):
    """The aggregate cannot be opened without a site's secret."""

    code = "sealed"
