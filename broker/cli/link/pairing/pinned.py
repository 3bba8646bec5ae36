"""Changes of the file of pinned brokers; the daemons only read it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from broker.core.errors import RefusedError
from broker.core.files.replace_file import replace_file
from broker.net.link.keys import Peers, PinnedPeer, format_peers
from broker.net.link.wire_types import Role
from broker.net.link_service.key_store import LinkStore, explained


def refuse_unpinnable(store: LinkStore, name: str, role: Role) -> None:
    """Raise RefusedError or SetupError if no broker could be pinned so.

    A host has one viewer and a viewer one host: a second one would receive the machines
    that run for the first.  Creates this broker's key if there is none.
    """
    PinnedPeer(name, role, store.identity().public)
    for peer in store.peers().all:
        if peer.role is role and peer.name != name:
            raise RefusedError(
                f"this machine is already paired with {peer.name}, and has one "
                f"{role.name.lower()}",
                hint=f"to replace {peer.name}, run 'brokerctl link forget {peer.name}' "
                "first",
            )


def pin(store: LinkStore, peer: PinnedPeer) -> None:
    """Accept a broker from now on; one of the same name or key is replaced."""
    with _one_at_a_time(store):
        others = [p for p in store.peers().all if peer.name != p.name]
        others = [p for p in others if p.key != peer.key]
        _write(store, Peers((*others, peer)))


def forget(store: LinkStore, name: str) -> None:
    """Remove a pinned broker.  Raises RefusedError for an unknown name."""
    with _one_at_a_time(store):
        peers = store.peers()
        if all(peer.name != name for peer in peers.all):
            known = ", ".join(peer.name for peer in peers.all)
            raise RefusedError(
                f"no broker is paired under the name {name!r}",
                hint=(
                    f"use one of the paired brokers: {known}"
                    if known
                    else "to pair this machine with another one, run 'brokerctl "
                    "pair NAME --as ROLE'"
                ),
            )
        _write(store, peers.without(name))


@contextmanager
def _one_at_a_time(store: LinkStore) -> Iterator[None]:
    """Lock the file of pinned brokers for a change."""
    store.identity()  # makes the directory
    fd = os.open(store.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # guard: a pairing does not restore a forgotten broker
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _write(store: LinkStore, peers: Peers) -> None:
    with explained(store.peers_file):
        replace_file(store.peers_file, format_peers(peers.all).encode())
