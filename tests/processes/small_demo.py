"""The demo with fewer steps, as a process of its own. Usage: small_demo.py OUT"""

import sys
from dataclasses import replace
from pathlib import Path

from fedclient.demo import TRAINING
from fedserver.demo import run_demo
from fedserver.failures import FAILURES
from fedserver.plan import ServerError


def small(out: Path) -> int:
    """Exit code of a demo of one round of two steps."""
    try:
        run_demo(out, "masked", replace(TRAINING, max_blocks=16), rounds=1)
    except (ServerError, *FAILURES) as error:
        print(error.problem, error.remedy, sep="\n", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(small(Path(sys.argv[1])))
