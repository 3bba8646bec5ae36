"""Start-up shared by the broker programs: arguments, limits, authority, pump, readiness.

Order: the fork server of helpers, which forks the starter, then the authority.  Each is a
separate program, so neither has code or data of host or viewer.  They start before this
process loads trio, so that all load at the same time.
"""

from __future__ import annotations

import argparse
import os
import resource
import socket
import sys
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from broker.authority.options import ClientEnds, Options, client_roles
from broker.core.errors import SetupError, VitrailError, sole
from broker.core.escape import displayed
from broker.core.paths import find_paths
from broker.helpers.fork_command import UNJAILED, command, variables
from broker.helpers.process.fork_handle import ForkServerHandle
from broker.helpers.process.memory import release_heap
from broker.helpers.process.popen import Process, our_program, start_process
from broker.helpers.service_manager import report, take_address
from broker.host_and_viewer.authority_handle import AuthorityHandle
from broker.ipc.fork_server import ForkServerKind
from broker.net.activation import VARIABLES, take_activated
from broker.net.refused_descriptors import refuse_descriptors
from broker.net.without_tls import leave_out_tls

Forks = Mapping[str, ForkServerHandle]
"""The fork server of helpers, for the clients that order each of ``_FORKED``.

``session`` is the starter, for the viewer's orders; at ``folders`` the host receives
what their children hand to it."""
_FORKED = ("pumps", "keepers", "acceptors")


@dataclass(frozen=True)
class StartedHelpers:
    """The fork server of helpers, a moment after its start.  The owner closes all."""

    controls: Mapping[str, socket.socket]
    """See ``Forks``."""
    process: Process
    starter: socket.socket
    """The authority's end."""
    authority_filter: int
    viewer_filter: int
    """Pipes, see ``apart.read_compiled``."""

    def forks(self) -> Forks:
        """Return what clients have of the fork servers.

        Raises OSError without a descriptor.
        """
        # Late: with trio, which a broker loads when its processes do so.
        from broker.helpers.process.spawn import Child

        process = self.process
        child = Child(process, os.pidfd_open(process.pid), "fork server of helpers")
        return {n: ForkServerHandle(sock, child) for n, sock in self.controls.items()}


@dataclass(frozen=True)
class StartedBroker:
    """What a broker's first process has started before its event loop."""

    authority: AuthorityHandle
    options: Options
    forks: Forks
    viewer_filter: int
    """See ``StartedHelpers``."""
    ready: Callable[[], None]
    """To be called when it can be used."""


Beside = Callable[[StartedBroker], None]
"""Forks another part of the broker, before the event loop starts."""
Run = Callable[[StartedBroker], Awaitable[None]]


def parser_for(program: str, description: str) -> argparse.ArgumentParser:
    """Return a parser with the options of all brokers."""
    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_argument(
        "--examples",
        action="store_true",
        help="also use the example records, such as demo",
    )
    parser.set_defaults(allow_unjailed_workers=False, sockets=("control",))
    return parser


def add_unjailed(parser: argparse.ArgumentParser) -> None:
    """Add the option of brokers that have workers or virtual machines."""
    parser.add_argument(
        "--allow-unjailed-workers",
        action="store_true",
        help="run without jails if there are no user namespaces; 'brokerctl status' warns",
    )


def run_broker(
    role: str,
    words: argparse.Namespace,
    prepare: Callable[[Options], Run],
    *,
    beside: Beside | None = None,
    compositor: str = "",
) -> None:
    """Run a broker to its end; exits with 1 and a sentence when it cannot start.

    ``prepare`` is called before other processes are started: mistakes in the
    configuration are reported there.  ``compositor``: the socket that keepers connect to.
    """
    program = f"vitrail-{role}"
    try:
        _run(role, words, prepare, beside, compositor)
    except (VitrailError, ExceptionGroup) as group:
        # A task's error arrives in the groups of the nurseries around it.
        error = sole(group)
        if not isinstance(error, VitrailError):
            raise
        sys.stderr.write(f"{program}: {displayed(error.diagnostics())}\n")
        sys.exit(1)


def _run(
    role: str,
    words: argparse.Namespace,
    prepare: Callable[[Options], Run],
    beside: Beside | None,
    compositor: str,
) -> None:
    """Prepare and run a broker: authority, helpers, and then its part."""
    leave_out_tls()
    if os.geteuid() == 0:
        raise SetupError(
            "the broker must not run as root, and does not need to",
            hint="start it as the user whose desktop it serves",
        )
    # Late: one call at the start.
    from broker.helpers.process.core_files import forbid_core_files

    # guard: no core files
    forbid_core_files()
    # Its file may be the terminal's.
    with open(os.devnull, "rb") as empty:  # noqa: PTH123 -- a path is not needed
        # guard: a broker reads nothing that the user types
        os.dup2(empty.fileno(), 0)
    # Sockets and logs are ours alone from their first moment.
    os.umask(0o077)
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    shipped = Path(str(resources.files("broker") / "data" / "sandboxes.d"))
    _end_remains()
    take_address()
    unjailed = b"1" if words.allow_unjailed_workers else b""
    environ = {**os.environb, UNJAILED.encode(): unjailed}
    helpers = start_helpers(environ, compositor)
    options = Options(
        paths=find_paths(),
        starter=helpers.starter,
        shipped=shipped if words.examples else None,
        allow_unjailed=words.allow_unjailed_workers,
        sockets=_activated(words.sockets),
    )
    run = prepare(options)
    authority = _start_authority(role, options, helpers.authority_filter)

    def ready() -> None:
        release_heap()
        if role == "host":
            # A viewer is confined, and orders it.
            report("READY=1")
        sys.stderr.write(f"vitrail-{role}: ready\n")

    forks = helpers.forks()
    started = StartedBroker(authority, options, forks, helpers.viewer_filter, ready)
    if beside is not None:
        beside(started)
    # The host's: without one on this machine a folder is served by its session child.
    forks["folders"].control.close()
    # Late, as trio is.
    from broker.ipc import event_loop

    event_loop.run(run, started)


