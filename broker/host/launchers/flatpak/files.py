"""Where override files are, and what Vitrail has written into them.

Only brokerctl runs this, with the user's rights: it writes overrides in the user's
Flatpak installation, and a copy of what they were in Vitrail's state.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path

import msgspec

from broker.core.errors import RefusedError, UpstreamError
from broker.core.files.replace_file import replace_file
from broker.core.paths import Paths
from broker.host.launchers.flatpak.key_file import Groups, items, parse, write
from broker.host.launchers.flatpak.overrides import (
    CONTEXT,
    SYSTEM_BUS,
    FlatpakPermissions,
    OverrideChange,
    apply,
    undo,
    wanted_change,
)

_BUS_NAME = re.compile(r"[A-Za-z0-9_.*-]+")


def overrides_folder(environ: Mapping[str, str]) -> Path:
    """Return the directory of the user's override files."""
    given = environ.get("FLATPAK_USER_DIR")
    data = environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return (Path(given) if given else Path(data, "flatpak")) / "overrides"


@contextmanager
def held(paths: Paths, app: str) -> Iterator[None]:
    """Lock an application's override while the block runs.

    Raises RefusedError when it is held.  Creates the lock's file, which stays.
    """
    folder = _folder(paths)
    fd = os.open(folder / f"{app}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            # guard: an application runs in one sandbox at a time
            flock(fd, LOCK_EX | LOCK_NB)
        except BlockingIOError as error:
            raise RefusedError(
                f"{app} is already running under Vitrail, or another command is changing its permissions",
                hint="to find its sandbox, run 'brokerctl list'; then run 'brokerctl stop SANDBOX'",
            ) from error
        yield
    finally:
        os.close(fd)


def write_override(
    paths: Paths, folder: Path, app: str, wanted: FlatpakPermissions
) -> bool:
    """Write an application's override file: sockets of a lease, permissions closed.

    Records the change, for ``remove_override``.

    Returns whether they were open before.  Raises OSError, UpstreamError for an
    override file that is not one.
    """
    earlier = _change(paths, app)
    groups = parse(_text(folder / app))
    if earlier is not None:
        groups = undo(groups, earlier)
    change = wanted_change(wanted)
    made = apply(groups, change)
    # The undo first: ended in between, a change that was not made is undone.
    _replace(_folder(paths) / f"{app}.json", msgspec.json.encode(change))
    _replace(folder / app, write(made).encode())
    return earlier is None


def is_closed(paths: Paths, app: str) -> bool:
    """Return whether an application's permissions are replaced by ours."""
    return _change(paths, app) is not None


def system_bus_names(installed: Path) -> list[str]:
    """Return names of the system bus which an installed application may use.

    Raises OSError, UpstreamError where its metadata cannot be read.
    """
    # Flatpak loads no application whose metadata has another name.
    found = own_permissions(installed).get(SYSTEM_BUS, {})
    return [name for name in found if _BUS_NAME.fullmatch(name)]


def x11_program(installed: Path, *, always: bool) -> str | None:
    """Return the command of an application whose permissions include X11.

    None for another one, unless ``always``.  Raises as ``system_bus_names``.
    """
    own = own_permissions(installed)
    wants = always or "x11" in items(own.get(CONTEXT, {}).get("sockets", ""))
    return own.get("Application", {}).get("command") if wants else None


def own_permissions(installed: Path) -> Groups:
    """Return the groups of an installed application's metadata.

    Raises as ``system_bus_names``.
    """
    return parse((installed / "metadata").read_text("utf-8", "replace"))


def close_override(paths: Paths, folder: Path, app: str, installed: Path) -> bool:
    """Close an application's permissions before a first run, without a lease.

    Returns whether they were open before.  Raises as ``write_override``.
    """
    return not is_closed(paths, app) and write_override(
        paths,
        folder,
        app,
        FlatpakPermissions(None, system_names=system_bus_names(installed)),
    )


def remove_override(paths: Paths, folder: Path, app: str) -> bool:
    """Undo the change of an application's override file; return if there was one.

    Removes the override file if nothing is left in it, and the note of the change.
    """
    change = _change(paths, app)
    if change is None:
        return False
    text = write(undo(parse(_text(folder / app)), change))
    if text:
        _replace(folder / app, text.encode())
    else:
        (folder / app).unlink(missing_ok=True)
    (_folder(paths) / f"{app}.json").unlink()
    return True


def _folder(paths: Paths) -> Path:
    """Return the directory of Flatpak's state, which is created if it is absent."""
    folder = paths.state / "flatpak"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _change(paths: Paths, app: str) -> OverrideChange | None:
    """Read the recorded change of an application's override; None if none exists."""
    path = _folder(paths) / f"{app}.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=OverrideChange)
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise UpstreamError(f"invalid content: {error}", where=str(path)) from error


def _text(path: Path) -> str:
    """Read a file as text; "" if missing.  Raises UpstreamError."""
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        return ""
    except ValueError as error:
        raise UpstreamError("the file is not UTF-8 text", where=str(path)) from error


def _replace(path: Path, data: bytes) -> None:
    """Write a file at once: an instance that starts meanwhile reads a whole one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, data)
