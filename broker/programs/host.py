"""``vitrail-host``: owns the virtual machines, and forwards to a viewer.

Order of start: the fork server of helpers; its authority, which opens the audit log; the
pump; the machines that outlived an earlier broker; the link, which it dials for as long as it takes; the
control socket, which the authority serves.
"""

from __future__ import annotations

import argparse

from broker.authority.options import Options
from broker.net.link.wire_types import Role
from broker.net.link_service.config import load_link_config
from broker.programs.start import (
    Run,
    StartedBroker,
    add_unjailed,
    parser_for,
    run_broker,
)


def main() -> None:
    """Entry point; exits with 1 and a sentence when it cannot start."""
    about = "Vitrail's broker for the machine that owns the VMs"
    parser = parser_for("vitrail-host", about)
    add_unjailed(parser)
    parser.add_argument(
        "--connect",
        default="",
        metavar="ENDPOINT",
        help="where the viewer listens (default: connect in link.toml)",
    )
    words = parser.parse_args()
    run_broker("host", words, lambda options: _prepare(options, words))


def _prepare(options: Options, words: argparse.Namespace) -> Run:
    """Read ``link.toml``; return the coroutine that runs the host."""
    link = load_link_config(options.paths, Role.HOST, endpoint=words.connect)

    async def run(broker: StartedBroker) -> None:
        # Late: mistakes in link.toml are reported before these are loaded.
        from broker.host.broker import run_host

        await run_host(
            broker.authority, broker.options, link, broker.forks, broker.ready
        )

    return run


if __name__ == "__main__":
    main()
