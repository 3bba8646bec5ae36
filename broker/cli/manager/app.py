"""``vitrail-manager``: a window to manage sandboxes, a client of the broker as brokerctl is."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from broker.cli import render
from broker.core.errors import SetupError

_USAGE: Final = "usage: vitrail-manager [PAGE|SANDBOX]"


def main() -> None:
    """Run ``vitrail-manager`` with the arguments of the command line."""
    if sys.argv[1:2] in (["-h"], ["--help"]):
        sys.stdout.write(f"{_USAGE}\n\n{__doc__}\n")
        return
    sys.exit(show(sys.argv[1:]))


def show(pages: Sequence[str]) -> int:
    """Show the window, and the page that is named; return the exit code."""
    try:
        # Late: the system's modules need not be installed.
        from broker.cli.manager.application import run

        return run(["vitrail-manager", *pages])
    except SetupError as error:
        render.error(error)
        return 1


if __name__ == "__main__":
    main()
