"""Ask the kernel what a program may do here, and print the answers as one line of JSON.

It runs inside of each kind of sandbox, with its Python: standard library only, and no
file but this one.  An answer is the effect: a call counts as open if it did what it is
for, or if the kernel answered, not a filter.  ``docs/tables/kernel_access.py`` has the
expected answers.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import resource
import signal
import socket
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

# The later calls have the same number on every architecture.
CALLS = {
    "x86_64": {
        "clone": 56,
        "io_setup": 206,
        "add_key": 248,
        "perf_event_open": 298,
        "bpf": 321,
        "userfaultfd": 323,
    },
    "aarch64": {
        "clone": 220,
        "io_setup": 0,
        "add_key": 217,
        "perf_event_open": 241,
        "bpf": 280,
        "userfaultfd": 282,
    },
}.get(platform.machine(), {})
OPEN_TREE, FSCONFIG, CLONE3, MOUNT_SETATTR, IO_URING_SETUP = 428, 431, 435, 442, 425
NEWUSER, NEWNS, NEWNET = 0x10000000, 0x20000, 0x40000000
OTHER_NAMESPACES = {
    "mount": NEWNS,
    "network": NEWNET,
    "pid": 0x20000000,
    "ipc": 0x8000000,
    "uts": 0x4000000,
    "cgroup": 0x2000000,
    "time": 0x80,
}
SECONDS = 20
KEY = "vitrail-probe"
MANY_TERMINALS, MANY_INSTANCES, MANY_GROUPS = 300, 120, 40


def call(number, *arguments):
    """Make a system call; raise OSError if it fails."""
    longs = [a if isinstance(a, bytes) else ctypes.c_long(a) for a in arguments]
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *longs)
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result


def checked(result):
    """Raise OSError if a function of the C library has failed."""
    if result < 0:
        raise OSError(ctypes.get_errno(), "")


def in_child(work):
    """Do a work in a child; return its answer, or the name of its error.

    A child that is killed by a filter is an answer, too.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)
        os.close(read)
        try:
            answer = work()
        except OSError as error:
            answer = errno.errorcode.get(error.errno, str(error))
        except BaseException as error:
            answer = repr(error)
        os.write(write, json.dumps(answer).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        data = pipe.read()
    status = os.waitpid(child, 0)[1]
    return json.loads(data) if data else f"signal {os.WTERMSIG(status)}"


def is_done(work):
    """Return whether a work succeeds in a child."""

    def done():
        work()
        return True

    return in_child(done) is True


def opened(done):
    """Return the word of the table."""
    return "yes" if done else "no"


# -- namespaces and mounts ------------------------------------------------------------


def enter(flags):
    """Make namespaces, with a user namespace if they need one."""
    if libc.unshare(flags) < 0:
        checked(libc.unshare(NEWUSER | flags))


def clone_user():
    """Make a user namespace by clone(2)."""
    child = call(CALLS["clone"], NEWUSER | signal.SIGCHLD, 0, 0, 0, 0)
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def clone3_user():
    """Make a user namespace by clone3(2), whose flags no filter can read."""
    fields = struct.pack("11Q", NEWUSER, 0, 0, 0, signal.SIGCHLD, *[0] * 6)
    child = call(CLONE3, fields, len(fields))
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def mount_own(kind):
    """Mount a file system in a mount namespace of one's own."""
    enter(NEWNS)
    checked(
        libc.mount(
            b"none", b"/tmp", kind, 0, b"ptmxmode=0666" if kind == b"devpts" else b""
        )
    )


def reached_mount_calls():
    """Return which calls of mounting the kernel itself answers.

    Each has an argument for which it does not answer EPERM.
    """
    attempts = {
        "setns": lambda: checked(libc.setns(os.open("/", os.O_RDONLY), 0)),
        "mount": lambda: checked(
            libc.mount(b"none", ctypes.c_void_p(1), b"tmpfs", 0, 0)
        ),
        "umount2": lambda: checked(libc.umount2(b"/", 1 << 30)),
        "open_tree": lambda: call(OPEN_TREE, -100, b"/", 0),
        "fsconfig": lambda: call(FSCONFIG, -1, 99, 0, 0, 0),
        "mount_setattr": lambda: call(MOUNT_SETATTR, -1, b"/", 1 << 30, 0, 0),
    }
    refusals = {"EPERM", "ENOSYS"}
    return [name for name, work in attempts.items() if in_child(work) not in refusals]


# -- what the kernel opens to capabilities, and what no namespace divides -------------------


def send_table():
    """Add a table of nf_tables in a network namespace of one's own."""
    enter(NEWNET)
    netfilter = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
    netfilter.settimeout(5)
    name = struct.pack("HH", 6, 1) + b"t\0\0\0"
    batch = b""
    for number, (kind, payload) in enumerate(
        (
            (0x10, struct.pack("!BBH", 0, 0, 10)),
            (0xA00, b"\2\0\0\0" + name),
            (0x11, struct.pack("!BBH", 0, 0, 10)),
        )
    ):
        flags = 0x405 if kind == 0xA00 else 1
        batch += (
            struct.pack("IHHII", 16 + len(payload), kind, flags, number, 0) + payload
        )
    netfilter.send(batch)
    code = -struct.unpack_from("i", netfilter.recv(4096), 16)[0]
    if code in (errno.EPERM, errno.EACCES):
        raise OSError(code, "")


def open_packets():
    """Open a packet socket, in a network namespace of one's own if need be."""
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()
    except OSError:
        enter(NEWNET)
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()


def open_faults():
    """Open a userfaultfd, also one of the program's own pages alone."""
    try:
        call(CALLS["userfaultfd"], 0)
    except OSError:
        call(CALLS["userfaultfd"], 1)


def read_names_of_keys():
    """Read the name of a key that the test has given the user."""
    with open("/proc/keys") as file:
        if KEY not in file.read():
            raise OSError(errno.ENODATA, "")


def map_huge():
    """Map a huge page, without a reservation."""
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 4]
    if (
        libc.mmap(None, 2 << 20, 3, 0x4022 | 0x40000, -1, 0)
        == ctypes.c_void_p(-1).value
    ):
        raise OSError(ctypes.get_errno(), "")


