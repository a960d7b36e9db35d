"""Every scheme: sessions survive a restart after any answer, print no secret and keep to the policy."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from secagg.config import Policy
from secagg.errors import Malformed, Misuse, Refused, SecAggError
from secagg.schemes import scheme_named
from secagg.session import Packet, Update
from tests.contract.phases import (
    DRAWS_FROM_OURS,
    PHASES,
    VECTOR,
    each_phase_before_the_vector_leaves,
    schemes,
)
from tests.sim import Consortium, Dice, federation, random_update


@schemes
def test_sites_killed_after_every_answer_reach_the_same_aggregate(scheme: str) -> None:
    whole = federation(5, manifest={"scheme": scheme}, drop={VECTOR[scheme]: ["site-04"]})
    killed = federation(5, manifest={"scheme": scheme}, drop={VECTOR[scheme]: ["site-04"]}, restart=True)
    one, other = whole.run(), killed.run()
    mean, again = whole.mean(one), killed.mean(other)
    assert (again.values.tobytes(), again.totals) == (mean.values.tobytes(), mean.totals)
    assert again.contributors == mean.contributors == other.contributors
    if scheme not in DRAWS_FROM_OURS:
        return
    assert one.payload.head == other.payload.head
    assert one.payload.words is not None
    assert other.payload.words is not None
    assert one.payload.words.tobytes() == other.payload.words.tobytes()


@schemes
def test_a_saved_session_is_not_taken_up_in_another_attempt(scheme: str) -> None:
    round_ = federation(5, manifest={"scheme": scheme}).until(VECTOR[scheme])
    round_.step()
    keys, update = round_.consortium.keys["site-01"], round_.updates["site-01"]
    saved = round_.clients["site-01"].to_bytes()
    other = replace(round_.consortium.context(round_.context.manifest, attempt=2), cohort=())
    parts = keys, round_.policy, saved, update, Dice(0)
    assert round_.scheme.restore(round_.site_context, *parts).to_bytes() == saved
    with pytest.raises(Malformed, match="another attempt"):
        round_.scheme.restore(other, *parts)


@schemes
@pytest.mark.parametrize("cut", [0, 1, 40, -1])
def test_a_damaged_saved_session_is_malformed(scheme: str, cut: int) -> None:
    round_ = federation(5, manifest={"scheme": scheme}).until(VECTOR[scheme])
    round_.step()
    saved = round_.clients["site-01"].to_bytes()[:cut]
    keys, update = round_.consortium.keys["site-01"], round_.updates["site-01"]
    with pytest.raises(Malformed):
        round_.scheme.restore(round_.site_context, keys, round_.policy, saved, update, Dice(0))


@each_phase_before_the_vector_leaves
def test_a_saved_session_that_has_not_sent_its_vector_needs_the_update(scheme: str, phase: str) -> None:
    round_ = federation(5, manifest={"scheme": scheme}).until(phase)
    keys, saved = round_.consortium.keys["site-01"], round_.clients["site-01"].to_bytes()
    with pytest.raises(Misuse, match="update"):
        round_.scheme.restore(round_.site_context, keys, round_.policy, saved, None, Dice(0))


@schemes
def test_nothing_that_holds_a_secret_prints_it(scheme: str) -> None:
    round_ = federation(5, manifest={"scheme": scheme})
    private = [keys.identity.private_bytes_raw() for keys in round_.consortium.keys.values()]
    private.append(round_.consortium.server_keys.identity.private_bytes_raw())
    shown: list[object] = [*round_.consortium.keys.values(), round_.consortium.server_keys]
    shown += [*round_.updates.values(), *(update.metrics for update in round_.updates.values())]
    private += [key.secret for keys in round_.consortium.keys.values() for key in keys.shared]
    for phase in PHASES[scheme]:
        round_.until(phase)
        shown += [*round_.clients.values(), round_.server]
    round_.run()
    text = " ".join(f"{each!r} {each!s}" for each in [*shown, *round_.clients.values()])
    text = re.sub(r"at 0x[0-9a-f]+", "", text)  # an address may hold any digits
    for secret in private:
        assert repr(secret)[2:-1] not in text
        assert secret.hex() not in text
        assert str(list(secret))[1:20] not in text
    update = round_.updates["site-01"]
    for number in (*update.values[:5].tolist(), update.metrics.train_loss, update.metrics.eval_tokens):
        assert str(number) not in text
    assert repr(update) == "Update(d=40)"
    assert repr(update.metrics) == "Metrics()"


@schemes
@pytest.mark.parametrize(
    ("policy", "rule"),
    [
        (Policy(least_survivors=6), "survivors"),
        (Policy(least_threshold=6), "threshold"),
        (Policy(least_colluders=3), "declared colluders"),
        (Policy(schemes=("other",)), "scheme .* is not allowed"),
        (Policy(largest_weight=1), "weight cap"),
        (Policy(largest_weight=4, largest_rounds=9), "rounds"),
        (Policy(largest_weight=4, base_models=(bytes(32),)), "base model"),
    ],
)
def test_a_sites_own_policy_refuses_whatever_the_server_proposes(scheme: str, policy: Policy, rule: str) -> None:
    consortium = Consortium(7)
    manifest = consortium.manifest(10, scheme=scheme, weight_cap=4)
    assert (manifest.least_survivors, manifest.threshold, manifest.rounds) == (5, 5, 10)
    context, keys = consortium.context(manifest), consortium.keys["site-01"]
    allowed = policy.schemes if policy.schemes == ("other",) else (manifest.scheme,)
    with pytest.raises(Refused, match=rule):
        scheme_named(manifest.scheme).client(
            context, keys, replace(policy, schemes=allowed), random_update(0, 10), Dice(0)
        )
    least = Policy(
        schemes=(manifest.scheme,), least_survivors=5, least_threshold=5, least_colluders=2, largest_weight=4,
        largest_rounds=10, base_models=(manifest.base_model,), server_reads_sum=bool(manifest.options),
    )  # fmt: skip
    scheme_named(manifest.scheme).client(context, keys, least, random_update(0, 10), Dice(0))


@schemes
@pytest.mark.parametrize(
    ("update", "rule"),
    [
        (lambda u: replace(u, values=u.values[:-1]), "shape"),
        (lambda u: replace(u, values=u.values.astype(np.float64)), "float32"),
        (lambda u: replace(u, values=np.full_like(u.values, np.nan)), "NaN"),
        (lambda u: replace(u, values=np.full_like(u.values, -np.inf)), "NaN or infinity"),
        (lambda u: replace(u, weight=0), "weight"),
        (lambda u: replace(u, weight=2), "weight"),
    ],
)
def test_an_update_that_does_not_fit_the_manifest_is_our_own_mistake(scheme: str, update, rule: str) -> None:
    consortium = Consortium(5)
    context = consortium.context(consortium.manifest(10, scheme=scheme))
    wrong: Update = update(random_update(0, 10))
    with pytest.raises(Misuse, match=rule):
        federation(5, 10, consortium=consortium, context=context, updates=dict.fromkeys(consortium.names, wrong))


@schemes
def test_another_sites_keys_are_our_own_mistake(scheme: str) -> None:
    consortium = Consortium(5)
    context = consortium.context(consortium.manifest(10, scheme=scheme))
    consortium.keys["site-01"] = replace(consortium.keys["site-01"], identity=consortium.root)
    with pytest.raises(Misuse, match="roster"):
        federation(5, 10, consortium=consortium, context=context)


@schemes
def test_a_server_session_ends_with_its_round_or_its_failure(scheme: str) -> None:
    round_ = federation(5, manifest={"scheme": scheme})
    with pytest.raises(Misuse):
        round_.server.result()
    round_.run()
    with pytest.raises(Misuse):
        round_.server.receive([])
    with pytest.raises(Misuse):
        round_.server.requests()
    failed = federation(5, manifest={"scheme": scheme}).until(VECTOR[scheme])
    with pytest.raises(SecAggError):
        failed.server.receive([])
    with pytest.raises(Misuse):  # else vectors that were summed before the failure would be summed twice
        failed.server.receive([])


@schemes
def test_an_unknown_scheme_is_refused_by_name(scheme: str) -> None:
    with pytest.raises(Refused, match=f"no scheme plain.*{scheme.split(maxsplit=1)[0]}"):
        scheme_named("plain")


@schemes
@pytest.mark.parametrize("head", [b"", b"\x80", b"\x81\x18\x63", b"\xff", b"\x81\x0a", bytes(2**21)])
def test_a_request_that_is_no_message_changes_nothing(scheme: str, head: bytes) -> None:
    client = federation(5, manifest={"scheme": scheme}).clients["site-01"]
    before = client.to_bytes()
    with pytest.raises(Malformed):
        client.handle(Packet(head))
    assert client.to_bytes() == before
