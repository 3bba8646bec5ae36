"""A thousand times: a machine is killed while the next one takes its identity.

Invariant 1, where it is narrowest: the old machine's streams are still being
cut when the new one knocks, at the same path, with the same name.  Each machine
speaks and expects one word, and so does each lease at the other end
of the pump.  Never does either hear another's.
"""

from __future__ import annotations

import os
import random
import secrets
import select
import signal
import sys
from contextlib import asynccontextmanager

import pytest
import trio

from broker.helpers.fork_start import start_server
from broker.helpers.process.spawn import PIPE, spawn
from broker.host.foreign_machine import take_foreign
from broker.host_and_viewer.pump_supervisor import PumpSupervisor
from broker.ipc.control.types.leases import LeaseRequest
from tests.kit.link.roles import host_role, journal
from tests.kit.vm.reuse import WORD, Words, admitted
from tests.kit.wayland.compositor import short_directory

STREAMS = 4
# Forks a machine for each word it reads and says its pid; the machine knocks at
# the display's door as often as it can, on several connections.
MACHINES = f"""
import os, select, socket, sys, time
path, factory = sys.argv[1], os.getpid()

def machine(word, report):
    socks = {{}}
    while os.getppid() == factory:
        while len(socks) < {STREAMS}:
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.connect(path)
            except OSError:
                sock.close()
                time.sleep(0.002)
                continue
            sock.setblocking(False)
            socks[sock] = b""
        ready, _, _ = select.select(socks, [], [], 0.002)
        for sock in list(socks):
            try:
                sock.send(word * 64)
            except BlockingIOError:
                pass
            except OSError:
                sock.close()
                del socks[sock]
                continue
            try:
                data = sock.recv(4096) if sock in ready else None
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if data is None:
                continue
            if not data:
                sock.close()
                del socks[sock]
                continue
            heard = socks[sock] + data
            for start in range(0, len(heard) - {WORD} + 1, {WORD}):
                if heard[start : start + {WORD}] != word:
                    os.write(report, b"CROSSED\\n")
                    os._exit(1)
            socks[sock] = heard[len(heard) // {WORD} * {WORD} :]

for line in sys.stdin:
    word = bytes.fromhex(line)
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        machine(word, 2)
        os._exit(0)
    print(pid, flush=True)
"""


class Factory:
    """The process whose children are the machines."""

    def __init__(self, child):
        self._child = child
        self._rest = b""

    async def start(self, word):
        """A new machine; returns its pid."""
        os.write(self._child.popen.stdin.fileno(), word.hex().encode() + b"\n")
        out = self._child.popen.stdout.fileno()
        while b"\n" not in self._rest:
            await trio.lowlevel.wait_readable(out)
            self._rest += os.read(out, 100)
        line, _, self._rest = self._rest.partition(b"\n")
        return int(line)

    def crossed(self):
        """What a machine has reported: nothing."""
        err = self._child.popen.stderr.fileno()
        return select.select([err], [], [], 0)[0] and os.read(err, 1000)


@asynccontextmanager
async def factory(path):
    child = spawn(
        [sys.executable, "-I", "-S", "-c", MACHINES, str(path)],
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
    )
    try:
        yield Factory(child)
    finally:
        await child.kill_and_wait()
        for pipe in (child.popen.stdin, child.popen.stdout, child.popen.stderr):
            pipe.close()


async def take_over(role, words, made, base, old, rng):
    """One round: kill the old machine with the new one at its door."""
    words.next = secrets.token_bytes(WORD)
    pid = await made.start(words.next)
    if old is not None:
        await trio.sleep(rng.uniform(0, 0.004))
        os.kill(old, signal.SIGKILL)

    def machine():
        return take_foreign(
            LeaseRequest(record="work", hybrid=str(base), leader=pid, connectors=[pid])
        )

    active_lease = await admitted(role, machine)
    await words.wait_heard(active_lease.lease.id, rng.choice((1, 4096)))
    return pid, active_lease


async def rounds(tmp_path, count, seed):
    rng = random.Random(seed)
    async with (
        journal(tmp_path) as log,
        trio.open_nursery() as nursery,
    ):
        keeper = PumpSupervisor(None, log, start_server)
        await nursery.start(keeper.run)
        words = Words(keeper)
        other = tmp_path / "role"
        other.mkdir()
        with short_directory() as directory:
            base = directory / "vm.vsock"
            async with (
                host_role(other, None, viewer=words) as role,
                factory(f"{base}_6501") as made,
            ):
                pid, leases = None, []
                for _ in range(count):
                    pid, active_lease = await take_over(
                        role, words, made, base, pid, rng
                    )
                    leases.append(active_lease.lease)
                    assert not words.crossed
                    assert not made.crossed()
                os.kill(pid, signal.SIGKILL)
                await active_lease.ended.wait()
        assert [lease.generation for lease in leases] == list(range(1, count + 1))
        assert all(words.heard[lease.id] for lease in leases)
        print(f"seed {seed}: {sum(words.heard.values())} bytes")
        nursery.cancel_scope.cancel()


async def test_the_identity_of_a_machine_that_is_being_cut(tmp_path):
    await rounds(tmp_path, 25, seed=3)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_a_thousand_times(tmp_path):
    await rounds(tmp_path, 1000, seed=4)


async def test_the_words_would_be_found_if_they_crossed(tmp_path, monkeypatch):
    """The alarm of this file works: here a lease has another machine's word."""
    begun = Words.lease_begun

    async def wrong(self, lease):
        await begun(self, lease)
        self.of[lease.id] = secrets.token_bytes(WORD)

    monkeypatch.setattr(Words, "lease_begun", wrong)
    with pytest.RaisesGroup(AssertionError, flatten_subgroups=True):
        await rounds(tmp_path, 1, seed=5)
