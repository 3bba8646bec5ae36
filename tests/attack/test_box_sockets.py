"""Attack from inside a box: kernel interfaces that namespaces do not divide.

AF_VSOCK has no network namespace: a program in a box could listen on the broker's
ports after the broker's death, or speak with the services of other machines.
"""

from __future__ import annotations

import sys

import pytest
import trio

from broker.host.launchers.bubblewrap.arguments import Box
from tests.kit.boxes import start_held
from tests.kit.needs import requires

pytestmark = requires("bwrap", "/usr/bin/python3")
TRY = """
import ctypes, errno, socket
libc = ctypes.CDLL(None, use_errno=True)
def tried(action):
    try:
        answer = action()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "worked"
def call(number, *arguments):
    def run():
        if libc.syscall(number, *arguments) < 0:
            raise OSError(ctypes.get_errno(), "")
    return run
def typed():
    import fcntl
    fcntl.ioctl(0, 0x5412, b"x")
print("vsock", tried(lambda: socket.socket(socket.AF_VSOCK).bind((socket.VMADDR_CID_ANY, 65521))))
print("alg", tried(lambda: socket.socket(socket.AF_ALG)))
print("packet", tried(lambda: socket.socket(socket.AF_PACKET)))
print("io_uring", tried(call(425, 0, None)))
print("bpf", tried(call(321, 99, None, 0)))
print("keys", tried(call(250, 0, -3, 1)))
print("perf", tried(call(298, None, 0, -1, -1, 0)))
print("typing", tried(typed))
print("unix", tried(lambda: socket.socket(socket.AF_UNIX)))
print("loopback", tried(lambda: socket.socket(socket.AF_INET).bind(("127.0.0.1", 0))))
print("names", tried(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)))
"""
REFUSED = {
    **dict.fromkeys(("vsock", "alg", "packet"), "EAFNOSUPPORT"),
    **dict.fromkeys(("io_uring",), "ENOSYS"),
    **dict.fromkeys(("bpf", "keys", "perf", "typing"), "EPERM"),
}
NEEDED = {"unix": "worked", "loopback": "worked", "names": "worked"}


@pytest.mark.skipif(sys.platform != "linux", reason="system calls by number")
async def test_what_namespaces_do_not_divide_is_refused(tmp_path):
    box = Box(("/usr/bin/python3", "-I", "-c", TRY), tmp_path)
    with trio.fail_after(60):
        held = await start_held(box)
        try:
            held.release()
            with held.child.popen.stdout as stdout, held.child.popen.stderr as stderr:
                out = await trio.to_thread.run_sync(stdout.read)
                err = await trio.to_thread.run_sync(stderr.read)
        finally:
            await held.end()
    found = dict(line.split() for line in out.decode().splitlines())
    assert found == {**REFUSED, **NEEDED}, err.decode()
