"""One order of the viewer, at the end that carries it out.

A session child receives the order, checks its warrant, starts a program or hands over
descriptors, and answers the viewer.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from types import MappingProxyType
from typing import Any, TypeAlias

import msgspec

from broker.core.errors import InternalError, PeerError, VitrailError
from broker.core.stderr_log import log_stderr
from broker.helpers.forked_part import end_with_parent
from broker.helpers.process import popen
from broker.helpers.process.memory_file import memory_file
from broker.ipc.control.forwarded import CallWarrant
from broker.ipc.session.file_orders import from_memory
from broker.ipc.session.order_rows import MESSAGE_BYTES, ROWS
from broker.ipc.session.permit_warrant import PermitWarrant
from broker.session.read_warrant import Warrant
from broker.session.warrant_check import VerifiedPermit, WarrantCheck
from broker.wire.blocking import BlockingEnd
from broker.wire.calls import IncomingCall, lost_descriptors
from broker.wire.fdpass import close_all
from broker.wire.row import AnyRow, ProcessKind, row_served_by

Handler: TypeAlias = Callable[["OrderExchange", Any], None]
"""Serves one row (``row.serves``): it answers the call, and may go on after that."""
FindHandler: TypeAlias = Callable[[AnyRow], Handler | None]
_NO_READERS: Mapping[int, Callable[[], bool]] = MappingProxyType({})


def one_of(*handlers: Handler) -> FindHandler:
    """Return the function that finds a row's handler among these."""
    return {row_served_by(handler): handler for handler in handlers}.get


