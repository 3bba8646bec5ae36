"""The table of allowed system calls of which a flag or a sibling does what is denied.

``python -m docs.tables.system_calls`` prints the part between the marks in
``docs/jails.md``.  ``tests/attack/test_widened_calls.py`` tries each row in each list.
"""

from __future__ import annotations

from dataclasses import dataclass

LISTS = {
    "authority": "the authority",
    "viewer": "the viewer",
    "keeper": "keepers, dialogs, the prompt for screen readers, the writer to a terminal",
    "workers": "the fork server of workers",
    "worker": "workers",
    "pump": "pumps",
    "acceptor": "acceptors",
    "frames": "frameguard, netguard, flowguard, switch, security key, unpacking of kernels",
    "vmm": "QEMU, vhost-device-vsock",
    "renderer": "vhost-user-gpu",
    "ports": "port-mux",
    "folders": "virtiofsd",
    "box": "boxes, services and tools in bubblewrap's jail",
    "tool": "the same without UNIX sockets: shippers, launch tools",
    "tree": "systemd-nspawn and its container",
    "files": "the process that sends and keeps files",
}
"""Each list of system calls, and whose it is."""

_SESSION = frozenset({"authority", "viewer", "keeper"})
_ALLOWING = frozenset({"worker", "pump", "acceptor", "frames", "ports"})
"""Lists of what is allowed; the others are of what is denied."""
_MACHINE = frozenset({"vmm", "renderer", "folders"})
_BOXES = frozenset({"box", "tool", "tree"})
_ALL = frozenset(LISTS)

_OWN = "Its own namespace of processes has no others."
_OWN_NETWORK = "Its own network, and no socket of another one."


@dataclass(frozen=True)
class Widening:
    """A form of a call that would do what the list denies otherwise."""

    call: str
    form: str
    effect: str
    closed: frozenset[str]
    """The lists in which this form fails."""
    left: str = ""
    """Why it may stay in the others."""


