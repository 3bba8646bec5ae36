"""The measurements, and their loads.

Each function takes a relay and returns named values of one repetition; the
load's programs (load.c) keep the time themselves.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.bench.relay.peers import Peer

Values = dict[str, float]


@dataclass(frozen=True)
class Scale:
    """How long a repetition lasts."""

    bulk_bytes: int
    small_bytes: int
    pings: int
    many_seconds: float
    setup_seconds: float
    idle: int


FULL = Scale(1_500_000_000, 600_000_000, 20_000, 2.0, 1.5, 1000)
QUICK = Scale(400_000_000, 150_000_000, 5_000, 0.7, 0.5, 200)


class Load:
    """Runs load.c's clients; ``server`` is the pid of its server."""

    def __init__(self, program: Path, server: int, scale: Scale) -> None:
        self.program = program
        self.server = server
        self.scale = scale

    def run(self, *words: object, cpu: int | None = None) -> list[float]:
        argv = [str(self.program), *map(str, words)]
        if cpu is not None:
            argv = ["taskset", "-c", str(cpu), *argv]
        done = subprocess.run(
            argv, check=False, capture_output=True, text=True, timeout=120
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(argv)}: {done.stderr.strip()}")
        return [float(word) for word in done.stdout.split()]

    # -- the measurements --------------------------------------------------------

    def bulk(self, peer: Peer) -> Values:
        return self._pour(peer, "bulk", self.scale.bulk_bytes, 65536)

    def bulk_small(self, peer: Peer) -> Values:
        return self._pour(peer, "bulk 4K", self.scale.small_bytes, 4096)

    def _pour(self, peer: Peer, name: str, size: int, write: int) -> Values:
        before = peer.cpu()
        (seconds,) = self.run("bulk", peer.path, size, write)
        used = self._settled_cpu(peer) - before
        return {
            f"{name} MB/s": size / seconds / 1e6,
            f"{name} CPU s/GB": used / (size / 1e9),
        }

    @staticmethod
    def _settled_cpu(peer: Peer) -> float:
        # socat's child counts for its parent once it has been waited for.
        time.sleep(0.1)
        return peer.cpu()

    def ping(self, peer: Peer) -> Values:
        p50, p99, _ = self.run("ping", peer.path, self.scale.pings)
        return {"ping p50 us": p50, "ping p99 us": p99}

    def ping_pinned(self, peer: Peer) -> Values:
        """Everything on one CPU: no wake-up across CPUs, hence little noise."""
        cpu = max(os.sched_getaffinity(0))
        pids = [*peer.tree(), self.server]
        try:
            for pid in pids:
                _pin(pid, {cpu})
            p50, p99, _ = self.run("ping", peer.path, self.scale.pings, cpu=cpu)
        finally:
            for pid in pids:
                _pin(pid, os.sched_getaffinity(0))
        return {"ping, one CPU p50 us": p50, "ping, one CPU p99 us": p99}

    def ping_tail(self, peer: Peer) -> Values:
        *_, p999 = self.run("ping", peer.path, self.scale.pings)
        return {"ping p99.9 us": p999}

    def many(self, peer: Peer) -> Values:
        """64 streams of ping-pong beside one bulk stream."""
        rate, p99, poured = self.run("many", peer.path, 64, self.scale.many_seconds)
        return {
            "64 streams msg/s": rate,
            "64 streams p99 us": p99,
            "64 streams bulk MB/s": poured / 1e6,
        }

    def setup(self, peer: Peer) -> Values:
        (one,) = self.run("setup", peer.path, 1, self.scale.setup_seconds)
        (eight,) = self.run("setup", peer.path, 8, self.scale.setup_seconds)
        return {"setup, 1 client conn/s": one, "setup, 8 clients conn/s": eight}

    def idle(self, peer: Peer) -> Values:
        """Memory for each of many connections that carried one message."""
        if peer.process is None:
            return {"idle kB/connection": 0.0}
        before = peer.memory()
        argv = [str(self.program), "idle", str(peer.path), str(self.scale.idle)]
        client = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert client.stdout is not None
        try:
            if not client.stdout.readline():
                raise SystemExit(f"{peer.name} cannot hold {self.scale.idle} streams")
            grown = peer.memory() - before
        finally:
            client.communicate(timeout=60)
        return {"idle kB/connection": grown / self.scale.idle / 1000}


def measurements(load: Load) -> list[Callable[[Peer], Values]]:
    return [
        load.bulk,
        load.bulk_small,
        load.ping_pinned,
        load.ping,
        load.many,
        load.setup,
        load.idle,
    ]


def _pin(pid: int, cpus: set[int]) -> None:
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), cpus)
