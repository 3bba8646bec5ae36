"""Time from a command to its window, by what starts the sandbox.

    python -m tests.bench.launch.machine_starts [RUNS] [NAME…]
    sudo python -m tests.bench.launch.machines_of_root [RUNS]

The broker runs already, and no machine is copied.  In turn, so that a busy moment
falls on all: ``brokerctl run`` of foot in our micro VM (QEMU in Vitrail's jail),
in a domain of the user's libvirt and in a container of systemd-nspawn.  Root's half adds
a container of the system's libvirt (``virsh create``) and a machine of systemd-vmspawn.
Prints least and median in seconds, and the raw values.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from tests.bench.launch.boxes import window_after
from tests.kit.nspawn import skip_without_nspawn
from tests.kit.podman import root_directory, shared_words
from tests.kit.vm.libvirt import RECORD as BY_HOOK
from tests.kit.vm.libvirt import libvirt, require_libvirt
from tests.kit.vm.system_libvirt import System, container_xml
from tests.kit.vm.vmspawn import OWN, own_vmspawn
from tests.kit.wayland.compositor import wait_window
from tests.kit.world import World, record, world

LIBVIRT, LXC, NSPAWN, VMSPAWN = "libvirt-qemu", "libvirt-lxc", "nspawn", "vmspawn"
CONTAINER = """\
class = "disposable"
display = "allow"
[launch]
kind = "nspawn"
rootfs = "{root}"
bind_read_only = [{shared}]
"""
RECORDS = {
    "microvm": record(launch='fork = "no"'),
    LIBVIRT: OWN.replace(VMSPAWN, LIBVIRT),
    VMSPAWN: OWN,
    LXC: BY_HOOK.format("office"),
}


@asynccontextmanager
async def stage(names: list[str]) -> AsyncIterator[World]:
    """A broker with the records, and what each way to start needs."""
    async with AsyncExitStack() as stack:
        records = {name: RECORDS[name] for name in names if name in RECORDS}
        w = await stack.enter_async_context(world(records))
        w.environ["PYTHONPATH"] = os.getcwd()
        if LIBVIRT in names:
            require_libvirt()
            await stack.enter_async_context(libvirt(w))
        if NSPAWN in names:
            add_nspawn(w)
        if VMSPAWN in names:
            w.environ["PATH"] = own_vmspawn(w)["PATH"]
        yield w


def add_nspawn(w: World) -> None:
    """Write the record of a container with this machine's own programs."""
    skip_without_nspawn()
    shared = ", ".join(f'"{word[:-3].split(":")[0]}"' for word in shared_words()[1::2])
    text = CONTAINER.format(root=root_directory(w.base), shared=shared)
    w.write_record(NSPAWN, text)


async def start(w: World, name: str, title: str) -> float:
    """Seconds until the window of a sandbox that is started now."""
    if name == LXC:
        return await start_container(w, title)
    words = [sys.executable, "-m", "broker.cli.app", "run", "-q", name]
    took, _used = await window_after(w, [*words, "--"], title)
    return took


async def start_container(w: World, title: str) -> float:
    """The same of a container of the system's libvirt."""
    system = System(w)
    file = w.base / "office.xml"
    file.write_text(container_xml(w, system.place, title, LXC))
    before = len(w.events("lease.end"))
    began = time.perf_counter()
    await system.virsh("create", str(file), driver="lxc")
    await wait_window(w.comp, title=title)
    took = time.perf_counter() - began
    await system.virsh("destroy", "office", driver="lxc")
    with trio.fail_after(60):
        while len(w.events("lease.end")) == before:
            await trio.sleep(0.05)
    return took


async def main(runs: int, names: list[str]) -> None:
    """Measure and print."""
    times: dict[str, list[float]] = {}
    async with stage(names) as w:
        for turn in range(runs + 1):  # the first one warms the caches
            for name in names:
                took = await start(w, name, f"{name}-{turn}")
                if turn:
                    times.setdefault(name, []).append(took)
                load, note = os.getloadavg()[0], "" if turn else " (warming)"
                print(f"{name}: {took:.2f} s, load {load:.1f}{note}", flush=True)
    for name, values in times.items():
        raw = " ".join(f"{value:.2f}" for value in values)
        least, median = min(values), statistics.median(values)
        print(f"{name:16} least {least:6.2f}  median {median:6.2f}  ({raw})")


if __name__ == "__main__":
    given = [word for word in sys.argv[1:] if not word.startswith("-")]
    count = int(given.pop(0)) if given and given[0].isdecimal() else 3
    chosen = given or ["microvm", LIBVIRT, NSPAWN]
    trio.run(main, count, chosen)
