"""The adapter is one vector with the same bits everywhere, and PEFT loads what we save."""

import hashlib
import json
import math
import shutil
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from peft import PeftModel
from safetensors.torch import load_file, save_file

from fedclient.adapter import AdapterModel, facts_of, initial_adapter
from fedclient.base_model import (
    EMBEDDED,
    ModelError,
    base_model_digest,
    load_base,
    resolve_model,
    tokenizer_digest,
)
from fedclient.settings import LoraSettings
from secagg.errors import Misuse
from secagg.vector import Layout, adapter_digest

SEED = bytes(range(32))
SMALL = Layout((("x.lora_A.weight", (2, 3)), ("x.lora_B.weight", (5, 2)), ("y.lora_A.weight", (2, 2, 2))))


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def copy(tmp_path):
    """A copy of the embedded model that a test may damage."""
    return Path(shutil.copytree(EMBEDDED, tmp_path / "copy"))


def test_what_is_written_is_read_back_bit_by_bit(model):
    values = np.random.default_rng(0).normal(size=model.layout.size).astype(np.float32)
    model.write(values)
    assert model.read().tobytes() == values.tobytes()


def test_a_vector_of_another_shape_or_type_is_not_written(model):
    for wrong in (np.zeros(3, np.float32), np.zeros(model.layout.size, np.float64)):
        with pytest.raises(Misuse):
            model.write(wrong)


def test_the_layout_lists_two_factors_for_every_linear_layer_but_the_head(model):
    assert model.layout.size == 81_920
    assert len(model.layout.tensors) == 4 * 7 * 2
    assert not any("lm_head" in name or "embed" in name for name, _ in model.layout.tensors)


def test_the_initial_adapter_is_what_the_specification_says():
    material = HKDF(SHA256(), 48, salt=None, info=b"secagg-lora/v1 initial values\x00").derive(SEED)
    stream = Cipher(AES(material[:32]), CTR(material[32:])).encryptor().update(bytes(14 * 4))
    drawn = [((2 * u + 1 - 2**32) / 2**32) for u in struct.unpack("<14I", stream)]
    wanted = [v * (1 / math.sqrt(3)) for v in drawn[:6]] + [0.0] * 10 + [v * (1 / math.sqrt(4)) for v in drawn[6:]]
    assert initial_adapter(SMALL, SEED).tobytes() == struct.pack("<24f", *wanted)


def test_the_initial_adapter_has_known_bits():
    digest = adapter_digest(SMALL, initial_adapter(SMALL, SEED)).hex()
    assert digest == "6e67652a7befd8d60a13fec4a4762bda34497bf4cc94681bb3ef80f3160b9278"


def test_the_initial_adapter_leaves_the_model_as_it_is_and_spreads_as_peft_does(model):
    values = initial_adapter(model.layout, SEED)
    for name, tensor in model.layout.unflatten(values).items():
        bound = 1 / math.sqrt(tensor.shape[1])
        assert (tensor == 0).all() if "lora_B" in name else 0.9 * bound < abs(tensor).max() <= bound
    tokens = torch.arange(20).reshape(1, 20)
    model.write(values)
    with torch.inference_mode(), model.network.disable_adapter():
        bare = model.network(tokens).logits
    with torch.inference_mode():
        assert torch.equal(model.network(tokens).logits, bare)


def test_another_seed_gives_another_adapter_and_a_short_one_is_misuse():
    assert (initial_adapter(SMALL, bytes(32)) != initial_adapter(SMALL, SEED)).any()
    with pytest.raises(Misuse):
        initial_adapter(SMALL, SEED[:31])


def test_peft_loads_what_we_save(model, tmp_path):
    values = np.random.default_rng(1).normal(scale=0.1, size=model.layout.size).astype(np.float32)
    model.save(tmp_path / "adapter", values)
    assert names_in(tmp_path / "adapter") == ["adapter_config.json", "adapter_model.safetensors"]
    with warnings.catch_warnings(action="ignore"):
        loaded = PeftModel.from_pretrained(load_base(EMBEDDED, "cpu", "float32"), str(tmp_path / "adapter"))
    tokens = torch.arange(20).reshape(1, 20)
    with torch.inference_mode():
        ours, theirs = model.network.eval()(tokens).logits, loaded.eval()(tokens).logits
    assert torch.equal(ours, theirs)


def test_saving_twice_gives_the_same_bytes_and_leaves_nothing_beside(model, tmp_path):
    for name in ("one", "other", "one"):
        model.save(tmp_path / name, initial_adapter(model.layout, SEED))
    assert names_in(tmp_path) == ["one", "other"]
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "other" / file.name).read_bytes()


