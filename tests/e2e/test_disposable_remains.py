"""A disposable sandbox that has stopped: what of it is left is counted."""

from __future__ import annotations

import mmap
import os
import stat
from contextlib import suppress
from pathlib import Path

import pytest

from tests.kit.eventually import eventually
from tests.kit.needs import FORKING_VM
from tests.kit.vm.parents import Mode, ready_parent
from tests.kit.world import descriptors, record, the_image, world

pytestmark = [pytest.mark.long, pytest.mark.timeout(600), FORKING_VM]
WAYS = {
    "boot": record(launch='fork = "no"'),
    "copy": record(),
    "fork": record(launch='fork = "shared"'),
}
PARENTS: dict[str, Mode] = {"copy": "copy", "fork": "shared"}
# Drawn in the guest: words of a command line are in the audit log.
WRITE = """
marker=$(od -An -v -N16 -tx1 /dev/urandom | tr -d ' ')
for place in ~ /tmp /dev/shm /var/tmp; do
    yes $marker | head -c 4M >$place/written || exit
done
echo $marker
"""
LOG = "program-1.log"
SHARED = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))
LOGS = ("audit", "logs", "broker.log")
"""The files of each sandbox in the state directory, which docs/state.md names."""


def below(root):
    """Everything in a directory, also while it changes."""
    for folder, directories, files in os.walk(root):
        yield from (Path(folder) / name for name in (*directories, *files))


def census(w):
    """What a machine could leave: files and sockets, mounts, keys."""
    files = {str(path.relative_to(w.base)) for path in below(w.base)}
    keep = tuple(f"state/vitrail/{name}" for name in LOGS)
    return {
        "files": {name for name in files if not name.startswith(keep)},
        "mounts": {
            line
            for line in Path("/proc/self/mountinfo").read_text().splitlines()
            if str(w.base) in line
        },
        "keys": {
            line.split(" ", 1)[0]
            for line in Path("/proc/keys").read_text().splitlines()
            if any(f"vitrail:home:{name}" in line for name in WAYS)
        },
    }


def shared_memory(host):
    """The memory of parents that a host's process holds."""
    found = []
    for path in Path(f"/proc/{host}/fd").iterdir():
        with suppress(OSError):
            if os.readlink(path).startswith("/memfd:vitrail-parent"):
                found.append(path)
    return found


def places(w, known, host):
    """Files that outlive a machine, or are in memory; the host's memfds, too."""
    yield from shared_memory(host)
    for root in (w.base, *(w.paths.parents / name for name in PARENTS)):
        # The program's output, which the marker is part of, is in its log.
        yield from (path for path in below(root) if LOG not in path.parts)
    for root in SHARED:
        yield from set(root.iterdir()) - known


def have(w, marker, known, host):
    """The files in which a text is found; ``known`` were there before it was drawn."""
    found = []
    for path in places(w, known, host):
        with suppress(OSError):
            memory = path.parts[1] == "proc"
            info = path.stat() if memory else path.lstat()
            if stat.S_ISREG(info.st_mode) and info.st_size and _contains(path, marker):
                found.append(str(path))
    return found


def _contains(path, needle):
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view,
    ):
        return view.find(needle) >= 0


@pytest.mark.parametrize("way", WAYS)
async def test_a_disposable_leaves_nothing(way):
    if way in PARENTS:
        await ready_parent(await the_image(), way, mode=PARENTS[way])
    async with world(WAYS, program="tests.kit.vm.patient_copies") as w:
        # The first one makes what every sandbox shares, above all the worker pool.
        last, _ = await w.run(way, "true", window=False, wait=True)
        await w.stop(last.started.sandbox if last.started else None)
        await settled(w, set())
        viewer, host = await w.broker_pid(), await w.pid_of("host")

        def held():
            return descriptors(viewer) + descriptors(host)

        before, held_before = census(w), held()
        running = set(w.processes())
        known = {path for root in SHARED for path in root.iterdir()}
        code, said = await w.output(way, "sh", "-c", WRITE)
        assert (code, len(said)) == (0, 33), said
        assert w.events("sandbox.machine")[-1]["how"] == way
        await w.stop()
        await settled(w, running)
        assert census(w) == before
        # Memory files among them: a machine's memory is gone with the last one.
        await eventually(lambda: not held() - held_before)
        assert len(shared_memory(host)) == (way == "fork")
        assert have(w, said.strip(), known, host) == []


async def settled(w, running):
    """Wait until no sandbox and no machine runs."""

    async def gone():
        status = await w.status()
        machines = [p for p in status.processes if p.role.startswith("QEMU")]
        return not status.sandboxes and not machines

    await eventually(gone, deadline=120)
    if running:
        await eventually(lambda: not _machines(w) - running, deadline=120)


def _machines(w):
    tools = ("qemu-system", "vhost-device-vsock", "_portmux")
    return {p for p, words in w.processes().items() if any(t in words for t in tools)}
