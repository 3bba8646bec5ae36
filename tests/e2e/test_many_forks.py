"""Hundreds of machines of one parent: their windows, and the memory that they write.

In parts of 25, so that each ends within some minutes where all are emulated.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from broker.core.paths import find_paths
from tests.kit.needs import FORKING_VM
from tests.kit.vm.copies import output, stage
from tests.kit.vm.parents import ready_parent
from tests.kit.world import record, the_image, world

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500), FORKING_VM]
EACH = 25
WRITTEN_MIB = 48
WRITE = f"""
dd if=/dev/urandom of=/tmp/random bs=64k count=16 status=none
dd if=/dev/zero of=/tmp/zeros bs=1M count={WRITTEN_MIB} status=none
hostname; cat /proc/sys/kernel/random/boot_id; head -c 16 /tmp/random | od -An -tx1
"""


def digest(path: Path) -> str:
    """Return the digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def private_mib(pid: int) -> float:
    """Return the memory that a process has written and shares with no other."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    (line,) = (one for one in text.splitlines() if one.startswith("Private_Dirty:"))
    return int(line.split()[1]) / 1024


async def written_by(s, name):
    """Return what a machine that has written some MiB says of itself."""
    async with s.machine(name, mode="shared", seconds=300) as (started, broker, vm):
        assert (started.how, started.why) == ("fork", "")
        said = await output(broker, WRITE)
        assert private_mib(vm.vmm.pid) > WRITTEN_MIB, "its own pages, not the parent's"
        return said


@pytest.mark.parametrize("part", range(8))
async def test_machines_that_write_leave_their_parent_as_it_was(part):
    async with stage() as s:
        await s.starter.make(await s.request("maker", mode="shared"))
        parent = s.place / "parents" / "web"
        files = [parent / "memory", parent / "state"]
        before = [digest(path) for path in files]
        said = []
        for number in range(EACH):
            name = f"part{part}-{number}"
            said.append(await written_by(s, name))
            assert said[-1][0] == name
        assert s.shared_digest() == before[0], "the mapped memory is the saved one"
        assert [digest(path) for path in files] == before
        for column in (1, 2):
            assert len({one[column] for one in said}) == EACH, "drawn by each alone"


@pytest.mark.parametrize("part", range(4))
async def test_a_window_comes_from_each_of_a_hundred_machines(part):
    await ready_parent(await the_image(), "app", mode="shared")
    memory = find_paths().parents / "app" / "memory"
    before = digest(memory)
    app = record(launch='fork = "shared"')
    async with world({"app": app}, program="tests.kit.vm.patient_copies") as w:
        for number in range(EACH):
            sandbox = await w.window("app", f"number-{part}-{number}")
            await w.stop(sandbox)
            await w.wait_event("sandbox.stop", sandbox=sandbox)
        events = w.events("sandbox.machine")
        assert [(e["how"], e.get("reason", "")) for e in events] == [
            ("fork", "")
        ] * EACH
    assert digest(memory) == before
