"""Scenes for the negatives: a site or a server at some point of an attempt, and what a liar makes of a message."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from secagg import labels
from secagg.config import RoundContext
from secagg.errors import SecAggError
from secagg.identity import SiteKeys
from secagg.masked.messages import REQUESTS
from secagg.masked.server import PHASES
from secagg.primitives.signature import sign
from secagg.session import ClientSession, Packet
from secagg.wire import Struct, encode_plain
from tests.vectors import form
from tests.vectors.form import Json, bad
from tests.vectors.making.schedule import SIGNED
from tests.vectors.scene import POLICY, Draws, Played, Session, replies_of

FIVE = Session(5)  # c = 1, d = 1, t = q = m = 4
ME, PEER, OTHER = "dale", "hauge", "lunde"
REQUEST_OF = dict(zip(PHASES, REQUESTS, strict=True))
SITE_REFUSES = "site refuses"
SERVER_REFUSES = "server refuses"

S = TypeVar("S", bound=Struct)


def at(phase: str, session: Session = FIVE, **options: Any) -> Played:
    """An attempt whose server is about to send the phase's requests."""
    return Played(session, **options).until(phase)


def message_to(played: Played, site: str = ME) -> Any:
    """What an honest server would send the site now, decoded."""
    return REQUEST_OF[played.server.phase].decode(played.request(site).head)


# ---------------------------------------------------------------------- what liars do


def resigned(context: RoundContext, keys: SiteKeys, message: S) -> S:
    """The message under a valid signature of these keys."""
    label = labels.ALL[SIGNED[type(message).__name__][0]]
    return replace(message, signature=keys.sign(label, context.digest, message.unsigned()))  # type: ignore[type-var]


def reopened(played: Played, message: Any, digest: bytes | None = None) -> Any:
    """A RoundOpen under a valid signature of the server."""
    key = played.session.server_keys.identity
    signed = sign(key, labels.SIGN_ROUND_OPEN, digest or played.context.digest, message.unsigned())
    return replace(message, signature=signed)


def flipped(data: bytes, where: int = -1) -> bytes:
    """The bytes with one bit changed."""
    changed = bytearray(data)
    changed[where] ^= 1
    return bytes(changed)


def of(items: Sequence[S], site: str) -> S:
    return next(each for each in items if each.site == site)  # type: ignore[attr-defined]


def swapped(items: Sequence[S], site: str, other: S) -> tuple[S, ...]:
    """The list with the site's entry replaced."""
    return tuple(other if each.site == site else each for each in items)  # type: ignore[attr-defined]


def without(items: Sequence[S], *sites: str) -> tuple[S, ...]:
    return tuple(each for each in items if each.site not in sites)  # type: ignore[attr-defined]


def by_site(items: Sequence[S]) -> tuple[S, ...]:
    return tuple(sorted(items, key=lambda each: each.site))  # type: ignore[attr-defined]


def raw(tag: int, *fields: object) -> bytes:
    """A message that no honest encoder makes."""
    return encode_plain([tag, *fields])


# ---------------------------------------------------------------------- cases


def twin_of(played: Played, site: str) -> tuple[ClientSession, Draws]:
    """The site's session once more, from its beginning, with randomness of its own that gives the same bytes."""
    draws = played.draws[site].again()
    keys, update = played.session.keys(site), played.updates[site]
    client = played.scheme.client(played.context, keys, POLICY, update, draws)
    for head in played.history(site):
        client.handle(Packet(bytes.fromhex(head)))
    return client, draws


def refused(
    name: str, played: Played, lie: Struct | bytes | Packet, code: str, blamed: str = "", site: str = ME
) -> Json:
    """The site refuses the lie, stays as it was, and answers the right request afterwards if there is one."""
    client, draws = twin_of(played, site)
    before, stage = client.to_bytes(), client.stage
    packet = lie if isinstance(lie, Packet) else Packet(lie if isinstance(lie, bytes) else lie.encode())
    error = error_of(lambda: client.handle(packet))
    found = error.code, getattr(error, "site", "")
    assert found == (code, blamed), f"{name}: {error!r}"
    assert client.to_bytes() == before, name
    inputs = {**played.common(), "site": site, **played.site_inputs(site), "history": played.history(site)}
    inputs["message"] = form.packet(packet)
    case = bad(name, inputs, code, blamed, state=stage.capitalize())
    asked = {} if played.server.done else played.server.requests()
    if site in asked and _is_next(played, site):
        inputs["right"] = {"message": asked[site].head.hex(), "reply": form.packet(client.handle(asked[site]))}
        inputs["random"] = draws.listed()
    return case


def _is_next(played: Played, site: str) -> bool:
    """Whether the site has not answered the phase yet."""
    return not any(name == site for name, *_ in played.heads.get(played.server.phase, ()))


def error_of(call: Callable[[], object]) -> SecAggError:
    try:
        call()
    except SecAggError as error:
        return error
    raise AssertionError("nothing was refused")


def rejected(
    name: str, played: Played, liar: str, lie: Callable[[Packet], Packet], code: str, blamed: str = ""
) -> Json:
    """The server does not count the liar's reply, and goes on with the others'."""
    phase, asked = played.server.phase, dict(sorted(played.server.requests().items()))
    answers = [(site, asked[site], played.clients[site].handle(asked[site])) for site in asked]
    reply = next(answer for site, _, answer in answers if site == liar)
    others = [each for each in answers if each[0] != liar]
    played.server.receive([(liar, lie(reply)), *((site, answer) for site, _, answer in others)])
    fault = played.server.faults[liar]
    assert (fault.code, getattr(fault, "site", "")) == (code, blamed), f"{name}: {fault!r}"
    inputs = {
        **played.common(), "server_seed": played.session.server_seed.hex(), "cohort": list(played.cohort),
        "earlier": [{"phase": each, "replies": replies_of(said)} for each, said in played.heads.items()],
        "reply": {"site": liar, **form.packet(lie(reply))}, "others": replies_of(others),
    }  # fmt: skip
    return bad(name, inputs, code, blamed, phase=phase)
