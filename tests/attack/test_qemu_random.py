"""A guest's driver for random numbers has QEMU take no memory and no time for it.

Invariant: what a guest names as its buffer, however large, is not what QEMU draws at
once.  The driver is the test, which speaks to the real device by QEMU's own protocol for
tests of devices, in place of a guest's root.

Sources: QEMU's docs/devel/testing/qtest; VIRTIO 1.2 (2.7 split virtqueues, 4.1.4.8 legacy
interface, 5.4 entropy device).
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from broker.core.names import SandboxName
from broker.host.vmm.parent.arguments import ForkWiring, forkable_args
from broker.host.vmm.qemu_arguments import FORKABLE, Accel, VmSpec

ASKED = 1 << 27
"""Bytes of one request, in memory of 64 MiB: parts of a buffer may overlap."""
QUEUE, BUFFER, PORTS = 1 << 20, 2 << 20, 0xC000
NEXT, WRITE = 1, 2


def device_words():
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
    """The source of random numbers, as its driver sees it."""

    def __init__(self, qemu: subprocess.Popen[str]) -> None:
        self._qemu = qemu

    def ask(self, words: str) -> int:
        self._qemu.stdin.write(f"{words}\n")
        self._qemu.stdin.flush()
        answer = next(
            line.split() for line in self._qemu.stdout if not line.startswith("IRQ")
        )
        assert answer[0] == "OK", (words, answer)
        return int(answer[1], 0) if len(answer) > 1 else 0

    def configure(self, register: int, value: int) -> None:
        """Write a register of PCI device 4."""
        self.ask(f"outl 0xcf8 {1 << 31 | 4 << 11 | register}")
        self.ask(f"outl 0xcfc {value}")

    def write(self, at: int, data: bytes) -> None:
        self.ask(f"write {at} {len(data)} 0x{data.hex()}")

    def request(self, size: int) -> None:
        """Give it a buffer of ``size`` bytes, all parts at one place."""
        self.configure(0x10, PORTS)
        self.configure(0x04, 7)
        parts = self.ask(f"inw {PORTS + 12}")
        for number in range(parts):
            more = NEXT if number + 1 < parts else 0
            part = (BUFFER, size // parts, WRITE | more, number + 1 if more else 0)
            self.write(QUEUE + number * 16, struct.pack("<QIHH", *part))
        self.write(QUEUE + parts * 16, struct.pack("<HHH", 0, 1, 0))
        self.ask(f"outl {PORTS + 8} {QUEUE >> 12}")
        self.ask(f"outb {PORTS + 18} 7")
        self.ask(f"outw {PORTS + 16} 0")
        # The next turn of its loop: what it draws, it has drawn then.
        self.ask(f"inb {PORTS + 18}")

    @property
    def most_memory(self) -> int:
        status = Path(f"/proc/{self._qemu.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) << 10


@contextmanager
def a_device():
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None:
        pytest.skip("qemu-system-x86 is not installed")
    words = [
        *(qemu, "-machine", FORKABLE[Accel.TCG].machine, "-accel", "tcg", "-S"),
        *("-nodefaults", "-display", "none", "-m", "64M", "-qtest", "stdio"),
        *("-qtest-log", "none", *device_words()),
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
    with a_device() as device:
        device.ask("inb 0x80")  # it has started
        before = device.most_memory
        device.request(ASKED)
        assert device.most_memory - before < ASKED // 4
