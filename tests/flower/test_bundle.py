"""The body of a bundle: one encoding for each, and nothing else is read as one."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from fedclient.bundle import LENGTH, MAX_PARTS, ROOM_BYTES, Bundle, within_room

PIECES = st.lists(st.binary(max_size=40), max_size=12)
BUNDLES = st.builds(Bundle, st.binary(max_size=40), PIECES)


@given(BUNDLES)
def test_a_bundle_comes_back_as_it_was_sent(bundle: Bundle) -> None:
    assert Bundle.decode(bundle.encode()) == bundle


@given(st.binary(max_size=200))
def test_what_is_read_as_a_bundle_has_that_one_encoding(body: bytes) -> None:
    try:
        bundle = Bundle.decode(body)
    except DecodeError:
        return
    assert bundle.encode() == body


@given(BUNDLES, st.data())
def test_a_body_that_is_cut_off_is_none_or_ends_between_two_parts(bundle: Bundle, data: st.DataObject) -> None:
    body = bundle.encode()
    cut = data.draw(st.integers(0, len(body) - 1))
    ends = {len(Bundle(bundle.head, bundle.parts[:count]).encode()) for count in range(len(bundle.parts))}
    if cut in ends:
        assert Bundle.decode(body[:cut]).head == bundle.head
        return
    with pytest.raises(DecodeError):
        Bundle.decode(body[:cut])


@pytest.mark.parametrize("more", [b"\0", b"\0\0\0", b"\0\0\0\1", LENGTH.pack(1 << 31), LENGTH.pack((1 << 32) - 1)])
def test_a_body_with_something_behind_its_last_part_is_none(more: bytes) -> None:
    with pytest.raises(DecodeError):
        Bundle.decode(Bundle(b"head", [b"part"]).encode() + more)


def test_an_empty_body_is_none() -> None:
    with pytest.raises(DecodeError, match="head"):
        Bundle.decode(b"")


def test_empty_pieces_are_pieces() -> None:
    assert Bundle.decode(bytes(8)) == Bundle(b"", [b""])


@pytest.mark.parametrize(("pieces", "passes"), [(MAX_PARTS, True), (MAX_PARTS + 1, False)])
def test_a_body_has_a_most_of_pieces(pieces: int, passes: bool) -> None:
    body = bytes(pieces * LENGTH.size)
    if passes:
        assert len(Bundle.decode(body).parts) == pieces - 1
        return
    with pytest.raises(DecodeError):
        Bundle.decode(body)


# ------------------------------------------------------------------ what goes along


@given(st.lists(st.none() | st.sampled_from([b"", b"x", bytes(ROOM_BYTES // 3), bytes(ROOM_BYTES)]), max_size=9))
def test_the_first_contents_go_along_that_are_there_and_fit_together(contents: list[bytes | None]) -> None:
    taken = within_room(contents)
    assert taken == contents[: len(taken)]
    assert all(taken) and sum(map(len, taken)) <= ROOM_BYTES
    following = contents[len(taken)] if len(taken) < len(contents) else None
    if following:
        assert sum(map(len, taken)) + len(following) > ROOM_BYTES


def test_no_content_is_asked_for_beyond_the_first_that_does_not_fit() -> None:
    contents = iter([b"a", bytes(ROOM_BYTES), b"b"])
    assert within_room(contents) == [b"a"]
    assert next(contents) == b"b"


def test_what_fills_the_room_exactly_goes_along() -> None:
    half = bytes(ROOM_BYTES // 2)
    assert within_room([half, half, b"x"]) == [half, half]
