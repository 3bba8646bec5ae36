"""The starter: the process that starts an authority's helpers.

It is forked by the fork server of helpers and has the session's variables for its
helpers, and nothing else of the broker.  It starts the programs of ``ipc.starter.HelperProgram`` and
notify-send(1), and reports how each ended.  It reads no byte of a sandbox: its only
socket is the authority's, and a request names a program and nothing else of its command
line.  An authority that was taken over can show dialogs and notifications by it, which
it can do in any case.

The starter ends when the authority does, and its helpers end with it (PR_SET_PDEATHSIG).
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

from broker.core.errors import PeerError, SetupError, VitrailError
from broker.helpers.process import popen
from broker.helpers.process.fork_server import patiently
from broker.helpers.process.process_name import set_name
from broker.ipc import fdpass
from broker.ipc import starter as m

_NOTIFY = "notify-send"


class HelperServer:
    """Serves one authority; ``control`` is a blocking socket."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._running: dict[int, tuple[popen.Process, int]] = {}
        """By pidfd: the helper, and where to write how it ended."""

    def run(self) -> None:
        """Serve until the authority has gone.  Raises PeerError for a wrong request."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        while True:
            # guard: a starter outlives a moment without memory
            for fd, _ in patiently(poll.poll):
                if fd in self._running:
                    poll.unregister(fd)
                    self._ended(fd)
                elif not self._serve(poll):
                    return

    def _serve(self, poll: select.poll) -> bool:
        """Serve one request; False: there is none any more."""
        size, most = m.MESSAGE_BYTES, m.DESCRIPTORS
        try:
            data, fds = patiently(partial(fdpass.receive, self._control, size, most))
        # guard: a request without its descriptors is answered
        except PeerError as error:
            self._answer(m.HelperNotStarted(error.message))
            return True
        if not data:
            return False
        try:
            argv = self._command(m.decode_request(data), fds)
            started = popen.start_process(argv, pass_fds=fds)
            pidfd, end = self._keep(started)
        except (SetupError, OSError) as error:
            self._answer(_not_started(error))
            return True
        finally:
            fdpass.close_all(fds)
        poll.register(pidfd, select.POLLIN)
        try:
            self._answer(m.HelperStarted(started.pid), (pidfd, end))
        except OSError as error:
            # guard: a helper that cannot be passed on ends no starter
            started.kill()
            self._answer(_not_started(error))
        finally:
            os.close(end)
        return True

    def _command(self, request: m.Request, fds: Sequence[int]) -> list[str]:
        """Return the command line.  Raises SetupError, PeerError."""
        if isinstance(request, m.StartHelper):
            return popen.our_program(
                f"broker.programs.{request.program}", *map(str, fds)
            )
        # guard: a notification has no descriptors
        if fds:
            raise PeerError("descriptors for a notification")
        if shutil.which(_NOTIFY) is None:
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
            started.kill()  # not reaped, so the pid was not reused
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
        # guard: a starter answers when there is memory again
        patiently(partial(fdpass.send, self._control, m.encode(message), fds))


def _not_started(error: SetupError | OSError) -> m.HelperNotStarted:
    if isinstance(error, VitrailError):
        return m.HelperNotStarted(error.message, error.hint, missing=True)
    return m.HelperNotStarted(
        f"no process or descriptor is left for it: {error.strerror}"
    )


def become_starter(control: int, variables: int) -> None:
    """Serve the authority at this socket, with the variables of a memory file."""
    with os.fdopen(variables, "rb") as file:
        file.seek(0)
        pairs = (item.split(b"=", 1) for item in file.read().split(b"\0")[:-1])
        os.environb.clear()
        os.environb.update((name, value) for name, value in pairs)
    serve_authority(socket.socket(fileno=control))


def serve_authority(control: socket.socket) -> None:
    """Serve until the authority has gone."""
    os.umask(0o077)
    # A terminal and a service manager signal every process of a broker; the
    # authority decides.  Handlers, as helpers would inherit SIG_IGN.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    set_name("vitrail-starter")
    HelperServer(control).run()
