"""A fork server's own side: fork on order, reap, say how each child ended.

``ipc.fork_server`` has the messages, ``helpers.process.fork_client`` the
broker's side.  The server is started by exec, imports all that its children
need, and then waits for orders on one socket.  Its death ends no child.

The price of forking: all children of one server share the layout of their
address space, so an attacker who has taken one over knows it for the others.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NoReturn, TypeAlias, TypeVar

from broker.core.errors import SetupError
from broker.helpers.process.process_name import set_name
from broker.ipc import fdpass
from broker.ipc import fork_server as messages

_T = TypeVar("_T")
_SHORT = frozenset({errno.ENOMEM, errno.ENOBUFS})
_PAUSE = 0.05


@dataclass(frozen=True)
class StartedChild:
    """A child of this process, not reaped yet; the server closes ``pidfd``."""

    pid: int
    pidfd: int
    jail: messages.Jail | None = None


Start: TypeAlias = Callable[
    [messages.Order, Sequence[int], Callable[[], None]], StartedChild
]
"""Fork the child of an order, which owns these descriptors.

It calls the last argument to close what the server has open.  Raises OSError,
or SetupError when its jail cannot be built.
"""


def forking(run: Callable[[messages.Order, Sequence[int]], None]) -> Start:
    """Return how children are started that are in no jail from the beginning."""

    def start(
        order: messages.Order, fds: Sequence[int], leave: Callable[[], None]
    ) -> StartedChild:
        pid = os.fork()
        if pid == 0:
            _become(lambda: run(order, fds), leave)
        return StartedChild(pid, os.pidfd_open(pid))  # not reaped: the number is its

    return start


def _become(run: Callable[[], None], leave: Callable[[], None]) -> NoReturn:
    """Never returns and never unwinds into the parent's code."""
    code = 1
    try:
        leave()
        run()
        code = 0
    except BrokenPipeError:
        code = 0  # the broker has gone
    except BaseException:  # noqa: BLE001 -- the bottom of a forked process
        traceback.print_exc()
    finally:
        os._exit(code)


def serve(name: str, start: Start, *, end_children: bool = False) -> None:
    """Fork as the broker orders, until it has gone: the main loop of each fork server.

    The number of the orders' socket is the program's first argument.

    ``end_children``: kill what is left when the broker has gone.
    """
    control = socket.socket(fileno=int(sys.argv[1]))
    set_name(name)
    gc.collect()
    gc.freeze()  # present objects are shared: do not touch them when collecting
    server = _ForkServer(control, start)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        server.run()  # they say that the broker has gone and left an answer unread
    if end_children:
        server.kill_children()


@dataclass(frozen=True)
class _Child:
    pid: int
    end: int
    """The pipe into which its end is written."""


class _ForkServer:
    def __init__(self, control: socket.socket, start: Start) -> None:
        self._control = control
        self._start = start
        self._children: dict[int, _Child] = {}
        self._waiting = select.poll()
        self._waiting.register(control.fileno(), select.POLLIN)

    def run(self) -> None:
        """Return when the broker has closed its end."""
        control = self._control.fileno()
        while True:
            ready = {fd for fd, _ in _patiently(self._waiting.poll)}
            # The dead first: when the broker closes after its last child ended, no
            # child is left for process 1 to reap.
            for pidfd in ready - {control}:
                self._reap(pidfd)
            if control in ready and not self._obey():
                return

    def kill_children(self) -> None:
        """Kill all that live."""
        for pidfd in self._children:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    def _reap(self, pidfd: int) -> None:
        child = self._children.pop(pidfd)
        self._waiting.unregister(pidfd)
        os.close(pidfd)
        _, status = os.waitpid(child.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        # It may not be wanted any more; and an end without a code is told by the close.
        with contextlib.suppress(OSError):
            os.write(child.end, messages.END.pack(code))
        os.close(child.end)

    def _obey(self) -> bool:
        size, most = messages.MESSAGE_BYTES, messages.DESCRIPTORS
        got = _patiently(partial(fdpass.receive, self._control, size, most))
        if not got.data:
            return False
        order = messages.decode_order(got.data)
        *fds, end = got.fds
        try:
            started = self._start(order, fds, partial(self._leave, end))
        except OSError as error:
            self._refuse(order, end, str(error.strerror))
        except SetupError as error:
            self._refuse(order, end, error.message, error.hint)
        else:
            self._children[started.pidfd] = _Child(started.pid, end)
            self._waiting.register(started.pidfd, select.POLLIN)
            self._close_then_answer(fds, order, started)
            return True
        fdpass.close_all(fds)
        return True

    def _close_then_answer(
        self, fds: Sequence[int], order: messages.Order, started: StartedChild
    ) -> None:
        # Before the answer: until then a listening socket has no path and no
        # backlog, so this process is never the last to hold one.
        # guard: the warm process keeps no socket
        fdpass.close_all(fds)
        forked = messages.Forked(order.number, started.pid, started.jail)
        self._answer(forked, [started.pidfd])

    def _refuse(
        self, order: messages.Order, end: int, reason: str, hint: str = ""
    ) -> None:
        os.close(end)
        failed = messages.ForkFailed(order.number, reason[:4000], hint[:4000])
        self._answer(failed, [])

    def _answer(self, answer: messages.Answer, fds: Sequence[int]) -> None:
        data = messages.encode(answer)
        _patiently(partial(fdpass.send, self._control, data, fds))

    def _leave(self, end: int) -> None:
        """In a child: let go of what is the server's."""
        os.close(end)
        self._control.close()
        for pidfd, child in self._children.items():
            os.close(pidfd)
            os.close(child.end)


def _patiently(call: Callable[[], _T]) -> _T:
    """Call again while the kernel has no memory for it: others wait for this process."""
    while True:
        try:
            return call()
        except OSError as error:
            # guard: a fork server outlives a moment without memory
            if error.errno not in _SHORT:
                raise
            time.sleep(_PAUSE)
