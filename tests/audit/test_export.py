"""`fedclient export`: a site's adapter where it stands now, as PEFT loads it, from the site's own files."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from secagg.vector import adapter_digest
from tests.audit.conftest import Command, Kept, keep, with_roster_file
from tests.audit.test_transcripts import flip, more_rounds
from tests.federation.direct import LAYOUT, Bench

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session", params=["masked", "ckks"])
def _finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    options = {"scheme": request.param, "rounds": 3, "model": "org/base"}
    return keep(with_roster_file(Bench(tmp_path_factory.mktemp("finished"), options=options)))


@pytest.fixture
def finished(_finished: Kept, tmp_path: Path) -> Kept:
    """A copy of the session for the test to spoil; no home holds a key file, and none is needed."""
    shutil.copytree(_finished.folder, tmp_path / "finished")
    return Kept(tmp_path / "finished")


def digest_at(kept: Kept, out: Path) -> str:
    """The digest of an exported adapter."""
    return adapter_digest(LAYOUT, LAYOUT.flatten(load_file(out / "adapter_model.safetensors"))).hex()


def test_every_site_exports_the_same_bits_with_the_settings_of_the_session(finished: Kept, fedclient: Command) -> None:
    digests = set()
    for site in ("site-01", "site-04"):
        out = finished.folder / f"{site}-adapter"
        said = fedclient("export", finished.home(site), 3, "--out", out)
        assert (said.status, said.out, said.err) == (0, f"{out}\n", "")
        digests.add(digest_at(finished, out))
        assert sorted(each.name for each in out.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
        config = json.loads((out / "adapter_config.json").read_text())
        assert (config["r"], config["lora_alpha"], config["target_modules"]) == (8, 16, ["m"])
        assert config["base_model_name_or_path"] == "org/base"
    said = fedclient("verify-round", finished.home("site-01"), "all")
    assert len(digests) == 1
    made = re.findall(r"adapter     ([0-9a-f]{64})$", said.out, re.MULTILINE)
    assert not made or made[-1] in digests


@pytest.mark.parametrize("round_", [1, 2, 4])
def test_another_round_than_the_last_is_refused_and_the_one_that_is_there_is_named(
    finished: Kept, fedclient: Command, round_: int
) -> None:
    out = finished.folder / "adapter"
    problem, remedy = fedclient("export", finished.home("site-01"), round_, "--out", out).two_lines()
    assert problem == f"this site has the adapter of round 3, not of round {round_}"
    assert remedy.startswith("export round 3: ")
    assert not out.exists()


def test_an_adapter_that_the_chain_does_not_name_is_not_exported(finished: Kept, fedclient: Command) -> None:
    flip(finished.session("site-01") / "adapter-3.f32", 40)
    problem, remedy = fedclient("export", finished.home("site-01"), 3, "--out", finished.folder / "new").two_lines()
    assert "is not the one that its chain of rounds names" in problem
    assert "another site" in remedy
    more_rounds(finished.session("site-02") / "manifest.cbor")
    assert fedclient("export", finished.home("site-02"), 3, "--out", finished.folder / "new").two_lines()
    assert not (finished.folder / "new").exists()


def test_an_earlier_export_is_replaced_and_nothing_else_is(finished: Kept, fedclient: Command) -> None:
    out = finished.folder / "adapter"
    out.mkdir()
    assert fedclient("export", finished.home("site-01"), 3, "--out", out).status == 0
    first = digest_at(finished, out)
    (out / "adapter_model.safetensors").write_bytes(b"")
    assert fedclient("export", finished.home("site-01"), 3, "--out", out, "--model", "./base").status == 0
    assert digest_at(finished, out) == first
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == "./base"
    for other in (finished.home("site-02"), finished.roster):
        problem, remedy = fedclient("export", finished.home("site-01"), 3, "--out", other).two_lines()
        assert problem == f"{other} is there and holds no adapter"
        assert remedy == "choose another --out"
        assert other.exists()


def test_a_site_that_has_finished_no_round_says_so(finished: Kept, fedclient: Command) -> None:
    (finished.session("site-01") / "position.cbor").unlink()
    problem, _ = fedclient("export", finished.home("site-01"), 1, "--out", finished.folder / "new").two_lines()
    assert problem.endswith("has finished no round")
    problem, _ = fedclient("export", finished.folder / "nowhere", 1, "--out", finished.folder / "new").two_lines()
    assert problem.endswith("holds no session")


def test_the_example_in_the_help_runs_as_a_process_and_loads_no_learning_and_no_flower(finished: Kept) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "fedclient.cli", "export", "--help"],
        cwd=REPOSITORY, env={"COLUMNS": "200"}, capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip
    [example] = re.findall(r"^ +fedclient (export .*?) *$", shown, re.MULTILINE)
    arguments = shlex.split(example.replace("~/.local/share/secagg-lora/hospital-a", "./site-01"))
    code = (
        f"import sys, runpy\nsys.argv = {['fedclient', *arguments]!r}\n"
        "try:\n    runpy.run_module('fedclient.cli', run_name='__main__')\n"
        "except SystemExit as ended:\n    status = ended.code\n"
        "heavy = {'torch', 'transformers', 'peft', 'flwr'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=finished.folder, env={"PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (finished.folder / "adapter/adapter_model.safetensors").exists()
