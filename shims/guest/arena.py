"""The arena: memory that this machine shares with its host, as a device of memory.

The host adds it as persistent memory.  The kernel makes a block device of such memory,
which a program cannot map without a copy; five writes make a device of it that it can.
Sources: the kernel's Documentation/driver-api/nvdimm and Documentation/ABI/testing/
sysfs-bus-nvdimm, sysfs-bus-dax.
"""

from __future__ import annotations

import glob
import os
import time
from typing import Tuple

_BUS = "/sys/bus/nd"
_DEVICE = "/sys/bus/dax/devices/dax{0}.0"
_ALIGN = 2 << 20
_SECONDS = 20.0
"""For the kernel to find it; more than any emulated machine needs."""


def open_arena_device(*, behind_image: bool) -> Tuple[int, int]:
    """Return a descriptor of the arena, and where it begins in the host's file, in bytes.

    ``behind_image``: the first memory device is the machine's root.  Raises OSError or
    ValueError.
    """
    number = 1 if behind_image else 0
    region, device = f"{_BUS}/devices/region{number}", _DEVICE.format(number)
    if not os.path.exists(device):
        _make_device(number, region)
    # It begins with the kernel's own notes.
    base = _number(f"{device}/resource") - _number(f"{region}/resource")
    if not 0 <= base < 1 << 32:
        raise ValueError(f"the arena has the invalid start address {base}")
    fd = os.open(f"/dev/dax{number}.0", os.O_RDWR | os.O_CLOEXEC)
    return fd, base


def _make_device(number: int, region: str) -> None:
    """Make a persistent-memory region a device for mapping."""
    namespace = f"namespace{number}.0"
    _wait(f"{_BUS}/devices/{namespace}")
    bound = glob.glob(f"{_BUS}/drivers/nd_pmem/{namespace}")
    if bound:
        _write(f"{_BUS}/drivers/nd_pmem/unbind", namespace)
    name = _read(f"{region}/dax_seed")
    seed = f"{_BUS}/devices/{name}"
    _write(f"{seed}/align", str(_ALIGN))
    _write(f"{seed}/mode", "pmem")
    _write(f"{seed}/uuid", _read("/proc/sys/kernel/random/uuid"))
    _write(f"{seed}/namespace", namespace)
    _write(f"{_BUS}/drivers/dax_pmem/bind", name)
    _wait(f"/dev/dax{number}.0")


def _wait(path: str) -> None:
    end = time.monotonic() + _SECONDS
    while not os.path.exists(path):
        if time.monotonic() > end:
            raise OSError(f"{path} does not exist")
        time.sleep(0.01)


def _number(path: str) -> int:
    return int(_read(path), 0)


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read().strip()


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
