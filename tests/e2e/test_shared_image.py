"""Machines of two records whose image is memory that they have in common."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from broker.core.paths import find_paths
from broker.host.images.store import find_image
from tests.kit.needs import NEEDS_VM
from tests.kit.world import record, world

pytestmark = [pytest.mark.timeout(600), NEEDS_VM]
SHARED = 'fork = "no"\nshared_image = true'


def mapped(pid: int, path: Path) -> dict[str, int]:
    """Sizes in KiB of a process's mappings of a file: Rss, Pss, Private_Dirty, …."""
    total: dict[str, int] = {}
    ours = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            ours = line.endswith(f" {path}")
            assert not ours or line.split()[1] == "r--s"
        elif ours and line.endswith(" kB"):
            name, size, _unit = line.split()
            name = name.rstrip(":")
            total[name] = total.get(name, 0) + int(size)
    return total


async def test_machines_of_two_records_have_the_pages_of_their_image_in_common():
    records = {
        "one": record("persistent", launch=SHARED),
        "two": record(colour="orange", network="user", launch=SHARED),
    }
    async with world(records) as w:
        pids = {}
        for name in records:
            sandbox = await w.window(name, f"of {name}")
            pids[name] = await w.pid_of("QEMU", sandbox)
            script = (
                "ls /sys/block; python3 -c 'import json, email.message; print(6*7)'"
            )
            code, said = await w.output(sandbox, "sh", "-c", script)
            assert code == 0, said
            words = said.decode().split()
            assert "pmem0" in words
            # The home of the persistent one is the only disk.
            assert ("vda" in words) is (name == "one")
            assert words[-1] == "42"
        root = find_image(find_paths()).root
        for name, pid in pids.items():
            found = mapped(pid, root)
            assert found["Rss"] > 20 << 10, name
            assert found["Shared_Clean"] > found["Rss"] // 2, name
            assert found["Pss"] < found["Rss"] * 3 // 4, name
            assert found["Private_Dirty"] == found["Shared_Dirty"] == 0
        # Who has the machine's other memory does not have this.
        vsock = await w.pid_of("vhost-device-vsock", "one")
        assert "memory-backend" in Path(f"/proc/{vsock}/maps").read_text()
        assert not mapped(vsock, root)
        hows = {e["how"]: e["reason"] for e in w.events("sandbox.machine")}
        assert set(hows) == {"boot"}