class OrderExchange:
    """One order, while it is carried out: the first call and those that follow it."""

    def __init__(
        self, channel: socket.socket, check: WarrantCheck, host: int = -1
    ) -> None:
        """``host``: the socket to this machine's host, which all children share."""
        self.channel = channel
        self.check = check
        self.host = host
        self.fds: list[int] = []
        """Descriptors of the last call."""
        self.untrusted_warrant = b""
        """The last call's."""
        self._verified: Warrant | None = None
        self._call = 0
        """The number of the call that has no answer yet; 0: there is none."""
        # guard: a viewer that reads no answer delays no end of a permit
        flags = socket.MSG_DONTWAIT
        self._end = BlockingEnd(
            channel,
            ProcessKind.SESSION_CHILD,
            ProcessKind.VIEWER,
            ROWS,
            message_bytes=MESSAGE_BYTES,
            send_flags=flags,
        )

    @property
    def permit(self) -> PermitWarrant:
        """The verified permit of the last call that needed one."""
        if not isinstance(self._verified, PermitWarrant):
            raise InternalError("the row needs no permit")
        return self._verified

    @property
    def user_call(self) -> CallWarrant:
        """The verified call of the user that has caused the order."""
        if not isinstance(self._verified, CallWarrant):
            raise InternalError("the row needs no call of the user")
        return self._verified

    def answer(
        self, answer: msgspec.Struct | None = None, fds: Sequence[int] = ()
    ) -> None:
        """Answer the call: it is done, or begun.  Raises OSError if nobody waits.

        There is room for the answers that a viewer waits for.
        """
        self._end.answer(self._call, answer, fds)
        self._call = 0

    def answer_file(self, content: bytes) -> None:
        """Answer with a file of this content.  Raises OSError."""
        with ExitStack() as stack:
            self.answer(fds=[memory_file(stack, content)])

    def emit(self, item: msgspec.Struct) -> None:
        """Send an item of the call, before its answer.  Raises OSError as ``answer``."""
        self._end.emit(self._call, item)

    def fail(self, error: VitrailError) -> None:
        """Answer the call with its error.  Raises OSError if nobody waits.

        Without a call it is written to standard error, which the viewer reads.
        """
        if self._call:
            self._end.fail(self._call, error)
            self._call = 0
        else:
            log_stderr(str(error))

    def serve_next(self, find: FindHandler, flags: int = 0) -> bool:
        """Receive and serve the next call; return False when the viewer has hung up.

        ``find`` returns the handler of a row that may come now.  Raises VitrailError;
        with MSG_DONTWAIT BlockingIOError when there is no call.
        """
        received = self._end.receive(flags)
        if received is None:
            return False
        call, fds = received.event, list(received.fds)
        if not isinstance(call, IncomingCall):
            close_all(fds)
            raise PeerError("the viewer sent a message that is no call")
        self._call, self.fds = call.call, fds
        if not call.has_descriptors:
            raise lost_descriptors()
        handler = find(call.row)
        if handler is None:
            raise PeerError(f"{call.row.name} does not belong to this order")
        self.untrusted_warrant = call.warrant
        if call.row.calls and fds:  # as long as the user's command line
            self.untrusted_warrant = from_memory(fds[0])
        verified = self.check.verify(call.row, call.request, self.untrusted_warrant)
        self._verified = verified or self._verified
        handler(self, call.request)
        return True

    def hold(
        self,
        permit: VerifiedPermit,
        ended_fd: int = -1,
        readers: Mapping[int, Callable[[], bool]] = _NO_READERS,
    ) -> None:
        """Return when the viewer has closed its end, or a permit has ended.

        Returns also when ``ended_fd`` is readable.  Each function of ``readers`` is called
        when its descriptor is readable, until it returns False.  Raises VitrailError for
        another order, OSError.
        """
        waiting = select.poll()
        for fd in {self.channel.fileno(), *readers, ended_fd} - {-1}:
            waiting.register(fd, select.POLLIN)
        # guard: what a permit has begun ends with it, whatever a viewer keeps open
        while (seconds := permit.until - time.monotonic()) > 0:
            ready = [fd for fd, _ in waiting.poll(1000 * seconds)]
            if not ready or ended_fd in ready:
                return
            for fd in readers.keys() & set(ready):
                if not readers[fd]():
                    waiting.unregister(fd)
            if self.channel.fileno() not in ready:
                continue
            # The viewer may have this end, too, read the order itself, and have it block.
            if not self.serve_next(one_of(permit.renew), socket.MSG_DONTWAIT):
                return

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        stdin: int = popen.DEVNULL,
        stdout: int | None = None,
        stderr: int | None = None,
        on_start: Callable[[popen.Process], None] = lambda _process: None,
        permit: VerifiedPermit | None = None,
        readers: Mapping[int, Callable[[], bool]] = _NO_READERS,
    ) -> int:
        """Run a program to its end and return its code, as ``popen.start_process``.

        The program ends with this process, a jail as a whole, and with ``permit``, if
        given (``readers``: see ``hold``); ``on_start`` is called when the program runs.
        The caller continues in a process that the viewer cannot end.
        """
        started: popen.Process | None = None
        given_up = False

        def end(*_: object) -> None:
            nonlocal given_up
            given_up = True
            if started is None or started.returncode is not None:
                return
            if argv[0] in popen.JAILERS:
                # guard: the jail of an order ends whole
                popen.kill_jail(started.pid)
            else:
                started.kill()

        # Before it starts: the viewer may give up at any time.
        # guard: who ends an order's program is a process that the viewer cannot kill
        _leave_to_child(end)
        started = popen.start_process(
            argv,
            env=env,
            pass_fds=pass_fds,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
        )
        try:
            if not given_up:
                on_start(started)
                if permit is not None:
                    self._hold_while_runs(permit, started, readers)
                    given_up = True
        except BaseException:
            end()
            raise
        if given_up:
            end()
        return started.wait()

    def _hold_while_runs(
        self,
        permit: VerifiedPermit,
        started: popen.Process,
        readers: Mapping[int, Callable[[], bool]],
    ) -> None:
        """Hold a permit while a started program runs."""
        ended = os.pidfd_open(started.pid)  # not reaped, so still its own
        try:
            self.hold(permit, ended, readers)
        finally:
            os.close(ended)

    def lend(self, connection: socket.socket) -> None:
        """Answer with a connection; end it with its permit, or when the viewer hangs up.

        Raises VitrailError, OSError.
        """
        # guard: who ends a connection is a process that the viewer cannot end
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
            os._exit(0)
        # Before the viewer has the connection.
        # guard: a signal to a group does not reach who ends a connection
        os.setsid()
        try:
            self.answer(fds=[connection.fileno()])
            self.hold(VerifiedPermit(self.permit))
        finally:
            # guard: a connection ends with its permit, whoever still has it
            with suppress(OSError):  # its far end has closed it
                connection.shutdown(socket.SHUT_RDWR)

    def wait_for_hangup(self) -> None:
        """Return when the viewer has closed its end."""
        self.channel.recv(1)


def _leave_to_child(end: Callable[..., None]) -> None:
    """Go on in a child that calls ``end`` on SIGTERM, which it gets at this one's end, too.

    This process, whose pidfd the viewer has, passes SIGTERM on and ends as the child does.
    """
    parent, number = os.getpid(), signal.SIGTERM
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    child = os.fork()
    if child:
        signal.signal(number, lambda *_: os.kill(child, number))  # it is not reaped
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        # An end of a pipe here would keep the jail's end from being noticed.
        os.closerange(3, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        how = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        os._exit(how.si_status if how and how.si_code == os.CLD_EXITED else 1)
    # guard: a signal to a group does not reach who ends an order's program
    os.setsid()
    signal.signal(number, end)
    end_with_parent(number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    if os.getppid() != parent:
        os._exit(1)
