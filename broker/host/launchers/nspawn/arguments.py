"""systemd-nspawn's arguments for a container of a record (systemd-nspawn(1)).

Only brokerctl runs this, with the user's rights: it prepares words, and starts nothing.

systemd-nspawn before 256 runs as root only.  Here that root is the root of a user
namespace with the user's subordinate numbers (unshare(1), subuid(5)): outside, its
first user is the user, and all others are numbers of no other user.

It needs, too, what a user's own ``/run`` and control groups do not give: a
``/run/systemd`` to lock its tree in, which is an empty directory of its mount
namespace; and a control group that it may divide, mounted as the only one, with the
process 1 of its pid namespace in it, because that is where it looks for the root
of all groups.

Pure: a description in, words out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from broker.core.limits import (
    BOX_MEMORY_PARTS,
    BOX_MESSAGE_BYTES,
    BOX_OOM,
    BOX_PROCESSES,
    BOX_SIGNALS,
    SANDBOX_FDS,
    SANDBOX_LOCKED_BYTES,
)
from broker.helpers.process.gate import GATE_WORDS
from broker.helpers.process.popen import our_program
from broker.helpers.tools import profiles
from policy.records.mounts.user_files import Mount

SOCKETS = "/run/vitrail"
BRIDGE = "vitrail-x11"
"""The program that shows X11 windows (``shims/x11``)."""
_X11_START = ("/usr/bin/env", "python3", "-I", "-S", "-B", f"{SOCKETS}/{BRIDGE}", "--")
_ROOT = "/run/systemd/vitrail"
"""Where systemd-nspawn finds the tree, in a file system of its mount namespace."""
_HOME = "/home/user"
_NAMESPACES = (
    *("unshare", "--user", "--map-root-user", "--map-auto", "--cgroup", "--pid"),
    *("--fork", "--kill-child", "--mount-proc", "--mount", "--propagation", "private"),
    "--",
)
_JOIN = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
# The kernel refuses to mount a file system over itself (EBUSY), and where systemd is
# process 1 the unified hierarchy is mounted there already: so a tmpfs comes between.
_PREPARE = (
    "mount -t tmpfs -o mode=0755,nosuid,nodev none /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && "
    "mount -t tmpfs -o mode=0755,nosuid,nodev none /run/systemd && "
    'exec "$@"'
)
_NO_NAMESPACES = "echo 0 > /proc/sys/user/max_user_namespaces && "
"""In the user namespace of the container, after its own ones were made."""
# NAME.nspawn beside the tree could set the program's user, limits and host name.
# guard: a file beside the tree adds nothing to a container
_SETTINGS = ("--settings=no",)
_CONFINED = (
    *("--quiet", "--as-pid2", "--console=pipe", "--register=no", "--keep-unit"),
    *_SETTINGS,
    # The tree is an overlay's lower part: nothing is written to it.
    *("--volatile=overlay", "--private-network", "--link-journal=no"),
    *("--drop-capability=all", "--no-new-privileges=yes"),
    *("--resolv-conf=off", "--timezone=off"),
)
# unshare(2) and clone(2) end at the limits of its user namespace.
_NO_MOUNTS = "--system-call-filter=~@mount setns"
_RLIMITS = (
    *(("NPROC", BOX_PROCESSES), ("SIGPENDING", BOX_SIGNALS), ("RTPRIO", 0)),
    *(("MSGQUEUE", BOX_MESSAGE_BYTES), ("MEMLOCK", SANDBOX_LOCKED_BYTES)),
)
_PERCENT = {path: 100 // part for path, part in BOX_MEMORY_PARTS}


@dataclass(frozen=True)
class ContainerTree:
    """A container to run, of the directory ``rootfs``."""

    name: str
    """Its host name, too."""
    command: tuple[str, ...]
    rootfs: Path
    sockets: Path
    """The directory of its lease's sockets."""
    read_only: tuple[Path, ...] = ()
    read_write: tuple[Path, ...] = ()
    home: Path | None = None
    """Its home directory outside; None: one in memory, gone at its end."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Language, terminal type and time zone of its programs."""
    open_files: int = SANDBOX_FDS
    user_namespaces: bool = False
    """Whether its programs may make namespaces, and mounts in them."""
    resolver: Path | None = None
    """A file outside that is its resolv.conf(5); None: it has no network."""
    mounts: tuple[Mount, ...] = ()
    """Its file systems in memory, and places of directories that are mounted later."""
    x11: bool = False
    """Whether ``BRIDGE`` is beside its sockets, and shows its X11 programs."""
    without_links: Mapping[Path, Path] = field(default_factory=dict)
    """Where those of ``binds`` are that lead through links of the user's."""

    @property
    def binds(self) -> tuple[Path, ...]:
        """All paths of the user's that it sees."""
        return (*self.read_only, *self.read_write)


