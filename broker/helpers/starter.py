"""The starter: the process that starts an authority's helpers.

Forked by the broker's first process while there is neither trio nor a thread.  It
starts the programs of ``ipc.starter.HelperProgram`` and notify-send(1), and reports
how each ended.  It reads no byte of a sandbox: its only socket is the authority's, and
a request names a program and nothing else of its command line.  An authority that was
taken over can show dialogs and notifications by it, which it can do in any case.

The starter ends when the authority does, and its helpers end with it (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from broker.core.errors import PeerError, SetupError, VitrailError
from broker.helpers.process import popen
from broker.helpers.process.process_name import set_name
from broker.helpers.process.spawn import our_program
from broker.ipc import fdpass
from broker.ipc import starter as m

_NOTIFY = "notify-send"


def start_starter(environ: Mapping[str, str] | None = None) -> socket.socket:
    """Fork the starter and return the authority's end; call it before trio starts.

    ``environ``: of the helpers, by default of this process.  Raises SetupError when
    the process cannot be started.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        pid = os.fork()
    except OSError as error:
        ours.close()
        theirs.close()
        raise SetupError(
            f"the process that starts helpers cannot be started: {error.strerror}",
            hint="raise the limit on processes ('ulimit -u')",
        ) from error
    if pid == 0:
        ours.close()
        _become_starter(theirs.detach(), environ)
    theirs.close()
    return ours


def _become_starter(control: int, environ: Mapping[str, str] | None) -> NoReturn:
    """Never returns and never unwinds into the parent's code."""
    code = 70  # EX_SOFTWARE, if not even the traceback below comes to be
    try:
        with open(os.devnull, "r+b", buffering=0) as null:  # noqa: PTH123 -- a descriptor is wanted
            os.dup2(null.fileno(), 0)
        os.closerange(3, control)
        os.closerange(control + 1, 0x7FFFFFFF)
        signal.set_wakeup_fd(-1)
        # A terminal and a service manager signal every process of a broker; the
        # authority decides.  Handlers, as helpers would inherit SIG_IGN.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        set_name("vitrail-starter")
        HelperServer(socket.socket(fileno=control), environ).run()
        code = 0
    except BaseException:  # noqa: BLE001 -- reported, and the process ends
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(code)


class HelperServer:
    """Serves one authority; ``control`` is a blocking socket."""

    def __init__(
        self, control: socket.socket, environ: Mapping[str, str] | None = None
    ) -> None:
        self._control = control
        self._environ = environ
        self._running: dict[int, tuple[popen.Process, int]] = {}
        """By pidfd: the helper, and where to write how it ended."""

    def run(self) -> None:
        """Serve until the authority has gone.  Raises PeerError for a wrong request."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd in self._running:
                    poll.unregister(fd)
                    self._ended(fd)
                elif not self._serve(poll):
                    return

    def _serve(self, poll: select.poll) -> bool:
        """Serve one request; False: there is none any more."""
        data, fds = fdpass.receive(self._control, m.MESSAGE_BYTES, m.DESCRIPTORS)
        if not data:
            return False
        try:
            argv = self._command(m.decode_request(data), fds)
            started = popen.start_process(argv, env=self._environ, pass_fds=fds)
            pidfd, end = self._keep(started)
        except (SetupError, OSError) as error:
            self._answer(_not_started(error))
            return True
        finally:
            fdpass.close_all(fds)
        poll.register(pidfd, select.POLLIN)
        try:
            self._answer(m.HelperStarted(started.pid), (pidfd, end))
        finally:
            os.close(end)
        return True

    def _command(self, request: m.Request, fds: Sequence[int]) -> list[str]:
        """Return the command line.  Raises SetupError, PeerError."""
        if isinstance(request, m.StartHelper):
            return our_program(f"broker.programs.{request.program}", *map(str, fds))
        # guard: a notification has no descriptors
        if fds:
            raise PeerError("descriptors for a notification")
        path = None if self._environ is None else self._environ.get("PATH")
        if shutil.which(_NOTIFY, path=path) is None:
            raise SetupError(f"{_NOTIFY} is not installed")
        return [
            _NOTIFY,
            "--app-name=Vitrail",
            f"--expire-time={1000 * request.seconds}",
            "--",
            request.title,
            request.body,
        ]

    def _keep(self, started: popen.Process) -> tuple[int, int]:
        """Return the helper's pidfd and the pipe that says how it ended."""
        try:
            pidfd = os.pidfd_open(started.pid)
            try:
                end, write = os.pipe2(os.O_CLOEXEC)
            except OSError:
                os.close(pidfd)
                raise
        except OSError:
            started.kill()  # not reaped, so the number is its own
            started.wait()
            raise
        self._running[pidfd] = (started, write)
        return pidfd, end

    def _ended(self, pidfd: int) -> None:
        helper, write = self._running.pop(pidfd)
        code = helper.wait()
        os.close(pidfd)
        with contextlib.suppress(
            OSError
        ):  # the authority does not wait for it any more
            os.write(write, m.END.pack(code))
        os.close(write)

    def _answer(self, message: m.Answer, fds: Sequence[int] = ()) -> None:
        fdpass.send(self._control, m.encode(message), fds)


def _not_started(error: SetupError | OSError) -> m.HelperNotStarted:
    if isinstance(error, VitrailError):
        return m.HelperNotStarted(error.message, error.hint, missing=True)
    return m.HelperNotStarted(
        f"no process or descriptor is left for it: {error.strerror}"
    )