WIDENINGS = (
    Widening(
        "pidfd_send_signal",
        "PIDFD_SIGNAL_PROCESS_GROUP",
        "One pidfd is the key to all processes of a group.",
        _ALL - _BOXES,
        _OWN,
    ),
    Widening(
        "pidfd_send_signal",
        "SIGSTOP",
        "What ends something with its permit does not run.",
        _ALL - _BOXES - {"authority", "keeper"},
        "A keeper has the pidfd of its worker alone, the authority those of its helpers.",
    ),
    Widening(
        "tgkill",
        "another process",
        "kill(2) by a thread.",
        _ALL - _BOXES - _MACHINE,
        _OWN,
    ),
    Widening(
        "fcntl",
        "F_SETOWN",
        "The kernel signals another process for it.",
        _ALL - _BOXES - _MACHINE,
        _OWN,
    ),
    Widening(
        "fcntl",
        "F_SETOWN_EX",
        "The same.",
        _ALL - _BOXES - _MACHINE,
        _OWN,
    ),
    Widening(
        "fcntl",
        "F_SETSIG",
        "And sends any signal.",
        _ALL - _BOXES - _MACHINE,
        _OWN,
    ),
    Widening(
        "ioctl",
        "FIOSETOWN",
        "F_SETOWN of a socket.",
        _ALL - _BOXES - _MACHINE - {"files"},
        _OWN + " The process for files has no socket.",
    ),
    Widening(
        "fcntl",
        "F_SETFL with O_ASYNC",
        "A terminal's next key ends the program in its foreground (SIGIO), without F_SETOWN.",
        _ALL - _BOXES - _MACHINE - {"files"},
        "It has no terminal of yours.",
    ),
    Widening(
        "ioctl",
        "FIOASYNC",
        "The same.",
        _ALL - _BOXES - _MACHINE - {"files"},
        "It has no terminal of yours.",
    ),
    Widening(
        "ioctl",
        "TIOCSTI",
        "Types into a terminal.",
        _ALL - _MACHINE - {"tree", "files"},
        "It has no terminal of yours.",
    ),
    Widening(
        "prlimit64",
        "another process",
        "A limit of processor time ends it.",
        _ALL - _BOXES - _MACHINE - {"ports"},
        _OWN,
    ),
    Widening(
        "sched_setaffinity",
        "another process",
        "It runs on one processor.",
        _ALL - _BOXES - _MACHINE,
        _OWN,
    ),
    Widening(
        "migrate_pages",
        "another process",
        "Its memory moves.",
        _ALL - _BOXES - _MACHINE,
        _OWN,
    ),
    Widening(
        "prctl",
        "PR_SCHED_CORE",
        "Another process shares no core with others any more.",
        _ALL - _BOXES - _MACHINE,
        _OWN,
    ),
    Widening(
        "getsockopt",
        "SO_PEERPIDFD",
        "A pidfd without pidfd_open(2).",
        frozenset({"viewer", "keeper", "frames", "ports"}),
        "The authority looks up its callers; the others may not signal by a pidfd, or have "
        "no other process.",
    ),
    Widening(
        "execveat",
        "AT_EMPTY_PATH",
        "Executes a memory file where execve(2) has no path to one.",
        _ALL - _BOXES,
        "Boxes execute programs.",
    ),
    Widening(
        "clone3",
        "flags behind a pointer",
        "A filter cannot read them: namespaces, processes.",
        _ALL - {"tree", "workers"},
        "The fork server of workers makes jails; a container has what systemd-nspawn gives it.",
    ),
    Widening(
        "clone",
        "CLONE_NEWUSER",
        "All capabilities in a new namespace: the kernel's largest interfaces.",
        _ALL - {"tree", "workers"},
        "As above.",
    ),
    Widening(
        "unshare",
        "CLONE_NEWUSER",
        "The same.",
        _ALL - {"tree", "workers"},
        "As above.",
    ),
    Widening(
        "sendto",
        "MSG_FASTOPEN",
        "Connects a TCP socket; neither a rule about connect(2) nor Landlock sees it.",
        _SESSION | _ALLOWING,
        _OWN_NETWORK,
    ),
    Widening(
        "sendmsg",
        "MSG_FASTOPEN",
        "The same.",
        _SESSION | _ALLOWING,
        _OWN_NETWORK,
    ),
    Widening(
        "sendmmsg",
        "MSG_FASTOPEN",
        "The same.",
        _SESSION | _ALLOWING,
        _OWN_NETWORK,
    ),
    Widening(
        "setsockopt",
        "TCP_FASTOPEN_CONNECT",
        "The first write(2) connects.",
        _SESSION | _ALLOWING,
        _OWN_NETWORK,
    ),
    Widening(
        "connect",
        "AF_UNSPEC",
        "Takes a socket of datagrams off its far end, for another one.",
        (_ALLOWING - {"ports"}) | {"viewer", "workers", "files"},
        "The authority and keepers connect by path; the others have a network of their own.",
    ),
    Widening(
        "sendto",
        "an address",
        "Sends by a socket of datagrams that was received, to any path or port.",
        frozenset({"pump", "acceptor", "frames"}),
        "A filter cannot read the address of sendmsg(2): who has that call makes no such "
        "socket (viewer), or sees no path and no port of yours (workers, machines, boxes). "
        "**Left**: a container's worker and the viewer, both taken over, can pass the viewer "
        "one.",
    ),
    Widening(
        "socketpair",
        "another family",
        "Loads its module and makes its sockets where socket(2) is denied; TIPC has pairs.",
        _ALL - {"workers", "tree"},
        _OWN_NETWORK,
    ),
    Widening(
        "socketpair",
        "SOCK_RAW",
        "A pair of datagrams, of which an end can send to any name.",
        _ALLOWING | {"viewer", "tool", "files"},
        "It may make sockets of datagrams.",
    ),
    Widening(
        "fcntl",
        "F_SETLEASE",
        "Each program that opens the file waits for 45 seconds.",
        _ALL - {"vmm"},
        "It has no file of yours but the machine's.",
    ),
    Widening(
        "mmap",
        "MAP_HUGETLB",
        "Takes the machine's huge pages, which you reserve for micro VMs.",
        _ALL - {"vmm"},
        "Machines are what they are reserved for.",
    ),
    Widening(
        "memfd_create",
        "MFD_HUGETLB",
        "The same.",
        _ALL - {"vmm", "files"},
        "As above; the process for files may not map one.",
    ),
    Widening(
        "io_setup",
        "a context",
        "One call can take all contexts of the machine (fs.aio-max-nr).",
        _ALL - {"vmm"},
        "QEMU reads disks by it.",
    ),
    Widening(
        "fcntl",
        "F_ADD_SEALS with F_SEAL_FUTURE_WRITE",
        "Seals a file that another program writes.",
        _ALLOWING,
        "It has no such file of another program but those that a sandbox shares.",
    ),
    Widening(
        "fcntl",
        "F_SETPIPE_SZ",
        "Takes pages that the kernel counts for you: your next pipes are small.",
        _ALLOWING,
        "It could make pipes until then as well; ours work with one page "
        "([attack](../tests/attack/test_small_pipes.py)).",
    ),
    Widening(
        "mmap",
        "PROT_EXEC and PROT_WRITE",
        "New code.",
        _ALLOWING,
        "Its code is a loader's, or runs after it was taken over without new code.",
    ),
    Widening(
        "mprotect",
        "PROT_EXEC",
        "The same.",
        _ALLOWING,
        "As above.",
    ),
    Widening(
        "pkey_mprotect",
        "PROT_EXEC",
        "mprotect(2) by another name.",
        _ALLOWING,
        "As above.",
    ),
    Widening(
        "newfstatat",
        "a path",
        "Tells of files where no path may be looked at (AT_EMPTY_PATH has a path, too).",
        frozenset({"pump", "acceptor", "frames"}),
        "Landlock or an empty root is around it.",
    ),
    Widening(
        "statx",
        "a path",
        "The same.",
        _ALLOWING,
        "As above.",
    ),
    Widening(
        "fchmodat2",
        "AT_EMPTY_PATH",
        "Changes a file's mode, which Landlock does not govern.",
        _ALLOWING | {"viewer", "keeper"},
        "The authority has a directory for its sockets; the others see no file of yours, or "
        "those that they may write. Set-id bits are denied there.",
    ),
    Widening(
        "fchmodat2",
        "a set-id bit",
        "The file runs with your rights for another user.",
        _ALLOWING | {"viewer", "keeper", "folders", "box", "tool"},
        "It keeps no file of a sandbox's with such a bit, or its mount ignores it.",
    ),
    Widening(
        "openat2",
        "a mode behind a pointer",
        "The same.",
        _ALLOWING | {"viewer", "folders", "box", "tool"},
        "As above.",
    ),
    Widening(
        "fchmod",
        "of a file to read",
        "chmod(2) of each file that may be opened.",
        frozenset({"viewer", "pump", "acceptor", "frames", "ports", "worker"}),
        "It opens no file of yours, or those that it may write.",
    ),
    Widening(
        "fsetxattr",
        "of a file to read",
        "The same of attributes.",
        frozenset({"viewer", "pump", "acceptor", "frames", "ports", "worker"}),
        "As above.",
    ),
    Widening(
        "ioctl",
        "FS_IOC_SETFLAGS",
        "The same of flags, as chattr(1) sets.",
        _ALLOWING | {"viewer"},
        "As above.",
    ),
    Widening(
        "setxattrat",
        "Linux 6.13",
        "setxattr(2) under a number that libseccomp may not know.",
        _ALLOWING | {"viewer", "keeper"},
        "As above.",
    ),
    Widening(
        "inotify_add_watch",
        "a directory",
        "Tells the names in directories that cannot be opened.",
        _ALLOWING | {"viewer", "keeper"},
        "The authority watches rules; the others see no directory of yours but those shared.",
    ),
    Widening(
        "shmget",
        "a key",
        "Memory of your other programs without a descriptor.",
        _SESSION | _ALLOWING | {"workers"},
        "Its own namespace of System V objects.",
    ),
    Widening(
        "splice",
        "without SPLICE_F_NONBLOCK",
        "Waits in a pipe that the sandbox holds full.",
        frozenset({"worker", "acceptor", "frames", "ports"}),
        "Pumps have pipes of their own between; the others wait for themselves.",
    ),
)

