"""Attack from inside a box: files of the user's that others run with the user's rights.

A shared folder's files are the user's own outside, where the mount has no nosuid.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attack.test_box_namespaces import pytestmark, said

__all__ = ["pytestmark"]

MAKES = """
import ctypes, errno, json, os
libc = ctypes.CDLL(None, use_errno=True)
os.chdir({place!r})
found = {{}}
def ask(name, call):
    try:
        call()
        found[name] = "done"
    except OSError as error:
        found[name] = errno.errorcode[error.errno]
def raw(*call):
    ctypes.set_errno(0)
    if libc.syscall(*call) < 0:
        raise OSError(ctypes.get_errno(), "")
open("a", "w").close()
os.umask(0)
for bit in (0o4000, 0o2000):
    ask(f"chmod {{bit:o}}", lambda: os.chmod("a", 0o755 | bit))
    ask(f"fchmod {{bit:o}}", lambda: raw(91, os.open("a", 0), 0o755 | bit))
    ask(f"fchmodat {{bit:o}}", lambda: raw(268, -100, b"a", 0o755 | bit))
    ask(f"fchmodat2 {{bit:o}}", lambda: raw(452, -100, b"a", 0o755 | bit, 0))
    ask(f"open {{bit:o}}", lambda: os.open(f"b{{bit}}", os.O_CREAT | 1, 0o755 | bit))
    ask(f"mknod {{bit:o}}", lambda: os.mknod(f"c{{bit}}", 0o100755 | bit))
how = (ctypes.c_uint64 * 3)(0o101, 0o4755, 0)
ask("openat2", lambda: raw(437, -100, b"d", how, 24))
ask("plain", lambda: os.chmod("a", 0o755))
ask("sticky", lambda: os.mkdir("e", 0o1777))
print(json.dumps(found), flush=True)
"""


@pytest.mark.parametrize("nested", [False, True])
async def test_box_makes_no_setuid_file_in_a_shared_folder(tmp_path, nested):
    share = tmp_path / "share"
    share.mkdir()
    found = await said(
        tmp_path,
        MAKES.format(place=str(share)),
        writable=(share,),
        user_namespaces=nested,
    )
    assert (found.pop("plain"), found.pop("sticky")) == ("done", "done")
    assert found.pop("openat2") == "ENOSYS"  # programs fall back to openat
    assert set(found.values()) <= {"EPERM", "ENOSYS"}, found
    assert [p for p in Path(share).iterdir() if p.stat().st_mode & 0o6000] == []
