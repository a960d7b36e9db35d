"""`verify-round` where only sites can read the sum: what the server finds without it, what a site finds with it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fedclient.audit import unwritable
from fedclient.store import KeptSession
from fedclient.transcript import Transcript
from keys.files import write_new
from keys.keyfile import Owner, new_key_file
from keys.store import KEY_FILE, SiteHome, _pack
from secagg.chain import Position
from secagg.ckks.payload import KeyAndCiphertext
from secagg.config import RoundContext
from secagg.errors import FaultyServer, Sealed
from secagg.labels import SIGN_PROJECTIONS
from secagg.masked.graph import challenge_seed
from secagg.masked.messages import MaskedAggregate, Projections, sum_words_digest
from secagg.masked.payload import project_vector
from secagg.schemes import scheme_named
from secagg.session import Packet
from tests.audit.conftest import Command, Kept, keep, with_roster_file
from tests.audit.test_transcripts import exchange, flip, note
from tests.audit.test_verify_round import blocks
from tests.federation.direct import Bench, Where

PASSPHRASE = "correct horse battery"
WORD = "the word of round {}'s survivors, not recomputed: only sites can read the sum"
UNKNOWN = "not known here: only sites can read the sum, and no later record names the adapter"
KEY_PART, CIPHERTEXT_PART = 5, -1  # words of a vector


def give_keys(bench: Bench, *names: str, passphrase: str | None = None) -> None:
    """Puts the keys that the site's process had into its home."""
    for name in names:
        home, keys = bench.folder / name, bench.consortium.keys[name]
        site = SiteHome(home, keys, ec.generate_private_key(ec.SECP384R1()), bench.state_key(name))
        write_new(new_key_file(home / KEY_FILE, Owner("site", name, keys.public), _pack(site), passphrase))


