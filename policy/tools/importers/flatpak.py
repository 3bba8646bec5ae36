"""A Flatpak application's permissions, as a record to start from.

The record gives the application less than Flatpak does; each permission that it
loses, or that has another meaning here, gets a note (flatpak-metadata(5)).
"""

from __future__ import annotations

import configparser
import json
import re
from pathlib import Path

from policy import limits
from policy.tools.importers import Imported, ImportFileError, ImportNote

_CLOSED_SOCKETS = {
    "x11": "no access to your X server; to provide a separate one, set 'x11 = true' in [window]",
    "fallback-x11": "no access to X11",
    "session-bus": "no access to the whole session bus; its names and portals remain",
    "system-bus": "no access to the whole system bus",
    "ssh-auth": "no access to the SSH agent",
    "gpg-agent": "no access to the GPG agent",
    "pcsc": "no access to smart cards",
    "cups": "no access to the printing socket; the print portal remains",
}
_DIRECTORIES = {
    "xdg-desktop": "Desktop",
    "xdg-documents": "Documents",
    "xdg-download": "Downloads",
    "xdg-music": "Music",
    "xdg-pictures": "Pictures",
    "xdg-public-share": "Public",
    "xdg-templates": "Templates",
    "xdg-videos": "Videos",
}
_COMMANDS = re.compile(r"org\.freedesktop\.(\*|(Flatpak|systemd1)(\.\*)?)")
_SYSTEM = ("/run", "/var/run", "/proc", "/sys", "/dev")
_WIDE = {"host", "host-os", "host-etc", "home", "~", "/"}


def import_flatpak(app: str, permissions: str, home: Path) -> Imported:
    """Return a record for an application.

    ``permissions`` is what ``flatpak info --show-permissions`` prints, ``home`` the
    person's home directory.  Raises ImportFileError for another text.
    """
    return _Import(app, permissions, home).run()