def test_saving_that_fails_leaves_the_old_adapter_whole(model, tmp_path, monkeypatch):
    values = initial_adapter(model.layout, SEED)
    model.save(tmp_path / "adapter", values)
    before = {file.name: file.read_bytes() for file in (tmp_path / "adapter").iterdir()}

    def full_disk(directory, **_):
        Path(directory).mkdir()
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(model.network, "save_pretrained", full_disk)
    with pytest.raises(OSError, match="no space"):
        model.save(tmp_path / "adapter", values + 1)
    assert {file.name: file.read_bytes() for file in (tmp_path / "adapter").iterdir()} == before
    assert names_in(tmp_path) == ["adapter"]


def test_the_saved_configuration_names_where_the_base_model_is(model, tmp_path):
    model.save(tmp_path / "adapter", initial_adapter(model.layout, SEED))
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_bytes())
    assert config["base_model_name_or_path"] == str(EMBEDDED)
    assert config["target_modules"] == sorted(config["target_modules"])


def test_what_a_site_says_of_its_model_is_what_it_loaded(model):
    facts = facts_of(model, "embedded", SEED)
    assert facts.layout == model.layout
    assert np.array_equal(facts.initial_values, initial_adapter(model.layout, SEED))
    assert facts.lora_config == LoraSettings().digest()


def test_one_changed_bit_of_the_weights_changes_the_base_digest_but_not_the_tokenizer(copy):
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert base_model_digest(copy) != base_model_digest(EMBEDDED)
    assert tokenizer_digest(copy) == tokenizer_digest(EMBEDDED)


def test_the_base_digest_is_what_the_specification_says():
    names = ("config.json", "model.safetensors")
    files = [(name, hashlib.sha256((EMBEDDED / name).read_bytes()).digest()) for name in names]
    listed = b"".join(bytes([0x82, 0x60 + len(n)]) + n.encode() + b"\x58\x20" + d for n, d in files)
    wanted = hashlib.sha256(b"secagg-lora/v1 base model\x00\x82" + listed).digest()
    assert base_model_digest(EMBEDDED) == wanted


def test_a_changed_configuration_or_tokenizer_changes_its_digest(copy):
    for name in ("config.json", "tokenizer.json"):
        (copy / name).write_bytes((copy / name).read_bytes() + b"\n")
    assert base_model_digest(copy) != base_model_digest(EMBEDDED)
    assert tokenizer_digest(copy) != tokenizer_digest(EMBEDDED)


def test_a_model_that_is_not_there_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in (str(tmp_path / "absent"), "../absent", "nobody/absent"):
        with pytest.raises(ModelError):
            resolve_model(name)


def test_pickled_weights_are_refused(copy):
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="model"):
        AdapterModel.load(str(copy), LoraSettings())


def test_a_weight_index_cannot_reach_outside_its_folder(copy):
    (copy / "model.safetensors").rename(copy.parent / "model.safetensors")
    index = {"weight_map": {"lm_head.weight": "../model.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError):
        base_model_digest(copy)


def test_a_model_with_missing_weights_is_refused_not_filled_with_chance(copy):
    tensors = load_file(copy / "model.safetensors")
    tensors.pop("model.layers.0.mlp.up_proj.weight")
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError):
        AdapterModel.load(str(copy), LoraSettings())


@pytest.mark.parametrize("kind", ["vit", "no-such-architecture"])
def test_a_model_that_is_not_a_causal_lm_is_refused(copy, kind):
    (copy / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(ModelError):
        AdapterModel.load(str(copy), LoraSettings())


@pytest.mark.parametrize("modules", ["no_such_layer", "embed_tokens", "norm"])
def test_target_modules_that_fit_no_linear_layer_are_refused(modules):
    with pytest.raises(ModelError):
        AdapterModel.load("embedded", LoraSettings(target_modules=modules))


def test_target_modules_can_be_chosen_by_name():
    chosen = AdapterModel.load("embedded", LoraSettings(rank=2, target_modules="q_proj,v_proj"))
    assert chosen.layout.size == 4 * 2 * 2 * (128 + 128)


def test_cuda_where_there_is_none_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError):
        AdapterModel.load("embedded", LoraSettings(), device="cuda")


def test_the_adapter_is_float32_on_a_bfloat16_base():
    half = AdapterModel.load("embedded", LoraSettings(), precision="bfloat16")
    parameters = dict(half.network.named_parameters())
    assert {p.dtype for name, p in parameters.items() if "lora_" in name} == {torch.float32}
    assert {p.dtype for name, p in parameters.items() if "lora_" not in name} == {torch.bfloat16}
    values = np.random.default_rng(0).normal(size=half.layout.size).astype(np.float32)
    half.write(values)
    assert half.read().tobytes() == values.tobytes()
