"""Bubblewrap's arguments for the jail of our program.

The shipper's service and the host's launch tools put their jailed halves into it; this
module only makes words.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from broker.helpers.process.program_files import program_files


def program_jail(
    rules: int, shown: Iterable[Path], writable: Path | None, *, network: bool
) -> list[str]:
    """Return bubblewrap's command line up to our program.

    ``rules``: the descriptor of its filter.  ``shown``: what it reads, besides its own
    files; what is missing is left out.  Its root is read-only but for ``writable``.
    """
    words = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session"]
    words += ["--share-net"] if network else []
    words += ["--cap-drop", "ALL", "--seccomp", str(rules)]
    words += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]  # noqa: S108
    # A later mount covers the files below it.
    paths = dict.fromkeys([*program_files(), *shown])
    mounted: list[Path] = []
    for path in sorted(paths, key=lambda one: len(one.parts)):
        # A link that an earlier mount shows cannot be mounted on: its target is shown.
        below = any(path.is_relative_to(above) for above in mounted)
        place = path.resolve() if below else path
        words += ["--ro-bind-try", str(place), str(place)]
        mounted.append(path)
    if writable is not None:
        words += ["--bind", str(writable), str(writable)]
    return [*words, "--remount-ro", "/", "--chdir", "/", "--"]
