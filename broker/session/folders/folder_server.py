"""OpenSSH's sftp-server in a jail: the server of one folder for one guest.

The guest's requests are parsed there and nowhere else.  Its root has the libraries that
it is linked with and one empty, read-only directory; the folder is mounted on that in
its namespace alone before the program starts, read-only where the rule says so.

Sources: sftp-server(8), bwrap(1), draft-ietf-secsh-filexfer-02.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from broker.core.distribution import install_hint
from broker.core.errors import UpstreamError
from broker.core.files.opened_folder import OpenedFolder
from broker.core.limits import host_viewer as folder_limits
from broker.helpers.bubblewrap_status import (
    START_SECONDS,
    STATUS_BYTES,
    leader_of,
    read_line,
)
from broker.helpers.filters import program_filters
from broker.helpers.mounts.namespaces import has_mount, mount_namespace
from broker.helpers.process import popen
from broker.helpers.process.jail_libraries import find_program, library_words
from broker.helpers.process.memory_file import memory_file
from broker.helpers.tools import profiles
from broker.session.order_exchange import OrderExchange
from broker.session.warrant_check import VerifiedPermit

ROOT, PLACE = "/shared", "here"
_LOOK_SECONDS = 0.02
_PROGRAMS = (
    "/usr/lib/openssh/sftp-server",
    "/usr/libexec/openssh/sftp-server",  # Fedora
    "/usr/libexec/ssh/sftp-server",  # Tumbleweed
    "/usr/lib/ssh/sftp-server",  # Arch, and Leap
)


def find_sftp_server() -> Path:
    """Find the program sftp-server.  Raises SetupError if it is not installed."""
    return find_program(
        _PROGRAMS,
        "folders of sandboxes on another machine need sftp-server, which is not installed",
        hint=partial(install_hint, "openssh-sftp-server"),
    )


def serve_folder(
    exchange: OrderExchange, folder: OpenedFolder, held: VerifiedPermit, *, write: bool
) -> None:
    """Serve a directory over the exchange's connection while a permit is held.

    Answers when it is served.  Raises SetupError where something is not installed,
    UpstreamError, RefusedError.  Starts an sftp server in a jail, and mounts the
    directory there.
    """
    program = find_sftp_server()
    (conn,) = exchange.fds
    account = f"user:x:{os.getuid()}:{os.getgid()}::/:/\n".encode()
    with ExitStack() as ours, ExitStack() as theirs:
        status, status_write = _pipe(ours, theirs)
        start, waits = _pipe(ours, theirs, outwards=True)
        rules = memory_file(theirs, program_filters.folder_server_filter())
        users = memory_file(theirs, account)
        command_line = [
            *_few_resources(),
            *("bwrap", "--json-status-fd", str(status_write), "--block-fd", str(waits)),
            *("--seccomp", str(rules), "--ro-bind-data", str(users), "/etc/passwd"),
            *jail_words(program),
            str(program),
        ]

        def begun(_process: popen.Process) -> None:
            theirs.close()
            report = read_line(status, STATUS_BYTES)
            leader = leader_of(report, "the process that serves the folder")
            _mount(leader, folder, write=write)
            os.write(start, b"1")
            exchange.answer()

        # guard: a folder's server ends with its permit
        exchange.run(
            command_line,
            pass_fds=(status_write, waits, rules, users),
            stdin=conn,
            stdout=conn,
            stderr=popen.DEVNULL,
            on_start=begun,
            permit=held,
        )


def _pipe(
    ours: ExitStack, theirs: ExitStack, *, outwards: bool = False
) -> tuple[int, int]:
    """Create a pipe; return our end and the other one, each owned by a stack."""
    read, write = os.pipe2(os.O_CLOEXEC)
    own, other = (write, read) if outwards else (read, write)
    ours.callback(os.close, own)
    theirs.callback(os.close, other)
    return own, other


def _mount(pid: int, folder: OpenedFolder, *, write: bool) -> None:
    """Mount the folder in the jail, which waits for that.  Raises UpstreamError."""
    until = time.monotonic() + START_SECONDS
    while not has_mount(pid, ROOT):
        if time.monotonic() > until:
            raise UpstreamError(
                f"the folder's sftp-server did not start within {START_SECONDS:g} s"
            )
        # The kernel reports no mount of another process's as an event.
        time.sleep(_LOOK_SECONDS)
    with (
        os.fdopen(os.pidfd_open(pid)) as pidfd,
        mount_namespace(pid, pidfd.fileno()) as namespace,
    ):
        words = [
            "attach",
            str(namespace),
            ROOT,
            PLACE,
            str(folder.fd),
            str(folder.path),
        ]
        tool = popen.start_process(
            popen.our_program(*profiles.MOUNT.start, *words, "rw" if write else "ro"),
            pass_fds=(namespace, folder.fd),
            stdout=popen.DEVNULL,
            stderr=popen.PIPE,
        )
        _, reason = tool.communicate()
    if tool.returncode:
        text = reason.decode(errors="replace").strip()
        raise UpstreamError(f"cannot mount or unmount the folder: {text}")


def _few_resources() -> list[str]:
    """Return the words before a command line that limit what a guest can have it hold."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = folder_limits.FOLDER_SERVER_FILES
    files = most if hard == resource.RLIM_INFINITY else min(most, hard)
    memory = folder_limits.FOLDER_SERVER_BYTES
    # guard: a guest has its folder's server hold few files
    words = ["prlimit", f"--nofile={files}:{files}", f"--as={memory}:{memory}"]
    return [*words, "--rtprio=0:0", "--nice=0:0", "--"]


def jail_words(program: Path) -> Iterator[str]:
    """Return bubblewrap's words up to the program: pure but for the libraries' place."""
    yield from ("--unshare-all", "--die-with-parent", "--new-session", "--as-pid-1")
    yield from ("--cap-drop", "ALL", "--clearenv", "--setenv", "LC_ALL", "C.UTF-8")
    yield from library_words()
    yield from ("--ro-bind", str(program), str(program))
    yield from ("--dev-bind", "/dev/null", "/dev/null")
    yield from ("--tmpfs", ROOT, "--dir", f"{ROOT}/{PLACE}", "--remount-ro", ROOT)
    yield from ("--chdir", "/", "--remount-ro", "/", "--")
