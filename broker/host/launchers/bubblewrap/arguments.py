"""bubblewrap's arguments: the parts of the host that a box has and lacks.

Only brokerctl runs this, with the user's rights: it prepares words, and starts nothing.

It has the programs (``/usr``), the part of ``/etc`` without which they do not
start, the sockets of its lease, and the files that the user or its record
names.  It has no home of the user's, no network but its loopback (``network``
adds another), no other process, no device but the harmless ones, and no way to more
rights.

Pure: descriptors and paths in, words out (bwrap(1)).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TextIO

from broker.core.files.zone_name import ZONES
from broker.core.limits import (
    BOX_MEMORY_PARTS,
    BOX_SMALL_BYTES,
    SANDBOX_FDS,
)
from broker.helpers.process.gate import box_gate_words
from broker.helpers.process.jail_libraries import MERGED, hide_keys_argv, merged_words
from broker.helpers.process.popen import BUBBLEWRAP
from broker.host.launchers.bubblewrap.other_root import inside
from broker.host.launchers.session_bus import (
    CALL_COMMANDS,
    CALL_TOOL,
    SCRIPT,
    SOCKETS,
    TOOL,
)

_TOOLS = "/run/vitrail-tools"
_TOOL_NAMES = (
    *("vitrail-services", "vitrail-ssh-agent", "vitrail-connect", "vitrail-open"),
    *("vitrail-copy", "vitrail-sanitize", "vitrail-harmless"),
    "vitrail-print",
)
_PROGRAMS = {
    **dict.fromkeys(_TOOL_NAMES, TOOL),
    **dict.fromkeys(CALL_COMMANDS, CALL_TOOL),
}
_TOOL_LINKS = (
    # Bubblewrap makes directories as another user than the box's.
    *("--perms", "0755", "--dir", _TOOLS),
    *(
        word
        for name, program in _PROGRAMS.items()
        for word in ("--symlink", f"{SOCKETS}/{program}", f"{_TOOLS}/{name}")
    ),
)
_X11_BRIDGE = "/run/vitrail-x11.py"
_HOME = "/home/user"
_X11_START = ("/usr/bin/python3", "-I", "-S", "-B", _X11_BRIDGE, "--")
_READABLE = ("--perms", "0644")
_UNSHARED = (
    *("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"),
    "--unshare-cgroup-try",
)
_TO_CHANGE_ID = tuple(
    word
    for right in ("SETUID", "SETGID", "SETPCAP")
    for word in ("--cap-add", f"CAP_{right}")
)
_ETC = (
    *("alternatives", "fonts", "gtk-3.0", "gtk-4.0", "ld.so.cache", "ld.so.conf"),
    *("ld.so.conf.d", "mime.types", "nsswitch.conf", "pki", "pulse", "timezone"),
    *("libreoffice", "ssl/certs", "ssl/openssl.cnf", "terminfo", "xdg"),
    "X11/cursors",  # themes, to which the default one is a link
    # Names of numbers, order of addresses, languages (getaddrinfo(3), locale(7)).
    *("gai.conf", "host.conf", "locale.alias", "protocols", "services"),
    # Settings without which these programs do not start or lack parts.
    *("chromium.d", "firefox-esr", "thunderbird", "gimp", "ghostscript", "openal"),
    *("emacs", "groff", "manpath.config", "texmf", "vim", "php", "perl", "imv_config"),
    *("dillo", "xpdf", "mpv", "timidity", "libao.conf"),
    # Keys of readline, users' shells, catalogs of XML, and the system's name.
    *("inputrc", "shells", "xml", "sgml", "os-release", "debian_version"),
    *("ImageMagick-6", "ImageMagick-7", "papersize", "libpaper.d", "vulkan", "glvnd"),
    *(f"java-{version}-openjdk" for version in (8, 11, 17, 21, 25)),
)
# What packages make of their own files at installation; /usr has links to it.
_MADE_DATA = (
    *("/etc/dictionaries-common", "/var/lib/aspell", "/var/lib/ghostscript"),
    *("/var/lib/texmf", "/var/lib/usbutils", "/var/cache/postgresql/dicts"),
)
_DIRECTORIES = (
    *("/etc", "/etc/ssl", "/etc/X11", "/var", "/var/lib", "/var/lib/dbus"),
    *("/var/cache", "/var/cache/postgresql"),
    # Empty ones: the sandbox of WebKit's browsers mounts them, and fails without.
    *(
        "/sys",
        *(f"/sys/{name}" for name in ("block", "bus", "class", "dev", "devices")),
    ),
)
_PROCESSORS = "/sys/devices/system/cpu"
# Numbers of processors, which /proc/stat has, too, and nothing that they do.
_NUMBERS = ("kernel_max", "offline", "online", "possible", "present")
_MACHINE_ID = "/etc/machine-id"


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
    root: Path | None = None
    """The tree of another system, after ``other_root.checked_root``; None: this one's."""
    home: Path | None = None
    """Its home directory outside; None: one in memory, gone at its end."""
    folders: bool = False
    """Whether directories of the user's may be mounted into it once it runs."""
    resolver: str | None = None
    """Its resolv.conf(5); None: it has no network."""
    language: str = "C.UTF-8"
    variables: tuple[tuple[str, str], ...] = ()
    """Variables in place of that language."""
    terminal: str = "dumb"
    zone: str | None = None
    """The name of this machine's time zone below /usr/share/zoneinfo, where it has one."""
    open_files: int = SANDBOX_FDS
    stdin: bool = False
    """Whether the program reads the user's standard input, through its gate."""
    user_namespaces: bool = False
    """Whether its programs may make namespaces and mounts, as browsers do for a sandbox
    of their own."""
    x11: bool = False
    """Whether an X server for its programs is started when the first one asks."""
    devices: tuple[str, ...] = ()
    """Words that give it render nodes."""
    memory_mounts: tuple[tuple[Path, int], ...] = ()
    """Further file systems in memory: where, and their sizes in bytes."""
    memory: int = 1 << 30
    """Bytes of this machine's memory, of which its file systems have parts."""
    without_links: Mapping[Path, Path] = field(default_factory=dict)
    """Where those of ``binds`` are that lead through links of the user's."""

    @property
    def owns_files(self) -> bool:
        """Return whether its programs need the user's own id: some files are for it alone.

        Otherwise they have a subordinate id (``bubblewrap.command``).
        A render node is the user's by its access control list.
        """
        # Bubblewrap makes the directories above it, and so the home, as the user.
        at_home = any(at.is_relative_to(_HOME) for at, _ in self.memory_mounts)
        # guard: a program of another system's drops no rights of a box's
        if self.root is not None:
            return True
        return bool(self.home or self.binds or self.folders or self.devices or at_home)

    @property
    def binds(self) -> tuple[Path, ...]:
        """All paths of the user's that it sees."""
        return (*self.files, *self.writable)

    def reading(self, stdin: TextIO | None) -> Box:
        """Return the box with the user's standard input, unless that is a terminal.

        A window's program in a terminal would take the lines that the user types there.
        """
        # Where standard input is closed, descriptor 0 may be another of our files.
        given = stdin is not None and not stdin.closed and not stdin.isatty()
        return replace(self, stdin=given)

    def speaking_as(self, environ: Mapping[str, str]) -> Box:
        """Return the box with the language and terminal type of an environment."""
        language = environ.get("LANG") or self.language
        terminal = environ.get("TERM") or self.terminal
        return replace(self, language=language, terminal=terminal)


