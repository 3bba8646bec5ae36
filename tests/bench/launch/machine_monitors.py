"""Time from a command to its window, by what starts the sandbox.

    python -m tests.bench.launch.machine_monitors [RUNS]

The broker runs already, and no machine is copied.  In turn, so that a busy moment
falls on all: ``brokerctl run`` of foot in a micro VM of ours (QEMU in Vitrail's jail),
in a domain of the user's libvirt, in a container of systemd-nspawn, and in a machine
of each other VMM that is installed where KVM works.  Prints least and median in
seconds, and the raw values.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys

import trio

from broker.launch.microvm.accel import permission
from policy.records.record_schema import MONITORS
from tests.bench.launch.boxes import window_after
from tests.kit.nspawn import skip_without_nspawn
from tests.kit.podman import root_directory, shared_words
from tests.kit.vm.libvirt import libvirt, require_libvirt
from tests.kit.world import World, record, world

LIBVIRT = """\
class = "disposable"
display = "allow"
[launch]
kind = "libvirt-qemu"
memory = "512M"
"""
NSPAWN = """\
class = "disposable"
display = "allow"
[launch]
kind = "nspawn"
rootfs = "{root}"
bind_read_only = [{shared}]
"""
MONITOR = """\
class = "disposable"
display = "allow"
[launch]
kind = "{}"
memory = "512M"
"""
RECORDS = {"microvm": record(launch='fork = "no"'), "libvirt-qemu": LIBVIRT}


def add_nspawn(w: World) -> None:
    """Write the record of a container with this machine's own programs."""
    shared = ", ".join(f'"{word[:-3].split(":")[0]}"' for word in shared_words()[1::2])
    text = NSPAWN.format(root=root_directory(w.base), shared=shared)
    w.write_record("nspawn", text)


def other_monitors() -> dict[str, str]:
    """Return the records of the VMMs that this machine can run."""
    if permission() is not None:
        return {}
    return {kind: MONITOR.format(kind) for kind in MONITORS if shutil.which(kind)}


async def main(runs: int) -> None:
    """Measure and print."""
    require_libvirt()
    skip_without_nspawn()
    times: dict[str, list[float]] = {}
    records = {**RECORDS, **other_monitors()}
    async with world(records) as w, libvirt(w):
        w.environ["PYTHONPATH"] = os.getcwd()
        add_nspawn(w)
        for turn in range(runs + 1):  # the first one warms the caches
            for name in (*records, "nspawn"):
                words = [sys.executable, "-m", "broker.cli.app", "run", "-q", name]
                took, _used = await window_after(w, [*words, "--"], f"{name}-{turn}")
                if turn:
                    times.setdefault(name, []).append(took)
                print(f"{name}: {took:.2f} s{'' if turn else ' (warming)'}", flush=True)
    for name, values in times.items():
        raw = " ".join(f"{value:.2f}" for value in values)
        least, median = min(values), statistics.median(values)
        print(f"{name:14} least {least:6.2f}  median {median:6.2f}  ({raw})")


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 3)
