"""Records of programs that have none, for as long as a launch needs them.

They come with the preparation of the launch, and are kept as files beside the user's
records: the authority reads them as any other, also after a restart.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection
from pathlib import Path

from broker.core import limits
from broker.core.errors import RefusedError, UpstreamError
from broker.core.files.replace_file import replace_file
from broker.core.names import SandboxName
from broker.core.paths import Paths
from policy.records.folder import FOLDER
from policy.records.model import RecordSet

_NAME = re.compile(r"(box|flatpak)-[0-9a-f]{6}")


def write_made(paths: Paths, records: RecordSet, name: SandboxName, text: str) -> Path:
    """Write the record of a launch; return its file.

    It may replace a record that a launch left.  Raises RefusedError unless its name is one that
    ``brokerctl run`` makes and no record of the user has, UpstreamError where it cannot be
    written.
    """
    folder = paths.runtime / FOLDER
    before = records.records.get(name)
    theirs = before is not None and before.source.parent != folder
    # guard: a record that is sent replaces none of the user
    if _NAME.fullmatch(name) is None or theirs:
        raise RefusedError(
            f"cannot prepare '{name}': its record was sent, but the user has a record of "
            "this name, or it is not a name that 'brokerctl run' makes"
        )
    file = folder / f"{name}.toml"
    # guard: a record that was sent a moment ago is not replaced
    if _is_young(file):
        raise RefusedError(
            f"cannot prepare '{name}': a launch of this name has just been prepared",
            hint=f"try again in {limits.LAUNCH_BIND_SECONDS:.0f} s",
        )
    try:
        file.parent.mkdir(mode=0o700, exist_ok=True)
        replace_file(file, text.encode())
    except OSError as error:
        raise UpstreamError(
            f"cannot write the record of '{name}': {error.strerror}"
        ) from error
    return file


def remove_made(paths: Paths, needed: Collection[str]) -> None:
    """Remove the records of launches that are not there any more.

    Also those of an earlier release, whose ``brokerctl run`` wrote them before it
    prepared its launch: a young one may be about to be used.
    """
    for file in (paths.runtime / FOLDER).glob("*.toml"):
        unused = _NAME.fullmatch(file.stem) and file.stem not in needed
        # guard: a record that is about to be used stays
        if unused and not _is_young(file):
            file.unlink(missing_ok=True)  # its run may have removed it


def _is_young(file: Path) -> bool:
    """Return whether a launch that needs the record may not be bound yet."""
    try:
        age = time.time() - file.stat().st_mtime
    except FileNotFoundError:
        return False
    return 0 <= age <= limits.LAUNCH_BIND_SECONDS
