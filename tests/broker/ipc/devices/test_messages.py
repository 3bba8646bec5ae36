"""Messages between a broker and vitrail-devices: bounded, typed, or refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.errors import PeerError
from broker.core.limits import devices as limits
from broker.ipc.devices import messages
from broker.ipc.devices.description import word
from broker.ipc.devices.table import DeviceTable, item_of
from shims.usb import usb_devices
from tests.kit.usb.samples import device


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_refused(data):
    try:
        messages.decode_request(data)
    except PeerError:
        return


@pytest.mark.parametrize(
    "text",
    [
        b'{"type":"attach","id":1,"number":1,"sandbox":"a","lease":"b","way":"path"}',
        b'{"type":"attach","id":1,"number":1,"sandbox":"a","lease":"b","way":"node","x":1}',
        b'{"type":"detach","id":1,"attachment":"' + b"a" * 65 + b'"}',
        b'{"type":"list"}',
    ],
)
def test_requests_that_do_not_fit_are_refused(text):
    with pytest.raises(PeerError):
        messages.decode_request(text)


def test_messages_come_back_as_they_went():
    request = messages.Attach(1, 2, "work", "lease", "usbip")
    assert messages.decode_request(messages.encode(request)) == request
    table = DeviceTable()
    table.seen(device(product='"\\x"'), 0.0)
    item = item_of(table.plugs()[0], ["work"])
    reply = messages.Devices(3, [item], False, "udev", ["x"])
    assert messages.decode_reply(messages.encode(reply)) == reply


def listed(sandboxes=("work",), **texts):
    """Return a device as a broker receives it in a list."""
    table = DeviceTable()
    table.seen(device(**texts), 0.0)
    item = item_of(table.plugs()[0], list(sandboxes))
    reply = messages.Devices(3, [item], False, "udev", [])
    return messages.decode_reply(messages.encode(reply)).devices[0]


def test_long_texts_for_users_are_cut_and_the_serial_is_not():
    long = "x" * limits.DEVICE_WORD_CHARACTERS
    found = listed(manufacturer=long, product=long, serial=long, driver="y" * 401)
    assert found.serial == long
    assert (len(found.title), len(found.driver)) == (400, 400)
    assert found.title.endswith("…")


@pytest.mark.parametrize("more", [0, 1])
def test_a_device_lists_a_limited_number_of_sandboxes(more):
    most = limits.DEVICE_LISTED_SANDBOXES
    found = listed([f"box-{n}" for n in range(most + more)])
    assert found.sandboxes == [f"box-{n}" for n in range(most)]


def test_another_space_in_a_serial_number_is_escaped():
    """A text with it is no line of a message: the device would hide all others."""
    serial = word("A\N{NO-BREAK SPACE}B\N{EM SPACE}C D".encode())
    assert serial == "A\\xa0B\\u2003C D"
    assert listed(serial=serial).serial == serial


def test_guest_reads_the_header_that_the_host_writes():
    class Sock:
        data = messages.handover(0x20005, 3) + b"kernel's"

        def recv(self, size):
            # One byte at a time: a header may come in pieces.
            found, self.data = self.data[:1], self.data[1:]
            return found

    sock = Sock()
    assert usb_devices.receive_header(sock) == (0x20005, 3)
    assert sock.data == b"kernel's"
    sock.data = b"x" * 20
    with pytest.raises(ValueError, match="invalid header"):
        usb_devices.receive_header(sock)
    sock.data = b""
    assert usb_devices.receive_header(sock) is None
