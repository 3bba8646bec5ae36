"""Listening on an endpoint.

A UNIX socket's file outlives the program that made it.  A dead one is
replaced; a live one, or a file of another kind, never.

The host listens for guests, the viewer for its host, brokerctl for a pairing, a proxy
or a proxy's mixer.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

import trio

from broker.core import limits
from broker.core.errors import SetupError, UpstreamError, VitrailError
from broker.net.addresses import (
    Endpoint,
    HybridEndpoint,
    UnixEndpoint,
    VsockEndpoint,
    new_socket,
)
from broker.net.refused_descriptors import refuse_descriptors

_LOCK_RETRY_SECONDS = 0.01


@dataclass(eq=False)
class Listener:
    """A listening socket; ``close`` also removes the path that it made."""

    endpoint: Endpoint
    sock: socket.socket
    path: Path | None = None
    inode: tuple[int, int] = (0, 0)

    async def accept(self) -> socket.socket:
        """Wait for the next connection; return it, non-blocking and the caller's.

        Connections that vanish before they are taken are skipped.  Raises
        UpstreamError when no descriptor is left for it.
        """
        # Also where one waits already: a client that connects faster than we accept
        # must not keep the loop from running anything else.
        await trio.lowlevel.checkpoint()
        while True:
            try:
                conn, _ = self.sock.accept()
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self.sock)
            except ConnectionError:
                continue
            except OSError as error:
                raise UpstreamError(
                    f"cannot accept a connection on {self.endpoint}: {error.strerror}",
                    hint="raise the limit on open files (LimitNOFILE= of a unit)",
                ) from error
            else:
                conn.settimeout(0)
                return conn

    async def accept_batch(self, most: int) -> list[socket.socket]:
        """Return the next connection and those that wait after it, up to ``most``.

        For a backlog that several sandboxes share: it is emptied before other
        tasks run, so that a sandbox that fills it has not filled it for the others.
        Owned by the caller, as with ``accept``, which raises the same.
        """
        taken = [await self.accept()]
        with contextlib.suppress(OSError):  # an empty backlog; or see the next call
            while len(taken) < most:
                conn, _ = self.sock.accept()
                conn.settimeout(0)
                taken.append(conn)
        return taken

    def hand_over(self) -> None:
        """Let go of the socket, which another process has; keep the path."""
        self.sock.close()

    def close(self) -> None:
        """Stop listening; remove the path if it is still this socket's."""
        if self.sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self.sock)
        if self.path is not None:
            # A confined process leaves it: the next one replaces it.
            with contextlib.suppress(FileNotFoundError, PermissionError):
                if _inode(self.path) == self.inode:
                    self.path.unlink()
        self.sock.close()


async def open_listener(
    endpoint: Endpoint,
    *,
    backlog: int = limits.BACKLOG,
    descriptors: bool = False,
    sock: socket.socket | None = None,
    alone: bool = False,
    mode: int = 0o600,
) -> Listener:
    """Listen on an endpoint.

    A UNIX socket is made with ``mode``.  A dead program's socket is
    replaced, a live one's or another kind of file never.  ``descriptors``:
    whether its clients may send some, where the kernel can refuse them
    (``ipc.refuse_descriptors``).  ``sock`` is a new UNIX socket to be
    used, closed on an error.  ``alone``: no other program makes sockets in its
    directory, and one that can lock it is not waited for.  Raises SetupError with a
    sentence.
    """
    match endpoint:
        case UnixEndpoint() | HybridEndpoint():
            if sock is None:
                sock = new_socket(socket.AF_UNIX, endpoint)
            # guard: who connects sends no descriptor
            if not descriptors:
                refuse_descriptors(sock)
            return await _listen_unix(endpoint, sock, backlog, alone=alone, mode=mode)
        case VsockEndpoint():
            return _listen_vsock(endpoint, backlog)


def _listen_vsock(endpoint: VsockEndpoint, backlog: int) -> Listener:
    sock = new_socket(socket.AF_VSOCK, endpoint)
    try:
        sock.bind((endpoint.cid, endpoint.port))
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise _explain_listen(endpoint, error) from error
    return Listener(endpoint, sock)


