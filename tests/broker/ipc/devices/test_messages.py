"""Messages between a broker and vitrail-devices: bounded, typed, or refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.errors import PeerError
from broker.ipc.devices import messages
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
