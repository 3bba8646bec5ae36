"""Descriptors and strings of a device: read whole, or refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.errors import PeerError
from broker.core.limits import devices as limits
from broker.ipc.devices.description import word
from broker.ipc.devices.descriptors import parse_descriptors
from tests.kit.usb.samples import HUB, KEYBOARD, STICK, descriptors, device


def test_every_interface_is_found_in_order():
    found = parse_descriptors(descriptors(STICK, KEYBOARD))
    assert found.id == "0951:1666"
    assert list(map(str, found.interfaces)) == ["08:06:50", "03:01:01"]


def test_interfaces_of_a_second_configuration_are_found():
    raw = descriptors(STICK)
    found = parse_descriptors(raw + descriptors(KEYBOARD)[18:])
    assert found.interfaces == (STICK, KEYBOARD)


@pytest.mark.parametrize("cut", range(1, 34))
def test_cut_descriptors_are_refused(cut: int):
    raw = descriptors(STICK)
    # A cut between two descriptors is a shorter list, which is another device.
    if len(raw) - cut in {18, 27, 36}:
        assert parse_descriptors(raw[:-cut]).digest != parse_descriptors(raw).digest
        return
    with pytest.raises(PeerError):
        parse_descriptors(raw[:-cut])


@pytest.mark.parametrize("size", [0, 1, 200])
def test_lengths_that_do_not_fit_are_refused(size: int):
    raw = bytearray(descriptors(STICK, KEYBOARD))
    raw[27] = size
    with pytest.raises(PeerError):
        parse_descriptors(bytes(raw))


def test_short_interface_descriptors_are_refused():
    with pytest.raises(PeerError, match="interface descriptor has only 8"):
        parse_descriptors(descriptors() + bytes([8, 4, 0, 0, 0, 8, 6, 0x50]))


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(more: bytes):
    try:
        found = parse_descriptors(descriptors(STICK) + more)
    except PeerError:
        return
    assert found.interfaces[0] == STICK


def test_interfaces_are_bounded():
    most = limits.DEVICE_INTERFACES
    one = bytes([9, 4, 0, 0, 0, 8, 6, 0x50, 0])
    assert len(parse_descriptors(descriptors() + one * most).interfaces) == most
    with pytest.raises(PeerError, match="more than 256 interfaces"):
        parse_descriptors(descriptors() + one * (most + 1))


def test_bytes_are_bounded():
    raw = descriptors(STICK)
    other = bytes([2, 0x99])
    room = (limits.DEVICE_DESCRIPTOR_BYTES - len(raw)) // 2
    assert parse_descriptors(raw + other * room)
    with pytest.raises(PeerError, match="bytes of descriptors"):
        parse_descriptors(raw + other * (room + 1))


def test_strings_are_escaped_and_bounded():
    assert word(b"Kingston\n") == "Kingston"
    assert word(b"a\x1b]0;x\x07\xe2\x80\xaeb\xff") == r"a\x1b]0;x\x07\u202eb\\xff"
    most = limits.DEVICE_WORD_CHARACTERS
    assert word(b"s" * most) == "s" * most
    with pytest.raises(PeerError, match="more than"):
        word(b"s" * (most + 1))


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_two_serial_numbers_never_become_equal(one: bytes, other: bytes):
    one, other = one.replace(b"\n", b""), other.replace(b"\n", b"")
    same = one.decode("utf-8", "backslashreplace") == other.decode(
        "utf-8", "backslashreplace"
    )
    assert (word(one) == word(other)) == same


def test_device_describes_itself():
    found = device(STICK, KEYBOARD, manufacturer="Kingston", product="DT")
    assert found.title == "Kingston DT (storage, input)"
    assert found.node == "/dev/bus/usb/002/005"
    assert not found.hub
    assert device(HUB).hub
