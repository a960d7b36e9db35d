"""What can be checked of a plan before anything starts or is written."""

from __future__ import annotations

import time
from pathlib import Path

from fedserver.enrolment import session_numbers
from fedserver.plan import Plan, ServerError
from fedserver.supervise import own_tls
from keys.console import notice
from keys.public import fingerprint, read_roster, require_roster
from keys.server import load_server
from secagg.identity import Roster
from secagg.schemes import cautions, scheme_named
from secagg.session import SHARED_KEY


def require_runnable(plan: Plan) -> None:
    """Checks scheme, roster, keys, certificate and numbers, and shows whose roster it is and what to beware of.

    Raises what a part raises.
    """
    require_options(plan)
    now = int(time.time())
    roster = current_roster(Path(plan.roster))
    load_server(Path(plan.keys))
    own_tls(Path(plan.keys))
    session_numbers(plan, sum(entry.expires >= now for entry in roster.sites))
    notice(f"fedserver: roster of {roster.consortium}, epoch {roster.epoch}, {len(roster.sites)} sites")
    notice(f"fedserver: root {fingerprint(roster.root_key)}")
    for line in cautions(plan.scheme, plan.options()):
        notice(f"fedserver: CAUTION: {line}")


def current_roster(path: Path) -> Roster:
    """The roster in a file, signed by the root that it names and current. Raises KeyFileError."""
    roster = read_roster(path)
    require_roster(roster, roster.root_key, int(time.time()))
    return roster


def require_options(plan: Plan) -> None:
    """Raises ServerError for an option that the scheme does not know, and for a key that it lacks."""
    scheme = scheme_named(plan.scheme)
    unknown = sorted(plan.options().keys() - scheme.options)
    if unknown:
        raise ServerError(
            f"--secagg {plan.scheme} has no option {unknown[0]}",
            f"leave --{unknown[0]} out, or choose another --secagg",
        )
    if SHARED_KEY in scheme.needs and not plan.shared_key:
        raise ServerError(
            f"--secagg {plan.scheme} takes a key that the sites share and this server lacks",
            f"at one site: fedkeys {plan.scheme} new --site NAME --roster ROSTER -o FILE; at every other site: "
            f"fedkeys {plan.scheme} accept FILE --site NAME --roster ROSTER; then give --shared-key FILE here",
        )
