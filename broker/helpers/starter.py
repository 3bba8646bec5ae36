"""The starter: the process that starts an authority's helpers.

It is forked by the fork server of helpers and has the session's variables for its
helpers, and nothing else of the broker.  It starts the programs of
``ipc.starter.HelperProgram`` and notify-send(1), and reports how each ended.  It reads
no byte of a sandbox or of the viewer, whose socket another process has
(``OrderServer``): a request of the authority names a program and nothing else of its
command line.  An authority that was taken over can show dialogs and notifications by
it, which it can do in any case.

The starter ends when the authority does, and its helpers end with it (PR_SET_PDEATHSIG).
It then sees to it that the broker's first process, the viewer on its own machine, ends
too: a viewer that was taken over may kill its authority, and is the parent of all others.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
from collections.abc import Sequence
from functools import partial

from broker.core.errors import InternalError, PeerError, SetupError, VitrailError
from broker.core.stderr_log import log_stderr
from broker.helpers.order_server import CarryOut, OrderServer
from broker.helpers.process import popen
from broker.helpers.process.fork_server import (
    ForkLoop,
    StartedChild,
    fork_child,
)
from broker.helpers.process.process_name import set_name
from broker.ipc import starter as m
from broker.wire import fdpass
from broker.wire.memory import call_patiently

_NOTIFY = "notify-send"
_END_SECONDS = 10.0
"""For a broker to end by itself once its authority has gone."""


def _nothing(_key: bytes, _fds: Sequence[int]) -> None:
    raise InternalError("this broker has no viewer")


class HelperServer:
    """Starts what the authority asks for, and the process of the viewer's orders."""

    def __init__(self, carry_out: CarryOut | None = None) -> None:
        """``carry_out``: see ``OrderServer``."""
        self._loop = ForkLoop()
        self._carry_out = carry_out or _nothing
        self._session: socket.socket | None = None

    def run(self, control: socket.socket, session: socket.socket | None = None) -> None:
        """Serve blocking sockets until the authority has gone.

        ``session``: of a broker with a viewer, which is served once the authority has
        told the key of its warrants.  Raises PeerError for a wrong request.
        """
        self._session = session
        self._loop.add(control, self._serve)
        self._loop.run(control)
        self._loop.kill_children()

    def _fork_orders(self, key: bytes, session: socket.socket) -> bool:
        """Give the viewer's socket to a new process for orders; False: it has one."""
        server = OrderServer(self._carry_out, key)
        # What the loop has open is closed there, this not.
        kept = os.dup(session.fileno())
        try:
            # guard: a viewer that was taken over holds up no question
            started = fork_child(partial(server.run, kept), self._loop.leave)
        except OSError as error:
            log_stderr(f"vitrail: cannot carry out the viewer's orders: {error}")
            return False
        finally:
            os.close(kept)
        self._loop.keep(started)
        return False

    def _serve(self, control: socket.socket) -> bool:
        """Serve one request; return False at the end of the socket.

        A request starts a program; the authority's key for warrants forks the viewer's
        order server.
        """
        size, most = m.MESSAGE_BYTES, m.DESCRIPTORS
        try:
            data, fds = call_patiently(partial(fdpass.receive, control, size, most))
        # guard: a request without its descriptors is answered
        except PeerError as error:
            _answer(control, m.HelperNotStarted(error.message))
            return True
        if not data:
            return False
        try:
            request = m.decode_request(data)
            if isinstance(request, m.WarrantKey):
                if self._session is not None:
                    serve = partial(self._fork_orders, request.key)
                    self._loop.add(self._session, serve)
                    self._session = None
                return True
            argv = _command(request, fds)
            started = popen.start_process(argv, pass_fds=fds, stderr=_words_to(request))
            pidfd, end = self._keep(started)
        except (SetupError, OSError) as error:
            _answer(control, _not_started(error))
            return True
        finally:
            fdpass.close_all(fds)
        try:
            _answer(control, m.HelperStarted(started.pid), (pidfd, end))
        except OSError as error:
            # guard: a helper that cannot be passed on ends no starter
            started.kill()
            _answer(control, _not_started(error))
        finally:
            os.close(end)
        return True

    def _keep(self, started: popen.Process) -> tuple[int, int]:
        """Keep watch of a started helper; return its pidfd and the pipe of its end."""
        try:
            pidfd = os.pidfd_open(started.pid)
            try:
                end, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            except OSError:
                os.close(pidfd)
                raise
        except OSError:
            started.kill()  # not reaped, so the pid was not reused
            started.wait()
            raise
        started.returncode = 0  # the loop reaps it
        self._loop.keep(StartedChild(started.pid, pidfd), write)
        return pidfd, end


