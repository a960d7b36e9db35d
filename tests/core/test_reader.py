"""The reader of the wire takes one reading of one encoding, whoever calls it and whatever is checked afterwards."""

from __future__ import annotations

import pytest

from secagg.cbor import Reader
from secagg.errors import Malformed


@pytest.mark.parametrize("data", [b"\x61\xff", b"\x62\xc3\x28", b"\x63\xed\xa0\x80"])
def test_a_text_that_is_not_utf_8_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed, match="not UTF-8"):
        Reader(data).text()


@pytest.mark.parametrize(("width", "least"), [(1, 24), (2, 1 << 8), (4, 1 << 16), (8, 1 << 32)])
def test_the_least_number_of_a_width_is_read_and_one_below_it_is_not(width: int, least: int) -> None:
    head = bytes([24 + (1, 2, 4, 8).index(width)])
    assert Reader(head + least.to_bytes(width, "big")).number() == least
    with pytest.raises(Malformed, match="shortest form"):
        Reader(head + (least - 1).to_bytes(width, "big")).number()


@pytest.mark.parametrize("first", [0x1C, 0x1D, 0x1E, 0x1F, 0x5F, 0x7F, 0x9F, 0xFF])
def test_a_length_that_is_indefinite_or_reserved_is_malformed(first: int) -> None:
    for read in (Reader.number, Reader.octets, Reader.text, Reader.array):
        with pytest.raises(Malformed):
            read(Reader(bytes([first]) + bytes(16)))


@pytest.mark.parametrize("claimed", [2, 23, 24, 255, 1 << 20])
def test_a_message_that_ends_before_what_it_claims_is_malformed(claimed: int) -> None:
    head = bytes([0x40 + claimed]) if claimed < 24 else b"\x5a" + claimed.to_bytes(4, "big")
    if claimed in (24, 255):
        head = b"\x58" + bytes([claimed])
    assert Reader(head + bytes(claimed)).octets() == bytes(claimed)
    with pytest.raises(Malformed, match="ends too early"):
        Reader(head + bytes(claimed - 1)).octets()
