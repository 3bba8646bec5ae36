"""``vitrail-local``: authority, and host with viewer, for a single machine.

Order of start: the authority, which opens the audit log; the pump; then the fork server of
workers, the roles and, last, the control socket, which the authority serves.
"""

from __future__ import annotations

from collections.abc import Callable

from broker.authority.options import AuthorityHandle, Options
from broker.helpers.pump.handle import PumpHandle
from broker.programs.start import add_unjailed, parser_for, run_broker


def main() -> None:
    """Entry point; exits with 1 and a sentence when it cannot start."""
    parser = parser_for("vitrail-local", "Vitrail's broker for one machine")
    add_unjailed(parser)
    run_broker("local", parser.parse_args(), lambda _options: _run)


async def _run(
    authority: AuthorityHandle,
    options: Options,
    pump: PumpHandle,
    ready: Callable[[], None],
) -> None:
    # Late: the pump, which is forked before, has no code of these.
    from broker.programs.local_role import run_local

    await run_local(authority, options, pump, ready)


if __name__ == "__main__":
    main()
