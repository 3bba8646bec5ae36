"""Run a verb of brokerctl in a terminal of the desktop, for a verb that asks."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping, Sequence
from typing import Final

from broker.core.errors import SetupError
from broker.core.escape import printable
from broker.helpers.process.popen import our_program
from broker.helpers.process.spawn import spawn

_TERMINALS: Final = (
    ("xdg-terminal-exec",),
    ("foot",),
    ("x-terminal-emulator", "-e"),
    ("gnome-terminal", "--"),
    ("konsole", "-e"),
    ("xfce4-terminal", "-x"),
    ("alacritty", "-e"),
    ("kitty",),
)
"""With the words that precede a command."""


def in_terminal(words: Sequence[str], env: Mapping[str, str]) -> None:
    """Run a command in a terminal of the desktop, which stays until Enter.

    Raises SetupError if no terminal is installed.
    """
    path = env.get("PATH")
    terminal = next(
        (one for one in _TERMINALS if shutil.which(one[0], path=path)), None
    )
    if terminal is None:
        raise SetupError(
            "no terminal is installed that Vitrail can open",
            hint=f"install {_TERMINALS[1][0]}, or run in your terminal: brokerctl "
            f"{printable(shlex.join(words), 200)}",
        )
    command = shlex.join(our_program("broker.cli.app", *words))
    script = f"{command}; printf '\\n[Enter]'; read -r _"
    spawn([*terminal, "sh", "-c", script], env=env, outlive_us=True).abandon()
