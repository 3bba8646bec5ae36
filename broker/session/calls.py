"""Services of the user's own desktop: a file of the user's names the program and its jail.

``services.d/NAME.toml`` (``policy.services.desktop``) in the user's own
settings, and nowhere else: no package and no sandbox adds one.  The program and what
frames its stream (``shims/files``) run in one bubblewrap jail, which has the machine's
programs and what the file names; no byte of the caller is read outside of it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from broker.core import limits
from broker.core.errors import RefusedError, SetupError, UpstreamError
from broker.core.paths import find_paths, read_config
from broker.core.services import CALL, RESERVED
from broker.helpers.bubblewrap_status import STATUS_BYTES, leader_of, read_line
from broker.helpers.console_log import ConsoleLog
from broker.helpers.filters import box_filters
from broker.helpers.mounts.bound_files import BoundFiles
from broker.helpers.process import popen
from broker.helpers.process.gate import limit_argv
from broker.helpers.process.jail_libraries import (
    MERGED,
    hide_keys_argv,
    merged_words,
    python_words,
)
from broker.helpers.process.memory_file import memory_file
from broker.helpers.process.namespace_limits import limit_box
from broker.helpers.tools.profiles import SERVICE
from broker.ipc.guest.file_requests import GuestCall, reply_frame
from broker.ipc.session import service_orders as m
from broker.session.order_exchange import OrderExchange, one_of
from broker.session.warrant_check import VerifiedPermit
from broker.wire.row import serves
from policy.services.desktop import FOLDER, DesktopService, parse_service
from shims.bundle import carried_tool

_START_SECONDS = 10.0
_READ_BYTES = 1 << 16
_ETC = ("alternatives", "ld.so.cache", "localtime", "mime.types", "ssl/certs")
_NETWORK_ETC = ("resolv.conf", "hosts", "nsswitch.conf")


@serves(m.START_SERVICE)
def start_service(exchange: OrderExchange, order: m.StartService) -> None:
    """Run a service of the user's desktop in its jail, to its end.

    Raises RefusedError if its path leads through a link, SetupError without
    bubblewrap, UpstreamError if it does not start.
    """
    permit = exchange.permit
    # guard: a permit for a service of the broker's starts no program
    if order.service.lower().startswith(RESERVED):
        raise RefusedError(f"{order.service} is a service of the broker")
    # guard: a permit for one service starts no other one
    if (permit.service, permit.argument) != _permitted(order):
        raise RefusedError(f"the permit is for {permit.argument}, not for this call")
    paths = find_paths()
    service = _find(paths.config[0] / FOLDER, order.service)
    if service is None:
        exchange.answer(m.FoundService())
        return
    exchange.answer(m.FoundService(service.concurrent))
    call = GuestCall(permit.sandbox, order.service, order.argument, service.command)
    # Without a further call, too many of it run.
    exchange.serve_next(
        one_of(_ServiceCall(call, service, VerifiedPermit(permit)).serve)
    )


@dataclass(frozen=True)
class _ServiceCall:
    """A permitted call of a service that was found."""

    call: GuestCall
    service: DesktopService
    held: VerifiedPermit

    @serves(m.SERVE_NOW)
    def serve(self, exchange: OrderExchange, _request: m.ServeNow) -> None:
        """Run the service in its jail, to its end.  Raises as ``start_service``."""
        # guard: a service that was found is not started when its permit may have ended
        self.held.refuse_late()
        name = f"{self.call.service}.log"
        log = ConsoleLog(find_paths().state / "services", name=name)
        with ExitStack() as ours:
            ours.callback(log.close)
            _serve(exchange, self.call, self.service, log, ours, held=self.held)


def _permitted(order: m.StartService) -> tuple[str, str]:
    """Return service and argument of the permit for a call (``viewer.calls``)."""
    if "." in order.service:
        return order.service, f"+{order.argument}"
    argument = f"+{order.argument}" if order.argument else ""
    return CALL, f"+{order.service}{argument}"


def _find(folder: Path, name: str) -> DesktopService | None:
    """Return a service; None: there is no such file.

    Raises SetupError for a wrong one, with lines for the broker's log as its hint.
    """
    file, message = folder / f"{name}.toml", f"cannot start the service {name}"
    try:
        service, problems = parse_service(file, read_config(file))
    except FileNotFoundError:
        return None
    except SetupError as error:
        raise SetupError(message, hint=str(error)) from error
    if service is None:
        raise SetupError(message, hint="\n".join(one.render() for one in problems))
    return service


def _serve(
    exchange: OrderExchange,
    call: GuestCall,
    service: DesktopService,
    log: ConsoleLog,
    ours: ExitStack,
    *,
    held: VerifiedPermit,
) -> None:
    """Run a service in its jail while its permit is held; hand its stream back."""
    near, far = (ours.enter_context(end) for end in socket.socketpair())
    theirs = ours.enter_context(ExitStack())
    bound_files = BoundFiles((*service.read, *service.write), {}, ours)
    read, write, status, report = *os.pipe2(os.O_CLOEXEC), *os.pipe2(os.O_CLOEXEC)
    for fd in (write, report):
        theirs.callback(os.close, fd)
    fds = (
        report,
        memory_file(theirs, box_filters.box_filter()),
        memory_file(theirs, carried_tool(SERVICE.verbs)),
        far.fileno(),
    )

    def begun(started: popen.Process) -> None:
        far.close()
        theirs.close()
        try:
            leader = leader_of(read_line(status, STATUS_BYTES), "the service")
            _wait_ready(near)
            # Another sandbox may have changed where they lead since they were opened.
            bound_files.check(leader)
            limit_box(leader, nested=False)
            near.sendall(reply_frame(call))
            exchange.answer(fds=[near.fileno()])
        except BaseException:
            popen.kill_jail(started.pid)
            _keep(read, log)  # why it did not start
            raise
        near.close()

    # guard: a service of the desktop ends with its permit
    exchange.run(
        [*_command_line(service, fds), *service.command],
        pass_fds=fds,
        stdout=write,
        stderr=write,
        on_start=begun,
        permit=held,
        readers={read: lambda: _keep_some(read, log)},
    )
    _keep(read, log)  # its last words


def _command_line(service: DesktopService, fds: tuple[int, int, int, int]) -> list[str]:
    """Return the command line of bubblewrap that runs the service."""
    report, rules, tool, far = fds
    # guard: a service of the desktop ends first where memory ends
    first = ("choom", "-n", str(limits.BOX_OOM), "--")
    # guard: a service of the desktop has the limits of a box
    limited = limit_argv(limits.SANDBOX_FDS)
    return [
        *(*first, "bwrap", "--json-status-fd", str(report), "--seccomp", str(rules)),
        *_jail_words(service, Path.home(), os.getuid()),
        *(*limited, *python_words(), f"/proc/self/fd/{tool}", "serve-here", str(far)),
    ]


def _jail_words(service: DesktopService, home: Path, uid: int) -> Iterator[str]:
    """Return bubblewrap's arguments: the machine's programs, and the file's mounts."""
    yield from ("--unshare-all", "--die-with-parent", "--new-session")
    if service.network:
        yield "--share-net"
    yield from ("--cap-drop", "ALL", "--clearenv")
    sizes = _memory_sizes(home)
    for place in sorted(sizes, key=lambda path: len(Path(path).parts)):
        if place != "/dev/shm":  # noqa: S108 -- the jail's own
            yield from ("--size", str(sizes[place]), "--tmpfs", place)
    yield from ("--ro-bind", "/usr", "/usr", "--proc", "/proc", "--dev", "/dev")
    yield from ("--size", str(sizes["/dev/shm"]), "--tmpfs", "/dev/shm")  # noqa: S108
    # A program could lower its score in one, and fill the other, which has no size.
    # guard: a service of the desktop stays the first to end
    yield from ("--remount-ro", "/proc", *hide_keys_argv(), "--remount-ro", "/dev")
    yield from merged_words(*MERGED)
    for name in (*_ETC, *(_NETWORK_ETC if service.network else ())):
        yield from ("--ro-bind-try", f"/etc/{name}", f"/etc/{name}")
    runtime = f"/run/user/{uid}"
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


def _memory_sizes(home: Path) -> dict[str, int]:
    """Return the sizes of the jail's file systems in memory: a box's."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    sizes = {path: memory // part for path, part in limits.BOX_MEMORY_PARTS}
    # guard: the file systems of a service in memory have a size
    return {"/": limits.BOX_SMALL_BYTES, str(home): sizes.pop("/home"), **sizes}


def _wait_ready(near: socket.socket) -> None:
    """Wait until the program that frames the stream runs, inside all mounts."""
    near.settimeout(_START_SECONDS)
    try:
        if near.recv(1) == b"R":
            near.settimeout(None)
            return
    except TimeoutError:
        pass
    raise UpstreamError(
        "bubblewrap did not start the service",
        hint=f"read the service's log in {find_paths().state / 'services'}",
    )


def _keep(read: int, log: ConsoleLog) -> None:
    """Keep what a service writes, until its jail has ended."""
    while _keep_some(read, log):
        pass


def _keep_some(read: int, log: ConsoleLog) -> bool:
    """Keep some of what a service has written; return False at its end."""
    data = os.read(read, _READ_BYTES)
    log.write(data)
    return bool(data)