async def _listen_unix(
    endpoint: UnixEndpoint | HybridEndpoint,
    sock: socket.socket,
    backlog: int,
    *,
    alone: bool,
    mode: int,
) -> Listener:
    """Listen at a path under the directory's lock, in place of a stale socket."""
    if isinstance(endpoint, HybridEndpoint):
        path = endpoint.listening_path
    else:
        path = endpoint.path
    lock = -1
    try:
        # A program that makes or replaces a socket holds the directory's lock, so
        # that two programs cannot each take the other's new one for stale.
        if not alone:
            lock = await _lock(path.parent)
        _make(endpoint, sock, path, backlog, mode)
        return Listener(endpoint, sock, path, _inode(path))
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError):
            raise _explain_listen(endpoint, error) from error
        raise
    finally:
        if lock >= 0:
            os.close(lock)


def _make(
    endpoint: Endpoint, sock: socket.socket, path: Path, backlog: int, mode: int
) -> None:
    """Bind a socket to a path and listen; replaces a stale socket there."""
    try:
        _bind(sock, path, mode)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        _remove_stale(endpoint, path)
        _bind(sock, path, mode)
    sock.listen(backlog)


def _bind(sock: socket.socket, path: Path, mode: int) -> None:
    """Bind a socket to a path and give the path its mode."""
    # bind() makes the file with the mode of the socket's own inode, less the
    # umask (unix_bind in the kernel): never a moment with a wider mode, and no
    # process-wide umask to change.
    os.fchmod(sock.fileno(), mode)
    sock.bind(os.fspath(path))
    if mode != 0o600:
        _widen(path, mode)


def _widen(path: Path, mode: int) -> None:
    """Give a socket's path the permissions that the umask took away; no other file."""
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        # Another user of the directory has none of our files opened to all.
        if stat.S_ISSOCK(os.fstat(fd).st_mode):
            Path(f"/proc/self/fd/{fd}").chmod(mode)
    finally:
        os.close(fd)


def _remove_stale(endpoint: Endpoint, path: Path) -> None:
    """Remove a socket without a listener; refuse anything else."""
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise SetupError(
            f"{path} exists and is not a socket",
            hint="remove the file, or choose another path",
        )
    try:
        alive = has_listener(path)
    except OSError as error:
        raise _explain_listen(endpoint, error) from error
    if not alive:
        path.unlink()
        return
    raise SetupError(
        f"{endpoint} is in use: another program listens there",
        hint=f"stop it (to find it, run 'ss -xlp | grep {path.name}'), or choose another path",
    )


_LISTENS = b"00010000"
"""The flags of a row of such a socket: __SO_ACCEPTCON."""


def has_listener(path: Path) -> bool:
    """Return whether a program listens at a socket's path.

    Raises OSError if that is unknown.
    """
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(0)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            return False
        except BlockingIOError:
            return True  # its backlog is full
        except PermissionError:  # a confined process connects to nothing
            return _is_listed(path)
        return True


def _is_listed(path: Path) -> bool:
    """Return whether the kernel lists a listening socket of this path (proc(5))."""
    rows = map(bytes.split, Path("/proc/self/net/unix").read_bytes().splitlines()[1:])
    listening = (row[-1] for row in rows if row[3] == _LISTENS)
    return os.fsencode(path) in listening


async def _lock(directory: Path) -> int:
    """Lock a directory (flock(2)); closing the returned descriptor unlocks it.

    Returns -1 where the directory cannot be read: no stale socket there
    is ours to replace, and bind alone is atomic.  Raises SetupError when some
    program holds the lock for longer than a connect may take.
    """
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        return -1
    patience = trio.current_time() + limits.CONNECT_SECONDS
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if trio.current_time() > patience:
                    raise SetupError(
                        f"another program has locked {directory}",
                        hint=f"to find it, run 'fuser {directory}'",
                    ) from None
                await trio.sleep(_LOCK_RETRY_SECONDS)
            else:
                return fd
    except BaseException:
        os.close(fd)
        raise


def _inode(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino


def _explain_listen(endpoint: Endpoint, error: OSError) -> VitrailError:
    """Return a failed listen as an error with what to do."""
    hint = {
        errno.ENOENT: "create the directory first",
        errno.EACCES: "choose a directory (or a port) that you may use",
        errno.EPERM: "choose a directory (or a port) that you may use",
        errno.EADDRINUSE: "stop the program that listens there, or choose another address",
        errno.EADDRNOTAVAIL: "listen on vsock:any:PORT, or on this machine's own CID",
        errno.EROFS: "choose a directory that can be written to",
        errno.ENOTDIR: "choose another path; a part of this one is a file",
    }.get(error.errno or 0, "")
    problem = (
        "the address is in use"
        if error.errno == errno.EADDRINUSE
        # Python's own errors have no number: "AF_UNIX path too long".
        else error.strerror or str(error)
    )
    return SetupError(f"cannot listen on {endpoint}: {problem}", hint=hint)
