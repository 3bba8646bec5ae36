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

import errno
import shutil
import subprocess
from pathlib import Path

import pytest

from broker.core import limits
from broker.core.errors import UpstreamError
from broker.helpers.filters.libseccomp import seccomp as libseccomp
from broker.helpers.process import namespace_limits
from tests.kit.boxes import said

pytestmark = pytest.mark.skipif(
    shutil.which("bwrap") is None or not Path("/usr/bin/python3").exists(),
    reason="bubblewrap and the system's Python are needed",
)

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
    assert found == dict.fromkeys(found, errno.errorcode[errno.ENOMEM])


@pytest.mark.parametrize("nested", [False, True])
async def test_a_box_takes_none_of_the_machines_contexts_of_aio(tmp_path, nested):
    number = libseccomp.resolve_syscall(libseccomp.Arch.NATIVE, "io_setup")
    found = await said(tmp_path, AIO % number, user_namespaces=nested)
    assert found["setup"] == "ENOSYS", found
