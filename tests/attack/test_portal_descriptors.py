"""Attack: a program's call to the guest's portal takes the descriptors of another's.

The bus passes on messages of all programs, and one read has several of them.
"""

from __future__ import annotations

import gc
import os
import socket
from pathlib import Path

import pytest

from shims.files import bus_messages as bus
from shims.files.bus_service import PORTAL_PATH
from shims.files.portal import OPEN_URI, Portal, PortalOpening


@pytest.fixture(name="ends")
def _ends():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def call(sender, count, index=0):
    fields = {
        bus.PATH: PORTAL_PATH,
        bus.INTERFACE: OPEN_URI,
        bus.MEMBER: "OpenFile",
        bus.SENDER: sender,
    }
    if count:
        fields[bus.UNIX_FDS] = count
    message = bus.BusMessage(bus.CALL, fields, "sha{sv}", ("", index, {}))
    return bus.encode_message(message, 7)


def opened(ends, monkeypatch, *sent):
    """Each sender and the file that was opened for it; no descriptor is left."""
    ours, theirs = ends
    portal, found = Portal(ours), []

    def note(_part, call, path):
        found.append((call.text(bus.SENDER), Path(path).read_bytes()))
        return ("/",)

    monkeypatch.setattr(PortalOpening, "_open", note)
    gc.collect()  # what tests before have left
    before = len(os.listdir("/proc/self/fd"))
    for data, fds in sent:
        socket.send_fds(theirs, [data], fds)
    theirs.shutdown(socket.SHUT_WR)
    try:
        portal.run()
    except bus.BusError:
        found.append("ended")
    del portal
    assert len(os.listdir("/proc/self/fd")) == before
    return found


@pytest.fixture(name="files")
def _files(tmp_path):
    made = []
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
        made.append(os.open(tmp_path / name, os.O_RDONLY))
    yield made
    for fd in made:
        os.close(fd)


def test_a_call_without_a_descriptor_gets_none_of_the_next_one(
    ends, files, monkeypatch
):
    both = call(":1.6", 0) + call(":1.7", 1)
    assert opened(ends, monkeypatch, (both, files[:1])) == [(":1.7", b"one")]


def test_each_call_has_its_own(ends, files, monkeypatch):
    both = call(":1.6", 1) + call(":1.7", 1)
    found = opened(ends, monkeypatch, (both, files))
    assert found == [(":1.6", b"one"), (":1.7", b"two")]


def test_a_call_reaches_no_further_than_its_own(ends, files, monkeypatch):
    both = call(":1.6", 1, index=1) + call(":1.7", 1)
    assert opened(ends, monkeypatch, (both, files)) == [(":1.7", b"two")]


def test_surplus_descriptors_are_closed(ends, files, monkeypatch):
    sent = [(call(":1.6", 0), files), (call(":1.7", 1), files[1:])]
    assert opened(ends, monkeypatch, *sent) == [(":1.7", b"two")]


def test_a_message_with_fewer_than_it_says_ends_the_service(ends, files, monkeypatch):
    assert opened(ends, monkeypatch, (call(":1.6", 3), files)) == ["ended"]


def test_many_before_a_message_is_whole_end_the_service(ends, files, monkeypatch):
    whole = call(":1.6", 1)
    sent = [(whole[n : n + 1], files * 60) for n in range(20)]
    assert opened(ends, monkeypatch, *sent) == ["ended"]
