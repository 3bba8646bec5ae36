"""The session's bus: a connection through a filter.

Who may speak to the bus as the user can have systemd start any program, and the desktop
open any file.  So the viewer gets a connection of ``xdg-dbus-proxy``, which passes on the
calls, signals and names of one use.  A proxy has one connection: who connects later finds
no socket.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

from jeepney.auth import BEGIN, AuthenticationError, Authenticator
from jeepney.bus import get_bus

from broker.core import limits
from broker.core.errors import RefusedError, SetupError, UpstreamError
from broker.helpers.process import popen
from broker.ipc.session import bus_orders as m
from broker.session.connecting import connect_patiently
from broker.session.order_exchange import OrderExchange
from broker.session.warrant_check import VerifiedPermit
from broker.wire.row import serves
from shims.files.bus_calls import BUS_OBJECTS

_PROGRAM: Final = "xdg-dbus-proxy"
_SOCKET: Final = "bus"
_SCREENS: Final = "+"
"""The argument of a permit for what the user chooses, and not for the sandbox's windows."""
_WATCHER: Final = "org.kde.StatusNotifierWatcher"
_PROPERTIES: Final = "org.freedesktop.DBus.Properties"
_ITEM: Final = "org.kde.StatusNotifierItem"
_SCREEN_CAST: Final = "org.freedesktop.portal.ScreenCast"
USES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "notifications": ("org.freedesktop.Notifications",),
        "settings": ("org.freedesktop.portal.Settings",),
        "screens": (
            _SCREEN_CAST,
            _PROPERTIES,
            "org.freedesktop.portal.Request",
            "org.freedesktop.portal.Session",
        ),
        "tray": (_WATCHER,),
    }
)
"""The interfaces that the viewer has on the bus: their rows of the desktop, no others."""


@serves(m.CONNECT_SCREENS)
def connect_screens(exchange: OrderExchange, _request: m.ConnectScreens) -> None:
    """Connect to the portal's screens while the permit for them is held.

    Raises VitrailError, OSError.
    """
    # guard: a permit for the sandbox's own windows shows none of the desktop's
    if exchange.permit.argument != _SCREENS:
        raise RefusedError("the permit is only for the sandbox's windows")
    _connect(exchange, "screens")
    # The filter ends with this process, which has the end that it looks at.
    exchange.hold(VerifiedPermit(exchange.permit))


@serves(m.CONNECT_BUS)
def connect_bus(exchange: OrderExchange, request: m.ConnectBus) -> None:
    """Connect to the session's bus for a use.  Raises VitrailError, OSError."""
    _connect(exchange, request.use)


def _connect(exchange: OrderExchange, use: str) -> None:
    """Start a filter, and answer with a connection through it."""
    popen.require_installed(_PROGRAM)
    program = shutil.which(_PROGRAM) or _PROGRAM
    _require_bus()
    # The proxy's process id, as panels expect it, and no other program's.
    # guard: an icon has its own bus name only
    item = f"{_ITEM}-{os.getpid()}-1" if use == "tray" else ""
    # Relative: a socket's path is short.
    folder = tempfile.mkdtemp(
        prefix="vitrail-bus.", dir=os.environ.get("XDG_RUNTIME_DIR")
    )
    os.chdir(folder)
    # The proxy's child is not reaped: it knows of none.  And what signals every process
    # of a broker would leave the viewer no connection to take its notifications back.
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    ready, told = os.pipe()
    # It takes this process's place, which would cost three times its memory; another
    # process makes the connection.  It ends when nobody can read what it says: with the
    # viewer's descriptor, or with the process that holds a permit.
    if os.fork():
        os.close(ready)
        # It complains of each connection that is closed before its last message.
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 2)
        os.set_inheritable(told, True)  # noqa: FBT003 -- os has no name for it
        words = [*_words(USES[use], item, told)]
        os.execve(program, words, {})  # noqa: S606 -- in this process's place
    os.close(told)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(limits.ADMIT_SECONDS)
        try:
            _wait_for(ready)
            sock.connect(_SOCKET)
        finally:
            # guard: nobody else connects to the proxy
            shutil.rmtree(folder)
        _authenticate(sock, descriptors=_SCREEN_CAST in USES[use])
        sock.settimeout(0)
        if use == "screens":
            exchange.answer(fds=[sock.fileno()])
        else:
            exchange.answer(m.BusConnection(item), [sock.fileno(), ready])


def _words(interfaces: tuple[str, ...], item: str, told: int) -> Iterator[str]:
    """Yield the command line of xdg-dbus-proxy."""
    yield from (_PROGRAM, f"--fd={told}")
    yield from (os.environ["DBUS_SESSION_BUS_ADDRESS"], _SOCKET)
    # guard: the viewer has what the table says of the session's bus
    yield "--filter"
    for one in map(BUS_OBJECTS.__getitem__, interfaces):
        for row in one.rows.values():
            # guard: the viewer has the rows of the desktop alone
            if row.desktop:
                kind = "broadcast" if row.signal else "call"
                yield f"--{kind}={one.name}={one.interface}.{row.member}@{one.path}"
    if item:
        yield f"--own={item}"
        panel = BUS_OBJECTS[_WATCHER]
        # guard: the viewer reads the list of icons, and calls nothing else of a panel
        yield f"--call={panel.name}={_PROPERTIES}.Get@{panel.path}"


def _require_bus() -> None:
    """Raise SetupError, UpstreamError where there is no bus: the proxy would not say why."""
    try:
        place = get_bus("SESSION")
    except KeyError:
        raise SetupError(
            "this session has no D-Bus (DBUS_SESSION_BUS_ADDRESS is not set)",
            hint="start the broker from your desktop session",
        ) from None
    except (RuntimeError, ValueError) as error:
        raise SetupError(f"DBUS_SESSION_BUS_ADDRESS: {error}") from error
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            connect_patiently(sock, place)
        except OSError as error:
            raise UpstreamError(error.strerror or "it does not answer") from error


def _wait_for(ready: int) -> None:
    """Wait until the proxy listens.  Raises UpstreamError."""
    waiting = select.poll()
    waiting.register(ready, select.POLLIN)
    if not waiting.poll(1000 * limits.ADMIT_SECONDS) or not os.read(ready, 1):
        raise UpstreamError(f"{_PROGRAM} did not start")


def _authenticate(sock: socket.socket, *, descriptors: bool) -> None:
    """Authenticate on the bus before the proxy, which passes all on.

    Raises UpstreamError.
    """
    steps = Authenticator(enable_fds=descriptors)
    try:
        for data in steps:
            sock.sendall(data)
            answer = sock.recv(1024)
            if not answer:
                raise UpstreamError("the bus has closed the connection")
            steps.feed(answer)
        sock.sendall(BEGIN)
    except (AuthenticationError, TimeoutError) as error:
        raise UpstreamError("the bus sent an invalid answer") from error
