"""What bubblewrap is told: what a box has of the host, and what it has not.

It has the programs (``/usr``), the part of ``/etc`` without which they do not
start, the sockets of its own lease, and the files that the person named.  It has
no home, no network, no other process, no device but the harmless ones, and no way
to more rights.

Pure: descriptors and paths in, words out (bwrap(1)).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SOCKETS = "/run/vitrail"
_HOME = "/home/user"
_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_ETC = (
    *("alternatives", "fonts", "gtk-3.0", "gtk-4.0", "ld.so.cache", "ld.so.conf"),
    *("ld.so.conf.d", "localtime", "mime.types", "nsswitch.conf", "pki", "pulse"),
    *("ssl/certs", "terminfo", "xdg"),
)


@dataclass(frozen=True)
class Box:
    """What is to run, and what it may see."""

    command: tuple[str, ...]
    sockets: Path
    """The directory of its lease's sockets."""
    files: tuple[Path, ...] = ()
    """Readable inside, where they are outside."""
    language: str = "C.UTF-8"
    terminal: str = "dumb"


@dataclass(frozen=True)
class Descriptors:
    """What bubblewrap inherits."""

    block: int
    """It waits for a byte here before it starts the command."""
    status: int
    """It says here which process is the first one inside."""
    passwd: int
    group: int


def bwrap_args(box: Box, fds: Descriptors, uid: int) -> list[str]:
    """Return bubblewrap's command line."""
    return [
        "bwrap",
        "--unshare-all",
        # Without a session of its own it could type into our terminal (TIOCSTI).
        *("--new-session", "--die-with-parent", "--cap-drop", "ALL", "--clearenv"),
        *("--block-fd", str(fds.block), "--json-status-fd", str(fds.status)),
        *_file_system(box, fds, uid),
        *_environment(box, uid),
        *("--chdir", _HOME, "--"),
        *box.command,
    ]


def _file_system(box: Box, fds: Descriptors, uid: int) -> Iterator[str]:
    yield from ("--ro-bind", "/usr", "/usr", "--proc", "/proc", "--dev", "/dev")
    for name in _MERGED:
        path = Path("/", name)
        if path.is_symlink():
            yield from ("--symlink", str(path.readlink()), str(path))
        else:
            yield from ("--ro-bind-try", str(path), str(path))
    for name in _ETC:
        yield from ("--ro-bind-try", f"/etc/{name}", f"/etc/{name}")
    yield from ("--ro-bind-data", str(fds.passwd), "/etc/passwd")
    yield from ("--ro-bind-data", str(fds.group), "/etc/group")
    for place in ("/tmp", "/var/tmp", "/run", "/home"):  # noqa: S108 -- the box's own
        yield from ("--tmpfs", place)
    yield from ("--perms", "0700", "--dir", _HOME)
    yield from ("--perms", "0700", "--dir", f"/run/user/{uid}")
    # Read-only: it may connect to what is there, and make, move or remove nothing.
    yield from ("--ro-bind", str(box.sockets), SOCKETS)
    for path in box.files:
        yield from ("--ro-bind", str(path), str(path))


def _environment(box: Box, uid: int) -> Iterator[str]:
    words = {
        "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/games",
        "HOME": _HOME,
        "USER": "user",
        "LANG": box.language,
        "TERM": box.terminal,
        "XDG_RUNTIME_DIR": f"/run/user/{uid}",
        "XDG_SESSION_TYPE": "wayland",
        "WAYLAND_DISPLAY": f"{SOCKETS}/wayland-0",
        "PULSE_SERVER": f"unix:{SOCKETS}/vitrail.Audio",
        "GDK_BACKEND": "wayland",
        "QT_QPA_PLATFORM": "wayland",
        "MOZ_ENABLE_WAYLAND": "1",
    }
    for name, value in words.items():
        yield from ("--setenv", name, value)