@dataclass(frozen=True)
class BoxDescriptors:
    """File descriptors that bubblewrap inherits."""

    status: int
    """It says here which process is the first one inside."""
    passwd: int
    group: int
    rules: int
    """The system-call filter (``filters.program_filters``)."""
    resolver: int | None = None
    hosts: int | None = None
    machine_id: int | None = None
    alsa: int | None = None
    """Settings of ALSA, by which its programs play through the sound server."""
    x11: int | None = None
    """The program that shows X11 windows (``shims/x11``)."""
    namespace: int | None = None
    """A user namespace in which its programs have a subordinate id, and 0 is the user."""
    beside: tuple[int, int] | None = None
    """A pid namespace for one below it, and the user namespace that owns it."""


def bwrap_args(box: Box, fds: BoxDescriptors, uid: int, gid: int = 0) -> list[str]:
    """Return bubblewrap's command line; ``uid`` and ``gid`` apply inside of the box."""
    return [
        BUBBLEWRAP,
        *_namespaces(fds),
        # Without a separate session it could type into our terminal (TIOCSTI).
        *("--new-session", "--die-with-parent", "--cap-drop", "ALL", "--clearenv"),
        *(() if fds.namespace is None else _TO_CHANGE_ID),
        *("--json-status-fd", str(fds.status), "--seccomp", str(fds.rules)),
        *_file_system(box, fds, uid),
        *_environment(box, uid),
        *(("--chdir", _HOME) if fds.namespace is None else ()),
        "--",
        *(() if fds.namespace is None else _changed_id(uid, gid)),
        *box_gate_words(box.open_files, stdin=box.stdin),
        *(("/bin/sh", "-c", SCRIPT, "sh") if fds.beside is None else ()),
        *(_X11_START if box.x11 else ()),
        *box.command,
    ]


