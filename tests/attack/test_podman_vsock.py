"""Attack: a program of a container speaks with machines over AF_VSOCK.

Or takes what the kernel has once for the machine: terminals and huge pages.

Network namespaces do not divide it.  The kernel takes 32 bits of a socket's family and
a filter compares 64; a 32-bit call has different numbers, one of them with the family
in memory; io_uring opens sockets without a call.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest

from tests.kit.brokerctl import brokerctl
from tests.kit.needs import PID_NAMESPACES
from tests.kit.podman import SHARED, podman_settings, root_directory
from tests.kit.world import world

pytestmark = [
    pytest.mark.slow,
    PID_NAMESPACES,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the calls are of x86"),
]

RECORD = """\
class = "disposable"
[launch]
kind = "podman"
rootfs = "{base}/root"
command = ["python3", "{base}/open/tries.py"]
bind_read_only = [{shared}, "{base}/open"]
"""
TRIES = r"""
import ctypes, json, mmap, os, socket, struct

libc = ctypes.CDLL(None, use_errno=True)


def family(number, protocol=0):
    kind = socket.SOCK_RAW if number == 16 else socket.SOCK_STREAM
    return libc.syscall(41, ctypes.c_long(number), kind, protocol) >= 0


def by_interrupt(number, first, second, third):
    # push rbx; mov eax, ...; mov ebx, ...; mov ecx, ...; mov edx, ...; int 0x80
    words = zip((b"\xb8", b"\xbb", b"\xb9", b"\xba"), (number, first, second, third))
    code = b"\x53" + b"".join(op + struct.pack("<I", word) for op, word in words)
    code += b"\xcd\x80\x5b\xc3"
    low = 0x40  # MAP_32BIT
    page = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | low, prot=7)
    # After the code: the arguments of socketcall(SYS_SOCKET).
    page.write(code.ljust(64, b"\0") + struct.pack("<III", 40, 1, 0))
    place = ctypes.addressof(ctypes.c_char.from_buffer(page))
    child = os.fork()
    if child == 0:
        made = ctypes.CFUNCTYPE(ctypes.c_int)(place)
        if number == 102:
            struct.pack_into("<I", page, 12, place + 64)
        os._exit(0 if made() >= 0 else 1)
    return os.waitpid(child, 0)[1] == 0


def huge(reserved):
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
    # Without a reservation, which works where there are none.
    return libc.mmap(None, 2 << 20, 3, 0x4022 | reserved, -1, 0) != ctypes.c_void_p(-1).value


def terminals(most):
    try:
        opened = [os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY) for _ in range(most)]
    except OSError:
        return False
    for fd in opened:
        os.close(fd)
    return True


print(json.dumps({
    "plain pages": huge(0),
    "huge pages": huge(0x40000),
    "a file of huge pages": libc.memfd_create(b"x", 4) >= 0,
    "aio": libc.syscall(206, 1, bytes(8)) >= 0,
    "keys": libc.syscall(250, 1, 0) >= 0,
    "a key": libc.syscall(248, b"user", b"name", b"text", 4, -2) >= 0,
    "terminals": terminals(100),
    "many terminals": terminals(200),
    "unix": family(1),
    "inet": family(2),
    "netlink": family(16),
    "audit": family(16, 9),
    "vsock": family(40),
    "vsock in 32 bits": family(40 | 1 << 32),
    "vsock by a 32-bit call": by_interrupt(359, 40, 1, 0),
    "vsock by socketcall": by_interrupt(102, 1, 0, 0),
    "io_uring": libc.syscall(425, 1, bytes(120)) >= 0,
}))
"""


async def test_a_container_of_a_record_has_no_vsock():
    async with podman_settings() as settings, world(image=False, extra=settings) as w:
        root_directory(w.base)
        (w.base / "open").mkdir()
        (w.base / "open/tries.py").write_text(TRIES)
        shared = ", ".join(f'"{path}"' for path in SHARED if Path(path).exists())
        w.write_record("work", RECORD.format(base=w.base, shared=shared))
        answer = await brokerctl("run", "-q", "work", env=w.environ)
        assert answer.code == 0, answer
        made = json.loads(answer.out.splitlines()[-1])
    others = {"plain pages", "terminals"}
    done = {name for name, done in made.items() if done}
    assert done == {"unix", "inet", "netlink"} | others
