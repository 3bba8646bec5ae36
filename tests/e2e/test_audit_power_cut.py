"""The machine's power is cut while the audit log is written.

A guest writes the log on a separate disk, which QEMU opens without the
host's cache, and reports over its serial line which events are durable.  QEMU
is killed with SIGKILL: what the guest's kernel had only in memory is gone, as
with a real machine.  The next boot mounts the disk and looks.

The control: with SQLite told not to flush, events that were told of are lost.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import re
import shutil
import sys
import sysconfig
from contextlib import aclosing
from pathlib import Path

import pytest
import trio

from broker.core.paths import find_paths
from broker.helpers.process.spawn import PIPE, run_tool, spawn
from broker.host.images.initramfs import agent_overlay
from broker.host.vmm.qemu_arguments import MACHINES, Accel, base_args
from tests.kit.brokerctl import lines_of
from tests.kit.world import the_image

ROOT = Path(__file__).parents[2]
MKE2FS = shutil.which("mke2fs") or "/usr/sbin/mke2fs"
PACKAGES = (
    *("attr", "attrs", "cffi", "_cffi_backend", "cryptography", "idna", "msgspec"),
    *("outcome", "sniffio", "sortedcontainers", "trio", "typing_extensions"),
)

# Takes the place of the guest agent: the machine's first program.
_GUEST = """
import os, subprocess

def mount(device, where, *words):
    os.makedirs(where)
    subprocess.run(["/usr/lib/vitrail/busybox", "mount", "-t", "ext4", *words,
                    device, where], check=True)

def run():
    mount("/dev/vdb", "/run/log")
    mount("/dev/vdc", "/run/lib", "-o", "ro")
    # The guest's Python may be another one than those packages were built for.
    ended = subprocess.run(["/run/lib/python/bin/python", "/run/lib/power_cut.py"],
                           env={"PYTHONHOME": "/run/lib/python"})
    print("FAILED", ended.returncode, flush=True)
    subprocess.run(["/usr/lib/vitrail/busybox", "poweroff", "-f"])
"""

_WRITER = """
import json, sys, trio
from pathlib import Path
from broker.ipc.audit.database import open_reading
from broker.authority.audit.proof.keys import KeyFile
from broker.ipc.audit.schema import Decision, EventVerdict
from broker.authority.audit.store import open_store
from broker.cli.audit.proof.verify import verify

PATH = Path("/run/log/audit.sqlite")

async def caller(store):
    while True:
        number = await store.record(Decision(
            verdict=EventVerdict.ALLOW, sandbox="web", service="vitrail.Display",
            reason="x" * 200))
        print("TOLD", number, flush=True)

async def sealer(store):
    while True:
        await store.wait_beyond(store.size + 40)
        await store.checkpoint()
        await store.evolve()

async def work(flush):
    async with open_store(PATH) as store:
        size = store.size
        with open_reading(PATH) as db:
            report = verify(db, keys=KeyFile(PATH).any())
        print("FOUND", json.dumps([size, report.good, str(report.problems)]), flush=True)
        if not flush:
            store._db.execute("PRAGMA synchronous = OFF")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sealer, store)
            for _ in range(4):
                nursery.start_soon(caller, store)

