"""A session from proposal to adapter: the plain mean over the survivors, the same bits everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedclient.packets import MAX_PACKETS
from fedserver import federation
from fedserver.output import save_adapter
from fedserver.plan import ServerError
from tests.federation.direct import Bench, Where


def test_every_site_and_the_server_end_with_the_bits_of_one_adapter(bench: Bench, tmp_path: Path) -> None:
    result = bench.run(rounds=3)
    bench.assert_right(result, *[bench.names] * 3)
    assert not bench.link.refusals
    assert bench.events("finished")[-1]["saved_at"] == list(bench.names)
    save_adapter(tmp_path / "adapter", result, bench.plan.lora, bench.plan.model)
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert result.layout.flatten(tensors).tobytes() == result.adapter.tobytes()
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 8, 16)
    assert (config["base_model_name_or_path"], config["target_modules"]) == ("toy", ["m"])


@pytest.mark.parametrize("n", [3, 10])
def test_the_sum_is_right_for_the_smallest_and_for_a_larger_roster(tmp_path: Path, n: int) -> None:
    bench = Bench(tmp_path, n)
    bench.assert_right(bench.run(rounds=1), bench.names)


def test_a_replaced_adapter_folder_holds_nothing_of_the_old_one(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "old").write_text("old")
    save_adapter(folder, bench.run(rounds=1), bench.plan.lora, bench.plan.model)
    assert sorted(each.name for each in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


# ---------------------------------------------------------------------- sites that come and go


@pytest.mark.parametrize("away", [1, 3])
def test_a_site_that_was_offline_for_some_rounds_catches_up(bench: Bench, away: int) -> None:
    def reply(where: Where, packet):  # type: ignore[no-untyped-def]
        if where.asks("unmask", 1) and where.site == "site-05":
            bench.link.offline.add("site-03")  # round 1 is complete without its help from here on
        if where.asks("unmask", 1 + away) and where.site == "site-05":
            bench.link.offline.clear()
        return packet

    bench.link.alter_reply = reply
    result = bench.run(rounds=away + 2)
    without = bench.but("site-03")
    bench.assert_right(result, bench.names, *[without] * away, bench.names)
    assert bench.learners["site-03"].trained == [1, away + 2]


def test_a_late_joiner_is_admitted_and_takes_part_from_then_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path, options={"min_sites": 4, "rounds": 3})
    bench.link.offline.add("site-05")

    def reply(where: Where, packet):  # type: ignore[no-untyped-def]
        if where.asks("unmask", 1) and where.site == "site-04":
            bench.link.offline.clear()
        return packet

    bench.link.alter_reply = reply
    result = bench.run()
    bench.assert_right(result, bench.but("site-05"), bench.names, bench.names)
    assert bench.learners["site-05"].trained == [2, 3]
    consented = [(each["site"], each["round"]) for each in bench.events("consented")]
    assert consented[-1] == ("site-05", 0)


def test_a_site_that_missed_every_round_ends_with_the_same_adapter(tmp_path: Path) -> None:
    bench = Bench(tmp_path, options={"min_sites": 4})
    bench.link.offline.add("site-02")

    def reply(where: Where, packet):  # type: ignore[no-untyped-def]
        if where.asks("unmask", 2) and where.site == "site-05":
            bench.link.offline.clear()
        return packet

    bench.link.alter_reply = reply
    bench.assert_right(bench.run(), *[bench.but("site-02")] * 2)
    assert bench.learners["site-02"].trained == []


def test_a_site_that_was_away_at_the_end_gets_the_adapter_from_a_resumed_server(bench: Bench) -> None:
    def reply(where: Where, packet):  # type: ignore[no-untyped-def]
        if where.asks("unmask", 2) and where.site == "site-05":
            bench.link.offline.add("site-01")
        return packet

    bench.link.alter_reply = reply
    bench.assert_right(bench.run(), *[bench.names] * 2, saved_at=bench.but("site-01"))
    bench.link.offline = set(bench.but("site-01"))  # their agents ended with the session
    bench.restart("site-01")
    bench.assert_right(bench.run(), *[bench.names] * 2)


@pytest.mark.parametrize("back", [4, 9])
def test_a_site_further_behind_than_one_message_carries_catches_up_in_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, back: int
) -> None:
    """One message carries 63 aggregates; here 2, so that a session of 9 rounds has someone far behind."""
    assert MAX_PACKETS == 64
    monkeypatch.setattr(federation, "MAX_PACKETS", 3)
    bench = Bench(tmp_path, options={"min_sites": 4, "rounds": 9})
    bench.link.offline.add("site-02")
    most = 0

    def request(where: Where, packets):  # type: ignore[no-untyped-def]
        nonlocal most
        most = max(most, len(packets))
        return packets

    def reply(where: Where, packet):  # type: ignore[no-untyped-def]
        if where.asks("unmask", back) and where.site == "site-05":
            bench.link.offline.clear()
        return packet

    bench.link.alter_request, bench.link.alter_reply = request, reply
    bench.assert_result(bench.run())
    assert most == 3
    assert len(bench.contributors()) == 9


def test_a_site_that_says_it_is_far_behind_for_ever_does_not_hold_the_end_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(federation, "MAX_PACKETS", 2)
    consented = {}

    def reply(where: Where, packet):  # type: ignore[no-untyped-def]
        if where.site != "site-04" or where.kind not in ("consent", "start"):
            return packet
        if where.kind == "consent":
            consented["position"] = federation_position(packet)
            return packet
        return signed_ready(bench, "site-04", consented["position"])

    bench.link.alter_reply = reply
    result = bench.run(rounds=3)
    bench.assert_right(result, bench.names, *[bench.but("site-04")] * 2, saved_at=bench.but("site-04"))
    assert bench.events("finished")[-1]["saved_at"] == list(bench.but("site-04"))


def federation_position(packet):  # type: ignore[no-untyped-def]
    from secagg.enrol import Consent

    return Consent.decode(packet.head).position


def signed_ready(bench: Bench, site: str, position):  # type: ignore[no-untyped-def]
    from secagg.enrol import Ready, signed_by
    from secagg.session import Packet

    return Packet(signed_by(bench.consortium.keys[site], Ready(site, position, bytes(64))).encode())


def test_too_few_sites_at_the_start_are_named_in_two_lines(bench: Bench) -> None:
    bench.link.offline = {"site-02", "site-04"}
    with pytest.raises(ServerError) as caught:
        bench.run()
    assert caught.value.problem == "3 of 5 sites connected within 0 s; missing: site-02, site-04"
    assert "\n" not in caught.value.problem + caught.value.remedy


# ---------------------------------------------------------------------- weights and ranges


def test_examples_weigh_up_to_the_cap(tmp_path: Path) -> None:
    bench = Bench(tmp_path, options={"weight_cap": 16, "examples_per_weight": 10, "rounds": 2, "bits": 12})
    for name, examples in zip(bench.names, (1, 10, 11, 159, 10_000), strict=True):
        bench.learners[name].examples = examples
    assert [bench.weight(name) for name in bench.names] == [1, 1, 2, 16, 16]
    result = bench.run()
    bench.assert_right(result, bench.names, bench.names)
    totals = bench.events("aggregated")[0]["totals"]
    assert (totals["weight"], totals["examples"], totals["sites"]) == (36, 10_181, 5)


def test_a_range_that_clips_is_reported_and_grows(tmp_path: Path) -> None:
    bench = Bench(tmp_path, options={"first_range": 0.1, "rounds": 2})
    bench.run()
    first, second = bench.events("aggregated")
    assert first["totals"]["clipped"] > 0.01
    assert first["totals"]["next_range"] >= 2 * 0.1
    assert second["totals"]["clipped"] < 0.01


def test_without_clipping_the_range_follows_the_updates(bench: Bench) -> None:
    bench.run()
    totals = bench.events("aggregated")[0]["totals"]
    assert totals["clipped"] == 0
    assert totals["next_range"] < bench.plan.first_range
    assert np.isfinite(totals["train_loss"])
    assert (totals["train_loss"], totals["eval_loss"], totals["eval_tokens"]) == (2.5, 3.0, 500)
