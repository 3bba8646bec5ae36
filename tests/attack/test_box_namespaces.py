"""Attack from inside a box: the kernel's parts that namespaces open, and its counters.

A program that may make a user namespace has all capabilities in it, and with them
nf_tables, overlayfs, mounts and traffic control of the kernel.  And what the kernel
counts for a user id it counts for the person's, whatever the namespace: nested user
namespaces and inotify instances of one box could be all that there are.
"""

from __future__ import annotations

import os
from contextlib import ExitStack

import pytest

from broker.core import limits
from broker.core.errors import UpstreamError
from broker.helpers.process import namespace_limits
from broker.host.launchers.bubblewrap.subordinate import subordinate_namespace
from tests.kit.boxes import said
from tests.kit.needs import requires

pytestmark = requires("bwrap", "/usr/bin/python3")

WAYS_IN = """
import ctypes, errno, json, os, resource, signal
libc = ctypes.CDLL(None, use_errno=True)
found = {}
def ask(name, *call):
    ctypes.set_errno(0)
    done = call[0](*call[1:])
    found[name] = "done" if done >= 0 else errno.errorcode[ctypes.get_errno()]
KINDS = dict(mnt=0x20000, cgroup=0x2000000, uts=0x4000000, ipc=0x8000000,
             user=0x10000000, pid=0x20000000, net=0x40000000)
for name, bit in KINDS.items():
    ask("unshare " + name, libc.unshare, bit)
def clone(flags):
    pid = libc.syscall(56, flags | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    return pid
ask("clone", clone, KINDS["user"])
ask("clone3", libc.syscall, 435, 0, 0)
ask("setns", libc.setns, os.open("/proc/self/ns/user", 0), 0)
ask("mount", libc.mount, b"none", b"/tmp", b"tmpfs", 0, 0)
ask("open_tree", libc.syscall, 428, -100, b"/tmp", 1)
ask("fsopen", libc.syscall, 430, b"tmpfs", 0)
print(json.dumps(found))
"""

COUNT = """
import ctypes, errno, json, os, resource, socket
libc = ctypes.CDLL(None, use_errno=True)
def chain():
    made = 0
    while made < 200:
        here, there = os.pipe()
        if os.fork() == 0:
            # Each in a separate child, held by a descriptor.
            os.write(there, b"y" if libc.unshare(0x10000000) == 0 else b"n")
            os.read(held[0], 1)
            os._exit(0)
        if os.read(here, 1) == b"n":
            break
        os.close(here); os.close(there)
        made += 1
    return made
held = os.pipe()
found = {"namespaces": chain()}
instances = []
while len(instances) < 200:
    fd = libc.inotify_init1(0)
    if fd < 0:
        break
    instances.append(fd)
found["inotify"] = len(instances)
for name in ("SIGPENDING", "MSGQUEUE"):
    found[name] = resource.getrlimit(getattr(resource, "RLIMIT_" + name))[1]
for name in os.listdir("/proc/sys/user"):
    found[name] = int(open("/proc/sys/user/" + name).read())
print(json.dumps(found), flush=True)
os._exit(0)
"""


async def test_a_box_has_no_namespaces_and_no_mounts(tmp_path):
    found = await said(tmp_path, WAYS_IN)
    assert found.pop("clone3") == "ENOSYS"  # glibc falls back to clone
    assert found == dict.fromkeys(found, "EPERM")


async def test_a_box_that_may_nest_makes_few(tmp_path):
    found = await said(tmp_path, COUNT, user_namespaces=True)
    assert 0 < found["namespaces"] <= limits.BOX_NAMESPACES


async def test_a_box_takes_few_of_what_is_counted_for_the_user(tmp_path):
    found = await said(tmp_path, COUNT)
    assert found["namespaces"] == 0
    assert found["inotify"] == limits.BOX_INOTIFY_INSTANCES
    assert found["max_inotify_watches"] == limits.BOX_INOTIFY_WATCHES
    assert found["max_net_namespaces"] == 3, "the box has one, its cables the others"
    assert found["max_user_namespaces"] == found["max_mnt_namespaces"] == 0
    assert found["SIGPENDING"] == limits.BOX_SIGNALS
    assert found["MSGQUEUE"] == limits.BOX_MESSAGE_BYTES


async def test_a_box_whose_counters_cannot_be_limited_does_not_start(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(namespace_limits, "_PLACE", "/proc/self/ns/user")
    with pytest.raises(UpstreamError, match="limits"):
        await said(tmp_path, COUNT)


def test_our_own_namespace_is_not_a_boxs():
    with pytest.raises(UpstreamError, match="did not create a user namespace"):
        namespace_limits.open_user_namespace(os.getpid())


EPOLL = """
import ctypes, json, os, select, stat
mine = os.stat(os.environ["HOME"]), os.stat(os.environ["XDG_RUNTIME_DIR"])
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({
    "map": open("/proc/self/uid_map").read().split(),
    "uid": os.getuid(), "gid": os.getgid(), "groups": os.getgroups(),
    "owned": [(s.st_uid, stat.S_IMODE(s.st_mode)) for s in mine],
    "rights": {n: int(status[n], 16) for n in status if n.startswith("Cap")},
    "new": status["NoNewPrivs"].strip(),
    "root": [call() for call in (lambda: ctypes.CDLL(None).setuid(0),)],
}), flush=True)
os.read(0, 1)
import time; time.sleep(60)
"""


async def test_a_box_has_a_user_id_of_its_own_for_the_kernels_counters(tmp_path):
    with ExitStack() as stack:
        if subordinate_namespace(stack, (os.getuid(), os.getgid())) is None:
            pytest.skip("no subordinate user ids here (newuidmap, /etc/subuid)")
    found = await said(tmp_path, EPOLL)
    within, outside = found["map"][0::3], found["map"][1::3]
    assert found["uid"] == os.getuid() == int(within[1])
    assert within[0] == "0", "bubblewrap itself, which has no capabilities any more"
    assert found["gid"] == os.getgid()
    # Of its group outside nothing is left: files of the user's group are not its own.
    assert found["groups"] == []
    assert outside[1] != str(os.getuid())
    assert found["owned"] == [[os.getuid(), 0o700]] * 2
    assert found["rights"] == dict.fromkeys(found["rights"], 0)
    assert found["new"] == "1"
    assert found["root"] == [-1]


async def test_a_box_with_files_of_the_user_keeps_the_users_id(tmp_path):
    kept = tmp_path / "kept"
    kept.write_text("")
    kept.chmod(0o600)
    found = await said(tmp_path, EPOLL, files=(kept,))
    assert len(found["map"]) == 3
    assert found["rights"] == dict.fromkeys(found["rights"], 0)
