"""Messages of D-Bus in the guest's portal: accepted and refused ones."""

from __future__ import annotations

import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shims.files import bus_messages as bus
from shims.files.bus_service import CallError, request_handle
from shims.files.portal import checked_address, path_of

FIELDS = {
    bus.PATH: "/org/freedesktop/portal/desktop",
    bus.INTERFACE: "org.freedesktop.portal.OpenURI",
    bus.MEMBER: "OpenURI",
    bus.SENDER: ":1.7",
}


def message(signature="ssa{sv}", body=("", "https://a/", {})):
    return bus.BusMessage(bus.CALL, FIELDS, signature, body)


@pytest.mark.parametrize(
    ("signature", "body"),
    [
        ("ssa{sv}", ("", "https://a/ä", {"ask": ("b", True), "n": ("s", "x")})),
        ("shay", ("", 0, [1, 2, 3])),
        ("(yn)xtd", ((1, -2), -3, 4, 0.5)),
        ("aavv", ([], ("as", ["a", "b"]))),
        ("", ()),
    ],
)
def test_a_message_is_read_as_it_was_written(signature, body):
    try:
        data = bus.encode_message(message(signature, body), 9)
    except (TypeError, ValueError):
        pytest.skip("a body of fewer values than types")
    assert bus.message_size(data) == len(data)
    assert bus.message_size(data[:15]) is None
    found = bus.decode_message(data)
    assert (found.serial, found.text(bus.MEMBER), found.wants_reply) == (
        *(9, "OpenURI"),
        True,
    )
    if signature == "ssa{sv}":
        assert found.body == ("", "https://a/ä", {"ask": 1, "n": "x"})


@given(st.data())
def test_no_bytes_end_the_service_otherwise(data):
    """A message with any bytes changed is read, or is a BusError."""
    good = bytearray(bus.encode_message(message(), 1))
    for _ in range(data.draw(st.integers(1, 6))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        size = bus.message_size(bytes(good))
        if size is not None and 16 <= size <= len(good):
            bus.decode_message(bytes(good[:size]))
    except bus.BusError:
        return


def test_lengths_and_depth_are_bounded():
    with pytest.raises(bus.BusError, match="bytes"):
        bus.message_size(b"l\1\0\1" + struct.pack("<III", 1 << 31, 1, 0))
    with pytest.raises(bus.BusError, match="not a D-Bus message"):
        bus.message_size(b"X" * 16)
    with pytest.raises(bus.BusError, match="deep"):
        bus.split_types("a" * 100 + "y")
    with pytest.raises(bus.BusError):
        bus.split_types("(")
    data = b"\1v\0" * 40
    with pytest.raises(bus.BusError):
        bus.BusReader(data, "<").value("v")


@pytest.mark.parametrize("kind", ["()", "{}", "{s}"])
@pytest.mark.timeout(20)
def test_a_structure_has_values(kind):
    """An array of structures without values never came to its end."""
    reader = bus.BusReader(struct.pack("<4I", 6, 0, 1, ord("a")), "<")
    with pytest.raises(bus.BusError):
        reader.value(bus.split_types(f"a{kind}")[0])


def test_only_addresses_are_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "https:").mkdir()
    for bad in ("file:///etc/passwd", "FILE:/x", "/etc/passwd", "--to", "", "https:"):
        with pytest.raises(CallError):
            checked_address(bad)
    assert checked_address("https://example.org/") == "https://example.org/"


def test_a_descriptor_whose_name_is_another_file_is_refused(tmp_path):
    path = tmp_path / "a"
    path.write_text("x")
    with path.open() as file:
        assert path_of(file.fileno()) == str(path)
        path.unlink()
        (tmp_path / "a (deleted)").write_text("another file")
        with pytest.raises(CallError):
            path_of(file.fileno())


def test_the_handle_is_of_the_caller():
    call = message(body=("", "https://a/", {"handle_token": "t_1"}))
    assert request_handle(call).endswith("/request/1_7/t_1")
    call = message(body=("", "https://a/", {"handle_token": "../x"}))
    assert request_handle(call).endswith("/request/1_7/vitrail0")
    assert os.path.basename(request_handle(call)) == "vitrail0"
