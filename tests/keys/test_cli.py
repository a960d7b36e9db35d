"""`fedkeys`: every command's example runs, every refusal is two lines, no private part reaches a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from keys.public import fingerprint, read_public_key, read_roster
from keys.store import load_site
from tests.keys.conftest import Said, tree

Fedkeys = Callable[..., Said]
COMMANDS = (
    *("init", "public", "trust", "fingerprint", "tls", "server init", "root init", "root public"),
    *("roster sign", "roster add", "roster revoke", "roster renew", "roster show", "roster verify"),
    *(f"ckks-shared {name}" for name in ("new", "accept", "list", "forget")),
)
PASSPHRASE = "correct horse battery"


@pytest.fixture
def consortium(fedkeys: Fedkeys, tmp_path: Path) -> Path:
    """The folder after three sites and a root did what the README says."""
    for name in ("hospital-a", "hospital-b", "hospital-c"):
        assert fedkeys("init", name).status == 0
        (tmp_path / f"{name}.pub").write_text(fedkeys("public", name).out)
    assert fedkeys("root", "init", "--out", "root.key").status == 0
    (tmp_path / "root.pub").write_text(fedkeys("root", "public", "--root", "root.key").out)
    assert sign(fedkeys).status == 0
    return tmp_path


def sign(fedkeys: Fedkeys, out: str = "roster.json", *more: object) -> Said:
    """Three sites' roster, signed."""
    sites = [f"hospital-{letter}.pub" for letter in "abc"]
    return fedkeys("roster", "sign", "--root", "root.key", "--consortium", "hospitals", *sites, "-o", out, *more)


def test_fedkeys_answers_help_at_once() -> None:
    best = min(_help_cpu_seconds() for _ in range(3))
    assert best < 0.5


def _help_cpu_seconds() -> float:
    """Seconds of CPU, so that a busy machine does not count."""
    before = os.times()
    subprocess.run([sys.executable, "-m", "keys.cli", "--help"], check=True, capture_output=True)
    after = os.times()
    return after.children_user - before.children_user + after.children_system - before.children_system


def example_of(shown: str) -> str:
    """The worked example in a command's help, as a shell reads it."""
    [after] = re.findall(r"Example[^\n]*:\s*\n(.*?)\n\s*\n", shown, re.DOTALL)
    return re.sub(r"\\\s*\n\s*", "", str(after)).strip()


