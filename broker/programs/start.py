"""Start-up shared by the broker programs: arguments, limits, authority, pump, readiness.

Order: the fork server of helpers, which forks the starter, then the authority.  Each is a
separate program, so neither has code or data of host or viewer.
"""

from __future__ import annotations

import argparse
import os
import resource
import socket
import sys
from collections.abc import Awaitable, Callable, Container, Mapping
from importlib import resources
from pathlib import Path

from broker.authority.options import ClientEnds, Options, client_roles
from broker.core.errors import SetupError, VitrailError, sole
from broker.core.escape import displayed
from broker.core.paths import find_paths
from broker.helpers.fork_command import UNJAILED
from broker.helpers.fork_start import spawn_server
from broker.helpers.process.fork_client import ForkServerHandle
from broker.helpers.process.popen import our_program, start_process
from broker.helpers.pump.starting import PUMPS
from broker.helpers.service_manager import report, take_address
from broker.host_and_viewer.authority_handle import AuthorityHandle
from broker.ipc import event_loop
from broker.net.activation import VARIABLES, take_activated
from broker.net.refused_descriptors import refuse_descriptors

Forks = Mapping[str, ForkServerHandle]
"""The fork server of helpers, for the clients that order each of ``_FORKED``.

``session`` is the starter, for the viewer's orders; at ``folders`` the host receives
what their children hand to it."""
_FORKED = ("pumps", "keepers", "acceptors")
Beside = Callable[[AuthorityHandle, Options, Forks], None]
"""Forks another part of the broker, before the event loop starts."""
Run = Callable[[AuthorityHandle, Options, Forks, Callable[[], None]], Awaitable[None]]


def parser_for(program: str, description: str) -> argparse.ArgumentParser:
    """Return a parser with the options of all brokers."""
    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_argument(
        "--examples",
        action="store_true",
        help="also use the example records of the program, as demo",
    )
    parser.set_defaults(allow_unjailed_workers=False, sockets=("control",))
    return parser


def add_unjailed(parser: argparse.ArgumentParser) -> None:
    """Add the option of brokers that have workers or virtual machines."""
    parser.add_argument(
        "--allow-unjailed-workers",
        action="store_true",
        help="run where user namespaces are not available; 'brokerctl status' warns",
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
    if os.geteuid() == 0:
        raise SetupError(
            "the broker does not run as root: nothing it does needs that",
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
    take_address()
    unjailed = b"1" if words.allow_unjailed_workers else b""
    environ = {**os.environb, UNJAILED.encode(): unjailed}
    forks, starter = start_forks(environ, compositor)
    options = Options(
        paths=find_paths(),
        starter=starter,
        shipped=shipped if words.examples else None,
        allow_unjailed=words.allow_unjailed_workers,
        sockets=_activated(words.sockets),
    )
    run = prepare(options)
    authority = _start_authority(role, options)

    def ready() -> None:
        if role == "host":
            # A viewer is confined, and orders it.
            report("READY=1")
        sys.stderr.write(f"vitrail-{role}: ready\n")

    if beside is not None:
        beside(authority, options, forks)
    # The host's: without one on this machine a folder is served by its session child.
    forks["folders"].control.close()
    event_loop.run(run, authority, options, forks, ready)


def start_forks(
    environ: Mapping[bytes, bytes], compositor: str = ""
) -> tuple[Forks, socket.socket]:
    """Start the fork server of helpers, and the starter with these variables.

    Returns it and the authority's end.  Raises SetupError when it cannot be started.
    """
    pairs = {name: _packets() for name in _FORKED}
    (starter, other), (session, orders) = _packets(), _packets()
    host, folders = _packets()
    controls = [theirs.fileno() for _, theirs in pairs.values()]
    variables = open(os.memfd_create("variables"), "wb", 0)  # noqa: PTH123, SIM115
    with other, orders, folders, variables:
        variables.write(b"".join(b"%b=%b\0" % item for item in environ.items()))
        try:
            ours = other, orders, folders, variables
            more = [file.fileno() for file in ours]
            process = spawn_server(PUMPS, controls, more, compositor=compositor)
        except OSError as error:
            raise SetupError(
                f"the process that forks helpers cannot be started: {error.strerror}",
                hint="raise the limit on processes ('ulimit -u')",
            ) from error
    for _, theirs in pairs.values():
        theirs.close()
    forks = {name: ForkServerHandle(own, process) for name, (own, _) in pairs.items()}
    forks["session"] = ForkServerHandle(session, process)
    forks["folders"] = ForkServerHandle(host, process)
    return forks, starter


def _packets() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def _start_authority(role: str, options: Options) -> AuthorityHandle:
    """Start it.  Raises SetupError when the process cannot be started."""
    pairs = {name: _client_pair() for name in client_roles(role)}
    theirs = [pair[1] for pair in pairs.values()]
    activated = options.sockets.get("control")
    control = -1 if activated is None else activated.fileno()
    fds = [
        *(options.starter.fileno(), control),
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
            f"the authority's process cannot be started: {error.strerror}",
            hint="raise the limit on processes ('ulimit -u')",
        ) from error
    # The authority alone may have helpers started, and serves the control socket.
    for ends in theirs:
        ends.close()
    options.starter.close()
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


def _activated(known: Container[str]) -> dict[str, socket.socket]:
    """The sockets of socket activation, which none of our children inherits."""
    found = take_activated(os.environ, os.getpid(), known)
    for name in VARIABLES:
        os.environ.pop(name, None)
    sockets: dict[str, socket.socket] = {}
    for name, fd in found.items():
        os.set_inheritable(fd, False)  # noqa: FBT003 -- the os module's own
        sockets[name] = sock = socket.socket(fileno=fd)
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise SetupError(
                f"the socket '{name}' of the service manager does not listen",
                hint="ListenStream= and Accept=no in the .socket unit",
            )
    return sockets
