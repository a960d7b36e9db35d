"""What can be checked of a plan before anything starts or is written."""

from __future__ import annotations

import time
from pathlib import Path

from fedserver.enrolment import session_numbers
from fedserver.plan import Plan
from fedserver.supervise import own_tls
from keys.console import notice
from keys.public import fingerprint, read_roster, require_roster
from keys.server import load_server


def require_runnable(plan: Plan) -> None:
    """Checks roster, keys, certificate and numbers, and shows whose roster it is. Raises what a part raises."""
    now = int(time.time())
    roster = read_roster(Path(plan.roster))
    require_roster(roster, roster.root_key, now)
    load_server(Path(plan.keys))
    own_tls(Path(plan.keys))
    session_numbers(plan, sum(entry.expires >= now for entry in roster.sites))
    notice(f"fedserver: roster of {roster.consortium}, epoch {roster.epoch}, {len(roster.sites)} sites")
    notice(f"fedserver: root {fingerprint(roster.root_key)}")