trio.run(work, "flush=no" not in open("/proc/cmdline").read())
"""


async def build(directory: Path) -> None:
    """The disks: one for the log, one with what writes it."""
    tree = directory / "tree"
    for name in ("broker", "policy"):
        shutil.copytree(ROOT / name, tree / name)
    (tree / "power_cut.py").write_text(_WRITER)
    for name in PACKAGES:
        found = Path(importlib.import_module(name).__file__ or "")
        if found.name == "__init__.py":
            shutil.copytree(found.parent, tree / name)
        else:
            shutil.copy(found, tree)
    (tree / "python/bin").mkdir(parents=True)
    shutil.copy(Path(sys.executable).resolve(), tree / "python/bin/python")
    library = Path(sysconfig.get_path("stdlib"))
    shutil.copytree(
        library,
        tree / "python/lib" / library.name,
        ignore=shutil.ignore_patterns("__pycache__", "test", "config-*", "*-packages"),
    )
    await run_tool([MKE2FS, "-q", "-t", "ext4", "-d", str(tree),
                    str(directory / "lib.img"), "256M"])  # fmt: skip
    await run_tool([MKE2FS, "-q", "-t", "ext4", str(directory / "log.img"), "128M"])


def qemu(directory: Path, image: Path, *, flush: bool) -> list[str]:
    machine = MACHINES[Accel.TCG]
    words = base_args(Path("qemu-system-x86_64"), Accel.TCG, name="power-cut")
    append = ["console=ttyS0", "panic=-1", "quiet", *machine.kernel_args]
    append.append(f"flush={'yes' if flush else 'no'}")
    words += ["-m", "768M", "-smp", "2", "-serial", "stdio"]
    words += ["-kernel", str(image / "kernel"), "-initrd", str(directory / "initrd")]
    words += ["-append", " ".join(append)]
    for name, options in (
        (f"file={image / 'root'},readonly=on", "root"),
        (f"file={directory / 'log.img'},cache=none", "log"),
        (f"file={directory / 'lib.img'},readonly=on", "lib"),
    ):
        words += ["-drive", f"{name},format=raw,if=none,id={options}"]
        words += ["-device", f"virtio-blk-pci,drive={options}"]
    return words


async def boot(directory: Path, image: Path, events: int, *, flush: bool = True):
    """Boot, look, write so many events, cut the power.

    Returns the first findings (size, good, problems) and the reported events.
    """
    child = spawn(qemu(directory, image, flush=flush), stdout=PIPE)
    found, told = None, 0
    try:
        with trio.fail_after(240):
            async with aclosing(lines_of(child)) as lines:
                async for line in lines:
                    assert "FAILED" not in line, line
                    if match := re.search(r"FOUND (\[.*\])", line):
                        found = json.loads(match[1])
                    if match := re.search(r"TOLD (\d+)", line):
                        told = max(told, int(match[1]))
                        if found and told >= found[0] + events:
                            break
    finally:
        await child.kill_and_wait()  # SIGKILL: the power is gone
        child.popen.stdout.close()
    assert found is not None
    return found, told


async def prepared(directory: Path) -> Path:
    if sys.version_info[:2] != (3, 11):
        pytest.skip("the guest's Python is 3.11, and is given our packages")
    probe = directory / "probe"
    try:
        os.close(os.open(probe, os.O_CREAT | os.O_RDWR | os.O_DIRECT))
    except OSError:
        pytest.skip("the file system of the tests cannot be used without cache")
    await the_image()
    image = (find_paths().images / "default").resolve()
    await build(directory)
    overlay = agent_overlay(_GUEST.encode())
    (directory / "initrd").write_bytes((image / "initrd").read_bytes() + overlay)
    return image


@pytest.mark.long
async def test_reported_events_survive_a_power_cut(tmp_path: Path) -> None:
    image = await prepared(tmp_path)
    draw = random.Random(9)
    told = 0
    for _ in range(4):
        found, now = await boot(tmp_path, image, draw.randint(50, 400))
        size, good, problems = found
        assert good, problems
        assert size >= told, f"{told} were told of, {size} are there"
        print(f"told of {told}, found {size}, whole")
        told = now


@pytest.mark.long
async def test_the_control_without_flushes_events_are_lost(tmp_path: Path) -> None:
    image = await prepared(tmp_path)
    _, told = await boot(tmp_path, image, 300, flush=False)
    try:
        found, _ = await boot(tmp_path, image, 1)
    except AssertionError:
        return  # not even a log that can be opened
    assert found[0] < told, "this test would not see a log that does not flush"