def trace():
    """Have the kernel run a program for events of this process."""
    attributes = struct.pack("IIQ", 1, 112, 0) + bytes(96)
    call(CALLS["perf_event_open"], attributes, 0, -1, -1, 0)


def load():
    """Make a map of bpf(2)."""
    call(CALLS["bpf"], 0, struct.pack("5I", 2, 4, 4, 1, 0) + bytes(108), 128)


# -- numbers -----------------------------------------------------------------------------


def count_terminals(path="/dev/ptmx"):
    """Return how many pseudo-terminals one program opens, until MANY_TERMINALS."""
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2
    )
    number = 0
    while number < MANY_TERMINALS:
        try:
            os.open(path, os.O_RDWR | os.O_NOCTTY)
        except OSError as error:
            if error.errno == errno.EMFILE:
                break
            return number
        number += 1
    return number


def count_own_terminals():
    """Return how many terminals a devpts of one's own adds."""
    mount_own(b"devpts")
    return count_terminals("/tmp/ptmx")


def count_instances():
    """Return how many instances of inotify there are to be had, until MANY_INSTANCES."""
    for number in range(MANY_INSTANCES):
        if libc.inotify_init1(0) < 0:
            return number
    return MANY_INSTANCES


def mounts():
    """Return the fields of each line of the table of mounts."""
    with open("/proc/self/mountinfo") as file:
        return [line.split() for line in file]


def count_groups():
    """Return how many control groups one program makes; remove them."""
    groups = []
    roots = [
        fields[4] for fields in mounts() if fields[fields.index("-") + 1] == "cgroup2"
    ]
    try:
        for root in roots:
            for directory, _, _ in os.walk(root):
                while len(groups) < MANY_GROUPS:
                    path = f"{directory}/vitrail-probe-{os.getpid()}-{len(groups)}"
                    try:
                        os.mkdir(path)
                    except OSError:
                        break
                    groups.append(path)
    finally:
        for path in groups:
            os.rmdir(path)
    return len(groups)


