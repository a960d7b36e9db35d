"""Local training gives one reproducible update, and evaluation counts every held-out token once."""

import dataclasses

import numpy as np
import pytest
import torch

from fedclient.adapter import AdapterModel, initial_adapter
from fedclient.base_model import ModelError
from fedclient.data import Blocks, Record
from fedclient.settings import LoraSettings, TrainingSettings
from fedclient.training import Trainer, TrainingError, evaluate

RECORDS = [Record(None, f"ward {number}: the patient sleeps well, eats well and walks.\n" * 3) for number in range(12)]
SETTINGS = TrainingSettings(sequence_length=64, batch_size=4, local_steps=3)


@pytest.fixture
def start(model):
    return initial_adapter(model.layout, bytes(32))


@pytest.fixture
def trainer(model, blocks_of):
    """Makes a trainer on the same records; `changes` replace settings."""

    def make(site="st-olav", progress=None, held_out=None, **changes):
        settings = dataclasses.replace(SETTINGS, **changes)
        return Trainer(model, settings, blocks_of(RECORDS), held_out, site=site, threads=1, progress=progress)

    return make


def test_the_same_seed_site_and_round_give_the_same_update_bit_by_bit(trainer, start):
    first = trainer()
    update = first.train(start, 1).update
    first.train(start + update, 2)
    assert first.train(start, 1).update.tobytes() == update.tobytes()
    assert trainer().train(start, 1).update.tobytes() == update.tobytes()


def test_dropout_is_as_reproducible_as_the_rest(start, blocks_of):
    dropping = AdapterModel.load("embedded", LoraSettings(dropout=0.5))
    one = Trainer(dropping, SETTINGS, blocks_of(RECORDS), site="st-olav", threads=1)
    assert one.train(start, 1).update.tobytes() == one.train(start, 1).update.tobytes()


def test_another_seed_site_or_round_gives_another_update(trainer, start):
    updates = [
        trainer().train(start, 1).update,
        trainer().train(start, 2).update,
        trainer(seed=1).train(start, 1).update,
        trainer(site="charite").train(start, 1).update,
    ]
    assert len({update.tobytes() for update in updates}) == 4


def test_the_update_is_the_trained_adapter_minus_the_given_one(trainer, start, model):
    update = trainer().train(start, 1).update
    assert update.dtype == np.float32
    assert np.array_equal(model.read() - start, update)
    assert (update != 0).any()


def test_training_lowers_the_loss_and_leaves_the_base_model_alone(trainer, start, model, blocks_of):
    def frozen():
        return {name: tensor.clone() for name, tensor in model.network.state_dict().items() if "lora_" not in name}

    before = frozen()
    one = trainer(held_out=blocks_of(RECORDS), local_steps=12)
    outcome = one.train(start, 1)
    assert one.evaluate(start + outcome.update).loss < one.evaluate(start).loss - 0.5
    assert all(torch.equal(tensor, before[name]) for name, tensor in frozen().items())


def test_no_entry_moves_much_further_than_rate_times_steps(trainer, start):
    one = trainer(local_steps=8)
    for number in (1, 4):
        most = abs(one.train(start, number).update).max()
        assert most <= 1.1 * one.steps * one.settings.rate_in(number)  # Adam's step is about the rate


def test_steps_epochs_and_blocks_bound_the_work(trainer, start, blocks_of):
    held = len(blocks_of(RECORDS))
    assert held == 17
    for changes, steps, examples in (
        ({"local_steps": 2}, 2, held),
        ({"local_steps": 0, "local_epochs": 2}, 10, held),
        ({"local_steps": 0, "max_blocks": 6}, 2, 6),
        ({"local_steps": 7, "max_blocks": 6}, 7, 6),
    ):
        seen = []
        outcome = trainer(progress=lambda *now, seen=seen: seen.append(now), **changes).train(start, 1)
        assert [now[:2] for now in seen] == [(step + 1, steps) for step in range(steps)]
        assert outcome.examples == examples


@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e38])
def test_a_loss_or_update_that_is_not_finite_is_an_error_not_an_update(trainer, start, poison, blocks_of):
    one = trainer(held_out=blocks_of(RECORDS))
    poisoned = np.full_like(start, poison)
    with pytest.raises(TrainingError):
        one.train(poisoned, 1)
    with pytest.raises(TrainingError):
        one.evaluate(poisoned)


def test_a_gradient_that_is_not_finite_gives_no_update(trainer, start, model):
    parameter = next(p for p in model.network.parameters() if p.requires_grad)
    hook = parameter.register_hook(lambda gradient: gradient * np.nan)
    try:
        with pytest.raises(TrainingError):
            trainer(local_steps=1).train(start, 1)
    finally:
        hook.remove()


def test_evaluation_weighs_every_token_alike_however_blocks_are_grouped(model, start, blocks_of):
    model.write(start)
    short, long = blocks_of([Record("Why?", " So.")]), blocks_of(RECORDS)
    both = Blocks(np.vstack([long.tokens, short.tokens]), np.vstack([long.labels, short.labels]))
    parts = [evaluate(model.network, blocks) for blocks in (short, long)]
    whole = evaluate(model.network, both)
    assert whole.tokens == sum(part.tokens for part in parts)
    weighted = sum(part.loss * part.tokens for part in parts) / whole.tokens
    assert whole.loss == pytest.approx(weighted, rel=1e-5)  # float32 sums in another order


def test_padding_changes_no_loss(model, start, blocks_of):
    model.write(start)
    record = [Record(None, "The patient sleeps well.")]
    tight = len(model.tokenizer(record[0].text)["input_ids"]) + 1
    padded, bare = (evaluate(model.network, blocks_of(record, length)) for length in (64, tight))
    assert padded.tokens == bare.tokens
    assert padded.loss == pytest.approx(bare.loss, rel=1e-5)  # float32 sums in another order


def test_a_site_without_held_out_data_reports_no_tokens(trainer, start):
    assert trainer().evaluate(start).tokens == 0


def test_outcomes_print_without_what_is_private(trainer, start):
    assert repr(trainer().train(start, 1)) == "TrainOutcome()"


def test_blocks_that_the_model_cannot_read_are_refused_before_training(model, blocks_of):
    with pytest.raises(ModelError):
        Trainer(model, SETTINGS, blocks_of(RECORDS, 1024), site="st-olav")
    foreign = Blocks(np.full((1, 8), 50_000, np.int32), np.full((1, 8), 50_000, np.int32))
    with pytest.raises(ModelError):
        Trainer(model, SETTINGS, foreign, site="st-olav")