def _end_remains() -> None:
    """End what an earlier broker left, which would hold directories of this one."""
    # Late: one call at the start.
    from broker.authority.control.broker_record import end_remains

    try:
        pid = end_remains(find_paths().state)
    except OSError as error:
        raise SetupError(
            f"cannot end the process of an earlier broker: {error.strerror}",
            hint="to end it, run 'brokerctl stop --broker --force'",
        ) from error
    if pid:
        sys.stderr.write(
            f"vitrail: ended process {pid} of a broker without authority\n"
        )


def start_helpers(
    environ: Mapping[bytes, bytes], compositor: str = ""
) -> StartedHelpers:
    """Start the fork server of helpers, and the starter with these variables.

    Raises SetupError when it cannot be started.
    """
    pairs = {name: _packets() for name in _FORKED}
    (starter, other), (session, orders) = _packets(), _packets()
    host, folders = _packets()
    authority_filter, authority = os.pipe2(os.O_CLOEXEC)
    viewer_filter, viewer = os.pipe2(os.O_CLOEXEC)
    theirs = [end.fileno() for _, end in pairs.values()]
    file = open(os.memfd_create("variables"), "wb", 0)  # noqa: PTH123, SIM115
    with other, orders, folders, file:
        file.write(b"".join(b"%b=%b\0" % item for item in environ.items()))
        given = other, orders, folders, file
        broker = os.pidfd_open(os.getpid())
        more = [authority, viewer, *(one.fileno() for one in given), broker]
        argv = command(ForkServerKind.HELPERS, theirs, more, compositor=compositor)
        try:
            process = start_process(
                argv, env=variables(os.environ), pass_fds=[*theirs, *more]
            )
        except OSError as error:
            raise SetupError(
                f"cannot start the process that forks helpers: {error.strerror}",
                hint="raise the limit on processes ('ulimit -u')",
            ) from error
    for end in (authority, viewer, broker):
        os.close(end)
    for _, sock in pairs.values():
        sock.close()
    controls = {name: own for name, (own, _) in pairs.items()}
    controls |= {"session": session, "folders": host}
    return StartedHelpers(controls, process, starter, authority_filter, viewer_filter)


def _packets() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def _start_authority(role: str, options: Options, filters: int) -> AuthorityHandle:
    """Fork the authority's process.  Raises SetupError when it cannot be started."""
    pairs = {name: _client_pair() for name in client_roles(role)}
    theirs = [pair[1] for pair in pairs.values()]
    activated = options.sockets.get("control")
    control = -1 if activated is None else activated.fileno()
    fds = [
        *(options.starter.fileno(), filters, control),
        *(end.fileno() for ends in theirs for end in (ends.requests, ends.calls)),
    ]
    shipped = "" if options.shipped is None else str(options.shipped)
    words = ["broker.programs.authority", role, shipped, str(os.getpid())]
    try:
        process = start_process(
            our_program(*words, *map(str, fds)),
            pass_fds=[fd for fd in fds if fd >= 0],
            outlive_us=True,  # it records that this process has died
        )
    except OSError as error:
        raise SetupError(
            f"cannot start the authority's process: {error.strerror}",
            hint="raise the limit on processes ('ulimit -u')",
        ) from error
    # The authority alone may have helpers started, and serves the control socket.
    for ends in theirs:
        ends.close()
    options.starter.close()
    os.close(filters)
    if activated is not None:
        activated.close()
    process.returncode = 0  # it is waited for by its pidfd
    ours = {name: pair[0] for name, pair in pairs.items()}
    return AuthorityHandle(ours, process.pid, os.pidfd_open(process.pid))


def _client_pair() -> tuple[ClientEnds, ClientEnds]:
    """Return the ends of a client and of the authority."""
    (ours, theirs), (answers, calls) = socket.socketpair(), socket.socketpair()
    for end in (theirs, calls):
        # guard: a viewer that was taken over gives the authority no file to close
        refuse_descriptors(end)
    return ClientEnds(ours, answers), ClientEnds(theirs, calls)


def _activated(known: Collection[str]) -> dict[str, socket.socket]:
    """Return the sockets of socket activation, which children do not inherit."""
    found = take_activated(os.environ, os.getpid(), known)
    for name in VARIABLES:
        os.environ.pop(name, None)
    sockets: dict[str, socket.socket] = {}
    for name, fd in found.items():
        os.set_inheritable(fd, False)  # noqa: FBT003 -- the os module's own
        sockets[name] = sock = socket.socket(fileno=fd)
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise SetupError(
                f"the socket '{name}' of the service manager is not listening",
                hint="set ListenStream= and Accept=no in the .socket unit",
            )
    return sockets
