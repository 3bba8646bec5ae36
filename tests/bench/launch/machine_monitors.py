"""Time from a command to its window, by what starts the sandbox.

    python -m tests.bench.launch.machine_monitors [RUNS] [NAME…]
    python -m tests.bench.launch.machine_monitors [RUNS] --stand-ins
    sudo python -m tests.bench.launch.machines_of_root [RUNS]

The broker runs already, and no machine is copied.  In turn, so that a busy moment
falls on all: ``brokerctl run`` of foot in our micro VM (QEMU in Vitrail's jail),
in a domain of the user's libvirt, in a container of systemd-nspawn, and in a machine
of each other VMM that is installed where KVM works.  Root's half adds a container of
the system's libvirt (``virsh create``) and a machine of systemd-vmspawn.  With
``--stand-ins`` it is the stand-ins of the VMMs that cannot run here: what they measure
is our own part, and QEMU's in their place.  Prints least and median in seconds, and
the raw values.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from broker.host.vmm.accel import permission
from policy.records.kinds import MONITORS
from tests.bench.launch.boxes import window_after
from tests.kit.nspawn import skip_without_nspawn
from tests.kit.podman import root_directory, shared_words
from tests.kit.records import shown_record
from tests.kit.vm.libvirt import RECORD as BY_HOOK
from tests.kit.vm.libvirt import libvirt, require_libvirt
from tests.kit.vm.monitors.installed import install
from tests.kit.vm.system_libvirt import System, container_xml
from tests.kit.vm.vmspawn import OWN, own_vmspawn
from tests.kit.wayland.compositor import short_directory, wait_window
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
MONITOR = shown_record(
    'kind = "{}"', 'memory = "512M"', "boot_deadline = 300", of="disposable"
)
RECORDS = {
    "microvm": record(launch='fork = "no"'),
    LIBVIRT: OWN.replace(VMSPAWN, LIBVIRT),
    VMSPAWN: OWN,
    LXC: BY_HOOK.format("office"),
    **{kind: MONITOR.format(kind) for kind in MONITORS},
}


def usual_names() -> list[str]:
    """Return what this machine can start without root."""
    names = ["microvm", LIBVIRT, NSPAWN]
    if permission() is None:
        names += [kind for kind in MONITORS if shutil.which(kind)]
    return names


@asynccontextmanager
async def stage(names: list[str], *, stand_ins: bool) -> AsyncIterator[World]:
    """A broker with the records, and what each way to start needs."""
    async with AsyncExitStack() as stack:
        extra, program = {}, "broker.programs.local"
        if stand_ins:
            place = stack.enter_context(short_directory())
            for kind in MONITORS:
                install(place, kind)
            extra["PATH"] = f"{place}:{os.environ['PATH']}"
            program = "tests.kit.vm.monitors.broker"
        records = {name: RECORDS[name] for name in names if name in RECORDS}
        w = await stack.enter_async_context(
            world(records, extra=extra, program=program)
        )
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


async def main(runs: int, names: list[str], *, stand_ins: bool) -> None:
    """Measure and print."""
    times: dict[str, list[float]] = {}
    async with stage(names, stand_ins=stand_ins) as w:
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
    played = "--stand-ins" in sys.argv
    chosen = given or (list(MONITORS) if played else usual_names())
    trio.run(lambda: main(count, chosen, stand_ins=played))
