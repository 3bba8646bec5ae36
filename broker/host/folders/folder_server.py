"""virtiofsd: a process for each place of a micro VM where a folder can be.

It starts with the machine, with nothing to serve: its root is an empty, read-only
directory.  A folder is mounted there later, in its namespace alone, by the program that
mounts folders in boxes (``launch.folders.tool``), and the guest sees it then.  So QEMU
needs no device that is plugged into a running machine, which ``microvm`` does not have.

The jail maps one user, the guest's, to the user: what another user of the guest
creates is refused (EINVAL), and files have the user as their owner.  Its capabilities
count in its user namespace, whose only user is the user.

The host starts and ends them; brokerctl does so for a machine that it starts by a
script.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from broker.core import limits
from broker.core.distribution import install_hint
from broker.helpers.filters import program_filters
from broker.helpers.process.jail_libraries import find_program
from broker.host.processes.ready import listen_unix
from broker.host.processes.tracked import Tracked
from broker.host.vmm.vm_state import FOLDERS
from broker.host.vmm.vmm_jail import JailView, forget, spawn_jailed

ROOT = "/shared"
PLACE = "here"
"""The directory in ``ROOT`` where a folder is mounted."""

_PROGRAMS = (
    "/usr/libexec/virtiofsd",
    "/usr/lib/qemu/virtiofsd",
    "/usr/lib/virtiofsd",  # Arch, and Leap
)
"""Debian 13 has it in a separate package, Debian 12 in qemu-system-common."""
_GUEST_USER = "1000"
"""Of an image's user; programs of a micro VM run as it."""
_CAPABILITIES = (
    # What virtiofsd sets for itself, or does not start without.
    *("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "SETGID", "SETUID", "MKNOD"),
    # For its chroot(2), and to give up the others.
    *("SETFCAP", "SYS_CHROOT", "SETPCAP"),
)
_MACHINE_FILES = Path("/proc/sys/fs/file-max")
# A micro VM's folder is a mount in the namespace of an idle virtiofsd. Context: a
# folder is shared while the machine runs, by a rule; the machine type `microvm` has no
# hot-plug, and virtiofsd serves the one directory that it was started with.
#
# Decision: the devices are there from the start, each with a virtiofsd whose root is an
# empty, read-only directory. The program that mounts folders in boxes mounts the
# directory there, read-only where the rule says so, in the namespace of that process
# alone. Killing the process takes the folder away for certain: it holds descriptors for
# the guest, which an unmount does not reach.
# * QEMU's own 9p server would have needed no further process. It was rejected: Debian's
#   cloud kernels, which guests have, are built without 9p; the requests of a hostile
#   guest would be parsed in QEMU, beside the machine's disks and sockets; and an
#   unmount would not end what it holds.
# * One virtiofsd for all folders of a machine was rejected: taking one folder back
#   could have meant to take all.
# * virtiofsd runs without root in a user namespace that maps one user, the guest's, to
#   the user. It needs capabilities there (it changes its user for what the guest
#   creates); outside of that namespace they are worth nothing. setgroups(2), which such
#   a namespace refuses, is answered by success and does nothing.
# * On two machines the guest's own kernel asks, by FUSE, and the jailed `sftp-server`
#   of the viewer's machine answers it: the host parses nothing, and has no file system
#   of the viewer's mounted. Our own protocol was rejected, and so was 9p: see above.
# * The cost: about 4 MiB for each place, and such a machine boots and is not copied.
# No locks and no extended attributes: the user's programs would meet the guest's.
_OPTIONS = f"source={ROOT},sandbox=chroot,cache=auto,no_posix_lock,no_flock,no_xattr"


@dataclass(eq=False)
class FolderServer:
    """A running virtiofsd, and the connection to it that QEMU gets."""

    process: Tracked
    conn: socket.socket


def find_virtiofsd() -> Path:
    """Return virtiofsd's path.  Raises SetupError if it is not installed."""
    return find_program(
        _PROGRAMS,
        "a micro VM with shared folders requires virtiofsd, which is not installed",
        hint=partial(install_hint, "virtiofsd"),
    )


def folder_files(folders: int, machine_files: int) -> int:
    """Return how many files the server of a micro VM's folder may have open.

    ``machine_files``: how many all programs of this machine may (proc_sys_fs(5)).
    """
    total = min(limits.FOLDERS_FILES, machine_files // limits.FOLDERS_FILES_SHARE)
    return min(limits.FOLDER_FILES, total // folders)


def folder_view(program: Path, folders: int = 1) -> JailView:
    """Return virtiofsd's files in its jail: libraries, and a mount point.

    Raises OSError.
    """
    words = ["--uid", _GUEST_USER, "--gid", _GUEST_USER]
    for name in _CAPABILITIES:
        words += ["--cap-add", f"CAP_{name}"]
    words += ["--tmpfs", ROOT, "--dir", f"{ROOT}/{PLACE}"]
    # guard: a guest writes nothing beside a shared folder
    words += ["--remount-ro", ROOT]
    # guard: a guest leaves files to open to this machine's programs
    files = folder_files(folders, int(_MACHINE_FILES.read_text(encoding="ascii")))
    return JailView(
        program,
        proc=True,  # virtiofsd opens files again by /proc/self/fd
        words=tuple(words),
        rules=program_filters.folder_server_filter,
        open_files=files,
        memory=limits.GUEST_SERVER_BYTES,
    )


async def start_folder_server(
    number: int,
    directory: Path,
    *,
    folders: int = 1,
    known: Callable[[Tracked], None],
) -> FolderServer:
    """Start the virtiofsd of a folder's place, one of ``folders``, in its jail.

    ``known``: see ``spawn_jailed``.  Raises SetupError, JailError, OSError.
    """
    path = directory / f"folder-{number}"
    with ExitStack() as undo:
        with listen_unix(path) as listener:
            conn = socket.socket(socket.AF_UNIX)
            undo.callback(conn.close)
            # Waits in the queue; no other process can connect from here on.
            conn.connect(str(path))
            path.unlink()
            process = await _spawn(number, listener, folders, known)
        undo.pop_all()
    return FolderServer(process, conn)


async def start_folder_server_at(path: Path, number: int, *, folders: int) -> Tracked:
    """Start the virtiofsd of a place to which another program's VMM connects, at a path.

    Raises as ``start_folder_server``.
    """
    with listen_unix(path) as listener:
        return await _spawn(number, listener, folders, forget)


async def _spawn(
    number: int,
    listener: socket.socket,
    folders: int,
    known: Callable[[Tracked], None],
) -> Tracked:
    """Start virtiofsd in its jail, at this listening socket."""
    program = find_virtiofsd()
    return await spawn_jailed(
        f"{FOLDERS}{number}",
        [
            *(str(program), "-f", f"--fd={listener.fileno()}"),
            *("-o", _OPTIONS, "--rlimit-nofile=0", "--thread-pool-size=0"),
        ],
        folder_view(program, folders),
        pass_fds=[listener.fileno()],
        known=known,
    )
