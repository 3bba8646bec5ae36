"""``vitrail-local``: authority, and host with viewer, for a single machine.

Order of start: authority and pump are forked while there is neither trio nor a
thread; the authority opens the audit log; then come the template of workers, the
roles and, last, the control socket, which the authority serves.
"""

from __future__ import annotations

from collections.abc import Callable

from broker.authority.options import Options
from broker.helpers.pump.process import PumpHandle
from broker.programs.authority import start_authority
from broker.programs.start import Run, add_unjailed, parser_for, run_broker

_NAME = "vitrail-local"


def main() -> None:
    """Entry point; exits with 1 and a sentence when it cannot start."""
    parser = parser_for(_NAME, "Vitrail's broker for one machine")
    add_unjailed(parser)
    run_broker(_NAME, parser.parse_args(), _prepare)


def _prepare(options: Options) -> Run:
    authority = start_authority("local", options)
    # The authority alone may have helpers started.
    options.starter.close()
    if "control" in options.sockets:
        options.sockets["control"].close()  # the authority serves it

    async def run(
        options: Options, pump: PumpHandle, ready: Callable[[], None]
    ) -> None:
        # Late: authority and pump, which are forked before, have no code of these.
        from broker.programs.local_role import run_local

        await run_local(authority, options, pump, ready)

    return run


if __name__ == "__main__":
    main()