_KERNEL = """\
Looked at, and closed by the kernel or without effect:
timers and message queues signal threads of the caller alone (SIGEV_THREAD_ID, mq_notify(2));
F_NOTIFY signals the caller, about a directory that it has open;
prctl(2) otherwise changes the caller;
MSG_OOB signals a socket's owner, which F_SETOWN sets;
SCM_CREDENTIALS with another process's number needs a capability, and SCM_PIDFD the option SO_PASSPIDFD;
a file handle is opened by none of our processes (open_by_handle_at(2) kills);
setpgid(2) moves the caller and its children.
What a received descriptor can do comes with it (SCM_RIGHTS): a process that reads hostile bytes receives none that it does not need, and none of a listening TCP socket.
"""


def _alike() -> list[list[Widening]]:
    """Return the rows, those together that do the same as the row before them."""
    rows: list[list[Widening]] = []
    for row in WIDENINGS:
        first = rows[-1][0] if rows else row
        lefts = {first.left, "As above."}
        if (
            row.effect == "The same."
            and first.closed == row.closed
            and row.left in lefts
        ):
            rows[-1].append(row)
        else:
            rows.append([row])
    return rows


def markdown() -> str:
    """Return the part of ``docs/jails.md`` between the marks."""
    lines = ["| list | processes |", "| --- | --- |"]
    lines += [f"| {name} | {whose} |" for name, whose in LISTS.items()]
    lines += ["", "| call | form | what it would do | closed in | open elsewhere |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for row, *same in _alike():
        closed = ", ".join(name for name in LISTS if name in row.closed)
        if len(row.closed) > len(LISTS) / 2:
            kept = ", ".join(name for name in LISTS if name not in row.closed)
            closed = f"all but {kept}" if kept else "all"
        calls, forms = (
            ", ".join(dict.fromkeys(texts))
            for texts in zip(
                *((f"`{r.call}`", r.form) for r in (row, *same)), strict=True
            )
        )
        cells = (calls, forms, row.effect, closed, row.left)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", _KERNEL])


if __name__ == "__main__":
    print(markdown())
