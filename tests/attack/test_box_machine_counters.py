"""Attack from inside a box: what the kernel counts once for the whole machine.

Pseudo-terminals of all mounts of devpts beside the machine's own are 3,072
(kernel.pty.max less kernel.pty.reserve), and huge pages (vm.nr_hugepages) are there for
micro VMs whose record has ``huge_pages``.  Contexts of aio are 65,536 (fs.aio-max-nr),
and one call takes as many.  No namespace and no user id divides any of them: one box had
all terminals, free huge pages and contexts, so that no other box, container or tree got
a terminal, no such machine started, and io_setup(2) failed in every program.

The test takes 200 terminals and one context at most and no huge page: it maps without a reservation,
which works where the machine has none.
"""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import pytest

from broker.core import limits
from broker.core.errors import UpstreamError
from broker.helpers.filters.libseccomp import seccomp as libseccomp
from broker.helpers.process import namespace_limits
from tests.kit.boxes import said
from tests.kit.needs import requires

pytestmark = requires("bwrap", "/usr/bin/python3")

TERMINALS = """
import errno, json, os
found = {"opened": 0, "end": ""}
while found["opened"] < 200:
    try:
        os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)
    except OSError as error:
        found["end"] = errno.errorcode[error.errno]
        break
    found["opened"] += 1
found["counted"] = int(open("/proc/sys/kernel/pty/nr").read())
print(json.dumps(found), flush=True)
os._exit(0)
"""

TERMINAL = """
import json, os, pty
main, child = pty.openpty()
os.write(child, b"seen")
print(json.dumps({"said": os.read(main, 9).decode(), "name": os.ttyname(child)}), flush=True)
os._exit(0)
"""

HUGE = """
import ctypes, errno, json, os
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p] + [ctypes.c_size_t] * 1 + [ctypes.c_int] * 3 + [ctypes.c_long]
PRIVATE, ANONYMOUS, NORESERVE, HUGETLB = 0x2, 0x20, 0x4000, 0x40000
found = {}
def note(name, failed):
    found[name] = errno.errorcode[ctypes.get_errno()] if failed else "worked"
def mapped(flags):
    at = libc.mmap(None, 2 << 20, 3, PRIVATE | ANONYMOUS | NORESERVE | flags, -1, 0)
    return at == ctypes.c_void_p(-1).value
note("mapped", mapped(HUGETLB))
note("of 2 MiB", mapped(HUGETLB | 21 << 26))
note("plain", mapped(0))
note("file", libc.memfd_create(b"x", 4) < 0)
note("file of 2 MiB", libc.memfd_create(b"x", 4 | 21 << 26) < 0)
note("file of all flags", libc.memfd_create(b"", ctypes.c_uint(0xFFFFFFFF)) < 0)
note("plain file", libc.memfd_create(b"x", 3) < 0)
note("shared", libc.shmget(0, 2 << 20, 0o4000 | 0o1600) < 0)
note("plain shared", libc.shmget(0, 1 << 12, 0o1600) < 0)
print(json.dumps(found), flush=True)
os._exit(0)
"""


AIO = """
import ctypes, errno, json, os
libc = ctypes.CDLL(None, use_errno=True)
context = ctypes.c_ulong(0)
failed = libc.syscall(%d, 1, ctypes.byref(context)) < 0
counted = int(open("/proc/sys/fs/aio-nr").read())
print(json.dumps({"setup": errno.errorcode[ctypes.get_errno()] if failed else "worked",
                  "counted": counted}), flush=True)
os._exit(0)
"""


LEASE = """
import errno, fcntl, json, os
found = {}
for name, command, argument in (
    ("lease to write", 1024, fcntl.F_WRLCK),
    ("lease to read", 1024, fcntl.F_RDLCK),
    ("lease by 64 bits", 1024 + (1 << 32), fcntl.F_RDLCK),
    ("flags", fcntl.F_GETFL, 0),
):
    try:
        found[name] = call(os.open(%r, os.O_RDONLY), command, argument)
    except OSError as error:
        found[name] = errno.errorcode[error.errno]
print(json.dumps(found), flush=True)
os._exit(0)
"""
CALL = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def call(fd, command, argument):
    numbers = (ctypes.c_long(n) for n in (72, fd, command, argument))
    if libc.syscall(*numbers) < 0:
        raise OSError(ctypes.get_errno(), "")
    return "worked"
