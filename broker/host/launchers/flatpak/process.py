"""``flatpak run``, held back until its lease has begun.

Only brokerctl runs this, with the user's rights: it starts flatpak(1), and writes to the
pipe that the application waits for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from broker.helpers.process.gate import Gate, limited_gate_words
from broker.helpers.process.spawn import PIPE, Child, spawn

_KEPT = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TERM", "TMPDIR"),
    *("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"),
    *("XDG_STATE_HOME", "XDG_DATA_DIRS", "XDG_CURRENT_DESKTOP", "XDG_SESSION_TYPE"),
    *("DBUS_SESSION_BUS_ADDRESS", "DBUS_SYSTEM_BUS_ADDRESS"),
    *("FLATPAK_USER_DIR", "FLATPAK_SYSTEM_DIR"),
)
"""flatpak's own settings; it hands on the rest of its environment, so none exists."""


@dataclass(eq=False)
class HeldFlatpak:
    """A ``flatpak run`` that waits.

    flatpak becomes bwrap (execve), so that this process is the leader and ends with
    the application.
    """

    child: Child
    _gate: Gate

    @property
    def leader(self) -> int:
        """The application's outer process."""
        return self.child.pid

    def release(self) -> None:
        """Let the program run.  Raises OSError when it has gone."""
        self._gate.open()

    async def end(self) -> None:
        """End the program, if it has not ended; not cancellable."""
        with trio.CancelScope(shield=True):
            self._gate.abandon()
            await self.child.stop()


def flatpak_words(
    app: str, words: Sequence[str], files: Sequence[Path], start: Sequence[str] = ()
) -> list[str]:
    """Return brokerctl's ``flatpak run``; the application can read ``files``.

    ``start``: words that start its program, in place of the application's own.

    Its instance ends with the process that starts it, and has no accessibility bus:
    that shows the windows of others.
    """
    shown = [f"--filesystem={_option(path)}:ro" for path in files]
    return [
        *("flatpak", "run", "--die-with-parent", "--no-a11y-bus", *shown),
        *(f"--command={word}" for word in start[:1]),
        *(app, *start[1:], *words),
    ]


def _option(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace(":", "\\:")


def start_held(
    app: str,
    words: Sequence[str],
    files: Sequence[Path],
    environ: Mapping[str, str],
    *,
    open_files: int,
    start: Sequence[str] = (),
) -> HeldFlatpak:
    """Start ``flatpak run``, held until it is released; its output goes to pipes."""
    gate, release = os.pipe()
    try:
        child = spawn(
            [
                *limited_gate_words(open_files),
                *flatpak_words(app, words, files, start),
            ],
            name="flatpak",
            env={name: environ[name] for name in _KEPT if name in environ},
            cwd="/",
            stdin=gate,
            stdout=PIPE,
            stderr=PIPE,
        )
    except BaseException:
        os.close(release)
        raise
    finally:
        os.close(gate)
    return HeldFlatpak(child, Gate(release))
