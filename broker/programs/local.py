"""``vitrail-local``: authority, host and viewer, for a single machine.

Order of start: the fork server of helpers; the authority, which opens the audit log; the
host's process, which is forked from this one; then this process becomes the viewer's.
The authority serves the control socket when machines of an earlier broker have their
leases again.
"""

from __future__ import annotations

import os
import socket

from broker.helpers.compositor_socket import display_setting
from broker.helpers.forked_part import ForkedPart, fork_part
from broker.helpers.terminal_log import leave_terminal
from broker.programs.start import (
    StartedBroker,
    add_unjailed,
    parser_for,
    run_broker,
)


def main() -> None:
    """Entry point; exits with 1 and a sentence when it cannot start."""
    parser = parser_for("vitrail-local", "Vitrail's broker for one machine")
    add_unjailed(parser)
    parts = _Parts()
    words = parser.parse_args()
    leave_terminal()
    run_broker(
        "local",
        words,
        lambda _options: parts.run,
        beside=parts.fork,
        compositor=str(display_setting() or ""),
    )


class _Parts:
    """The host's process, and this one."""

    def __init__(self) -> None:
        self._host: tuple[socket.socket, ForkedPart] | None = None

    def fork(self, broker: StartedBroker) -> None:
        """Fork the host's process, with all imports that both parts share."""
        from broker.programs import local_common

        ours, theirs = local_common.pair()
        clients, forks = broker.authority.clients, broker.forks

        def host() -> None:
            # Its ends alone: the others' have to end with their processes.
            ours.close()
            clients["viewer"].close()
            forks["pumps"].control.close()
            forks["keepers"].control.close()
            forks["session"].control.close()
            os.close(broker.viewer_filter)
            from broker.programs.local_host import run_local_host

            run_local_host(
                broker.authority,
                broker.options,
                theirs,
                forks["acceptors"],
                forks["folders"].control,
            )

        self._host = ours, fork_part("vitrail-host", host)
        theirs.close()
        clients["host"].close()
        forks["acceptors"].control.close()

    async def run(self, broker: StartedBroker) -> None:
        """Confine this process, and run the viewer in it."""
        # Late: the host's process has no code of these.
        from broker.helpers.apart import read_compiled
        from broker.helpers.viewer_confinement import confine_viewer
        from broker.viewer.own_files import clear_displays, own_files

        [program] = read_compiled(broker.viewer_filter)
        clear_displays(broker.options.paths)
        confine_viewer(program, *own_files(broker.options.paths))
        # Executed in the confined process alone.
        from broker.viewer.broker import run_viewer
        from broker.viewer.host_ends.local_host import LocalHost

        assert self._host is not None
        sock, process = self._host
        await run_viewer(
            broker.authority,
            broker.options,
            broker.forks,
            broker.ready,
            role="local",
            make_end=lambda side: LocalHost(side, sock, process),
        )


if __name__ == "__main__":
    main()