"""
SOCKETS = """
import errno, json, os, socket, struct
found = {}
tried = (
    ("memory", socket.AF_INET, socket.SOL_SOCKET, 73, struct.pack("i", 4096)),
    ("flow label", socket.AF_INET6, socket.IPPROTO_IPV6, 32,
     struct.pack("16sIBBHHHI", socket.inet_pton(socket.AF_INET6, "::1"), 0, 0, 1, 1, 0, 0, 0)),
    ("buffer", socket.AF_INET, socket.SOL_SOCKET, socket.SO_RCVBUF, struct.pack("i", 4096)),
)
for name, family, level, option, value in tried:
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.setsockopt(level, option, value)
            found[name] = "worked"
        except OSError as error:
            found[name] = errno.errorcode[error.errno]
print(json.dumps(found), flush=True)
os._exit(0)
"""


@pytest.fixture(params=[False, True], ids=["without files", "with files"])
def files(request, tmp_path) -> tuple[Path, ...]:
    """A box with files of the user's has their user id, and other namespaces."""
    if not request.param:
        return ()
    kept = tmp_path / "kept"
    kept.write_text("")
    return (kept,)


async def test_a_box_takes_few_of_the_machines_terminals(tmp_path, files):
    found = await said(tmp_path, TERMINALS, files=files)
    assert found["counted"] >= found["opened"], "the kernel counts them for all"
    assert found["opened"] == limits.BOX_TERMINALS
    assert found["end"] == "ENOSPC"


async def test_a_box_has_terminals(tmp_path, files):
    found = await said(tmp_path, TERMINAL, files=files)
    assert found == {"said": "seen", "name": "/dev/pts/0"}


async def test_a_box_whose_terminals_cannot_be_limited_does_not_start(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(namespace_limits, "_TERMINALS", b"/dev")
    with pytest.raises(UpstreamError, match="terminals"):
        await said(tmp_path, TERMINAL)


def test_a_box_that_ends_before_its_terminals_are_limited_is_told():
    ended = subprocess.Popen(["true"])
    ended.wait()
    with pytest.raises(UpstreamError, match="No such file"):
        namespace_limits.limit_terminals(ended.pid)


@pytest.mark.parametrize("nested", [False, True])
async def test_a_box_takes_none_of_the_machines_huge_pages(tmp_path, nested):
    found = await said(tmp_path, HUGE, user_namespaces=nested)
    plain = [name for name in found if name.startswith("plain")]
    assert {found.pop(name) for name in plain} == {"worked"}
    # As of a kernel without them; Chromium ends where it is told anything else.
    files = [name for name in found if name.startswith("file")]
    assert {found.pop(name) for name in files} == {"EINVAL"}
    assert found == dict.fromkeys(found, "ENOMEM")


@pytest.mark.parametrize("nested", [False, True])
async def test_a_box_takes_none_of_the_machines_contexts_of_aio(tmp_path, nested):
    number = libseccomp.resolve_syscall(libseccomp.Arch.NATIVE, "io_setup")
    found = await said(tmp_path, AIO % number, user_namespaces=nested)
    assert found["setup"] == "ENOSYS", found


@pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of x86-64")
async def test_a_box_has_no_program_outside_wait_for_a_file(tmp_path):
    """The kernel has who opens a leased file wait, 45 seconds."""
    kept = tmp_path / "kept"
    kept.write_text("text")
    found = await said(tmp_path, CALL + LEASE % str(kept), files=(kept,))
    assert found.pop("flags") == "worked"
    assert found == dict.fromkeys(found, "EINVAL")


@pytest.mark.parametrize("nested", [False, True])
async def test_a_box_reserves_nothing_that_sockets_of_all_share(tmp_path, nested):
    found = await said(tmp_path, SOCKETS, user_namespaces=nested)
    assert found.pop("buffer") == "worked"
    assert found == dict.fromkeys(found, "ENOPROTOOPT")
