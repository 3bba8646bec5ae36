"""Fields to bytes and back; anything else is a PeerError."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.errors import InternalError, PeerError
from broker.core.limits import sound as limits
from broker.jail.sound.tagstruct import Fields, Format, Reader, Spec, decode, encode

U32 = st.integers(0, 0xFFFFFFFF)
U64 = st.integers(0, (1 << 64) - 1)
TEXT = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30
)
CHANNELS = st.integers(0, 32)
PROPERTIES = st.dictionaries(TEXT, st.binary(max_size=40), max_size=6)
FORMAT = st.builds(Format, st.integers(0, 255), PROPERTIES)
VALUES = {
    "L": U32,
    "V": U32,
    "B": st.integers(0, 255),
    "b": st.booleans(),
    "t": TEXT,
    "s": st.none() | TEXT,
    "U": U64,
    "R": U64,
    "r": st.integers(-(1 << 63), (1 << 63) - 1),
    "T": st.tuples(U32, U32),
    "a": st.builds(Spec, st.integers(0, 255), st.integers(0, 255), U32),
    "m": st.lists(st.integers(0, 255), max_size=32).map(tuple),
    "v": st.lists(U32, max_size=32).map(tuple),
    "x": st.binary(max_size=300),
    "P": PROPERTIES,
    "f": FORMAT,
    "F": st.lists(FORMAT, max_size=3),
    "k": st.lists(TEXT, max_size=5),
}
SIGNATURE = st.text(st.sampled_from("".join(VALUES)), max_size=12)


@given(st.data())
def test_encoded_values_decode_to_themselves(data):
    signature = data.draw(SIGNATURE)
    values = [data.draw(VALUES[letter]) for letter in signature]
    encoded = encode(signature, values)
    assert decode(signature, encoded) == values
    reader = Reader(encoded)
    if not set(signature) & set("Fk"):
        reader.skip_all()
        assert reader.left == 0


@given(SIGNATURE, st.binary(max_size=400))
def test_garbage_is_a_peer_error_or_fields(signature, data):
    try:
        fields = decode(signature, data)
    except PeerError:
        return
    assert len(fields) == len(signature)


@given(st.binary(max_size=400))
def test_skipping_garbage_ends(data):
    reader = Reader(data)
    try:
        reader.skip_all()
    except PeerError:
        return
    assert reader.left == 0


@given(st.data())
def test_every_cut_and_every_extra_byte_is_refused(data):
    signature = data.draw(SIGNATURE.filter(bool))
    values = [data.draw(VALUES[letter]) for letter in signature]
    encoded = encode(signature, values)
    at = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(PeerError):
        decode(signature, encoded[:at])
    with pytest.raises(PeerError):
        decode(signature, encoded + b"0")


def test_the_bytes_are_the_protocols():
    """From a recorded session: literal bytes, so that encode cannot agree with itself."""
    assert encode("L", [35]) == b"L\0\0\0\x23"
    assert encode("s", [None]) == b"N"
    assert encode("t", ["a"]) == b"ta\0"
    assert encode("b", [True]) + encode("b", [False]) == b"10"
    assert encode("a", [Spec(3, 2, 44100)]) == b"a\x03\x02\x00\x00\xac\x44"
    assert encode("m", [(1, 2)]) == b"m\x02\x01\x02"
    assert encode("v", [(65536, 1)]) == b"v\x02\0\1\0\0\0\0\0\1"
    assert encode("P", [{"a": b"b\0"}]) == b"Pta\0L\0\0\0\2x\0\0\0\2b\0N"
    assert encode("f", [Format(1)]) == b"fB\x01PN"
    assert encode("T", [(1, 2)]) == b"T\0\0\0\1\0\0\0\2"
    assert encode("U", [1]) == b"U\0\0\0\0\0\0\0\1"


@pytest.mark.parametrize("letter", "mv")
def test_channels_at_the_limit(letter):
    size = {"m": 1, "v": 4}[letter]
    most = limits.PULSE_CHANNELS_ANY
    good = letter.encode() + bytes([most]) + bytes(most * size)
    assert len(decode(letter, good).numbers(0)) == most
    with pytest.raises(PeerError, match="channels"):
        decode(letter, letter.encode() + bytes([most + 1]) + bytes((most + 1) * size))


@pytest.mark.parametrize("letter", "Pk")
def test_properties_at_the_limit(letter):
    def made(count: int):
        keys = [str(number) for number in range(count)]
        return encode(letter, [keys if letter == "k" else dict.fromkeys(keys, b"")])

    most = limits.PULSE_PROPERTIES
    assert len(decode(letter, made(most))[0]) == most
    with pytest.raises(PeerError, match="properties"):
        decode(letter, made(most + 1))


def test_a_property_with_two_lengths_is_refused():
    bad = b"Pta\0L" + struct.pack(">I", 1) + b"x" + struct.pack(">I", 2) + b"bbN"
    with pytest.raises(PeerError, match="lengths"):
        decode("P", bad)


def test_a_field_taken_as_another_type_is_a_mistake_of_ours():
    with pytest.raises(InternalError):
        Fields(["text"]).number(0)
