"""``vitrail-host``: owns the virtual machines, and forwards to a viewer.

Order of start: its authority, which opens the audit log and is a program of its own
(a host has no code of it); the pump; the machines that outlived an earlier broker; the
link, which it dials for as long as it takes; the control socket, which the authority
serves.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

from broker.authority.options import AuthorityHandle, Options, client_pair
from broker.core.errors import SetupError
from broker.helpers.process.popen import start_process
from broker.helpers.process.spawn import our_program
from broker.helpers.pump.process import PumpHandle
from broker.host.broker import run_host
from broker.net.link.wire_types import Role
from broker.net.link_service.config import load_link_config
from broker.programs.start import Run, add_unjailed, parser_for, run_broker

_NAME = "vitrail-host"


def main() -> None:
    """Entry point; exits with 1 and a sentence when it cannot start."""
    parser = parser_for(_NAME, "Vitrail's broker for the machine that owns the VMs")
    add_unjailed(parser)
    parser.add_argument(
        "--connect",
        default="",
        metavar="ENDPOINT",
        help="where the viewer listens (default: connect in link.toml)",
    )
    words = parser.parse_args()
    run_broker(_NAME, words, lambda options: _prepare(options, words))


def _prepare(options: Options, words: argparse.Namespace) -> Run:
    link = load_link_config(options.paths, Role.HOST, endpoint=words.connect)
    authority = _spawn_authority(options)

    async def run(
        options: Options, pump: PumpHandle, ready: Callable[[], None]
    ) -> None:
        await run_host(authority, options, link, pump, ready)

    return run


def _spawn_authority(options: Options) -> AuthorityHandle:
    """Start it.  Raises SetupError when the process cannot be started."""
    ours, theirs = client_pair()
    activated = options.sockets.get("control")
    fds = [
        theirs.requests.fileno(),
        theirs.calls.fileno(),
        options.starter.fileno(),
    ]
    last = -1 if activated is None else activated.fileno()
    shipped = "" if options.shipped is None else str(options.shipped)
    numbers = [os.getpid(), *fds, last]
    try:
        process = start_process(
            our_program(
                "broker.programs.authority", "host", shipped, *map(str, numbers)
            ),
            pass_fds=[fd for fd in (*fds, last) if fd >= 0],
            outlive_us=True,  # it records that this process has died
        )
    except OSError as error:
        raise SetupError(
            f"the authority's process cannot be started: {error.strerror}",
            hint="raise the limit on processes ('ulimit -u')",
        ) from error
    theirs.close()
    options.starter.close()
    if activated is not None:
        activated.close()
    process.returncode = 0  # it is waited for by its pidfd
    return AuthorityHandle({"host": ours}, process.pid, os.pidfd_open(process.pid))


if __name__ == "__main__":
    main()
