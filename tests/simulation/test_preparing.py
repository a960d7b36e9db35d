"""What `python -m fedserver.simulate` writes, and how it leaves the machine."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import psutil
import pytest

from fedclient.data import read_records
from fedclient.policy import POLICY_FILE, load_policy
from fedserver.plan import Plan, ServerError
from fedserver.preflight import require_options
from fedserver.simulate import deal_texts, prepare, site_names
from keys.public import read_roster
from keys.store import load_site
from secagg.config import Policy

ROOT = Path(__file__).parent.parent.parent
SITES = 5
DETACHED = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', {0!r}], start_new_session=True)"
SLEEPER = "import os, sys, time; open(sys.argv[1] + '.new', 'w').write(str(os.getpid())); "
SLEEPER += "os.rename(sys.argv[1] + '.new', sys.argv[1]); time.sleep(600)"


def simulate(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fedserver.simulate", *arguments]
    return subprocess.run(command, cwd=cwd, check=False, capture_output=True, text=True)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a folder") / "sim"
    prepare(folder, SITES, rounds=2, max_blocks=16)
    return folder


def records(out: Path, part: str) -> dict[str, list[str]]:
    data = out / "consortium" / "data"
    return {name: [each.text for each in read_records(data / name / part)] for name in site_names(SITES)}


def test_the_plan_is_one_that_the_server_app_reads(out: Path) -> None:
    plan = Plan.load(out / "plan.json")
    assert (plan.scheme, plan.rounds, plan.training.max_blocks) == ("masked", 2, 16)
    assert [entry.site for entry in read_roster(Path(plan.roster)).sites] == site_names(SITES)


def test_the_run_config_has_the_keys_that_the_app_declares(out: Path) -> None:
    written = tomllib.loads((out / "run.toml").read_text())
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    assert written.keys() == declared.keys()
    assert all(Path(path).is_absolute() and Path(path).exists() for path in written.values())


def test_a_scheme_that_takes_more_is_given_it(tmp_path: Path) -> None:
    plan = prepare(tmp_path / "sim", 3, 1, 4, "ckks-shared")
    names = {home.name: load_site(home).keys.shared for home in sorted((tmp_path / "sim/consortium/sites").iterdir())}
    assert {tuple(key.name.hex() for key in held) for held in names.values()} == {(plan.shared_key,)}
    require_options(plan)
    policies = {load_policy(tmp_path / "sim/consortium/sites" / name / POLICY_FILE) for name in names}
    assert policies == {Policy(schemes=("ckks-shared",))}


def test_a_scheme_that_does_not_exist_is_misuse(tmp_path: Path) -> None:
    assert simulate("--secagg", "plain", "--out", str(tmp_path / "sim")).returncode == 2


def test_every_site_has_texts_of_its_own_and_holds_out_none_that_another_trains_on(out: Path) -> None:
    training, held_out = records(out, "train.jsonl"), records(out, "test.jsonl")
    dealt = [text for part in (training, held_out) for texts in part.values() for text in texts]
    assert len(dealt) == len(set(dealt))
    assert min(map(len, training.values())) > 100
    assert min(map(len, held_out.values())) > 10


def test_a_hundred_sites_get_all_texts_once(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for domain in "ab":
            (tmp_path / "texts" / domain).mkdir(parents=True, exist_ok=True)
            texts = [f"{part} {domain} {index} ".ljust(3000, "x") + domain * index for index in range(50)]
            lines = [json.dumps({"text": text}) + "\n" for text in (*texts, "the same text everywhere")]
            (tmp_path / "texts" / domain / f"{part}.jsonl").write_text("".join(lines))
    names = site_names(100)
    deal_texts(tmp_path / "texts", tmp_path / "data", names)
    files = [tmp_path / "data" / name / f"{part}.jsonl" for name in names for part in ("train", "test")]
    dealt = [record.text for file in files for record in read_records(file)]
    assert len(dealt) == len(set(dealt))
    assert sum(text.startswith(("train ", "test ")) for text in dealt) == 2 * 2 * 50
    assert "the same text everywhere" in dealt
    with pytest.raises(ServerError):
        deal_texts(tmp_path / "texts", tmp_path / "more", site_names(1000))


def test_names_stand_in_the_order_of_partitions() -> None:
    assert site_names(100) == sorted(site_names(100))


def test_without_run_it_prints_the_command_alone(tmp_path: Path) -> None:
    done = simulate("--sites", "3", "--rounds", "1", "--workers", "2", "--out", str(tmp_path / "sim"))
    assert done.returncode == 0, done.stderr
    [line] = done.stdout.splitlines()
    variable, *command = shlex.split(line)
    assert variable == "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1"
    assert command[:4] == ["flwr", "run", ".", "local"]
    assert str(tmp_path / "sim" / "run.toml") in command
    assert "num-supernodes=3 client-resources-num-cpus=1 init-args-num-cpus=2" in command


@pytest.mark.parametrize("occupied", [".", "consortium", "logs"])
def test_a_folder_that_no_simulation_made_is_left_alone(tmp_path: Path, occupied: str) -> None:
    (tmp_path / occupied).mkdir(exist_ok=True)
    (tmp_path / occupied / "roster.json").write_text("years of work")
    (tmp_path / "file").write_text("more of it")
    for out in (tmp_path, tmp_path / "file"):
        done = simulate("--out", str(out))
        assert (done.returncode, done.stdout) == (1, "")
        assert len(done.stderr.splitlines()) == 2
    assert (tmp_path / occupied / "roster.json").exists()


def test_an_earlier_simulation_is_replaced_whole(tmp_path: Path) -> None:
    for sites in (4, 3):
        prepare(tmp_path / "sim", sites, rounds=1, max_blocks=1)
    assert len(list((tmp_path / "sim" / "consortium" / "data").iterdir())) == 3


def test_too_few_sites_is_misuse(tmp_path: Path) -> None:
    assert simulate("--sites", "2", "--out", str(tmp_path / "sim")).returncode == 2


def test_a_process_that_detached_itself_is_ended_with_the_block(tmp_path: Path) -> None:
    """In a process of its own, which takes in orphans for that long."""
    pid_file = tmp_path / "pid"
    sleeper = SLEEPER.replace("sys.argv[1]", repr(str(pid_file)))
    block = "\n".join([
        "import subprocess, sys, time, os",
        "from fedserver.simulate import descendants_ended",
        "with descendants_ended():",
        f"    subprocess.run([sys.executable, '-c', {DETACHED.format(sleeper)!r}], check=True)",
        f"    while not os.path.exists({str(pid_file)!r}): time.sleep(0.02)",
        "    raise SystemExit(7)",
    ])  # fmt: skip
    done = subprocess.run([sys.executable, "-c", block], check=False, env={**os.environ}, cwd=ROOT)
    assert done.returncode == 7
    assert not psutil.pid_exists(int(pid_file.read_text()))
