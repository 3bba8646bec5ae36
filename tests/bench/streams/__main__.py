"""Throughput of a machine's connections: vhost-device-vsock and the port, in one run.

    python -m tests.bench.streams [--mib N] [--rounds N] [--json]

A copy with vhost-device-vsock and one that shares its parent's memory, whose
connections go over a virtio-serial port, run at the same time.  In turns, so that a busy
moment falls on both, a program in each sends ``--mib`` MiB (32) out of the machine and
takes as many, in pieces of 28 KiB, as the agent's carriers do; and it waits for answers
of one byte, 200 in a row.  Prints the medians in MiB/s and in milliseconds, and the
processor time in seconds for each GiB: of the process on the host, and of QEMU, which
is the guest's above all.  Other load on the machine slows the rates, and much less the
processor time.  ``--json`` prints all values.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from broker.core import limits
from broker.host.vmm.running import Vm
from broker.ipc import agent
from tests.bench.memory.idle import thread_seconds
from tests.kit.vm.agent_broker import AgentBroker
from tests.kit.vm.copies import output, stage

PORT = 6502
WAYS = {"vsock": "copy", "port": "shared"}
ECHOES = 200
PROGRAM = """
import os, socket, sys
way, what, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
if way == "port":
    sock = socket.socket(socket.AF_UNIX)
    sock.connect("/run/vitrail/port/%d")
    assert sock.recv(1) == b"\\0"
else:
    sock = socket.socket(socket.AF_VSOCK)
    sock.connect((2, %d))
piece = bytearray(28672)
view = memoryview(piece)
if what == "out":
    sock.sendall(b"!")
    while count > 0:
        count -= sock.send(view[:min(count, len(piece))])
    sock.recv(1)
elif what == "in":
    sock.sendall(b"!")
    while count > 0:
        count -= sock.recv_into(piece, min(count, len(piece)))
    sock.sendall(b"!")
else:
    for _ in range(count):
        sock.sendall(b"?")
        sock.recv(1)
"""


def seconds_of(pid: int) -> float:
    """Return the processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass
class Took:
    """What one turn took, in seconds."""

    clock: float = 0.0
    qemu: float = 0.0
    helper: float = 0.0

    @contextmanager
    def measured(self, qemu: int) -> Iterator[None]:
        """Take the time on the clock and QEMU's processor time."""
        before, began = sum(thread_seconds(qemu).values()), time.monotonic()
        yield
        self.clock = time.monotonic() - began
        self.qemu = sum(thread_seconds(qemu).values()) - before


def play(listener: socket.socket, what: str, count: int, qemu: int) -> Took:
    """Be the broker's end of one program, whose start is not measured."""
    took = Took()
    conn, _ = listener.accept()
    with conn:
        conn.recv(1)
        with took.measured(qemu):
            _play(conn, what, count)
    return took


def _play(conn: socket.socket, what: str, count: int) -> None:
    if what == "echo":
        for _ in range(count - 1):
            conn.sendall(b"!")
            conn.recv(1)
        conn.sendall(b"!")
        return
    if what == "in":
        conn.sendall(bytes(count))
        conn.recv(1)
    else:
        left = count
        while left > 0:
            left -= len(conn.recv(1 << 18))
        conn.sendall(b"!")


async def one(way: str, broker: AgentBroker, vm: Vm, what: str, count: int) -> Took:
    """Return what one turn took."""
    (helper,) = (p for p in vm.processes if p.role != "QEMU")
    path = Path(f"{vm.uds}_{PORT}")
    took = Took()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        before = seconds_of(helper.pid)

        async def host() -> None:
            nonlocal took
            took = await trio.to_thread.run_sync(
                play, listener, what, count, vm.vmm.pid
            )

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(host)
                await output(broker, f"python3 /tmp/streams {way} {what} {count}")
        finally:
            path.unlink()
    took.helper = seconds_of(helper.pid) - before
    return took


async def keep_pinging(broker: AgentBroker) -> None:
    """The agent gives a broker up that is silent."""
    send, one_at_a_time = broker.send, trio.Lock()

    async def in_turn(message: agent.ToGuest) -> None:
        async with one_at_a_time:
            await send(message)

    broker.send = in_turn
    with suppress(trio.ClosedResourceError, trio.BrokenResourceError):  # it has ended
        while True:
            await broker.send(agent.AgentPing(serving="bench", displays=1))
            await trio.sleep(limits.AGENT_PING_SECONDS)


async def measure(mib: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Measure all in turns: way to quantity to its values."""
    found: dict[str, dict[str, list[float]]] = {way: {} for way in WAYS}
    async with (
        stage() as s,
        trio.open_nursery() as nursery,
        AsyncExitStack() as stack,
    ):
        machines = {}
        for way, mode in WAYS.items():
            await s.starter.make(await s.request(f"maker{way}", mode=mode))
            entered = s.machine(way, mode=mode, seconds=1200)
            started, broker, vm = await stack.enter_async_context(entered)
            print(f"{way}: {started.how} {started.why}")
            text = PROGRAM % (PORT, PORT)
            await output(broker, f"cat >/tmp/streams <<'END'\n{text}\nEND")
            machines[way] = broker, vm
            nursery.start_soon(keep_pinging, broker)
        for _ in range(rounds):
            for way, (broker, vm) in machines.items():
                values = found[way]
                for what in ("out", "in"):
                    took = await one(way, broker, vm, what, mib << 20)
                    values.setdefault(f"{what} MiB/s", []).append(mib / took.clock)
                    for name, used in (("host", took.helper), ("QEMU", took.qemu)):
                        many = values.setdefault(f"{what} {name} s/GiB", [])
                        many.append(used * 1024 / mib)
                took = await one(way, broker, vm, "echo", ECHOES)
                values.setdefault("echo ms", []).append(took.clock * 1000 / ECHOES)
                last = {name: round(many[-1], 2) for name, many in values.items()}
                print(f"{way}: {last}", file=sys.stderr, flush=True)
    return found


def show(found: dict[str, dict[str, list[float]]]) -> None:
    """Print the medians as a table."""
    print(f"{'':16}" + "".join(f"{way:>10}" for way in found) + "  port : vsock")
    for name in found["vsock"]:
        medians = [statistics.median(found[way][name]) for way in found]
        ratio = medians[1] / medians[0] if medians[0] else float("nan")
        print(f"{name:16}" + "".join(f"{m:10.2f}" for m in medians) + f"{ratio:14.2f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mib", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = trio.run(measure, options.mib, options.rounds)
    show(found)
    if options.json:
        print(json.dumps({"mib": options.mib, "values": found}))


if __name__ == "__main__":
    main()
