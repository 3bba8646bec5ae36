"""The guest's notification daemon: a program knows a number before it hears of it."""

from __future__ import annotations

import io
import socket
from types import SimpleNamespace

import pytest

from shims.files import bus_messages as bus
from shims.files import notifications
from shims.files.notifications import NOTIFICATIONS_NAME, Notifications
from shims.files.protocol import frame, read_message

FIELDS = {
    bus.PATH: "/org/freedesktop/Notifications",
    bus.INTERFACE: NOTIFICATIONS_NAME,
    bus.MEMBER: "Notify",
    bus.SENDER: ":1.7",
}
BODY = ("notify-send", 0, "", "title", "text", [], {}, -1)


@pytest.fixture
def daemon(monkeypatch):
    """The daemon and its bus; threads of its connections are faster than anything."""
    monkeypatch.setattr(notifications, "start_thread", lambda run: run())
    program, its_own = socket.socketpair()
    with program, its_own:
        program.settimeout(10)
        yield Notifications(its_own), program


class Ended:
    """A connection that the broker has ended, perhaps with last words."""

    def __init__(self, *_, last=b"") -> None:
        self.socket, far = socket.socketpair()
        self.reader = self.socket.makefile("rb")
        far.sendall(last)
        far.close()

    def send(self, data: bytes) -> None:
        """It is not read any more, or was never."""

    def wait(self, wanted: str) -> None:
        """It was permitted."""


def received(program):
    """What the program gets, in order."""
    data, found = program.recv(65536), []
    while data:
        size = bus.message_size(data)
        found.append(bus.decode_message(data[:size]))
        data = data[size:]
    return found


def notify(daemon):
    call = bus.BusMessage(bus.CALL, FIELDS, "susssasa{sv}i", BODY)
    daemon._answer(bus.decode_message(bus.encode_message(call, 3)))


def test_one_that_is_refused_at_once_has_its_number_first(daemon, monkeypatch):
    monkeypatch.setattr(notifications, "BrokerConnection", Ended)
    service, program = daemon
    notify(service)
    answer, ended = received(program)
    assert (answer.kind, ended.kind) == (bus.REPLY, bus.SIGNAL)
    assert ended.text(bus.MEMBER) == "NotificationClosed"
    assert ended.body == (answer.body[0], 4)
    assert not service.busy()


def test_what_is_shown_by_another_connection_does_not_end_with_this_one(
    daemon, monkeypatch
):
    """Nor does its program hear twice that it has ended."""
    service, program = daemon
    later = SimpleNamespace(send=lambda _: None)
    service._shown[5] = later
    last = frame({"type": "closed", "number": 5, "reason": 1})
    service._listen(Ended(last=last))
    assert service._shown == {5: later}
    service._closed(later, 5, 2)
    service._closed(later, 5, 4)
    (ended,) = received(program)
    assert ended.body == (5, 2)


def test_a_program_has_its_number_while_the_user_is_asked(daemon, monkeypatch):
    """Nothing is sent before the answer, which the broker takes for a hang-up."""
    works, sent = [], []

    class Asked(Ended):
        def send(self, data):
            sent.append(read_message(io.BytesIO(data))["type"])

    monkeypatch.setattr(notifications, "BrokerConnection", Asked)
    monkeypatch.setattr(notifications, "start_thread", works.append)
    service, program = daemon
    notify(service)
    notify(service)
    first, second = received(program)
    service._close(bus.BusMessage(bus.CALL, {}, "u", first.body))
    assert second.body[0] == first.body[0] + 1
    assert sent == ["call"]
    works[0]()
    assert sent == ["call", "show", "show", "close"]