@dataclass(frozen=True)
class Scope:
    """A control group of the user's systemd that is made for the container."""

    memory_mib: int
    pids: int


def nspawn_args(
    tree: ContainerTree, group: Scope | Path, root: tuple[str, str]
) -> list[str]:
    """Return systemd-nspawn's command line.

    ``group`` is a control group to be made by systemd, or the directory of an empty
    one of ours.  ``root`` has the tree's path without links, and which file it is
    (``helpers.mounts.binding``).
    """
    # guard: a tree mounts nothing
    closed = () if tree.user_namespaces else (_NO_MOUNTS,)
    # The tree's own shell is the gate, and runs before ``limit_box``.
    # guard: a tree makes no namespace before its limits are set
    prepare = _PREPARE if tree.user_namespaces else _NO_NAMESPACES + _PREPARE
    return [
        *_grouped(group),
        *_NAMESPACES,
        *("/bin/sh", "-c", prepare, "sh"),
        *our_program(*profiles.BIND.start, _ROOT, *root, "--"),
        *("systemd-nspawn", *_CONFINED, *closed, *_limits(tree.open_files)),
        *(f"--directory={_ROOT}/0", f"--machine={tree.name}"),
        *_files(tree),
        *_environment(tree),
        *(f"--chdir={_HOME}", "--"),
        *GATE_WORDS,
        *(_X11_START if tree.x11 else ()),
        *tree.command,
    ]


def _limits(open_files: int) -> Iterator[str]:
    # See box_gate_words; here the shell after the gate is the tree's own.  nspawn keeps
    # to what the user may set.
    # guard: a tree ends first where memory ends
    yield f"--oom-score-adjust={BOX_OOM}"
    # guard: a tree's programs open few files
    yield f"--rlimit=RLIMIT_NOFILE={open_files}"
    # guard: a tree's programs have the limits of a box
    yield from (f"--rlimit=RLIMIT_{name}={most}" for name, most in _RLIMITS)


def _grouped(group: Scope | Path) -> Iterator[str]:
    """Yield the command that starts the container in its control group."""
    if isinstance(group, Path):
        yield from ("/bin/sh", "-c", _JOIN, str(group))
        return
    yield from ("systemd-run", "--user", "--scope", "--quiet", "--collect")
    yield "--property=Delegate=yes"
    yield f"--property=MemoryMax={group.memory_mib}M"
    yield f"--property=TasksMax={group.pids}"
    yield "--"


def _files(tree: ContainerTree) -> Iterator[str]:
    """Yield systemd-nspawn's words for the container's files."""
    # Read-only: it may connect to existing sockets, and make, move or remove nothing.
    yield f"--bind-ro={_escaped(tree.sockets)}:{SOCKETS}"
    # guard: a tree's file systems in memory have a size
    yield f"--tmpfs=/run/user/0:mode=0700,size={_PERCENT['/run']}%"
    if tree.home is None:
        yield f"--tmpfs={_HOME}:mode=0700,size={_PERCENT['/home']}%"
    else:
        yield f"--bind={_escaped(tree.home)}:{_HOME}"
    if tree.resolver is not None:
        yield f"--bind-ro={_escaped(tree.resolver)}:/etc/resolv.conf"
    for mount in tree.mounts:
        # A directory is mounted over this, by its rule.
        most, mode = (mount.size, "1777") if mount.source is None else (65536, "0755")
        yield f"--tmpfs={mount.at}:nosuid,nodev,size={most},mode={mode}"
    for path in tree.read_only:
        yield f"--bind-ro={_escaped(path)}"
    for path in tree.read_write:
        yield f"--bind={_escaped(path)}"


def _escaped(path: Path) -> str:
    """Write a path into an option in which a colon divides."""
    return str(path).replace("\\", "\\\\").replace(":", "\\:")


def _environment(tree: ContainerTree) -> Iterator[str]:
    """Yield systemd-nspawn's words for the program's environment."""
    words = {
        "HOME": _HOME,
        "XDG_RUNTIME_DIR": "/run/user/0",
        "XDG_SESSION_TYPE": "wayland",
        "WAYLAND_DISPLAY": f"{SOCKETS}/wayland-0",
        "PULSE_SERVER": f"unix:{SOCKETS}/vitrail.Audio",
        "SSH_AUTH_SOCK": f"{SOCKETS}/vitrail.SshAgent",
        "GDK_BACKEND": "wayland,x11" if tree.x11 else "wayland",
        "QT_QPA_PLATFORM": "wayland;xcb" if tree.x11 else "wayland",
        "MOZ_ENABLE_WAYLAND": "1",
        **tree.variables,
    }
    for name, value in words.items():
        yield f"--setenv={name}={value}"
