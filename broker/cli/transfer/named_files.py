"""Files and directories that the user names to brokerctl, where a sandbox may write.

A sandbox that may write to a directory can put a link there in place of a file, before
the verb looks at it and after (``core.files.planted_links``).  So a verb opens what it
gives to a sandbox, and where it writes for the user, by a descriptor.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from broker.cli.link.pairing.role import role_here
from broker.cli.policy.records import read_records
from broker.cli.run.connect import broker_runs, how_to_start
from broker.core.errors import RefusedError
from broker.core.escape import printable
from broker.core.files.planted_links import named_path
from broker.core.paths import Paths
from broker.ipc.control.api import Nothing
from broker.ipc.control.methods import FOLDERS
from broker.net.link.wire_types import Role
from broker.session.transfer.service_files import written_by_services
from policy.records.places import writable
from shims.files.sending import open_directory, open_without_links

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def writable_places(paths: Paths) -> list[Path]:
    """Return the directories in which a sandbox of this machine may have made links.

    Those of records and of services of the desktop, and folders that the running broker
    shares.  Raises VitrailError if a broker runs that does not answer.
    """
    records = read_records(paths).records.values()
    recorded = (place for record in records for place in writable(record))
    # guard: a link that a service of the desktop has made is not followed
    served = written_by_services(paths)
    return [paths.homes, *recorded, *served, *_shared_folders(paths)]


def _shared_folders(paths: Paths) -> list[Path]:
    """Return the folders that sandboxes may write to for as long as they are shared.

    Queries the broker if one runs; reads the machine's role, by which its key may be
    created (``role_here``).
    """
    # The broker of a host shares none of the files here.
    if not broker_runs(paths) or role_here(paths) is Role.HOST:
        return []
    # Late: most verbs run while a broker does, and few take a path with a link.
    from broker.ipc.control.blocking import open_blocking

    with open_blocking(paths, start=lambda: how_to_start(paths)) as client:
        found = client.call(FOLDERS, Nothing()).folders
    # The answer's paths are escaped and cut: of such a one, all that it may be in.
    written = [Path(folder.path) for folder in found if folder.write]
    return [next(p for p in (one, *one.parents) if p.is_dir()) for one in written]


def open_named(path: Path, places: Sequence[Path]) -> int:
    """Open a regular file that the user names, through no link of a sandbox.

    Raises RefusedError.
    """
    found = named_path(Path.cwd() / path, places)
    try:
        # guard: a named file is opened through no link that was made meanwhile
        fd = open_without_links(str(found), _FILE)
    except OSError as error:
        raise _unopened(path, error) from error
    # guard: a named file is a regular one
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise RefusedError(f"{printable(str(path), 200)} is not a regular file")
    return fd


def open_named_directory(path: Path, places: Sequence[Path]) -> tuple[Path, int]:
    """Open a directory that the user names; return it without links, too.

    Raises RefusedError.
    """
    found = named_path(Path.cwd() / path, places)
    try:
        return found, open_directory(str(found))
    except OSError as error:
        raise _unopened(path, error) from error


def _unopened(path: Path, error: OSError) -> RefusedError:
    return RefusedError(f"cannot open {printable(str(path), 200)}: {error.strerror}")
