"""Two commands that change the file of pinned brokers at one time."""

from __future__ import annotations

import os
from pathlib import Path
from threading import Event, Thread

import pytest

from broker.cli.link.pairing import pinned
from broker.net.link.keys import BrokerIdentity, PinnedPeer
from broker.net.link.wire_types import Role
from broker.net.link_service.key_store import LinkStore
from tests.kit.brokerctl import home, paths_of

OLD, NEW = (BrokerIdentity.from_seed(bytes(31) + n).public for n in (b"1", b"2"))


@pytest.fixture
def paths():
    with home() as env:
        yield paths_of(env)


def test_a_pairing_that_ends_does_not_bring_back_who_is_forgotten(paths, monkeypatch):
    pinned.pin(LinkStore(paths), PinnedPeer("old", Role.HOST, OLD))
    write, has_read, may_write = pinned._write, Event(), Event()

    def late(store, peers):
        if any(peer.name == "new" for peer in peers.all) and not has_read.is_set():
            has_read.set()
            assert may_write.wait(20)
        write(store, peers)

    monkeypatch.setattr(pinned, "_write", late)
    new = PinnedPeer("new", Role.HOST, NEW)
    pairing = Thread(target=pinned.pin, args=(LinkStore(paths), new))
    forgetting = Thread(target=pinned.forget, args=(LinkStore(paths), "old"))
    pairing.start()
    assert has_read.wait(20)
    forgetting.start()
    while forgetting.is_alive() and not _waits_for_a_lock():
        os.sched_yield()
    may_write.set()
    pairing.join(20)
    forgetting.join(20)
    assert [peer.name for peer in LinkStore(paths).peers().all] == ["new"]


def _waits_for_a_lock():
    """Whether a thread of ours waits: proc(5), /proc/locks."""
    lines = (line.split() for line in Path("/proc/locks").read_text().splitlines())
    return any(words[1] == "->" and words[5] == str(os.getpid()) for words in lines)
