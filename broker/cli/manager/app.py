"""``vitrail-manager``: a window to manage sandboxes, a client of the broker as brokerctl is."""

from __future__ import annotations

import sys
from typing import Final

from broker.cli import render
from broker.core.errors import SetupError

_USAGE: Final = "usage: vitrail-manager [PAGE|SANDBOX]"


def main() -> None:
    """Show the window, or the page of a sandbox in a window that is shown already."""
    if sys.argv[1:2] in (["-h"], ["--help"]):
        sys.stdout.write(f"{_USAGE}\n\n{__doc__}\n")
        return
    try:
        # Late: the system's modules need not be installed.
        from broker.cli.manager.application import run
    except ImportError as error:
        render.error(
            SetupError(
                f"the manager needs GTK 4 and libadwaita: {error}",
                hint="on Debian: apt install python3-gi gir1.2-gtk-4.0 gir1.2-adw-1",
            )
        )
        sys.exit(1)
    sys.exit(run(sys.argv))


if __name__ == "__main__":
    main()
