"""``vitrail-local``: host and viewer in one, for a single machine.

Order of start: the pump is forked while there is neither trio nor a thread,
then trio runs, and in it the audit log, the template of workers, the roles
and, last, the control socket.
"""

from __future__ import annotations

from broker.authority.runtime import Options
from broker.programs.local_role import run_local
from broker.programs.start import Run, add_unjailed, parser_for, run_broker

_NAME = "vitrail-local"


def main() -> None:
    """Entry point; exits with 1 and a sentence when it cannot start."""
    parser = parser_for(_NAME, "Vitrail's broker for one machine")
    add_unjailed(parser)
    run_broker(_NAME, parser.parse_args(), _prepare)


def _prepare(options: Options) -> Run:
    del options  # there is nothing to prepare
    return run_local


if __name__ == "__main__":
    main()