class _Import:
    def __init__(self, app: str, permissions: str, home: Path) -> None:
        """Set up the import of an application's permissions."""
        self._app = app
        self._home = home
        self._groups = _parsed(permissions)
        self._notes: list[ImportNote] = []
        self._binds: dict[str, list[str]] = {
            "bind_read_only": [],
            "bind_read_write": [],
        }

    def run(self) -> Imported:
        """Return the application's record, with notes on what it does not have."""
        for value in self._items("filesystems"):
            self._filesystem(value)
        self._sockets()
        self._others()
        name = record_name(self._app)
        return Imported({f"sandboxes.d/{name}.toml": self._record()}, (*self._notes,))

    def _items(self, key: str) -> list[str]:
        found = self._groups.get("Context", {}).get(key, "")
        return [item for item in found.split(";") if item and item[0] != "!"]

    def _note(self, key: str, message: str) -> None:
        self._notes.append(
            ImportNote(f"{self._app}: {key}", key.partition("=")[0], message)
        )

    def _filesystem(self, value: str) -> None:
        """Add a permitted directory as a bind, or a note why not."""
        path, colon, mode = value.partition(":")
        key = "bind_read_only" if colon and mode == "ro" else "bind_read_write"
        host_path = None if path in _WIDE else self._path(path)
        # guard: a wide directory by another name
        if path in _WIDE or (host_path is not None and self._is_wide(host_path)):
            self._note(
                f"filesystems={value}",
                "not imported: name the directories in bind_read_only or bind_read_write",
            )
            return
        # guard: hidden directories of the home are not imported
        if host_path is not None and self._is_hidden(host_path):
            self._note(
                f"filesystems={value}",
                "not imported: hidden directories contain keys, and settings that can "
                "run programs outside the sandbox",
            )
            return
        if host_path is None or len(self._binds[key]) >= limits.BINDS:
            self._note(f"filesystems={value}", "not taken")
        elif str(host_path) not in self._binds[key]:
            self._binds[key].append(str(host_path))

    def _path(self, path: str) -> Path | None:
        """Return the directory that a permission names; None for those of the session.

        The application's author wrote it: ``~/.``, ``//`` and ``/./run`` name the paths that they
        name however they are spelled, and ``..`` is not followed.
        """
        first, slash, rest = path.partition("/")
        # guard: directories by way of others
        if ".." in rest.split("/"):
            return None
        if first in _DIRECTORIES:
            return self._home / _DIRECTORIES[first] / rest.lstrip("/")
        if first == "~" and slash:
            return self._home / rest.lstrip("/")
        found = Path("/", rest.lstrip("/"))
        # guard: directories of the session and of the system
        if first or any(found.is_relative_to(one) for one in _SYSTEM):
            return None
        return found

    def _is_wide(self, found: Path) -> bool:
        """Return whether the home directory is inside, by either of its names."""
        # If the system is read-only, /home is a link to /var/home.
        other = Path("/var", self._home.relative_to("/"))
        return self._home.is_relative_to(found) or other.is_relative_to(found)

    def _is_hidden(self, found: Path) -> bool:
        """Return whether a path is in a hidden directory of the home."""
        for home in (self._home, Path("/var", self._home.relative_to("/"))):
            if found.is_relative_to(home):
                return any(part[0] == "." for part in found.relative_to(home).parts)
        return False

    def _sockets(self) -> None:
        """Note what the record has of the permitted sockets."""
        for socket in self._items("sockets"):
            if socket in _CLOSED_SOCKETS:
                self._note(f"sockets={socket}", _CLOSED_SOCKETS[socket])
        if "pulseaudio" in self._items("sockets"):
            self._note(
                "sockets=pulseaudio",
                "playback through the filter; no access to the microphone and /dev/snd",
            )

    def _others(self) -> None:
        """Note the devices and shared parts that a record does not open."""
        for device in self._items("devices"):
            if device != "dri":
                self._note(f"devices={device}", "no access")
        if "ipc" in self._items("shared"):
            self._note("shared=ipc", "no access: it contains pictures of X11 programs")
        if "network" in self._items("shared"):
            self._note(
                "shared=network",
                "no access: share_network = true would permit the host's network, and "
                "with it abstract sockets such as an X server's",
            )
        for name, may in self._groups.get("Session Bus Policy", {}).items():
            if may != "none" and _COMMANDS.fullmatch(name):
                self._note(name, "no access: this service runs commands on the host")
        for name, may in self._groups.get("System Bus Policy", {}).items():
            if may != "none":
                self._note(name, "no access: a name on the system bus")

    def _record(self) -> str:
        """Return the text of the record."""
        sound = "allow" if "pulseaudio" in self._items("sockets") else "none"
        lines = [
            f"# A draft for {self._app}, from its Flatpak permissions.",
            'class = "persistent"',
            'display = "allow"',
            "[label]",
            f"name = {json.dumps(self._app[: limits.LABEL_CHARS])}",
            'colour = "orange"',
            "[audio]",
            f'playback = "{sound}"',
            "[launch]",
            'kind = "flatpak"',
            f'app = "{self._app}"',
        ]
        lines += [
            f"{key} = {json.dumps(paths, ensure_ascii=False)}"
            for key, paths in self._binds.items()
            if paths
        ]
        return "\n".join([*lines, ""])


def record_name(app: str) -> str:
    """Return a record's name for an application: the last word of its ID."""
    word = re.sub(r"[^a-z0-9-]", "-", app.rpartition(".")[2].lower())
    return word[:31] if re.match(r"[a-z]", word) else f"app-{word}"[:31]


def _parsed(text: str) -> dict[str, dict[str, str]]:
    """Parse the permissions by section and key; raises ImportFileError."""
    parser = configparser.RawConfigParser(
        delimiters=("=",), comment_prefixes=("#",), strict=False, default_section=""
    )
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        parser.read_string(text)
    except configparser.Error as error:
        raise ImportFileError(f"not a list of permissions: {error.message}") from error
    return {group: dict(parser.items(group)) for group in parser.sections()}
