"""Attack from inside a box: events in the audit queue of the kernel, which is one for all.

A reader of the queue, as journald is, loses others' events when it is overrun.
"""

from __future__ import annotations

import os

import pytest

from tests.kit.boxes import said
from tests.kit.needs import requires

pytestmark = [
    requires("bwrap", "/usr/bin/python3"),
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="calls of x86"),
]
CALLS = """
import ctypes, errno, json, mmap
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
def tried(answer):
    return "worked" if answer >= 0 else errno.errorcode[ctypes.get_errno()]
# mov eax, 20 (getpid); int 0x80; ret: below 4 GiB.
code = bytes.fromhex("b814000000cd80c3")
place = libc.mmap(0x10000000, 4096, 7, 0x22, -1, 0)
ctypes.memmove(place, code, len(code))
found = {
    "32 bits": ctypes.CFUNCTYPE(ctypes.c_int)(place)(),
    "x32": tried(libc.syscall(0x40000000 | 39)),
    # The kernel would look for the program, which is not there.
    "filter": tried(libc.syscall(317, 1, 0, None)),
    "recorded filter": tried(libc.syscall(317, 1, 2, None)),
    "recorded filter of all threads": tried(libc.syscall(317, 1, 3, None)),
}
print(json.dumps(found))
"""


@pytest.mark.parametrize("nested", [False, True])
async def test_what_a_box_is_refused_is_recorded_nowhere(tmp_path, nested):
    found = await said(tmp_path, CALLS, user_namespaces=nested)
    assert found == {
        "32 bits": -38,
        "x32": "ENOSYS",
        "filter": "EFAULT",
        "recorded filter": "EINVAL",
        "recorded filter of all threads": "EINVAL",
    }
