"""The files of vectors are what the code makes, and the code does with each what the file says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from secagg.chain import Position
from secagg.config import Manifest
from secagg.initial import initial_adapter
from secagg.vector import adapter_digest
from tests.vectors import ckks_core, form, generate, replay, replay_core, shared_core
from tests.vectors.form import Json
from tests.vectors.replay import Check, context_of, unhex


def chain(case: Json, inputs: Json) -> None:
    """Each round is replayed whole, and its aggregate moves adapter and position on."""
    position, adapter = Position.decode(unhex(inputs["start"])), form.floats_in(inputs["adapter"])
    assert position == Position.start(Manifest.decode(unhex(inputs["rounds"][0]["inputs"]["manifest"])))
    for row in inputs["rounds"]:
        context = context_of(row["inputs"])
        assert context.header == position.header(context.manifest, row["attempt"])
        layout = replay_core.layout_in(inputs["tensors"])
        mean = replay.opens(context, row["outputs"])
        adapter = adapter + mean.values
        position = position.after(mean, adapter_digest(layout, adapter))
        assert form.floats(adapter) == row["outputs"]["adapter"]
        assert position.encode().hex() == row["outputs"]["position"]
        replayed(row)
    assert {"position": position.encode().hex(), "adapter": form.floats(adapter)} == case["outputs"]
    assert form.floats(initial_adapter(layout, context.manifest.nonce)) == inputs["adapter"]


def replayed(row: Json) -> None:
    """The round once more from its sites' secrets: the same aggregate."""
    inputs, server = row["inputs"], replay.server_of(row["inputs"])
    clients = {site: replay.client_of(context_of(inputs), site, each) for site, each in inputs["sites"].items()}
    quiet: set[str] = set()
    while not server.done:
        quiet |= set(inputs["silent"].get(server.phase, ()))
        asked = sorted(server.requests().items())
        server.receive([(site, clients[site].handle(request)) for site, request in asked if site not in quiet])
    assert form.packet(server.result().payload) == row["outputs"]["aggregate"]


def site_answers(case: Json, inputs: Json) -> None:
    ckks_core.derived(case["outputs"], inputs, replay.site_answers(case, inputs))


FORMS: dict[str, Check] = {
    "encode": replay_core.encode, "decode": replay_core.decode, "domain separation": replay_core.domain_separation,
    "derivation": replay_core.derivation, "stream": replay_core.stream, "initial adapter": replay_core.initial,
    "sharing": replay_core.sharing, "rounding": replay_core.rounding, "opening": replay_core.opening,
    "lanes": replay_core.lanes, "tally": replay_core.tally, "log": replay_core.log, "consent": replay_core.consent,
    "site answers": site_answers, "site refuses": replay.site_refuses, "site in order": replay.site_in_order,
    "server refuses": replay.server_refuses, "aggregate": replay.aggregate_opens,
    "projection": replay_core.projection, "attempt": replay.attempt, "chain": chain,
    **{name: ckks_core.replayed(act) for each in (ckks_core.FORMS, shared_core.FORMS) for name, act in each.items()},
}  # fmt: skip


def every_case() -> Iterator[object]:
    for name in generate.FILES:
        if (form.FOLDER / name).exists():
            content = form.read(name)
            for case, inputs in form.cases(content):
                yield pytest.param(content["form"], case, inputs, id=f"{name.removesuffix('.json')}: {case['name']}")


@pytest.mark.parametrize(("form_name", "case", "inputs"), every_case())
def test_the_code_does_with_the_inputs_what_the_file_says(form_name: str, case: Json, inputs: Json) -> None:
    assert ("error" in case) or ("outputs" in case)
    FORMS[form_name](case, inputs)


@pytest.mark.parametrize("name", generate.FILES)
def test_a_committed_file_is_what_a_regeneration_writes(name: str) -> None:
    assert list(generate.differences(name)) == []


def test_every_file_of_vectors_is_generated() -> None:
    assert generate.strays() == []


def test_a_difference_is_shown_and_fails_the_check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make = generate.FILES["prg.json"]

    def otherwise() -> Json:
        content = make()
        content["cases"][0]["outputs"]["stream"] = "00" * 80
        return content

    monkeypatch.setattr(generate, "FILES", {**generate.FILES, "prg.json": otherwise})
    assert generate.main(["--check"]) == 1
    shown = capsys.readouterr().out
    assert "prg.json (regenerated)" in shown
    assert '+    "stream": "0000' in shown


def test_the_files_together_stay_small() -> None:
    """A stranger downloads and reads them."""
    assert sum(path.stat().st_size for path in form.FOLDER.rglob("*.json")) < 4_500_000
