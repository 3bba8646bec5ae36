"""bubblewrap's arguments: the parts of the host that a box has and lacks.

It has the programs (``/usr``), the part of ``/etc`` without which they do not
start, the sockets of its own lease, and the files that the user or its record
names.  It has no home of the user's, no network but its own loopback (``network``
adds another), no other process, no device but the harmless ones, and no way to more
rights.

Pure: descriptors and paths in, words out (bwrap(1)).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TextIO

from broker.core.limits import SANDBOX_FDS
from broker.helpers.process.gate import box_gate_words

SOCKETS = "/run/vitrail"
TOOL = "vitrail-files"
"""The program for files, links and calls, beside the sockets of a container or box."""
_TOOLS = "/run/vitrail-tools"
_TOOL_NAMES = (
    *("vitrail-call", "vitrail-services", "vitrail-ssh-agent", "vitrail-connect"),
    *("vitrail-open", "vitrail-copy", "vitrail-sanitize", "qrexec-client-vm"),
)
_TOOL_LINKS = tuple(
    word
    for name in _TOOL_NAMES
    for word in ("--symlink", f"{SOCKETS}/{TOOL}", f"{_TOOLS}/{name}")
)
_X11_BRIDGE = "/run/vitrail-x11.py"
_HOME = "/home/user"
_X11_START = ("/usr/bin/python3", "-I", "-S", "-B", _X11_BRIDGE, "--")
_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_ETC = (
    *("alternatives", "fonts", "gtk-3.0", "gtk-4.0", "ld.so.cache", "ld.so.conf"),
    *("ld.so.conf.d", "localtime", "mime.types", "nsswitch.conf", "pki", "pulse"),
    *("libreoffice", "ssl/certs", "terminfo", "xdg"),
)


@dataclass(frozen=True)
class Box:
    """The program to run, and the files that it may see."""

    command: tuple[str, ...]
    sockets: Path
    """The directory of its lease's sockets."""
    files: tuple[Path, ...] = ()
    """Readable inside, where they are outside."""
    writable: tuple[Path, ...] = ()
    """The same, and it can change them."""
    home: Path | None = None
    """Its home directory outside; None: one in memory, gone at its end."""
    resolver: str | None = None
    """Its resolv.conf(5); None: it has no network."""
    language: str = "C.UTF-8"
    terminal: str = "dumb"
    open_files: int = SANDBOX_FDS
    stdin: bool = False
    """Whether the program reads the user's standard input, through its gate."""
    user_namespaces: bool = False
    """Whether its programs may make namespaces and mounts, as browsers do for a sandbox
    of their own."""
    x11: bool = False
    """Whether an X server for its programs is started when the first one asks."""
    without_links: Mapping[Path, Path] = field(default_factory=dict)
    """Where those of ``binds`` are that lead through links of the user's."""

    @property
    def binds(self) -> tuple[Path, ...]:
        """All paths of the user's that it sees."""
        return (*self.files, *self.writable)

    def reading(self, stdin: TextIO | None) -> Box:
        """Return the box with the user's standard input, unless that is a terminal.

        A window's program in a terminal would take the lines that the user types there.
        """
        # Where standard input is closed, descriptor 0 may be another file of ours.
        given = stdin is not None and not stdin.closed and not stdin.isatty()
        return replace(self, stdin=given)

    def speaking_as(self, environ: Mapping[str, str]) -> Box:
        """Return the box with the language and terminal type of an environment."""
        language = environ.get("LANG") or self.language
        terminal = environ.get("TERM") or self.terminal
        return replace(self, language=language, terminal=terminal)


@dataclass(frozen=True)
class Descriptors:
    """File descriptors that bubblewrap inherits."""

    status: int
    """It says here which process is the first one inside."""
    passwd: int
    group: int
    rules: int
    """The system-call filter (``process.program_filters``)."""
    resolver: int | None = None
    hosts: int | None = None
    x11: int | None = None
    """The program that shows X11 windows (``shims/x11``)."""


def bwrap_args(box: Box, fds: Descriptors, uid: int) -> list[str]:
    """Return bubblewrap's command line."""
    return [
        "bwrap",
        "--unshare-all",
        # Without a session of its own it could type into our terminal (TIOCSTI).
        *("--new-session", "--die-with-parent", "--cap-drop", "ALL", "--clearenv"),
        *("--json-status-fd", str(fds.status), "--seccomp", str(fds.rules)),
        *_file_system(box, fds, uid),
        *_environment(box, uid),
        *("--chdir", _HOME, "--"),
        *box_gate_words(box.open_files, stdin=box.stdin),
        *(_X11_START if box.x11 else ()),
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
    if fds.resolver is not None:
        yield from ("--ro-bind-data", str(fds.resolver), "/etc/resolv.conf")
    if fds.hosts is not None:
        yield from ("--ro-bind-data", str(fds.hosts), "/etc/hosts")
    for place in ("/tmp", "/var/tmp", "/run", "/home"):  # noqa: S108 -- the box's own
        yield from ("--tmpfs", place)
    if box.home is None:
        yield from ("--perms", "0700", "--dir", _HOME)
    else:
        yield from ("--bind", str(box.home), _HOME)
    yield from ("--perms", "0700", "--dir", f"/run/user/{uid}")
    if box.x11 and fds.x11 is not None:
        yield from ("--ro-bind-data", str(fds.x11), _X11_BRIDGE)
        yield from ("--perms", "1777", "--dir", "/tmp/.X11-unix")  # noqa: S108
        # Menus of Xt's programs, and keyboards.
        yield from ("--ro-bind-try", "/etc/X11", "/etc/X11")
    # Read-only: it may connect to existing sockets, and make, move or remove nothing.
    yield from ("--ro-bind", str(box.sockets), SOCKETS)
    yield from _TOOL_LINKS
    binds = [*((path, "--bind") for path in box.writable)]
    binds += ((path, "--ro-bind") for path in box.files)
    # A later mount covers the files below it.
    # guard: a read-only file in a writable directory is read-only
    binds.sort(key=lambda bind: len(bind[0].parts))
    for path, how in binds:
        yield from (how, str(path), str(path))


def _environment(box: Box, uid: int) -> Iterator[str]:
    words = {
        "PATH": f"/usr/local/bin:/usr/bin:/bin:/usr/games:{_TOOLS}",
        "HOME": _HOME,
        "USER": "user",
        "LANG": box.language,
        "TERM": box.terminal,
        "XDG_RUNTIME_DIR": f"/run/user/{uid}",
        "XDG_SESSION_TYPE": "wayland",
        "WAYLAND_DISPLAY": f"{SOCKETS}/wayland-0",
        "PULSE_SERVER": f"unix:{SOCKETS}/vitrail.Audio",
        "GDK_BACKEND": "wayland,x11" if box.x11 else "wayland",
        "QT_QPA_PLATFORM": "wayland;xcb" if box.x11 else "wayland",
        "MOZ_ENABLE_WAYLAND": "1",
    }
    for name, value in words.items():
        yield from ("--setenv", name, value)
