"""Machines with one CID, one after another, on the kernel's own vsock.

    python vsock_reuse.py VHOSTGUEST ROUNDS SEED [WITHOUT]

Runs as root in a machine whose kernel has vhost_vsock.  Everything is the real
thing but the guests' kernels: doors, lease table, listeners and pump of a host's
broker, ``launch``'s device, AF_VSOCK connections.  ``vhostguest.c`` is a machine's
process, as hostile as one can be.

In each round our machine (1) is killed under traffic while a thief waits to
take its CID; the thief becomes the next lease (2), is killed as well, and while it
ends an innocent machine with that CID knocks (3).  Prints a line of JSON.

WITHOUT takes something away, to see that it is needed: ``duplicate`` (of ours),
``ending`` (no check whether a CID's holder has begun to end), or ``words`` (a
lease expects another word than its machine says: that the alarm works).
"""

from __future__ import annotations

import json
import os
import random
import secrets
import sys
import tempfile
from pathlib import Path

import trio

from broker.core import limits
from broker.core.errors import UpstreamError
from broker.helpers.fork_start import start_server
from broker.helpers.process.spawn import PIPE, spawn
from broker.host.foreign_machine import take_foreign
from broker.host.machine_interface import MachineFacts
from broker.host.vmm.vsock_backend import open_kernel_vsock
from broker.host.vsock_listeners import open_vsock_listeners, serve_vsock
from broker.host_and_viewer.pump_supervisor import PumpSupervisor
from broker.ipc.control.types.leases import LeaseRequest
from broker.net.peers import credentials
from broker.net.peers.identity import VsockClaim
from tests.kit.link.roles import host_role, journal
from tests.kit.vm.reuse import WORD, WORK, Words, admitted

CID = 4711
PORT = 6501
STREAMS = 4


class Guest:
    """A machine's process; ``fd`` is the device that it was given, or none."""

    def __init__(self, program, word, *, fd=-1, blind=True):
        self.word = word
        words = [program, str(fd), str(CID), str(PORT), word.hex(), str(STREAMS)]
        self.child = spawn(
            [*words, "blind" if blind else "plain"],
            stderr=PIPE,
            pass_fds=[fd] if fd >= 0 else [],
        )

    async def end(self):
        """Kill it; its reports are the end of the test."""
        self.child.kill()
        await self.child.wait()
        with self.child.popen.stderr as said:
            report = said.read()
        assert not report, report


class Ours:
    """Our machine: the device is ``launch``'s, which keeps a duplicate."""

    def __init__(self, vsock, guest):
        self._vsock, self._guest = vsock, guest
        pid = guest.child.pid
        self.claim = VsockClaim(credentials.network_namespace(), CID, pid)
        self.facts = MachineFacts(pid=pid, cid=CID)
        self.secret = None

    def alive(self):
        pid = self._guest.child.pid
        return frozenset() if credentials.is_ending(pid) else frozenset({pid})

    async def open_doors(self, acceptors):
        return {}

    async def go(self):
        await trio.lowlevel.checkpoint()

    async def wait(self):
        await self._guest.child.wait()
        return "it has ended"

    async def power_down(self, grace):
        self._guest.child.kill()
        await self._guest.child.wait()

    async def close(self):
        self._vsock.close()


class Rounds:
    """The state and the steps that all rounds share."""

    def __init__(self, role, words, program, rng):
        self.role, self.words, self.program, self.rng = role, words, program, rng
        self.bytes = 0
        self.guests = 0

    async def _guest(self, **options):
        self.words.next = secrets.token_bytes(WORD)
        self.guests += 1
        return Guest(self.program, self.words.next, **options)

    async def _heard(self, active_lease):
        await self.words.wait_heard(active_lease.lease.id, self.rng.choice((1, 4096)))
        self.bytes += self.words.heard[active_lease.lease.id]

    async def _foreign(self, guest):
        def make():
            pid = guest.child.pid
            return take_foreign(LeaseRequest(record="work", cid=CID, leader=pid))

        active_lease = await admitted(self.role, make)
        await self._heard(active_lease)
        return active_lease

    async def one(self):
        vsock = await taken()
        ours = await self._guest(fd=vsock.fd)
        first = await self.role.admit(WORK, WORK, Ours(vsock, ours))
        await self._heard(first)

        thief = await self._guest()
        await trio.sleep(self.rng.uniform(0, 0.05))
        await ours.end()
        second = await self._foreign(thief)
        assert first.ended.is_set()

        innocent = await self._guest(blind=False)
        await trio.sleep(self.rng.uniform(0, 0.05))
        await thief.end()
        third = await self._foreign(innocent)
        assert second.ended.is_set()
        await innocent.end()
        await third.ended.wait()
        assert not self.words.crossed, self.words.crossed


async def taken():
    """The CID, as soon as the last one of a round is quite gone."""
    with trio.fail_after(60):
        while True:
            try:
                return open_kernel_vsock(CID)
            except UpstreamError:
                await trio.sleep(0.001)


def take_away(what, words):
    """Leave out one of the things on which this depends."""
    if what == "duplicate":
        Ours.go = Ours.close
    elif what == "ending":
        credentials.is_ending = lambda pid: False
    elif what == "words":
        words.of = _Wrong()
    else:
        assert not what


class _Wrong(dict):
    def __setitem__(self, key, word):
        super().__setitem__(key, word[::-1])


async def run(program, count, seed, without=""):
    # One of the two walls is taken away: a CID is not leased again for a minute.
    limits.CID_QUARANTINE_SECONDS = 0
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "role").mkdir()
        async with (
            journal(place) as log,
            trio.open_nursery() as nursery,
        ):
            keeper = PumpSupervisor(None, log, start_server)
            await nursery.start(keeper.run)
            words = Words(keeper)
            take_away(without, words)
            async with host_role(place / "role", None, viewer=words) as role:

                def doors_of(claim):
                    for active_lease in role.active_leases():
                        if active_lease.held.claim == claim:
                            return active_lease.doors
                    return None

                ports = await open_vsock_listeners()
                nursery.start_soon(serve_vsock, ports.listeners, doors_of, log)
                rounds = Rounds(role, words, program, random.Random(seed))
                began = trio.current_time()
                for _ in range(count):
                    await rounds.one()
                took = trio.current_time() - began
            nursery.cancel_scope.cancel()
    fds = len(os.listdir("/proc/self/fd"))
    done = {"rounds": count, "machines": rounds.guests, "bytes": rounds.bytes}
    print(json.dumps({**done, "seconds": round(took, 1), "fds": fds}), flush=True)


if __name__ == "__main__":
    trio.run(run, sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
