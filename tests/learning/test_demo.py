"""The embedded default learns something, and what it compares is comparable."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from fedclient.adapter import initial_adapter
from fedclient.base_model import EMBEDDED
from fedclient.data import Blocks, read_records, to_blocks
from fedclient.demo import INITIAL_SEED, SITES
from fedclient.demo.evaluate import held_out_blocks, main, quality
from fedclient.demo.texts import without_licence, write_texts
from fedclient.settings import LoraSettings, TrainingSettings
from fedclient.training import Trainer

SMALL = TrainingSettings(local_steps=3, sequence_length=128)


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    """The four sites' whole texts."""
    out = tmp_path_factory.mktemp("sites")
    write_texts(out)
    return out


@pytest.fixture(scope="module")
def small_sites(sites, tmp_path_factory):
    """Two sites with the first three texts of each part, cut short."""
    out = tmp_path_factory.mktemp("small")
    for path in (sites / site / f"{part}.jsonl" for site in ("cmake", "yaml") for part in ("train", "test")):
        records = [{"text": record.text[:3000]} for record in read_records(path)[:3]]
        (out / path.parent.name).mkdir(exist_ok=True)
        (out / path.parent.name / path.name).write_text("".join(json.dumps(r) + "\n" for r in records))
    return out


def test_four_sites_have_enough_text_and_share_none_of_it(sites):
    seen = set()
    for site in SITES:
        training, held_out = (read_records(sites / site / f"{part}.jsonl") for part in ("train", "test"))
        assert sum(len(record.text) for record in training) > 100_000
        assert sum(len(record.text) for record in held_out) > 20_000
        texts = {record.text for record in (*training, *held_out)}
        assert len(texts) == len(training) + len(held_out)
        assert not texts & seen
        seen |= texts


def test_the_texts_are_the_same_every_time(sites, tmp_path):
    write_texts(tmp_path)
    for file in sites.glob("*/*.jsonl"):
        assert file.read_bytes() == (tmp_path / file.parent.name / file.name).read_bytes()


def test_a_licence_head_is_no_part_of_a_text_and_another_comment_is():
    assert without_licence("// Copyright someone\n// more\nint x;\n") == "int x;\n"
    assert without_licence("// What it does.\nint x;\n") == "// What it does.\nint x;\n"


def test_no_text_of_the_demo_or_of_a_third_party_is_in_the_package():
    kinds = {path.suffix for path in Path(EMBEDDED).parent.rglob("*") if path.is_file()}
    assert kinds <= {".py", ".md", ".json", ".safetensors", ".pyc"}


def test_one_averaged_round_is_better_on_the_union_than_either_site_alone(model, small_sites):
    trainers = {
        site: Trainer(
            model,
            TrainingSettings(local_steps=6, sequence_length=128),
            to_blocks(read_records(small_sites / site / "train.jsonl"), model.tokenizer, 128),
            site=site,
            threads=1,
        )
        for site in ("cmake", "yaml")
    }
    start = initial_adapter(model.layout, INITIAL_SEED)
    updates = {site: trainer.train(start, 1).update for site, trainer in trainers.items()}
    held_out = held_out_blocks(small_sites, model.tokenizer, 128)

    def union(adapter):
        model.write(adapter)
        return quality(model.network, held_out)["union"]

    averaged = union(start + np.mean(list(updates.values()), axis=0))
    assert averaged < union(start)
    assert averaged < min(union(start + update) for update in updates.values())


def test_the_union_weighs_tokens_not_sites(model, small_sites):
    model.write(initial_adapter(model.layout, INITIAL_SEED))
    held_out = held_out_blocks(small_sites, model.tokenizer, 128)
    together = Blocks(*(np.vstack([getattr(b, part) for b in held_out.values()]) for part in ("tokens", "labels")))
    apart, whole = quality(model.network, held_out), quality(model.network, {"all": together})
    assert math.log(apart["union"]) == pytest.approx(math.log(whole["union"]), rel=1e-5)  # float32 sums


def test_both_commands_write_what_they_found(model, small_sites, tmp_path):
    plain = {"lora": LoraSettings().to_plain(), "training": SMALL.to_plain()}
    (tmp_path / "settings.json").write_text(json.dumps(plain))
    shared = ["--data", str(small_sites), "--settings", str(tmp_path / "settings.json")]
    alone = ["alone", "--site", "yaml", "--rounds", "2", "--out", str(tmp_path / "alone.json")]
    assert main([*alone, *shared]) == 0
    model.save(tmp_path / "adapter", initial_adapter(model.layout, INITIAL_SEED))
    federated = ["federated", "--adapter", str(tmp_path / "adapter"), "--out", str(tmp_path / "all.json")]
    assert main([*federated, *shared]) == 0
    found = json.loads((tmp_path / "alone.json").read_text())["alone"]["yaml"]
    assert found["steps"] == 6
    judged = json.loads((tmp_path / "all.json").read_text())
    assert judged["federated"] == judged["base"]  # an untrained adapter changes nothing
    assert found["domains"]["yaml"] < judged["base"]["domains"]["yaml"]
    assert set(judged["continuations"]) == {"cmake", "yaml"}


def test_an_error_of_the_evaluation_is_two_lines(tmp_path, capsys):
    arguments = ["alone", "--data", str(tmp_path), "--site", "yaml", "--out", str(tmp_path / "x.json")]
    assert main(arguments) == 1
    assert len(capsys.readouterr().err.splitlines()) == 2
