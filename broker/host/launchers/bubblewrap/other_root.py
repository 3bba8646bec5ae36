"""The directory tree of another system, whose programs a box has in place of this one's.

Only brokerctl runs this, with the user's rights.  The tree may come from anywhere: a link
in it must lead to nothing else of this machine, because bubblewrap follows the links of
what it binds.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from broker.core.errors import RefusedError


def checked_root(root: Path, places: Iterable[Path], where: str = "") -> Path:
    """Return a box's root without links, after checks.

    ``places``: directories to which a sandbox may write.  Raises RefusedError.
    """
    try:
        real = Path(os.path.realpath(root, strict=True))
    except OSError as error:
        raise RefusedError(
            f"cannot use {root} as the root of a box: {error.strerror}",
            where=where,
            hint="correct 'rootfs' in [launch]",
        ) from error
    refuse_written_root(real, places, where)
    usr = inside(real, "/usr")
    if usr is None or not Path(usr).is_dir():
        raise RefusedError(
            f"cannot use {root} as the root of a box: it has no directory usr of its own",
            where=where,
            hint="unpack the tree of a system there: 'mmdebstrap --variant=minbase --include=foot "
            "trixie DIRECTORY'",
        )
    return real


def refuse_written_root(root: Path, places: Iterable[Path], where: str = "") -> None:
    """Refuse the root of a box or container to which a sandbox may write at ``places``.

    Raises RefusedError.
    """
    real = Path(os.path.realpath(root))
    for place in map(Path, map(os.path.realpath, places)):
        # It would choose the programs of this sandbox, and could change links meanwhile.
        # guard: no sandbox writes to the root of a box
        if real.is_relative_to(place) or place.is_relative_to(real):
            raise RefusedError(
                f"cannot use {root} as a root: a sandbox can write to {place}",
                where=where,
                hint="use a tree to which no sandbox can write, or end the sharing of the folder",
            )


def inside(root: Path | None, place: str) -> str | None:
    """Return where a path of a box's root is on this machine; None: nowhere.

    ``root`` has no links; None: it is this machine's own.
    """
    if root is None:
        return place
    real = os.path.realpath(f"{root}{place}")
    # guard: no link in the root of a box leads to a file of this machine
    return real if Path(real).is_relative_to(root) else None
