"""The commands as a user types them: a real model, real training, real TLS, and what a clumsy user sees."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import warnings

import numpy as np
import pytest

from tests.processes.running import ROOT, Running, running

pytestmark = pytest.mark.processes

SITES = ("hospital-a", "hospital-b", "hospital-c")
TRAINING = (
    "--model",
    "embedded",
    "--rounds",
    "1",
    "--local-steps",
    "2",
    "--batch-size",
    "2",
    "--sequence-length",
    "64",
)


def write_data(federation: Running) -> None:
    """A few records at each site, of both kinds."""
    for site in SITES:
        records = [{"text": f"{site} writes line {i} of its own private notes, again and again."} for i in range(30)]
        records += [{"prompt": f"question {i} of {site}?", "completion": f" answer {i}."} for i in range(10)]
        path = federation.folder / f"{site}.jsonl"
        path.write_text("".join(json.dumps(each) + "\n" for each in records))


def client_options(federation: Running, site: str) -> list[str]:
    """fedclient's options for a site of this federation."""
    return [
        "--site", site, "--home", str(federation.consortium.homes[site]),
        "--server", f"127.0.0.1:{federation.port}", "--ca", str(federation.consortium.tls.ca),
        "--roster", str(federation.consortium.roster), "--data", str(federation.folder / f"{site}.jsonl"),
        "--device", "cpu", "--out", str(federation.folder / "adapters" / site),
    ]  # fmt: skip


def test_three_sites_train_a_real_model_and_peft_loads_the_same_adapter_at_every_site_and_the_server(tmp_path):
    from peft import PeftModel
    from safetensors.numpy import load_file

    from fedclient.base_model import EMBEDDED, load_base

    with running(tmp_path, *SITES) as federation:
        write_data(federation)
        federation.start_server(*TRAINING)
        for site in SITES:
            federation.start(site, "-m", "fedclient.cli", *client_options(federation, site))
        assert federation.wait("server") == 0, federation.log("server")
        for site in SITES:
            assert federation.wait(site) == 0, federation.log(site)
        folders = [federation.folder / "adapters" / site for site in SITES] + [federation.out / "adapter"]
        tensors = [load_file(folder / "adapter_model.safetensors") for folder in folders]
        assert all(tensors[0].keys() == each.keys() for each in tensors)
        assert all(np.array_equal(tensors[0][name], each[name]) for each in tensors for name in tensors[0])
        trained = [value for name, value in tensors[0].items() if name.endswith("lora_B.weight")]
        assert any(np.any(value) for value in trained)
        with warnings.catch_warnings(action="ignore"):
            PeftModel.from_pretrained(load_base(EMBEDDED, "cpu", "float32"), str(federation.out / "adapter"))
        everything = (federation.out / "events.jsonl").read_text() + federation.log("server")
        assert "private notes" not in everything
        assert str(federation.folder / SITES[0]) not in everything


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A Python command, run to its end."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)


def fedclient(*options: str) -> tuple[int, list[str]]:
    """Exit code and the last two lines on stderr of a fedclient that fails before it connects."""
    done = subprocess.run(
        [sys.executable, "-m", "fedclient.cli", *options],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        check=False,
    )
    return done.returncode, done.stderr.splitlines()[-2:]


@pytest.fixture(scope="module")
def consortium(tmp_path_factory):
    """Three provisioned sites with data, nothing running."""
    with running(tmp_path_factory.mktemp("clumsy"), *SITES) as federation:
        write_data(federation)
        yield federation


def changed(options: list[str], name: str, value: object) -> list[str]:
    """The options with another value for one of them."""
    position = options.index(name) + 1
    return [*options[:position], str(value), *options[position + 1 :]]


def test_every_way_to_hand_over_bad_data_is_a_two_line_error(consortium, tmp_path):
    options = client_options(consortium, "hospital-a")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "broken.jsonl").write_text('{"text": "fine"}\n{"text": \n')
    (tmp_path / "other.jsonl").write_text('{"words": "fine"}\n')
    for name in ("absent.jsonl", "empty.jsonl", "broken.jsonl", "other.jsonl"):
        code, lines = fedclient(*changed(options, "--data", tmp_path / name))
        assert code == 1
        assert lines[0].startswith("error: ") and name in lines[0]
        assert lines[1] and "Traceback" not in lines[1]


def test_a_site_that_is_not_on_the_roster_is_told_so(consortium, tmp_path):
    from keys.pin import pin_root
    from keys.public import read_public_key
    from keys.store import init_site

    home = tmp_path / "stranger"
    init_site("stranger", home)
    pin_root(home, read_public_key(consortium.consortium.root_public, "root"))
    options = changed(client_options(consortium, "hospital-a"), "--home", home)
    code, lines = fedclient(*changed(options, "--site", "stranger"))
    assert code == 1
    assert "not on the roster" in lines[0]


def test_a_site_whose_keys_are_another_sites_is_told_so(consortium):
    code, lines = fedclient(*changed(client_options(consortium, "hospital-a"), "--site", "hospital-b"))
    assert code == 1
    assert "hospital-a" in lines[0]


def test_a_server_that_is_not_there_is_a_two_line_error_after_the_retries(consortium):
    options = client_options(consortium, "hospital-a")
    code, lines = fedclient(*options, "--retry-for", "1")
    assert code == 1
    assert f"127.0.0.1:{consortium.port}" in lines[0]


@pytest.mark.parametrize("module", ["fedserver.cli", "fedclient.cli"])
def test_the_worked_example_of_help_is_accepted_by_the_command(module):
    import importlib

    import typer

    cli = importlib.import_module(module)
    command = typer.main.get_command(cli.app)
    words = shlex.split(cli.EPILOG.removeprefix("Example: "))[1:]
    context = command.make_context("example", words)
    assert context.params


@pytest.mark.parametrize("module", ["fedserver.cli", "fedclient.cli", "keys.cli"])
def test_help_starts_without_torch_or_flower(module):
    code = (
        "import sys, runpy, contextlib, io\n"
        f"sys.argv = ['{module}', '--help']\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        f"    runpy.run_module('{module}', run_name='__main__')\n"
        "heavy = {'torch', 'transformers', 'peft', 'flwr'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr


def test_fedserver_refuses_options_that_cannot_work_with_two_lines(tmp_path, consortium):
    def fedserver(*options: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "fedserver.cli", *options],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=ROOT,
            check=False,
        )
        return done.returncode, done.stderr

    roster, keys = str(consortium.consortium.roster), str(consortium.consortium.server)
    common = ["--roster", roster, "--keys", keys, "--model", "embedded", "--out", str(tmp_path / "out")]
    cases = {
        ("--secagg", "plain"): (2, "masked"),
        ("--listen", "nowhere", *common): (2, "0.0.0.0:8443"),
        ("--resume", "--out", str(tmp_path / "nothing")): (1, "holds no session"),
        ("--bits", "3", *common): (2, "4"),
        (*common[:2], "--keys", str(tmp_path / "none"), *common[4:]): (1, "holds no"),
        ("--min-sites", "9", *common): (1, "9"),
    }
    for options, (code, words) in cases.items():
        found = fedserver(*options)
        assert found[0] == code, (options, found)
        assert words in found[1], (options, found)
        assert "Traceback" not in found[1]
        assert not (tmp_path / "out").exists(), options
