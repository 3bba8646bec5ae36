"""Services of the user's own desktop: a file of the user's names the program and its jail.

``services.d/NAME.toml`` (``policy.services.desktop``) in the user's own
settings, and nowhere else: no package and no sandbox adds one.  The program and what
frames its stream (``shims/files``) run in one bubblewrap jail, which has the machine's
programs and what the file names; no byte of the caller is read outside of it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import trio

from broker.core.errors import SetupError, UpstreamError
from broker.core.paths import Paths, read_config
from broker.core.services import NOTIFICATION, TRAY
from broker.core.stderr_log import log_stderr
from broker.helpers import box_filters
from broker.helpers.console_log import ConsoleLog
from broker.helpers.mounts.bound_files import BoundFiles
from broker.helpers.process.jail_libraries import MERGED, merged_words
from broker.helpers.process.namespace_limits import limit_box
from broker.helpers.process.spawn import Child, spawn
from broker.helpers.process.tool_jail import python_words, read_leader
from broker.ipc.guest.file_requests import GuestCall, reply_frame
from broker.ipc.sealed_memfd import sealed
from broker.viewer.calls.camera import Cameras
from broker.viewer.calls.desktop_settings import DesktopSettings
from broker.viewer.calls.screens import ScreenShares
from broker.viewer.filtered_bus import FilteredBus
from broker.viewer.notifications.notification_service import NotificationService
from broker.viewer.opening.failures import ToldError
from broker.viewer.tray.tray_icons import TrayIcons
from policy.services.desktop import FOLDER, DesktopService, parse_service
from shims.bundle import files_tool

if TYPE_CHECKING:
    from broker.authority.permit import Request
    from broker.viewer.opening.exchanges import OpenExchange

    ServeDaemon = Callable[[OpenExchange, Request], Awaitable[None]]

_START_SECONDS = 10.0
_ETC = ("alternatives", "ld.so.cache", "localtime", "mime.types", "ssl/certs")
_NETWORK_ETC = ("resolv.conf", "hosts", "nsswitch.conf")


class DesktopServices:
    """The services that files of the user's name."""

    def __init__(
        self,
        paths: Paths,
        cameras: Cameras,
        screens: ScreenShares,
        notifications: NotificationService,
        bus: FilteredBus,
    ) -> None:
        self._folder = paths.config[0] / FOLDER
        self._logs = paths.state / "services"
        self.settings = DesktopSettings(bus.settings)
        self.cameras = cameras
        self.screens = screens
        self.tray = TrayIcons(bus.tray)
        self.daemons: Mapping[str, ServeDaemon] = MappingProxyType(
            {NOTIFICATION: notifications.serve, TRAY: self.tray.serve}
        )
        """What serves the daemons of sandboxes, by service."""

    def find(self, name: str) -> DesktopService:
        """Return a service; its file is read for each call.

        ``name`` has the form of a service's.  Raises ToldError.
        """
        file = self._folder / f"{name}.toml"
        try:
            service, problems = parse_service(file, read_config(file))
        except FileNotFoundError:
            raise ToldError(f"the user's own desktop has no service {name}") from None
        except SetupError as error:
            log_stderr(f"vitrail: {error}")
            raise ToldError(f"the service {name} cannot be started") from error
        for problem in problems:
            log_stderr(f"vitrail: {problem.render()}")
        if service is None:
            raise ToldError(f"the service {name} cannot be started")
        return service

    @asynccontextmanager
    async def serving(
        self, call: GuestCall, service: DesktopService
    ) -> AsyncIterator[socket.socket]:
        """Run a service in its jail while the block runs; yields its end of the stream.

        Raises SetupError without bubblewrap, UpstreamError where it does not start,
        RefusedError where one of its paths leads through a link.
        """
        with ExitStack() as ours:
            near, far = (ours.enter_context(end) for end in socket.socketpair())
            log = self._log(call.service)
            ours.callback(log.close)
            read, errors = os.pipe2(os.O_CLOEXEC)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_keep, read, log)
                try:
                    held, child, status = _start(service, far, errors, ours)
                finally:
                    os.close(errors)
                far.close()
                try:
                    await _ready(near)
                    leader = await read_leader(status, "the service")
                    # Another sandbox may have changed where they lead since they were opened.
                    held.check(leader)
                    limit_box(leader, nested=False)
                    near.sendall(reply_frame(call))
                    yield near
                finally:
                    nursery.cancel_scope.cancel()
                    await child.kill_and_wait()

    def _log(self, name: str) -> ConsoleLog:
        with suppress(OSError):  # the disk is full: the log tries again, and counts
            self._logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        return ConsoleLog(self._logs, name=f"{name}.log")