def test_the_example_in_every_commands_help_runs(
    tmp_path: Path, on_path: dict[str, str], fedkeys: Fedkeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    examples = {command: example_of(fedkeys(*command.split(), "--help").out) for command in COMMANDS}

    def run(command: str) -> str:
        line = examples[command]
        assert line.startswith(f"fedkeys {command}")
        command_line = ["sh", "-euc", line]
        done = subprocess.run(command_line, cwd=tmp_path, env=on_path, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    for name in "bcda":
        for command in ("init", "public"):
            line = examples[command].replace("hospital-a", f"hospital-{name}")
            subprocess.run(["sh", "-euc", line], cwd=tmp_path, env=on_path, check=True, capture_output=True)
    heard = run("root init")
    (tmp_path / "heard-by-telephone.txt").write_text(heard)
    for command in ("root public", "roster sign", "roster add", "roster revoke", "roster renew"):
        run(command)
    assert run("trust") == heard
    for command in ("roster show", "roster verify", "fingerprint", "server init", "tls"):
        assert run(command)
    assert read_roster(tmp_path / "roster-4.json").epoch == 4
    examples["trust"] = examples["trust"].replace("hospital-a", "hospital-b")
    run("trust")
    run("ckks-shared new")
    name = run("ckks-shared accept")
    assert run("ckks-shared list") == f"{name.strip()}  free\n"
    assert run("ckks-shared forget") == name == (tmp_path / "first.name").read_text()


def test_every_command_is_tried_with_its_example(fedkeys: Fedkeys) -> None:
    groups = {
        "": fedkeys("--help").out,
        **{g: fedkeys(g, "--help").out for g in ("root", "roster", "server", "ckks-shared")},
    }
    listed = {
        f"{group} {name}".strip() for group, text in groups.items() for name in re.findall(r"│ ([a-z]+) {2,}\w", text)
    }
    assert listed - set(groups) == set(COMMANDS)


def test_the_printed_fingerprint_is_the_keys(consortium: Path, fedkeys: Fedkeys) -> None:
    root = fingerprint(read_public_key(consortium / "root.pub", "root"))
    for file in ("root.pub", "root.key", "roster.json"):
        assert fedkeys("fingerprint", file).out.splitlines()[0] == f"{root}  root"
    home = load_site(consortium / "data" / "secagg-lora" / "hospital-a")
    assert fedkeys("fingerprint", "hospital-a.pub").out.split("  ")[0] == fingerprint(home.keys.public)


def test_no_private_part_is_ever_printed(consortium: Path, fedkeys: Fedkeys) -> None:
    said = [
        fedkeys("init", "hospital-d"),
        fedkeys("root", "init", "--out", "other.key"),
        fedkeys("server", "init", "--out", "server"),
        fedkeys("tls", "--host", "server.example", "--out", "server/tls"),
        *(fedkeys("fingerprint", path) for path in consortium.rglob("*.key")),
        fedkeys("public", "hospital-a"),
        fedkeys("root", "public", "--root", "root.key"),
        sign(fedkeys, "again.json"),
    ]
    printed = "".join(each.out + each.err for each in said)
    assert len(list(consortium.rglob("*.key"))) == 9
    for path in consortium.rglob("*.key"):
        text = path.read_text()
        secret = json.loads(text)["secret"] if text.startswith("{") else text.splitlines()[1]
        assert not any(secret[i : i + 32] in printed for i in range(0, len(secret) - 32, 8))


def test_a_roster_file_is_never_overwritten(consortium: Path, fedkeys: Fedkeys) -> None:
    before = tree(consortium)
    assert sign(fedkeys).is_clear_error()
    assert fedkeys("roster", "revoke", "roster.json", "hospital-a", "--root", "root.key", "-o", "roster.json").status
    assert tree(consortium) == before


REFUSALS = {
    "a key made twice": "init hospital-a",
    "a root made twice": "root init --out root.key",
    "a bad name": "init Hospital",
    "the public part of nobody": "public hospital-z",
    "a site twice": "roster sign --root root.key --consortium x hospital-a.pub hospital-a.pub -o new.json",
    "a site added twice": "roster add roster.json hospital-a.pub --root root.key -o new.json",
    "a stranger revoked": "roster revoke roster.json hospital-z --root root.key -o new.json",
    "a roster for no time": "roster renew roster.json --root root.key --expires 0 -o new.json",
    "a site's key as root": "roster renew roster.json --root site.key -o new.json",
    "a missing file": "roster show nothing.json",
    "something else than a roster": "roster show root.pub",
    "another root's roster": "roster verify roster.json --root-pub other.pub",
    "another fingerprint": "roster verify roster.json --root-fingerprint 0000",
    "a site without a root": "roster verify roster.json --site hospital-a",
    "another root heard": "trust root.pub --site hospital-a --fingerprint 0000",
    "nobody compared": "trust root.pub --site hospital-a",
    "no site there": "trust root.pub --home nowhere --fingerprint 0000",
    "a server as root": "trust server/signing.pub --site hospital-a",
    "a server made twice": "server init --out server",
    "a host with its port": "tls --host server.example:8443 --out tls",
    "no CA": "tls --host server.example --ca nowhere --out tls",
    "a folder as a file": "fingerprint server",
    "somebody's file": "fingerprint notes.txt",
    "a passphrase for none": "roster renew roster.json --root root.key --passphrase-file pass -o new.json",
    "a passphrase file open to all": "init hospital-d --passphrase-file open-pass",
    "an empty passphrase file": "init hospital-d --passphrase-file empty-pass",
    "no terminal": "init hospital-d --passphrase",
}


@pytest.mark.parametrize("line", REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_is_two_lines_exit_1_and_changes_nothing(consortium: Path, fedkeys: Fedkeys, line: str) -> None:
    fedkeys("server", "init", "--out", "server")
    fedkeys("root", "init", "--out", "other.key")
    (consortium / "other.pub").write_text(fedkeys("root", "public", "--root", "other.key").out)
    site_key = consortium / "data" / "secagg-lora" / "hospital-a" / "site.key"
    for name, text in {
        "pass": PASSPHRASE,
        "open-pass": PASSPHRASE,
        "empty-pass": "",
        "notes.txt": "notes",
    }.items():
        (consortium / name).write_text(text)
        (consortium / name).chmod(0o644 if name == "open-pass" else 0o600)
    (consortium / "site.key").write_bytes(site_key.read_bytes())
    (consortium / "site.key").chmod(0o600)
    before = tree(consortium)
    said = fedkeys(*line.split())
    assert said.is_clear_error(), said
    assert tree(consortium) == before


@pytest.mark.parametrize(
    "line",
    ["bogus", "init", "init a --bogus", "trust root.pub", "roster verify roster.json", "roster sign -o x"],
)
def test_wrong_usage_is_two_lines_and_exit_2(fedkeys: Fedkeys, line: str) -> None:
    said = fedkeys(*line.split())
    assert said.status == 2
    assert len(said.err.splitlines()) == 2
    assert "--help" in said.err


def test_an_expired_an_unsigned_and_an_altered_roster_are_refused(
    consortium: Path, fedkeys: Fedkeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (consortium / "roster.json").read_text()
    value = json.loads(text)
    (consortium / "unsigned.json").write_text(json.dumps({**value, "signature": "00" * 64}))
    (consortium / "altered.json").write_text(json.dumps({**value, "epoch": 2}))
    for name in ("unsigned.json", "altered.json"):
        assert fedkeys("roster", "verify", name, "--root-pub", "root.pub").is_clear_error()
        assert fedkeys("roster", "renew", name, "--root", "root.key", "-o", "new.json").is_clear_error()
    later = time.time() + 366 * 86_400
    monkeypatch.setattr(time, "time", lambda: later)
    assert "expired" in fedkeys("roster", "verify", "roster.json", "--root-pub", "root.pub").err
    assert fedkeys("roster", "add", "roster.json", "hospital-a.pub", "--root", "root.key", "-o", "n").is_clear_error()
    assert not (consortium / "n").exists()


def test_a_sealed_root_signs_only_with_its_passphrase(consortium: Path, fedkeys: Fedkeys) -> None:
    for name, text in {"pass": f"{PASSPHRASE}\n", "wrong": "something else here"}.items():
        (consortium / name).write_text(text)
        (consortium / name).chmod(0o600)
    assert fedkeys("root", "init", "--out", "sealed.key", "--passphrase-file", "pass").status == 0
    call = ("roster", "sign", "--root", "sealed.key", "--consortium", "x", "hospital-a.pub", "-o", "x.json")
    assert fedkeys(*call).is_clear_error()
    assert fedkeys(*call, "--passphrase-file", "wrong").is_clear_error()
    assert not (consortium / "x.json").exists()
    assert fedkeys(*call, "--passphrase-file", "pass").status == 0


def test_verify_takes_a_fingerprint_or_the_sites_pin(consortium: Path, fedkeys: Fedkeys) -> None:
    heard = fedkeys("fingerprint", "root.pub").out.split("  ")[0]
    assert fedkeys("roster", "verify", "roster.json", "--root-fingerprint", heard).status == 0
    assert fedkeys("trust", "root.pub", "--site", "hospital-a", "--fingerprint", heard).status == 0
    assert fedkeys("roster", "verify", "roster.json", "--site", "hospital-a").status == 0


def test_a_home_can_lie_anywhere(fedkeys: Fedkeys, tmp_path: Path) -> None:
    assert "--home 'keys here'" in fedkeys("init", "a", "--home", "keys here").err
    assert fedkeys("public", "a", "--home", "keys here").status == 0
    assert fedkeys("public", "b", "--home", "keys here").is_clear_error()
    assert not (tmp_path / "data").exists()


def on_terminal(arguments: list[str], answers: str, environment: dict[str, str], folder: Path) -> tuple[int, str]:
    """Exit status and screen of a command that has a terminal, when a person types these answers."""
    process, screen = pty.fork()
    if process == 0:
        os.chdir(folder)
        os.execvpe("fedkeys", ["fedkeys", *arguments], environment)  # noqa: S606
    shown = ""
    for answer in answers.splitlines():
        asked = ""
        while not asked.rstrip().endswith(":") and (chunk := _read_or_nothing(screen)):
            asked += chunk.decode()
        shown += asked
        os.write(screen, f"{answer}\n".encode())
    while chunk := _read_or_nothing(screen):
        shown += chunk.decode()
    os.close(screen)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), shown


def _read_or_nothing(screen: int) -> bytes:
    try:
        return os.read(screen, 4096)
    except OSError:
        return b""


@pytest.mark.parametrize("answer", ["y", "n"])
def test_trust_asks_whether_the_fingerprint_was_heard(
    consortium: Path, fedkeys: Fedkeys, on_path: dict[str, str], answer: str
) -> None:
    status, shown = on_terminal(["trust", "root.pub", "--site", "hospital-a"], answer, on_path, consortium)
    assert fedkeys("fingerprint", "root.pub").out.split("  ")[0] in shown
    assert (status == 0) == (answer == "y"), shown
    assert (consortium / "data/secagg-lora/hospital-a/root.pub").exists() == (answer == "y")


def test_a_typed_passphrase_is_not_shown_and_seals_the_key(tmp_path: Path, on_path: dict[str, str]) -> None:
    typed = f"{PASSPHRASE}\n{PASSPHRASE}"
    status, shown = on_terminal(["init", "a", "--home", "a", "--passphrase"], typed, on_path, tmp_path)
    assert status == 0, shown
    assert PASSPHRASE not in shown
    assert load_site(tmp_path / "a", PASSPHRASE).name == "a"


def test_trust_keeps_the_servers_ca_where_fedclient_looks_for_it(fedkeys, tmp_path):
    fedkeys("init", "hospital-a", "--home", "a")
    fedkeys("root", "init", "--out", "root.key")
    (tmp_path / "root.pub").write_text(fedkeys("root", "public", "--root", "root.key").out)
    digits = fedkeys("fingerprint", "root.pub").out.split("  ")[0]
    fedkeys("tls", "--host", "server.example", "--out", "tls")
    fedkeys("trust", "root.pub", "--home", "a", "--fingerprint", digits, "--ca", "tls/ca.pem")
    assert (tmp_path / "a" / "ca.pem").read_bytes() == (tmp_path / "tls" / "ca.pem").read_bytes()
