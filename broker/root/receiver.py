"""A process for each client of ``vitrail-devices``, which receives in its place.

close(2) of a descriptor asks the program that serves its file (FUSE), which need not
answer, and no signal ends that.  So what a client sends is received by a process of
the client's own, with its user's rights: only sockets are passed to root, and a client that
hangs keeps nobody waiting but its client.

The processes are forked from a process that has no thread and no descriptor but its
channel; it is forked before the service opens anything.
"""

from __future__ import annotations

import os
import pwd
import select
import socket

from broker.core.errors import PeerError, RefusedError
from broker.core.limits import devices as limits
from broker.root.handover import check_socket
from broker.wire import fdpass


def start(uid: int) -> socket.socket:
    """Fork the server that forks receivers, with a user's rights; return its channel.

    To be called while there is one thread.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork():
        theirs.close()
        # It has the user's id, so any program of the user's can stop it.
        # guard: root waits for no receiver of its user's
        ours.settimeout(0)
        return ours
    try:
        _keep_only(theirs.fileno())
        _become(uid)
        _fork_receivers(theirs)
    finally:
        os._exit(0)


def receive_for(receivers: socket.socket, client: socket.socket) -> socket.socket:
    """Have a receiver forked for a client; return the channel of its messages.

    Raises OSError when there is no receiver for it; BlockingIOError while the server
    of receivers is stopped.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        ours.settimeout(0)
        try:
            fdpass.send(receivers, b"c", (client.fileno(), theirs.fileno()))
        except BaseException:
            ours.close()
            raise
    return ours


def _keep_only(fd: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(null, standard)
    os.closerange(3, fd)
    os.closerange(fd + 1, os.sysconf("SC_OPEN_MAX"))


def _become(uid: int) -> None:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(pwd.getpwuid(uid).pw_gid)
        os.setuid(uid)


def _fork_receivers(channel: socket.socket) -> None:
    """Fork a receiver for each order, with a limit of living ones."""
    living: set[int] = set()
    while (got := fdpass.receive(channel, 1, 2)).data:
        living = {pid for pid in living if not os.waitpid(pid, os.WNOHANG)[0]}
        # Those that hang stay; their user has no more than these.
        if len(living) < 2 * limits.DEVICE_HELPER_CLIENTS:
            pid = os.fork()
            if pid == 0:
                channel.close()
                _receive(*map(_as_socket, got.fds))
                return
            living.add(pid)
        fdpass.close_all(got.fds)


def _as_socket(fd: int) -> socket.socket:
    return socket.socket(fileno=fd)


def _receive(client: socket.socket, service: socket.socket) -> None:
    """Pass on messages and descriptors until one end has gone (in a receiver)."""
    service.settimeout(None)
    poll = select.poll()
    poll.register(client, select.POLLIN)
    poll.register(service, 0)
    while service.fileno() not in dict(poll.poll()):
        try:
            got = fdpass.receive(client, limits.DEVICE_HELPER_MESSAGE_BYTES, 1)
        except BlockingIOError:
            continue
        except (PeerError, OSError):
            return
        if not got.data:
            return
        fdpass.send(service, got.data, [fd for fd in got.fds if _is_stream(fd)])
        fdpass.close_all(got.fds)  # may take as long as the client likes


def _is_stream(fd: int) -> bool:
    """Return whether a descriptor may be a guest's connection; asks no file system."""
    conn = None
    try:
        conn = socket.socket(fileno=fd)
        check_socket(conn)
    except (RefusedError, OSError):
        return False
    finally:
        if conn is not None:
            conn.detach()
    return True
