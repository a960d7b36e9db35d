"""Runs the fuzz targets under atheris, one after the other, and says how many inputs each took and what broke.

    python -m tests.fuzz.run --seconds 600 --out out/fuzz            # all targets, the seconds shared among them
    python -m tests.fuzz.run --seconds 60 --out out/fuzz structs     # one of them
    python -m tests.fuzz.run --keep --out out/fuzz                   # the smallest finds that reach most -> corpus/

Inputs that break something go to OUT/crashes/TARGET, one for each place, and the command then fails. A found
crash becomes a test once it is fixed: put the file into tests/fuzz/corpus/TARGET.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import re
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

HERE: Final = Path(__file__).parent.absolute()
ROOT: Final = HERE.parent.parent
CORPUS: Final = HERE / "corpus"
TARGETS: Final = tuple(sorted(path.stem.removeprefix("fuzz_") for path in HERE.glob("fuzz_*.py")))
PACKAGES: Final = ["secagg", "keys", "fedclient", "fedserver"]
LONGEST: Final = 16_384  # bytes of one input
MEMORY_MB: Final = 1024  # more than that for one input of LONGEST bytes is a find
SLOWEST_S: Final = 20  # and so is an input that takes longer
KEPT_FILES: Final = 32  # of a target, in the repository
KEPT_BYTES: Final = 32_000
NEVER: Final = (b"PRIVATE KEY",)  # what a repository must not hold, whatever it is
_Step = tuple[str, int, int]  # file, line before, line


def fuzz(target: str, out: Path, seconds: int) -> None:
    """The child: one target until the time is up."""
    import atheris

    with atheris.instrument_imports(include=PACKAGES):
        module = importlib.import_module(f"tests.fuzz.fuzz_{target}")
    found, crashes = _folder(out / "corpus" / target), _folder(out / "crashes" / target)
    for seed in module.seeds():
        (found / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    options = [
        f"-max_total_time={seconds}", f"-max_len={LONGEST}", f"-rss_limit_mb={MEMORY_MB}", f"-timeout={SLOWEST_S}",
        "-print_final_stats=1", f"-artifact_prefix={crashes}/",
    ]  # fmt: skip
    kept = [str(CORPUS / target)] if (CORPUS / target).is_dir() else []
    atheris.Setup([sys.argv[0], *options, str(found), *kept], _watched(module.one, crashes))
    atheris.Fuzz()


def _watched(one: Callable[[bytes], None], crashes: Path) -> Callable[[bytes], None]:
    """The target, which goes on after a crash: the first input that gets to a place is kept."""

    def run(data: bytes) -> None:
        try:
            one(data)
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            ours = [each for each in frames if Path(each.filename).parent.name in (*PACKAGES, "masked", "fuzz")]
            place = f"{type(error).__name__}-{Path(ours[-1].filename).stem}-{ours[-1].lineno}"
            if not (crashes / place).exists():
                (crashes / place).write_bytes(data)
                (crashes / f"{place}.txt").write_text(traceback.format_exc())

    return run


def report(targets: Sequence[str], out: Path, seconds: int) -> int:
    """Runs the targets in processes of their own and prints a line for each; gives the number of crashes."""
    crashed = 0
    print(f"{'target':<16} {'executions':>12} {'coverage':>9} {'new inputs':>11} {'crashes':>8}")
    for target in targets:
        log = _folder(out) / f"{target}.log"
        command = [sys.executable, "-m", "tests.fuzz.run", "--one", target, "--out", str(out)]
        with log.open("wb") as file:
            status = subprocess.run(
                [*command, "--seconds", str(max(1, seconds // len(targets)))], check=False, stdout=file, stderr=file
            ).returncode
        said = log.read_text(errors="replace")
        crashes = [each for each in (out / "crashes" / target).glob("*") if each.suffix != ".txt"]
        crashes_here = len(crashes) + (status != 0 and not crashes)
        figures = [_last(said, name) for name in ("number_of_executed_units", "cov", "new_units_added")]
        print("{:<16} {:>12} {:>9} {:>11} {:>8}".format(target, *figures, crashes_here), flush=True)
        for each in crashes:
            print(f"  {each}")
        if status:
            print(f"  ended with {status}: read {log}")
        crashed += crashes_here
    return crashed


def _last(text: str, name: str) -> str:
    """The last figure of that name in what libFuzzer printed."""
    found = re.findall(rf"{name}: +(\d+)", text)
    return found[-1] if found else "?"


def keep(target: str, out: Path) -> None:
    """Replaces the target's corpus by the smallest found inputs that each take a step no smaller one takes."""
    module = importlib.import_module(f"tests.fuzz.fuzz_{target}")
    known, room = set[_Step](), KEPT_BYTES
    for seed in module.seeds():  # they are made anew in every run
        known |= _steps(module.one, seed)
    sources = [
        path for folder in (out / "corpus" / target, CORPUS / target) if folder.is_dir() for path in folder.iterdir()
    ]
    kept: list[bytes] = []
    for data in sorted({path.read_bytes() for path in sources}, key=len):
        new = _steps(module.one, data) - known if len(kept) < KEPT_FILES and len(data) <= room else None
        if new and not any(word in data for word in NEVER):
            kept.append(data)
            known, room = known | new, room - len(data)
    shutil.rmtree(CORPUS / target, ignore_errors=True)
    for data in kept:
        (_folder(CORPUS / target) / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)


def _steps(one: Callable[[bytes], None], data: bytes) -> set[_Step]:
    """From which line to which the input leads, within a function of ours."""
    steps, at = set[_Step](), dict[FrameType, int]()

    def trace(frame: FrameType, event: str, _: object) -> object:
        if Path(frame.f_code.co_filename).relative_to(ROOT).parts[0] not in PACKAGES:
            return None
        if event == "line":
            steps.add((frame.f_code.co_filename, at.get(frame, 0), frame.f_lineno))
            at[frame] = frame.f_lineno
        return trace

    def enter(frame: FrameType, event: str, argument: object) -> object:
        return trace(frame, event, argument) if frame.f_code.co_filename.startswith(f"{ROOT}/") else None

    sys.settrace(enter)  # type: ignore[arg-type]
    try:
        one(data)
    finally:
        sys.settrace(None)
    return steps


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run")
    parser.add_argument("targets", nargs="*", default=TARGETS, metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=600, help="for all targets together")
    parser.add_argument("--out", type=Path, default=Path("out/fuzz"))
    parser.add_argument("--keep", action="store_true", help="renew the corpus in the repository")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    out = asked.out.absolute()
    if asked.one:
        fuzz(asked.one, out, asked.seconds)
    elif asked.keep:
        for target in asked.targets:
            keep(target, out)
    else:
        sys.exit(1 if report(asked.targets, out, asked.seconds) else 0)


if __name__ == "__main__":
    main()
