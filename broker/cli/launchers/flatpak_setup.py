"""``brokerctl launcher install flatpak``: an application that starts by Vitrail only."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from broker.cli import render
from broker.cli.launchers.flatpak import installed_at, take_app
from broker.cli.launchers.setup import Setup, setup_errors
from broker.cli.sandboxes.desktop_entry import brokerctl_program, quoted
from broker.core.errors import UpstreamError
from broker.core.files.replace_file import replace_file
from broker.core.paths import find_paths
from broker.host.launchers.flatpak import menu
from broker.host.launchers.flatpak.files import (
    close_override,
    held,
    overrides_folder,
    remove_override,
)
from broker.host.launchers.flatpak.key_file import parse
from broker.session.menu_icons import data_home

_ENTRY_BYTES = 1 << 20


def install_flatpak(app: str, *, as_json: bool) -> None:
    """Close an application's own permissions, and have the menu start it by Vitrail.

    Raises SetupError.
    """
    paths = find_paths()
    location = installed_at(take_app(app))
    folder = overrides_folder(os.environ)
    with held(paths, app), setup_errors(f"cannot set up {app}"):
        entries = _entries(location, app)
        written = []
        if close_override(paths, folder, app, location):
            written.append(folder / app)
        for name, text in entries.items():
            path = _menu() / name
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, text.encode(), mode=0o644)
            written.append(path)
    render.written_files(written, as_json=as_json)
    if as_json:
        return
    if not entries:
        render.note(
            f"{app} does not have a menu entry; start it with 'brokerctl run "
            f"--flatpak {app}'"
        )
    render.note(
        f"running instances of {app} keep their permissions; to end them, run "
        f"'flatpak kill {app}'"
    )


def remove_flatpak(app: str) -> None:
    """Restore an application's permissions and menu entries.  Raises SetupError."""
    paths = find_paths()
    folder = overrides_folder(os.environ)
    with held(paths, take_app(app)), setup_errors(f"cannot set up {app}"):
        changed = remove_override(paths, folder, app)
        for path in _ours(app):
            path.unlink()
            render.note(f"removed {path}")
    text = (
        "has its original permissions again"
        if changed
        else "was not changed by Vitrail"
    )
    render.note(f"{app} {text}")


def _entries(location: Path, app: str) -> dict[str, str]:
    """Rewrite a Flatpak application's menu entries; return them by file name.

    Prints which ones are left out.
    """
    metadata = parse(_text(location / "metadata") or "")
    default = metadata.get("Application", {}).get("command", "")
    command = (brokerctl_program(), "run", "--quiet", "--flatpak", app)
    entries = {}
    for path in sorted((location / "export/share/applications").glob("*.desktop")):
        # Flatpak exports these names only, so no other application's is replaced.
        # guard: a Flatpak's menu entry has the name of the application
        if path.stem != app and not path.stem.startswith(f"{app}."):
            continue
        text = _text(path)
        try:
            made = text and menu.entry(text, app, default, command, quoted)
        except UpstreamError as error:
            render.note(f"skipped {path.name}: {error.message}")
            continue
        if made:
            entries[path.name] = made
        else:
            render.note(
                f"skipped {path.name}: it does not run the default command of {app}"
            )
    return entries


def _text(path: Path) -> str | None:
    """Read a publisher's regular file of moderate size; None for anything else."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        return file.read(_ENTRY_BYTES).decode("utf-8", "replace")


def _menu() -> Path:
    return data_home() / "applications"


def _ours(app: str) -> list[Path]:
    found = [_menu() / f"{app}.desktop", *_menu().glob(f"{app}.*.desktop")]
    return [path for path in found if menu.is_ours(_text(path) or "", app)]


FLATPAK_SETUP = Setup(
    "flatpak",
    lambda words: install_flatpak(words.app, as_json=words.as_json),
    remove_flatpak,
    of_an_app=True,
)