def _namespaces(fds: BoxDescriptors) -> tuple[str, ...]:
    """Return bubblewrap's words for the box's namespaces."""
    if fds.beside is not None:
        space, owner = map(str, fds.beside)
        return ("--userns", owner, "--pidns", space, *_UNSHARED)
    if fds.namespace is None:
        return ("--unshare-all",)
    # In place of a user namespace that bubblewrap makes: it sets up all as the user.
    return (
        *("--userns", str(fds.namespace), "--uid", "0", "--gid", "0"),
        *_UNSHARED,
    )


def _changed_id(uid: int, gid: int) -> tuple[str, ...]:
    """Return setpriv's command, which drops all rights and changes the user id.

    What bubblewrap has mounted is the user's and not the program's, so that id makes
    its own directories, in places where everyone may.
    """
    # guard: a box's programs have a user id of their own
    ids = ("--reuid", str(uid), "--regid", str(gid), "--clear-groups")
    # guard: a box with a separate user id has no capabilities
    none = ("--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all")
    made = 'mkdir -m 700 "$0" "$XDG_RUNTIME_DIR" && cd "$0" && exec "$@"'
    return ("setpriv", *ids, *none, "--", "/bin/sh", "-c", made, _HOME)


def _file_system(box: Box, fds: BoxDescriptors, uid: int) -> Iterator[str]:
    """Yield bubblewrap's words for the box's file system."""
    yield from _in_memory("/", BOX_SMALL_BYTES)
    usr = inside(box.root, "/usr")
    assert usr is not None  # as ``checked_root`` has it
    yield from ("--ro-bind", usr, "/usr", "--proc", "/proc", "--dev", "/dev")
    if not box.user_namespaces:
        # Those of a browser write the ids of their namespaces there.
        # guard: a box stays the first to end
        yield from ("--remount-ro", "/proc")
        # bubblewrap of a browser mounts /proc again, which the kernel refuses where
        # a file of it is covered.
        yield from hide_keys_argv()
    yield from merged_words(*MERGED) if box.root is None else _merged(box.root)
    # bubblewrap makes directories of mounts for itself alone, which the box's user is not.
    for place in dict.fromkeys((*_DIRECTORIES, *_parents(_PROCESSORS))):
        yield from ("--perms", "0755", "--dir", place)
    etc = (f"/etc/{name}" for name in _ETC)
    numbers = (f"{_PROCESSORS}/{name}" for name in _NUMBERS)
    for place in (*etc, *_MADE_DATA):
        yield from _bound(box, place)
    for place in numbers:
        yield from ("--ro-bind-try", place, place)
    # A link, because programs take the name of the zone from where it leads.
    if box.zone is None:
        yield from ("--ro-bind-try", "/etc/localtime", "/etc/localtime")
    else:
        yield from ("--symlink", f"{ZONES}/{box.zone}", "/etc/localtime")
    yield from _told_files(fds)
    yield from _own_places(box, uid, other=fds.namespace is not None)
    if box.x11 and fds.x11 is not None:
        yield from (*_READABLE, "--ro-bind-data", str(fds.x11), _X11_BRIDGE)
        yield from ("--perms", "1777", "--dir", "/tmp/.X11-unix")  # noqa: S108
        # Menus of Xt's programs, and keyboards.
        yield from _bound(box, "/etc/X11")
    # Read-only: it may connect to existing sockets, and make, move or remove nothing.
    yield from ("--ro-bind", str(box.sockets), SOCKETS)
    yield from ("--perms", "0755", "--dir", _TOOLS)
    yield from _TOOL_LINKS
    binds = [*((path, "--bind") for path in box.writable)]
    binds += ((path, "--ro-bind") for path in box.files)
    # A later mount covers the files below it.
    # guard: a read-only file in a writable directory is read-only
    binds.sort(key=lambda bind: len(bind[0].parts))
    for path, how in binds:
        yield from (how, str(path), str(path))
    for at, size in box.memory_mounts:
        for above in _parents(str(at.parent)):
            yield from ("--perms", "0755", "--dir", above)
        yield from _in_memory(str(at), size, shared=fds.namespace is not None)
    yield from box.devices
    # The box's user can write to it otherwise, and it has no size.
    # guard: a box writes no files into /dev
    yield from ("--remount-ro", "/dev")