def _start(
    service: DesktopService, far: socket.socket, errors: int, ours: ExitStack
) -> tuple[BoundFiles, Child, int]:
    """Start the jail; returns its paths, its process, and where it names its leader."""
    held = BoundFiles((*service.read, *service.write), {}, ours)
    status, theirs = os.pipe2(os.O_CLOEXEC)
    ours.callback(os.close, status)
    with ExitStack() as closing:
        closing.callback(os.close, theirs)
        tool, rules = sealed([files_tool()]), sealed([box_filters.box_filter()])
        closing.callback(os.close, tool)
        closing.callback(os.close, rules)
        words = [
            *("bwrap", "--json-status-fd", str(theirs), "--seccomp", str(rules)),
            *jail_words(service, Path.home(), os.getuid()),
            *(
                *python_words(),
                f"/proc/self/fd/{tool}",
                "serve-here",
                str(far.fileno()),
            ),
            *service.command,
        ]
        child = spawn(
            words,
            name="service",
            pass_fds=(theirs, rules, tool, far.fileno()),
            stdout=errors,
            stderr=errors,
        )
    return held, child, status


def jail_words(service: DesktopService, home: Path, uid: int) -> Iterator[str]:
    """Return bubblewrap's arguments: the machine's programs, and the file's mounts."""
    yield from ("--unshare-all", "--die-with-parent", "--new-session")
    if service.network:
        yield "--share-net"
    yield from ("--cap-drop", "ALL", "--clearenv")
    yield from ("--ro-bind", "/usr", "/usr", "--proc", "/proc", "--dev", "/dev")
    yield from merged_words(*MERGED)
    for name in (*_ETC, *(_NETWORK_ETC if service.network else ())):
        yield from ("--ro-bind-try", f"/etc/{name}", f"/etc/{name}")
    for place in ("/tmp", "/run"):  # noqa: S108 -- the jail's own
        yield from ("--tmpfs", place)
    runtime = f"/run/user/{uid}"
    yield from ("--perms", "0700", "--dir", str(home))
    yield from ("--perms", "0700", "--dir", runtime)
    binds = [(path, "--ro-bind") for path in service.read]
    binds += [(path, "--bind") for path in service.write]
    # A later mount covers the files below it.
    for path, how in sorted(binds, key=lambda bind: len(bind[0].parts)):
        yield from (how, str(path), str(path))
    env = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "XDG_RUNTIME_DIR": runtime,
    }
    for name, value in env.items():
        yield from ("--setenv", name, value)
    yield from ("--chdir", str(home), "--")


async def _ready(near: socket.socket) -> None:
    """Wait until the program that frames the stream runs, inside all mounts."""
    near.settimeout(0)
    with trio.move_on_after(_START_SECONDS):
        await trio.lowlevel.wait_readable(near)
        if near.recv(1) == b"R":
            return
    raise UpstreamError(
        "bubblewrap did not start the service",
        hint="its output is in the service's log",
    )


async def _keep(read: int, log: ConsoleLog) -> None:
    async with trio.lowlevel.FdStream(read) as stream:
        async for data in stream:
            log.write(bytes(data))