@pytest.fixture(scope="session")
def _blind(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """Three rounds; site-05 drops out of round 2; site-02 seals its key file, site-03's is not in its home."""
    bench = with_roster_file(Bench(tmp_path_factory.mktemp("blind"), options={"scheme": "ckks", "rounds": 3}))

    def request(where: Where, packets: object) -> object:
        return None if where == Where("answer", "site-05", "mask", 2, 1) else packets

    bench.link.alter_request = request
    found = keep(bench)
    give_keys(bench, "site-01", "site-05")
    give_keys(bench, "site-02", passphrase=PASSPHRASE)
    return found


@pytest.fixture
def blind(_blind: Kept, tmp_path: Path) -> Kept:
    """A copy of the session for the test to spoil."""
    shutil.copytree(_blind.folder, tmp_path / "blind")
    return Kept(tmp_path / "blind")


def adapters(out: str) -> list[str]:
    """What was said of the adapter after each round."""
    return re.findall(r"^  adapter     (.*)$", out, re.MULTILINE)


# ------------------------------------------------------------------ a true transcript


def test_at_the_server_a_true_transcript_verifies_and_adapters_are_said_to_be_the_sites_word(
    blind: Kept, fedserver: Command, fedclient: Command
) -> None:
    said = fedserver("verify-round", blind.out, "all", "--roster", blind.roster)
    assert said.status == 0, said
    assert [re.findall(r"(\d) of \d are here, as their sites signed them", each) for each in blocks(said.out)] == [
        ["5"], ["4"], ["5"],
    ]  # fmt: skip
    assert len(re.findall(r"sum +that of the vectors in all", said.out)) == 3
    assert "the adapters are" not in said.out and "no server can read these sums" in said.err
    first, second, third = adapters(said.out)
    made = adapters(fedclient("verify-round", blind.home("site-01"), "all").out)
    assert [first, second] == [f"{made[0]}, {WORD.format(2)}", f"{made[1]}, {WORD.format(3)}"]
    assert third == UNKNOWN


def test_a_site_with_its_key_recomputes_every_adapter_up_to_the_one_it_has(blind: Kept, fedclient: Command) -> None:
    for site in ("site-01", "site-05"):
        said = fedclient("verify-round", blind.home(site), "all", "--vectors", blind.state / "rounds")
        assert (said.status, said.err) == (0, ""), said
        made = adapters(said.out)
        assert all(re.fullmatch("[0-9a-f]{64}", each) for each in made)
        standing = KeptSession(blind.session(site)).position()
        assert standing is not None
        assert made[-1] == standing[0].adapter.hex()
        assert len(re.findall(r"sum +that of the vectors in all", said.out)) == 3


def test_a_sealed_key_file_takes_its_passphrase(blind: Kept, fedclient: Command) -> None:
    file = blind.folder / "passphrase"
    file.write_text("something else\n")
    file.chmod(0o600)
    asked = ("verify-round", blind.home("site-02"), 1, "--passphrase-file", file)
    assert fedclient(*asked).two_lines()
    assert fedclient("verify-round", blind.home("site-02"), 1).two_lines()  # there is no terminal to ask at
    file.write_text(PASSPHRASE + "\n")
    assert re.fullmatch("[0-9a-f]{64}", *adapters(fedclient(*asked).out))


@pytest.mark.parametrize("lacks", ["key", "openings"])
def test_a_home_without_key_or_openings_says_what_the_server_says(
    blind: Kept, fedserver: Command, fedclient: Command, lacks: str
) -> None:
    site = "site-03" if lacks == "key" else "site-01"
    for opening in blind.session("site-01").glob("opening-*"):
        opening.unlink()
    said = fedclient("verify-round", blind.home(site), "all", "--vectors", blind.state / "rounds")
    assert said.status == 0, said
    assert blocks(said.out) == blocks(fedserver("verify-round", blind.out, "all").out)
    assert "adapters are the survivors' word" in said.err


def test_an_opening_that_is_lost_ends_recomputing_and_not_the_audit(blind: Kept, fedclient: Command) -> None:
    (blind.session("site-01") / "opening-2.1.sealed").unlink()
    whole, *rest = adapters(fedclient("verify-round", blind.home("site-01"), "all").out)
    assert re.fullmatch("[0-9a-f]{64}", whole)
    assert [rest[0][64:], rest[1]] == [", " + WORD.format(3), UNKNOWN]


def test_a_damaged_opening_is_named_with_what_to_do_for_the_audit(blind: Kept, fedclient: Command) -> None:
    file = blind.session("site-01") / "opening-2.1.sealed"
    file.write_bytes(file.read_bytes()[:-1])
    said = fedclient("verify-round", blind.home("site-01"), "all")
    assert said.two_lines()
    assert f"round 2: {file} is damaged" in said.err
    assert "move it away: the audit then takes the survivors' word" in said.err
    file.unlink()
    assert fedclient("verify-round", blind.home("site-01"), "all").status == 0


def test_the_audit_leaves_a_sites_home_as_it_was(blind: Kept, fedclient: Command) -> None:
    def files() -> dict[Path, bytes]:
        return {each: each.read_bytes() for each in blind.home("site-01").rglob("*") if each.is_file()}

    before = files()
    assert fedclient("verify-round", blind.home("site-01"), "all").status == 0
    assert files() == before


# ------------------------------------------------------------------ an altered one


def add(path: Path, word: int) -> None:
    """Changes one word."""
    words = np.fromfile(path, "<u8")
    words[word] += np.uint64(1)
    words.tofile(path)


@pytest.mark.parametrize("word", [KEY_PART, CIPHERTEXT_PART])
def test_the_site_whose_key_part_or_ciphertext_was_altered_is_named(
    blind: Kept, fedserver: Command, fedclient: Command, word: int
) -> None:
    add(blind.state / "rounds/000002/vectors/site-04.u64", word)
    vectors = ("--vectors", blind.state / "rounds")
    for said in (
        fedserver("verify-round", blind.out, "all"),
        fedclient("verify-round", blind.home("site-01"), 2, *vectors),
        fedclient("verify-round", blind.home("site-03"), 2, *vectors),
    ):
        problem, remedy = said.two_lines()
        assert problem == "round 2: the words of site-04 are not those it signed"
        assert "restore" in remedy


@pytest.mark.parametrize("word", [KEY_PART, CIPHERTEXT_PART])
def test_an_altered_word_of_the_sum_is_found_with_the_vectors_and_without(
    blind: Kept, fedserver: Command, fedclient: Command, word: int
) -> None:
    for folder in (blind.state, blind.session("site-01"), blind.session("site-03")):
        add(folder / "rounds/000002/words.u64", word)
    problem, _ = fedserver("verify-round", blind.out, "all").two_lines()
    assert re.fullmatch(
        r"round 2: the sum differs from the vectors' in 1 of [\d,]+ words, and is not the one its record names", problem
    )
    for site in ("site-01", "site-03"):  # with and without openings
        problem, _ = fedclient("verify-round", blind.home(site), 2).two_lines()
        assert problem == "round 2: the sum is not the one that its record names"
    shutil.rmtree(blind.state / "rounds/000002/vectors")
    problem, _ = fedserver("verify-round", blind.out, 3).two_lines()
    assert problem == "round 2: the sum is not the one that its record names"


SPOIL: dict[str, tuple[Callable[[Path], object], str]] = {
    "two rounds are exchanged": (
        lambda s: exchange(s / "rounds/000001", s / "rounds/000002"),
        "round 1: the record is of round 2",
    ),
    "a round before is another": (
        lambda s: (shutil.rmtree(s / "rounds/000002"), shutil.copytree(s / "rounds/000003", s / "rounds/000002")),
        "round 2: the record is of round 3",
    ),
    "the attempt is another": (
        lambda s: note(s / "rounds/000002/round.json", attempt=2),
        "round 2: the record is of attempt 1, not 2",
    ),
    "the survivors are others": (
        lambda s: note(s / "rounds/000002/round.json", contributors=["site-01", "site-05"]),
        "round 2: round.json lists other survivors than the record, site-01, site-02, site-03, site-04",
    ),
}


@pytest.mark.parametrize("what", SPOIL)
def test_the_chain_is_walked_although_no_adapter_is_known(blind: Kept, fedserver: Command, what: str) -> None:
    spoil, says = SPOIL[what]
    spoil(blind.state)
    problem, _ = fedserver("verify-round", blind.out, "all").two_lines()
    assert problem == says


def test_no_altered_byte_of_a_record_passes_as_the_sites_word(blind: Kept, fedserver: Command) -> None:
    """Its survivors signed the header: another adapter or range in it is not theirs."""
    path = blind.state / "rounds/000002/head.cbor"
    honest = path.read_bytes()
    for at in [*range(0, 400, 13), *range(400, len(honest), 401)]:
        flip(path, at)
        problem, _ = fedserver("verify-round", blind.out, 2).two_lines()
        assert problem.startswith("round 2: "), at
        path.write_bytes(honest)


@pytest.mark.parametrize("word", [KEY_PART, CIPHERTEXT_PART, None])
def test_a_false_sum_that_the_record_names_is_found_without_vectors_and_openings(
    tmp_path: Path, word: int | None
) -> None:
    """The server makes the record; the survivors, who sign projections of their own vectors on it, do not lie."""
    bench = Bench(tmp_path, options={"scheme": "ckks", "rounds": 1})
    bench.run()
    transcript = Transcript(Path(bench.plan.out) / "state", unwritable)
    manifest, aggregate, vectors = transcript.manifest(), transcript.aggregate(1), transcript.vectors(1)
    context = RoundContext(manifest, transcript.roster(), Position.start(manifest).header(manifest, 1))
    assert aggregate.words is not None
    words, head = aggregate.words.copy(), MaskedAggregate.decode(aggregate.head)
    if word is not None:
        words[word] += np.uint64(1)
    record = replace(head.record, sum_words=sum_words_digest(context.digest, words))
    payload, seed = KeyAndCiphertext(context), challenge_seed(context, record.transcript())

    def signed(site: str) -> Projections:
        values = project_vector(payload, seed, vectors.get(site)).astype("<u8").tobytes()
        draft = Projections(site, record.transcript(), values, bytes(64))
        signature = bench.consortium.keys[site].sign(SIGN_PROJECTIONS, context.digest, draft.unsigned())
        return replace(draft, signature=signature)

    lie = MaskedAggregate(record, tuple(map(signed, bench.names)))
    with pytest.raises(Sealed if word is None else FaultyServer, match="blind" if word is None else "not that of"):
        scheme_named("ckks").open(context, Packet(lie.encode(), words))
