"""OpenSSH's sftp-server in a jail: the server of one folder for one guest.

The guest's requests are parsed there and nowhere else.  Its root has the libraries that
it is linked with and one empty, read-only directory; the folder is mounted on that in
its namespace alone before the program starts, read-only where the rule says so.

Sources: sftp-server(8), bwrap(1), draft-ietf-secsh-filexfer-02.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from broker.core.files.opened_folder import OpenedFolder
from broker.core.limits import host_viewer as folder_limits
from broker.helpers.mounts import mounts
from broker.helpers.process import program_filters
from broker.helpers.process.jail_libraries import find_program, library_words
from broker.helpers.process.spawn import DEVNULL, Child, spawn
from broker.helpers.process.tool_jail import read_leader
from broker.ipc.sealed_memfd import sealed

ROOT, PLACE = "/shared", "here"
_PROGRAMS = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server")


def find_sftp_server() -> Path:
    """Return the program.  Raises SetupError where it is not installed."""
    return find_program(
        _PROGRAMS,
        "folders of sandboxes on another machine need sftp-server, which is not installed",
        hint="it is in Debian's package openssh-sftp-server, on this machine",
    )


async def serve_folder(folder: OpenedFolder, conn: int, *, write: bool) -> None:
    """Serve a directory over a connection to its end; cancelled, it is killed.

    ``conn``: a stream socket's descriptor, which stays the caller's.  Raises SetupError
    where something is not installed, UpstreamError, RefusedError.
    """
    program = find_sftp_server()
    with ExitStack() as ours:
        child, status, start = _spawn(program, conn, ours)
        try:
            pid = await read_leader(status, "the process that serves the folder")
            pidfd = os.pidfd_open(pid)
            ours.callback(os.close, pidfd)
            await mounts.wait_set_up(pid, ROOT)
            with mounts.mount_namespace(pid, pidfd) as namespace:
                await mounts.attach(
                    namespace, folder, write=write, base=ROOT, name=PLACE
                )
            os.write(start, b"1")
            await child.wait()
        finally:
            await child.kill_and_wait()


def _spawn(program: Path, conn: int, ours: ExitStack) -> tuple[Child, int, int]:
    """Start the jail; returns it, where it names its process, and what starts that."""
    status, told = os.pipe2(os.O_CLOEXEC)
    ours.callback(os.close, status)
    waits, start = os.pipe2(os.O_CLOEXEC)
    ours.callback(os.close, start)
    account = f"user:x:{os.getuid()}:{os.getgid()}::/:/\n".encode()
    with ExitStack() as theirs:
        for fd in (told, waits):
            theirs.callback(os.close, fd)
        rules, users = (
            sealed([program_filters.folder_server_filter()]),
            sealed([account]),
        )
        for fd in (rules, users):
            theirs.callback(os.close, fd)
        words = [
            *_few_resources(),
            *("bwrap", "--json-status-fd", str(told), "--block-fd", str(waits)),
            *("--seccomp", str(rules), "--ro-bind-data", str(users), "/etc/passwd"),
            *jail_words(program),
            str(program),
        ]
        child = spawn(
            words,
            name="folder",
            pass_fds=(told, waits, rules, users),
            stdin=conn,
            stdout=conn,
            stderr=DEVNULL,
        )
    return child, status, start


def _few_resources() -> list[str]:
    """Return the words before a command line that limit what a guest can have it hold."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = folder_limits.FOLDER_SERVER_FILES
    files = most if hard == resource.RLIM_INFINITY else min(most, hard)
    memory = folder_limits.FOLDER_SERVER_BYTES
    # guard: a guest has its folder's server hold few files
    return ["prlimit", f"--nofile={files}:{files}", f"--as={memory}:{memory}", "--"]


def jail_words(program: Path) -> Iterator[str]:
    """Return bubblewrap's words up to the program: pure but for the libraries' place."""
    yield from ("--unshare-all", "--die-with-parent", "--new-session", "--as-pid-1")
    yield from ("--cap-drop", "ALL", "--clearenv", "--setenv", "LC_ALL", "C.UTF-8")
    yield from library_words()
    yield from ("--ro-bind", str(program), str(program))
    yield from ("--dev-bind", "/dev/null", "/dev/null")
    yield from ("--tmpfs", ROOT, "--dir", f"{ROOT}/{PLACE}", "--remount-ro", ROOT)
    yield from ("--chdir", "/", "--remount-ro", "/", "--")