def memory_sizes():
    """Return the sizes of file systems in memory that may be written, by path, as parts of memory."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    sizes, devices = {}, set()
    for fields in mounts():
        path = fields[4].encode().decode("unicode_escape")
        kind = fields[fields.index("-") + 1]
        if kind not in ("tmpfs", "ramfs") or fields[2] in devices:
            continue
        if not os.access(path, os.W_OK):
            continue
        devices.add(fields[2])
        facts = os.statvfs(path)
        # Without a size it may take all memory.
        size = facts.f_blocks * facts.f_frsize or memory
        sizes[path] = round(size / memory, 3)
    return sizes


def memory_limit():
    """Return the limit of the control group, in bytes; 0 without one."""
    try:
        with open("/sys/fs/cgroup/memory.max") as file:
            text = file.read().strip()
    except OSError:
        return 0
    return 0 if text == "max" else int(text)


def read_score():
    """Return oom_score_adj."""
    with open("/proc/self/oom_score_adj") as file:
        return file.read().strip()


def lower_score():
    """Set oom_score_adj to that of the user's programs."""
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("0")


def lowest_score():
    """Return 0 if a program can set that, otherwise its oom_score_adj."""
    return "0" if is_done(lower_score) else read_score()


def hard(name):
    """Return a hard limit; -1 if there is none."""
    return resource.getrlimit(getattr(resource, name))[1]


def main():
    """Print the answers."""
    others = [
        n for n, flag in OTHER_NAMESPACES.items() if is_done(lambda f=flag: enter(f))
    ]
    sizes = memory_sizes()
    answers = {
        "user namespaces, by unshare(2)": opened(
            is_done(lambda: checked(libc.unshare(NEWUSER)))
        ),
        "user namespaces, by clone(2)": opened(is_done(clone_user)),
        "user namespaces, by clone3(2)": opened(is_done(clone3_user)),
        "other namespaces": ", ".join(others) or "no",
        "separate mounts": opened(is_done(lambda: mount_own(b"tmpfs"))),
        "calls about mounts": ", ".join(reached_mount_calls()) or "no",
        "nf_tables": opened(is_done(send_table)),
        "packet sockets": opened(is_done(open_packets)),
        "AF_VSOCK": opened(is_done(lambda: socket.socket(socket.AF_VSOCK).close())),
        "io_uring": opened(is_done(lambda: call(IO_URING_SETUP, 1, bytes(120)))),
        "userfaultfd(2)": opened(is_done(open_faults)),
        "bpf(2)": opened(is_done(load)),
        "perf_event_open(2)": opened(is_done(trace)),
        "keyrings": opened(
            is_done(lambda: call(CALLS["add_key"], b"user", b"own", b"-", 1, -1))
        ),
        "names of your keys": opened(is_done(read_names_of_keys)),
        "huge pages": opened(is_done(map_huge)),
        "contexts of aio": opened(
            is_done(lambda: call(CALLS["io_setup"], 1, bytes(8)))
        ),
        "pseudo-terminals": in_child(count_terminals),
        "terminals of a separate devpts": in_child(count_own_terminals),
        "new control groups": in_child(count_groups),
        "largest file system in memory": max(sizes.values(), default=0),
        # To whole percent: a directory of a fixed size is 0.1 % of a small memory.
        "all file systems in memory": round(sum(sizes.values()), 2),
        "inotify instances": in_child(count_instances),
        "open files": hard("RLIMIT_NOFILE"),
        "processes": hard("RLIMIT_NPROC"),
        "bytes of locked memory": hard("RLIMIT_MEMLOCK"),
        "pending signals, timers": hard("RLIMIT_SIGPENDING"),
        "bytes of message queues": hard("RLIMIT_MSGQUEUE"),
        "real-time priority": hard("RLIMIT_RTPRIO"),
        "memory": memory_limit(),
        "oom_score_adj": read_score(),
        "lowest oom_score_adj that a program can set": lowest_score(),
    }
    answers["sizes"] = sizes
    sys.stdout.write(json.dumps(answers) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
