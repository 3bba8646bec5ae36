"""What a guest's driver says to QEMU's devices has it take little memory and time.

Invariant: what a guest names as its buffer, however large, is not what QEMU allocates.
The driver is the test, which speaks to the real devices by QEMU's own protocol for tests
of devices, in place of a guest's root.

Sources: QEMU's docs/devel/testing/qtest; VIRTIO 1.2 (2.7 split virtqueues, 4.1.4.8 legacy
interface, 5.3 console device, 5.4 entropy device).
"""

from __future__ import annotations

import resource
import shutil
import struct
import subprocess
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from broker.core import limits
from broker.core.names import SandboxName
from broker.host.processes.tracked import little_memory
from broker.host.vmm.parent.arguments import ForkWiring, forkable_args
from broker.host.vmm.qemu_arguments import FORKABLE, Accel, VmSpec
from broker.host.vmm.vmm_jail import qemu_view, spawn_jailed

ASKED = 1 << 27
"""Bytes of one request, in memory of 64 MiB: parts of a buffer may overlap."""
CONTROL = 3
"""The queue by which a driver of virtio-serial tells of its ports."""
QUEUE, BUFFER, PORTS = 1 << 20, 2 << 20, 0xC000
NEXT, WRITE = 1, 2


def random_words():
    """The words of a copy's source of random numbers."""
    spec = VmSpec(
        SandboxName("web"),
        *(Path("/k"), Path("/i"), None, Path("/d"), Path("/l")),
    )
    wiring = ForkWiring(
        3, "0" * 8 + "-0000-0000-0000-" + "0" * 12, 4, (), incoming=True
    )
    words = forkable_args(spec, Path("qemu"), Accel.TCG, wiring, ())
    return [w for pair in pairwise(words) if "rng-" in pair[1] for w in pair]


class Device:
    """A device of virtio, as its driver sees it."""

    def __init__(self, qemu: subprocess.Popen[str]) -> None:
        self._qemu = qemu

    def ask(self, words: str) -> int:
        """Send a command; return its answer.  Raises EOFError where QEMU ends."""
        self._qemu.stdin.write(f"{words}\n")
        self._qemu.stdin.flush()
        lines = (line for line in self._qemu.stdout if not line.startswith("IRQ"))
        if not (answer := next(lines, "").split()):
            raise EOFError(words)
        assert answer[0] == "OK", (words, answer)
        return int(answer[1], 0) if len(answer) > 1 else 0

    def configure(self, register: int, value: int) -> None:
        """Write a register of PCI device 4."""
        self.ask(f"outl 0xcf8 {1 << 31 | 4 << 11 | register}")
        self.ask(f"outl 0xcfc {value}")

    def write(self, at: int, data: bytes) -> None:
        self.ask(f"write {at} {len(data)} 0x{data.hex()}")

    def request(self, size: int, queue: int = 0, way: int = WRITE) -> None:
        """Give it a buffer of ``size`` bytes, all parts at one place."""
        self.configure(0x10, PORTS)
        self.configure(0x04, 7)
        self.ask(f"outw {PORTS + 14} {queue}")
        parts = self.ask(f"inw {PORTS + 12}")
        for number in range(parts):
            more = NEXT if number + 1 < parts else 0
            part = (BUFFER, size // parts, way | more, number + 1 if more else 0)
            self.write(QUEUE + number * 16, struct.pack("<QIHH", *part))
        self.write(QUEUE + parts * 16, struct.pack("<HHH", 0, 1, 0))
        self.ask(f"outl {PORTS + 8} {QUEUE >> 12}")
        self.ask(f"outb {PORTS + 18} 7")
        self.ask(f"outw {PORTS + 16} {queue}")
        # The next turn of its loop: what it draws, it has drawn then.
        self.ask(f"inb {PORTS + 18}")

    @property
    def most_memory(self) -> int:
        status = Path(f"/proc/{self._qemu.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) << 10


@contextmanager
def a_device(device, before=()):
    """A device in a QEMU; ``before``: words that limit it."""
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None:
        pytest.skip("qemu-system-x86 is not installed")
    words = [
        *(*before, qemu, "-machine", FORKABLE[Accel.TCG].machine),
        *("-accel", "tcg,tb-size=64", "-S"),
        *("-nodefaults", "-display", "none", "-m", "64M", "-qtest", "stdio"),
        *("-qtest-log", "none", *device),
    ]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield Device(process)
        finally:
            process.kill()


@pytest.mark.slow
def test_a_guest_that_asks_for_much_has_little_drawn():
    """One GiB was 22 s in which QEMU answered nothing, and a GiB of memory."""
    with a_device(random_words()) as device:
        device.ask("inb 0x80")  # it has started
        before = device.most_memory
        device.request(ASKED)
        assert device.most_memory - before < ASKED // 4


SERIAL = ("-device", "virtio-serial-pci,addr=0x4,max_ports=2")


@pytest.mark.slow
def test_a_message_of_many_parts_ends_its_own_machine():
    """QEMU copies it: without a limit 32 parts of 60 MiB are 2 GB of this machine's."""
    few = little_memory(1 << 30)
    with a_device(SERIAL, few) as device:
        device.ask("inb 0x80")
        with pytest.raises(EOFError):
            device.request(32 * (60 << 20), CONTROL, way=0)


async def test_a_vmm_has_little_memory_of_its_own(tmp_path):
    """Beside the guest's, which is mapped and shared; a copy may have it for itself."""
    for name in ("kernel", "initrd"):
        (tmp_path / name).touch()
    spec = VmSpec(
        SandboxName("web"),
        *(tmp_path / "kernel", tmp_path / "initrd", None, tmp_path, tmp_path),
        memory_mib=512,
    )
    view = qemu_view(spec, Path("/usr/bin/sleep"), Accel.TCG)
    process = await spawn_jailed("QEMU", ["/usr/bin/sleep", "100"], view)
    try:
        most = limits.VMM_BYTES + (512 << 20)
        found = resource.prlimit(process.pid, resource.RLIMIT_DATA)
        assert found == (most, most)
    finally:
        await process.end(0)
        process.close()
