"""The server's side in ckks mode: the masked session, which sums ciphertexts it cannot read (spec §13.5)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from secagg.ckks.client import require_blind_advert
from secagg.ckks.messages import BlindAdvert, BlindBox, BlindBundle, BlindRoster, BlindShares
from secagg.ckks.payload import KeyAndCiphertext
from secagg.config import RoundContext
from secagg.errors import FaultyPeerOrServer, FaultySite, Malformed, SecAggError
from secagg.identity import ServerKeys
from secagg.masked.messages import ShareBundle
from secagg.masked.server import MaskedServer
from secagg.session import Aggregate, Archive, Packet


class CkksServer:
    """Implements `secagg.session.ServerSession`; learns neither a term nor the sum."""

    def __init__(self, context: RoundContext, keys: ServerKeys, archive: Archive, blob: bytes | None = None) -> None:
        """blob: of a session to resume. Raises as the masked session."""
        payload = KeyAndCiphertext(context)
        self._context = context
        if blob is None:
            self._masked = MaskedServer(context, keys, archive, payload)
        else:
            self._masked = MaskedServer.resumed(context, keys, archive, blob, payload)
        self._adverts: dict[str, BlindAdvert] = {}
        self._boxes: dict[str, dict[str, BlindBox]] = {}  # sender -> receiver -> box

    @property
    def faults(self) -> dict[str, SecAggError]:
        """Sites whose reply was refused, and why."""
        return self._masked.faults

    @faults.setter
    def faults(self, faults: dict[str, SecAggError]) -> None:
        self._masked.faults = faults

    @property
    def phase(self) -> str:
        """As of the masked session."""
        return self._masked.phase

    @property
    def done(self) -> bool:
        """Whether `result` is ready."""
        return self._masked.done

    def to_bytes(self) -> bytes:
        """As of the masked session."""
        return self._masked.to_bytes()

    def result(self) -> Aggregate:
        """The aggregate, which only sites can open."""
        return self._masked.result()

    def requests(self) -> Mapping[str, Packet]:
        """What to send to which site now."""
        requests = self._masked.requests()
        if self.phase == "share":
            head = BlindRoster(tuple(self._adverts[site] for site in sorted(requests))).encode()
            return {site: Packet(head) for site in requests}
        if self.phase == "mask":
            return {site: self._bundle(site, packet) for site, packet in requests.items()}
        return requests

    def _bundle(self, site: str, packet: Packet) -> Packet:
        bundle = ShareBundle.decode(packet.head)
        boxes = (BlindBox(each.site, self._boxes[each.site][site].ciphertext) for each in bundle.boxes)
        return Packet(BlindBundle(bundle, tuple(boxes)).encode())

    def receive(self, replies: Iterable[tuple[str, Packet]]) -> None:
        """As the masked session. Raises TooFewSites or FaultySite."""
        take = {"advertise": self._take_advert, "share": self._take_shares}.get(self.phase)
        self._masked.receive(replies if take is None else self._inner(replies, take))

    def _inner(self, replies, take) -> Iterator[tuple[str, Packet]]:  # type: ignore[no-untyped-def]
        asked, answered = set(self._masked.requests()), set[str]()
        for site, packet in replies:
            if site not in asked - answered:  # not even if the masked session refused the first: it has no part of ours
                self.faults.setdefault(site, FaultySite(site, f"an answer to {self.phase} nobody asked for"))
                continue
            try:
                inner = take(site, packet)
            except (Malformed, FaultySite, FaultyPeerOrServer) as error:
                self.faults[site] = error
                continue
            answered.add(site)
            yield site, inner

    def _take_advert(self, site: str, packet: Packet) -> Packet:
        advert = BlindAdvert.decode(packet.head)
        if advert.site != site:
            raise FaultySite(site, "it answered in another site's name")
        require_blind_advert(self._context, advert)
        taken = {key for each in self._adverts.values() for key in _keys(each)}
        if taken & {*_keys(advert)}:
            raise FaultySite(site, "it advertises another site's key")
        self._adverts[site] = advert
        return Packet(advert.advert.encode(), packet.words)

    def _take_shares(self, site: str, packet: Packet) -> Packet:
        message = BlindShares.decode(packet.head)
        if [box.site for box in message.boxes] != [box.site for box in message.shares.boxes]:
            raise FaultySite(site, "it did not deal one blind box to every other site")
        self._boxes[site] = {box.site: box for box in message.boxes}
        return Packet(message.shares.encode(), packet.words)


def _keys(advert: BlindAdvert) -> tuple[bytes, bytes, bytes]:
    return advert.blind_key, advert.advert.share_key, advert.advert.mask_key