def _words_to(request: m.StartHelper | m.ShowNotification) -> int | None:
    """Return where a program's errors go: of notify-send the authority says in words."""
    return popen.DEVNULL if isinstance(request, m.ShowNotification) else None


def _command(
    request: m.StartHelper | m.ShowNotification, fds: Sequence[int]
) -> list[str]:
    """Return the command line of the helper or notification that is to be started.

    Raises SetupError, PeerError.
    """
    if isinstance(request, m.StartHelper):
        return popen.our_program(f"broker.programs.{request.program}", *map(str, fds))
    # guard: a notification has no descriptors
    if fds:
        raise PeerError("the authority sent descriptors with a notification")
    if shutil.which(_NOTIFY) is None:
        raise SetupError(
            f"{_NOTIFY} is not installed",
            hint="to find its package, run 'brokerctl doctor'",
        )
    # Late: here alone, so that the starter's siblings have no table of sentences.
    from broker.core.language.notices import in_users_language

    # The title is one line.  Escaped before: no translation has markup or a backslash.
    text = in_users_language(f"{request.title}\n{request.body}")
    title, _, body = text.partition("\n")
    return [
        _NOTIFY,
        "--app-name=Vitrail",
        f"--expire-time={1000 * request.seconds}",
        "--",
        title,
        body,
    ]


def _answer(control: socket.socket, message: m.Answer, fds: Sequence[int] = ()) -> None:
    # guard: a starter answers when there is memory again
    call_patiently(partial(fdpass.send, control, m.encode(message), fds))


def _not_started(error: SetupError | OSError) -> m.HelperNotStarted:
    if isinstance(error, VitrailError):
        return m.HelperNotStarted(error.message, error.hint, missing=True)
    return m.HelperNotStarted(
        f"cannot start a process or get a descriptor: {error.strerror}"
    )


def become_starter(
    control: int, session: int, variables: int, broker: int, carry_out: CarryOut
) -> None:
    """Serve authority and viewer at these sockets, with the variables of a memory file.

    ``broker``: the pidfd of the broker's first process.
    """
    # Session children become programs (xdg-dbus-proxy), which must not have it.
    os.set_inheritable(broker, False)  # noqa: FBT003 -- os has no name for it
    with os.fdopen(variables, "rb") as file:
        file.seek(0)
        pairs = (item.split(b"=", 1) for item in file.read().split(b"\0")[:-1])
        os.environb.clear()
        os.environb.update((name, value) for name, value in pairs)
    sockets = socket.socket(fileno=control), socket.socket(fileno=session)
    serve_authority(*sockets, carry_out)
    _end_broker(broker)


def _end_broker(pidfd: int) -> None:
    """Return when the broker's first process has ended; kill it if it does not."""
    waiting = select.poll()
    waiting.register(pidfd, select.POLLIN)
    # guard: no viewer outlives its authority
    if not waiting.poll(1000 * _END_SECONDS):
        log_stderr("vitrail: the broker did not end with its authority and was killed")
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def serve_authority(
    control: socket.socket,
    session: socket.socket | None = None,
    carry_out: CarryOut | None = None,
) -> None:
    """Serve until the authority has gone; ``session`` is the viewer's socket."""
    os.umask(0o077)
    # A terminal and a service manager signal every process of a broker; the
    # authority decides.  Handlers, as helpers would inherit SIG_IGN.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    set_name("vitrail-starter")
    HelperServer(carry_out).run(control, session)