def _bound(box: Box, place: str) -> tuple[str, ...]:
    """Return bubblewrap's words for a path of the box's root, where that has it."""
    source = inside(box.root, place)
    return () if source is None else ("--ro-bind-try", source, place)


def _merged(root: Path) -> Iterator[str]:
    """Yield bubblewrap's words for directories of / that may be links into /usr."""
    for name in MERGED:
        path = root / name
        if path.is_symlink():
            yield from ("--symlink", str(path.readlink()), f"/{name}")
        elif (source := inside(root, f"/{name}")) is not None:
            yield from ("--ro-bind-try", source, f"/{name}")


def _parents(place: str) -> list[str]:
    """Return a directory and those above it, the outermost first."""
    above = [str(path) for path in Path(place).parents][:-1]
    return [*reversed(above), place]


def _told_files(fds: BoxDescriptors) -> Iterator[str]:
    """Yield bubblewrap's words for files whose text we give."""
    for number, place in (
        (fds.passwd, "/etc/passwd"),
        (fds.group, "/etc/group"),
        (fds.resolver, "/etc/resolv.conf"),
        (fds.hosts, "/etc/hosts"),
        (fds.machine_id, _MACHINE_ID),
        (fds.alsa, "/etc/asound.conf"),
    ):
        if number is not None:
            yield from (*_READABLE, "--ro-bind-data", str(number), place)
    yield from ("--symlink", _MACHINE_ID, "/var/lib/dbus/machine-id")


def _own_places(box: Box, uid: int, *, other: bool) -> Iterator[str]:
    """Yield arguments that mount /tmp, /run, home and /dev/shm in memory.

    ``other``: the box's programs have another user id than bubblewrap.
    """
    for place, part in BOX_MEMORY_PARTS:
        shared = other and place != "/run"
        yield from _in_memory(place, box.memory // part, shared=shared)
    if other:
        yield from ("--perms", "1777", "--dir", "/run/user")
        return
    if box.home is None:
        yield from ("--perms", "0700", "--dir", _HOME)
    else:
        yield from ("--bind", str(box.home), _HOME)
    yield from ("--perms", "0700", "--dir", f"/run/user/{uid}")


def _in_memory(place: str, most: int, *, shared: bool = False) -> tuple[str, ...]:
    """Return bubblewrap's words for a file system of this size in memory."""
    perms = ("--perms", "1777") if shared else ()
    # guard: a box's file systems in memory have a size
    size = ("--size", str(most))
    return (*perms, *size, "--tmpfs", place)


def _environment(box: Box, uid: int) -> Iterator[str]:
    """Yield bubblewrap's words for the program's environment."""
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
        "SSH_AUTH_SOCK": f"{SOCKETS}/vitrail.SshAgent",
        "GDK_BACKEND": "wayland,x11" if box.x11 else "wayland",
        "QT_QPA_PLATFORM": "wayland;xcb" if box.x11 else "wayland",
        "MOZ_ENABLE_WAYLAND": "1",
        **dict(box.variables),
    }
    for name, value in words.items():
        yield from ("--setenv", name, value)
