"""One order of the viewer, as those who carry it out have it.

A session child reads the order, checks its warrant, starts a program or hands over
descriptors, and answers the viewer.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeVar

from broker.core.errors import PeerError, RefusedError, VitrailError
from broker.helpers.forked_part import end_with_parent
from broker.helpers.process import popen
from broker.helpers.process.memory_file import memory_file
from broker.ipc.session import order_messages as messages
from broker.ipc.session.bus_orders import HoldPermit
from broker.ipc.session.permit_warrant import OF_REQUEST, PermitWarrant
from broker.session.read_warrant import SECONDS, CallWarrant, read_warrant
from broker.session.used_warrants import UsedWarrants
from broker.wire import fdpass
from policy.names import ADMIN_NAMES

_OF_PERMIT = ("sandbox", "record", "target", *OF_REQUEST)
_NO_OTHERS: Mapping[int, Callable[[], bool]] = MappingProxyType({})
_W = TypeVar("_W", PermitWarrant, CallWarrant)


@dataclass
class Errand:
    """One order, while it is carried out."""

    channel: socket.socket
    key: bytes
    """The authority's; empty: it has not told it, and no warrant is good."""
    fds: list[int] = field(default_factory=list)
    """Descriptors that came with the order."""
    host: int = -1
    """The socket to the host's process of this machine, which all children share."""
    used: UsedWarrants = field(default_factory=UsedWarrants)
    """What was done already, which all children share, too."""
    order: str = ""
    """The kind of the first order, for which warrants are used."""

    def answer(self, result: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Answer that it is done, or begun.  Raises OSError if nobody waits."""
        self._send(messages.Carried(result), fds)

    def answer_file(self, content: bytes) -> None:
        """Answer with a file of this content.  Raises OSError."""
        with ExitStack() as stack:
            self.answer(fds=[memory_file(stack, content)])

    def fail(self, error: VitrailError) -> None:
        """Answer that it is not done.  Raises OSError if nobody waits."""
        failed = messages.NotCarried(
            type(error).__name__, error.message[:4000], error.hint[:4000], error.where
        )
        self._send(failed)

    def _send(self, answer: messages.SessionAnswer, fds: Sequence[int] = ()) -> None:
        """Send an answer now: there is room for those that a viewer waits for."""
        # guard: a viewer that reads no answer delays no end of a permit
        fdpass.send(self.channel, messages.encode(answer), fds, socket.MSG_DONTWAIT)

    def next(self, flags: int = 0) -> messages.SessionOrder | None:
        """Return the next order on the channel; None: the viewer has closed it.

        Raises PeerError; with MSG_DONTWAIT BlockingIOError when there is none.
        """
        size, most = messages.MESSAGE_BYTES, messages.DESCRIPTORS
        got = fdpass.receive(self.channel, size, most, flags)
        self.fds = list(got.fds)
        if not got.data:
            return None
        order = messages.decode_order(got.data)
        # guard: a warrant has one use, whichever order came last
        self.order = self.order or type(order).__name__
        return order

    def descriptors(self, count: int) -> list[int]:
        """Return the order's descriptors.  Raises PeerError for another number."""
        # guard: an order has its descriptors
        if len(self.fds) != count:
            raise PeerError(f"the order has {len(self.fds)} descriptors, not {count}")
        return self.fds

    def permit(
        self,
        untrusted_warrant: bytes,
        services: Collection[str],
        *,
        here: bool = True,
        ahead: bool = False,
    ) -> PermitWarrant:
        """Return the checked permit that comes with an order.

        ``here``: its target has to be the user's desktop.  ``ahead``: each use needs a
        further one.  Raises RefusedError.
        """
        warrant = self._read(untrusted_warrant, PermitWarrant)
        # guard: nothing begins by a permit because something else goes on by it
        if warrant.renewed:
            raise RefusedError("a renewed permit cannot begin anything")
        # guard: a permit is for the service that it names
        if warrant.service not in services:
            raise RefusedError(
                f"the permit is for {warrant.service}, not for {' or '.join(sorted(services))}"
            )
        # guard: a permit ahead of the uses that a rule asks about is for none of them
        if warrant.ahead and not ahead:
            raise RefusedError(
                f"the permit for {warrant.service} precedes its uses and permits none of them"
            )
        # guard: a permit for another sandbox opens nothing of the user's
        if here and warrant.target not in ADMIN_NAMES:
            raise RefusedError(
                f"the permit is for {warrant.target}, not for the desktop"
            )
        self.use(untrusted_warrant, warrant.at + SECONDS)
        return warrant

    def hold(
        self,
        permit: PermitWarrant,
        beside: int = -1,
        others: Mapping[int, Callable[[], bool]] = _NO_OTHERS,
    ) -> None:
        """Return when the viewer has closed its end, or the permit has ended.

        ``beside``: also when this is readable.  ``others`` are called when theirs is;
        False: no more.  Raises VitrailError for another order, OSError.
        """
        waiting = select.poll()
        for fd in {self.channel.fileno(), *others, beside} - {-1}:
            waiting.register(fd, select.POLLIN)
        until = permit.at + SECONDS
        # guard: what a permit has begun ends with it, whatever a viewer keeps open
        while (left := until - time.monotonic()) > 0:
            ready = [fd for fd, _ in waiting.poll(1000 * left)]
            if not ready or beside in ready:
                return
            for fd in others.keys() & set(ready):
                if not others[fd]():
                    waiting.unregister(fd)
            if self.channel.fileno() not in ready:
                continue
            # The viewer may have this end, too, read the order itself, and have it block.
            order = self.next(socket.MSG_DONTWAIT)
            if order is None:
                return
            if not isinstance(order, HoldPermit):
                raise PeerError("the operation has already begun")
            until = self.renewed(permit, order)

    def renewed(self, permit: PermitWarrant, order: HoldPermit) -> float:
        """Answer a renewal; return until when the permit holds.  Raises RefusedError."""
        fresh = self._read(order.warrant, PermitWarrant)
        # guard: a permit is held by its own renewals
        if any(getattr(fresh, name) != getattr(permit, name) for name in _OF_PERMIT):
            raise RefusedError("the new permit differs from the first one")
        self.answer()
        return fresh.at + SECONDS

    @staticmethod
    def refuse_late(until: float) -> None:
        """Raise RefusedError if a permit that holds until then may have ended."""
        if time.monotonic() > until:
            raise RefusedError("the permit has expired")

    def call(self, untrusted_warrant: bytes, methods: Collection[str]) -> CallWarrant:
        """Return the checked call of the user that comes with an order.

        ``methods``: without the interface.  Raises RefusedError.
        """
        warrant = self._read(untrusted_warrant, CallWarrant)
        # guard: a call of the user's is for what the user called
        if warrant.method.rpartition(".")[2] not in methods:
            raise RefusedError(f"the call {warrant.method} does not request this")
        self.use(untrusted_warrant, warrant.at + SECONDS)
        return warrant

    def use(self, signed: bytes, until: float) -> None:
        """Note that this order uses a warrant or ticket, which is verified.

        ``until``: when that has expired.  Raises RefusedError for a second use, and for
        a first use that comes too late.
        """
        # guard: what was permitted once is done once
        self.used.take(signed, self.order, until)

    def _read(self, untrusted_warrant: bytes, kind: type[_W]) -> _W:
        """Verify a warrant of one kind.

        Raises RefusedError if it is missing or expired.
        """
        warrant = read_warrant(self.key, untrusted_warrant)
        if not isinstance(warrant, kind):
            raise RefusedError(
                "the permission for this operation is missing or has expired",
                hint="try the operation again",
            )
        return warrant

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        stdin: int = popen.DEVNULL,
        stdout: int | None = None,
        stderr: int | None = None,
        begun: Callable[[popen.Process], None] = lambda _process: None,
        held: PermitWarrant | None = None,
        others: Mapping[int, Callable[[], bool]] = _NO_OTHERS,
    ) -> int:
        """Run a program to its end and return its code, as ``popen.start_process``.

        The program ends with this process, a jail as a whole, and with ``held``, if
        given (``others``: see ``hold``); ``begun`` is called when the program runs.
        The caller goes on in a process that the viewer cannot end.
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
                begun(started)
                if held is not None:
                    self._hold_beside(held, started, others)
                    given_up = True
        except BaseException:
            end()
            raise
        if given_up:
            end()
        return started.wait()

    def _hold_beside(
        self,
        permit: PermitWarrant,
        started: popen.Process,
        others: Mapping[int, Callable[[], bool]],
    ) -> None:
        """Hold a permit while a started program runs."""
        ended = os.pidfd_open(started.pid)  # not reaped, so still its own
        try:
            self.hold(permit, ended, others)
        finally:
            os.close(ended)

    def lend(self, connection: socket.socket, permit: PermitWarrant) -> None:
        """Answer with a connection; end it with the permit, or when the viewer hangs up.

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
            self.hold(permit)
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
