"""Start-up shared by the broker programs: arguments, limits, the pump, readiness."""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import socket
import sys
from collections.abc import Awaitable, Callable, Container
from importlib import resources
from pathlib import Path

from broker.authority.options import Options
from broker.core.errors import SetupError, VitrailError, sole
from broker.core.escape import displayed
from broker.core.paths import find_paths
from broker.helpers.pump.process import PumpHandle, start_pump
from broker.helpers.starter import start_starter
from broker.ipc import event_loop
from broker.net.activation import VARIABLES, take_activated

Run = Callable[[Options, PumpHandle, Callable[[], None]], Awaitable[None]]


def parser_for(program: str, description: str) -> argparse.ArgumentParser:
    """The words that all programs know."""
    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_argument(
        "--examples",
        action="store_true",
        help="also use the records that came with the program (demo, web, work)",
    )
    parser.set_defaults(allow_unjailed_workers=False, sockets=("control",))
    return parser


def add_unjailed(parser: argparse.ArgumentParser) -> None:
    """The word of those that have workers or virtual machines."""
    parser.add_argument(
        "--allow-unjailed-workers",
        action="store_true",
        help="run where user namespaces are not to be had; 'brokerctl status' warns",
    )


def run_broker(
    program: str, words: argparse.Namespace, prepare: Callable[[Options], Run]
) -> None:
    """Run a broker to its end; exits with 1 and a sentence when it cannot start.

    ``prepare`` is called before the pump is forked: mistakes in the
    configuration are reported there.
    """
    try:
        _run(program, words, prepare)
    except (VitrailError, ExceptionGroup) as group:
        # A task's error arrives in the groups of the nurseries around it.
        error = sole(group)
        if not isinstance(error, VitrailError):
            raise
        sys.stderr.write(f"{program}: {displayed(error.diagnostics())}\n")
        sys.exit(1)


def _run(
    program: str, words: argparse.Namespace, prepare: Callable[[Options], Run]
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
    # Sockets and logs are ours alone from their first moment.
    os.umask(0o077)
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    shipped = Path(str(resources.files("broker") / "data" / "sandboxes.d"))
    options = Options(
        paths=find_paths(),
        # Forked while there is neither trio nor a thread, as the pump is.
        starter=start_starter(),
        shipped=shipped if words.examples else None,
        allow_unjailed=words.allow_unjailed_workers,
        sockets=_activated(words.sockets),
        stopping=lambda: notify("STOPPING=1"),
    )
    run = prepare(options)

    def ready() -> None:
        notify("READY=1")
        sys.stderr.write(f"{program}: ready\n")

    # The pump is forked while there is neither trio nor a thread.
    pump = start_pump()
    event_loop.run(run, options, pump, ready)


def _activated(known: Container[str]) -> dict[str, socket.socket]:
    """The sockets of socket activation, which no child of ours inherits."""
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


def notify(text: str) -> None:
    """Notify the service manager, sd_notify(3); nothing without ``NOTIFY_SOCKET``."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        if address.startswith("@"):
            address = "\0" + address[1:]
        # The service manager may have gone by the time we end.
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
        ):
            sock.sendto(f"{text}\n".encode(), address)
