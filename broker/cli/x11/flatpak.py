"""X11 windows of a Flatpak application, whose own socket of an X server is closed.

No runtime has Xwayland.  A box of this machine's programs has one, with the bridge
(``shims/x11``), and joins the application: its pid namespace is below one of the
application's, so that its windows are the application's and it ends with it.  It is made
in the user namespace in which Flatpak made the application's, which has none of its
programs: they cannot trace it.

bubblewrap enters both namespaces itself, because a process with this machine's files
must at no time be open to the application (/proc/PID/root).
"""

from __future__ import annotations

import fcntl
import os
import socket
from contextlib import ExitStack, suppress
from pathlib import Path

import trio

from broker.cli import render
from broker.cli.launchers.held import copy_output
from broker.cli.run.progress import Steps
from broker.cli.x11.verb import write_bridge
from broker.core.errors import RefusedError, SetupError, VitrailError
from broker.core.process_status import descendants
from broker.helpers.process.spawn import DEVNULL, PIPE, spawn
from broker.host.launchers.bubblewrap.arguments import Box
from broker.host.launchers.bubblewrap.command import prepare
from broker.host.launchers.session_bus import SOCKETS
from broker.net.peers import credentials
from broker.net.peers.flatpak_instances import app_of
from shims.x11.cookie import XAuthority

SOCKET, COOKIE, _BRIDGE = "X0", "xauthority", "vitrail-x11"
_SCRIPT = (
    'd=/tmp/.X11-unix; mkdir -p $d && ln -sf "$0" $d/X0 && export DISPLAY=:0 '
    f'XAUTHORITY="${{0%/*}}/{COOKIE}" _JAVA_AWT_WM_NONREPARENTING=1; exec "$@"'
)
"""Inside: Flatpak takes DISPLAY out of each environment that is given from outside."""
_NS_GET_USERNS = 0xB701
_PAUSE_SECONDS = 1.0


def start_words(sockets: Path, program: str) -> tuple[str, ...]:
    """Return the words that start an application whose X server is beside its sockets."""
    return ("sh", "-c", _SCRIPT, str(sockets / SOCKET), program)


class XSocket:
    """The socket of an application's X server, which is started when a program connects."""

    def __init__(self, app: str, sockets: Path, stack: ExitStack, steps: Steps) -> None:
        """Create the X socket beside the sockets of a lease; ``stack`` closes it.

        Raises OSError.
        """
        self._app, self._sockets, self._steps = app, sockets, steps
        write_bridge(sockets / _BRIDGE)
        XAuthority(str(sockets / COOKIE), present=False)
        self._listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        self._listener.bind(str(sockets / SOCKET))
        self._listener.listen(64)
        self._listener.setblocking(False)  # noqa: FBT003

    async def serve(self, leader: int) -> None:
        """Show X11 windows of the application of ``leader``, until cancelled."""
        while True:
            await trio.lowlevel.wait_readable(self._listener)
            try:
                await self._show(leader)
            except (OSError, VitrailError) as error:
                render.note(f"{self._app} cannot show X11 windows: {error}")
                with suppress(BlockingIOError):
                    self._listener.accept()[0].close()
            await trio.sleep(_PAUSE_SECONDS)

    async def _show(self, leader: int) -> None:
        """Run the X11 bridge in the application's namespaces until it ends."""
        with ExitStack() as ours:
            beside = _namespaces_of(self._app, leader, ours)
            listener = self._listener.fileno()
            words = (
                *("/usr/bin/env", f"XAUTHORITY={SOCKETS}/{COOKIE}"),
                *("/usr/bin/python3", "-I", "-S", "-B", f"{SOCKETS}/{_BRIDGE}"),
                *("--listen", str(listener)),
            )
            command = prepare(Box(words, self._sockets), ours, beside)
            child = spawn(
                command.argv(self._sockets),
                name="bwrap",
                pass_fds=(*command.pass_fds, listener),
                stdin=command.stdin,
                stdout=DEVNULL,
                stderr=PIPE,
            )
            command.theirs.close()
            try:
                command.gate.open()
                await copy_output(child, self._steps)
                await child.wait()
            finally:
                with trio.CancelScope(shield=True):
                    await child.stop()


def _namespaces_of(app: str, leader: int, stack: ExitStack) -> tuple[int, int]:
    """Return descriptors of an application's pid namespace and its user namespace.

    As descriptors, which ``stack`` closes.  Raises SetupError if none exists.
    """
    runtime = Path(os.environ["XDG_RUNTIME_DIR"])
    for pid in descendants(leader):
        try:
            pidfd = os.pidfd_open(pid)
            stack.callback(os.close, pidfd)
            found = credentials.pid_namespaces(pidfd)
            if app_of(runtime, found) != app:
                continue
            space = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        except (OSError, RefusedError):
            continue  # it ends at this moment
        stack.callback(os.close, space)
        if os.fstat(space).st_ino == found[0]:
            owner = fcntl.ioctl(space, _NS_GET_USERNS)
            stack.callback(os.close, owner)
            return space, owner
    raise SetupError("the application has no pid namespace")
