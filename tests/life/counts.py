"""What a broker holds, counted: processes, descriptors, threads, memory and files."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.kit.wayland.compositor import steady
from tests.kit.world import World, descriptors

MEMORY = 24 << 20
"""What a process may have more after any time: caches that are filled, and the allocator's."""
SLACK = 4
"""Descriptors and threads that a process may have more."""


@dataclass(frozen=True)
class Counts:
    """At one moment, of the broker's own processes (no sandbox's), by role."""

    processes: Counter[str]
    descriptors: dict[str, Counter[str]]
    threads: dict[str, int]
    memory: dict[str, int]
    """Of each role in bytes: its share (Pss), or what is its own where that is closed."""
    files: frozenset[str]

    def grown(self, later: Counts) -> list[str]:
        """What is more at a later moment than is explained, a line each."""
        found = []
        if later.processes != self.processes:
            found.append(f"processes: {self.processes} -> {later.processes}")
        for role, before in self.descriptors.items():
            after = later.descriptors[role]
            for kind in after.keys() | before.keys():
                if after[kind] > before[kind] + SLACK:
                    found.append(f"{role}: {kind} {before[kind]} -> {after[kind]}")
        for role, count in self.threads.items():
            if later.threads[role] > count + SLACK:
                found.append(f"{role}: threads {count} -> {later.threads[role]}")
        for role, size in self.memory.items():
            if later.memory[role] > size + MEMORY:
                found.append(f"{role}: memory {size} -> {later.memory[role]}")
        new = sorted(later.files - self.files)
        if new:
            found.append(f"files: {new}")
        return found


async def counted(w: World) -> Counts:
    """Count, once the processes of what has ended are gone."""

    async def shape():
        return Counter(one.role for one in (await w.status()).processes)

    processes = await steady(shape, times=10)
    own = [one for one in (await w.status()).processes if not one.sandbox]
    pids = {one.role: one.pid for one in own}
    readable = {}
    for role, pid in pids.items():
        try:
            readable[role] = descriptors(pid)
        except PermissionError:  # confined: the size of its table is all that is told
            readable[role] = Counter(table=_told(pid, "FDSize"))
    return Counts(
        processes=processes,
        descriptors=readable,
        threads={role: _told(pid, "Threads") for role, pid in pids.items()},
        memory={one.role: one.memory or _told(one.pid, "RssAnon") << 10 for one in own},
        files=frozenset(_files(w)),
    )


def _told(pid: int, name: str) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(rf"{name}:\s+(\d+)", text)[1])


def _files(w: World):
    """All files, without what is particular to a launch in their names."""
    for place in (w.paths.runtime, w.paths.state, w.paths.config[0], w.base):
        for path in place.rglob("*"):
            name = re.sub(r"launch/[0-9a-f]+", "launch/N", str(path))
            yield re.sub(r"\d+", "N", name.replace("broker.log.1", "broker.log"))
