"""Where things live on disk: the XDG base directories, read once.

Each process of the user's reads it once at its start; a confined viewer has what it
read before.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from broker.core.errors import SetupError

# sun_path is 108 bytes (unix(7)).  The longest socket name below a sandbox's
# directory is '/vsock/vm.vsock_65535'; QEMU's and waypipe's names are shorter.
_SOCKET_PATH_BYTES = 107
_LONGEST_BELOW = len("/sandboxes/") + 31 + len("/vsock/vm.vsock_65535")


@dataclass(frozen=True)
class Paths:
    """All directories of one broker; each ends in ``vitrail``.

    ``runtime`` holds sockets and is 0700; ``state`` the audit log and logs;
    ``cache`` guest images, safe to delete; ``config`` is searched in order,
    the first directory that has a file of some name wins.
    """

    runtime: Path
    state: Path
    cache: Path
    config: tuple[Path, ...]

    @property
    def control(self) -> Path:
        """The varlink socket."""
        return self.runtime / "control"

    @property
    def audit(self) -> Path:
        """The audit log's database."""
        return self.state / "audit.sqlite"

    @property
    def shipping(self) -> Path:
        """How far each receiver of the audit log has got; a file for each."""
        return self.state / "ship"

    @property
    def images(self) -> Path:
        """Guest images, a directory each."""
        return self.cache / "images"

    @property
    def parents(self) -> Path:
        """Booted machines to copy, a directory for each record; safe to delete."""
        return self.cache / "parents"

    @property
    def standbys(self) -> Path:
        """Machines that wait for a start, a directory for each record (0700)."""
        return self.runtime / "standby"

    @property
    def tools(self) -> Path:
        """Programs fetched for this user only (vhost-device-vsock)."""
        return self.cache / "tools"

    @property
    def homes(self) -> Path:
        """State of persistent sandboxes; see ``broker.host.homes``."""
        return self.state / "homes"

    @property
    def displays(self) -> Path:
        """Where the viewer's keepers listen; a directory for each sandbox."""
        return self.runtime / "display"

    def sandbox(self, name: str) -> Path:
        """The runtime directory of one running sandbox (0700)."""
        return self.runtime / "sandboxes" / name

    def logs(self, name: str) -> Path:
        """The directory of one sandbox's console and application logs."""
        return self.state / "logs" / name


def find_paths(environ: Mapping[str, str] | None = None) -> Paths:
    """Return this user's paths.

    Other XDG directories that are not absolute are ignored, as the base
    directory specification wants it.

    Raises SetupError when there is no XDG_RUNTIME_DIR, when it is not an absolute
    path, or when it is so long that a sandbox's socket would not fit into a
    UNIX socket address.
    """
    env = _absolute_only(os.environ if environ is None else environ)
    home = Path(env.get("HOME") or pwd.getpwuid(os.geteuid()).pw_dir)
    run = env.get("XDG_RUNTIME_DIR", "")
    if not run:
        raise SetupError(
            "XDG_RUNTIME_DIR is not set, so there is no safe place for sockets",
            hint="log in through a session manager, or create a directory that only you can enter: export XDG_RUNTIME_DIR=/tmp/run-$USER; "
            "mkdir -m 700 $XDG_RUNTIME_DIR",
        )
    if not run.startswith("/"):
        raise SetupError(
            f"XDG_RUNTIME_DIR is not an absolute path: {run}",
            hint=f"set XDG_RUNTIME_DIR to the directory that the session manager created for you, usually /run/user/{os.geteuid()}",
        )
    runtime = Path(run) / "vitrail"
    if len(os.fsencode(runtime)) + _LONGEST_BELOW > _SOCKET_PATH_BYTES:
        raise SetupError(
            f"XDG_RUNTIME_DIR is too long for UNIX sockets: {run}",
            hint="use a path of at most "
            f"{_SOCKET_PATH_BYTES - _LONGEST_BELOW - len('/vitrail')} characters",
        )
    listed = env.get("XDG_CONFIG_DIRS", "/etc").split(":")
    system = [Path(p) for p in listed if p.startswith("/")]
    user = Path(env.get("XDG_CONFIG_HOME") or home / ".config")
    config = (user / "vitrail", *(p / "vitrail" for p in system))
    if Path("/etc/vitrail") not in config:
        config = (*config, Path("/etc/vitrail"))
    return Paths(
        runtime=runtime,
        state=Path(env.get("XDG_STATE_HOME") or home / ".local/state") / "vitrail",
        cache=Path(env.get("XDG_CACHE_HOME") or home / ".cache") / "vitrail",
        config=config,
    )


def require_private(paths: Paths) -> None:
    """Refuse a runtime directory in which another user can put sockets.

    A user who may rename in it, or in XDG_RUNTIME_DIR, can serve ``control`` to us.
    Directories that do not exist yet are skipped.  Raises SetupError.
    """
    if os.geteuid() == 0:  # root serves and asks brokers of every user
        return
    for directory in (paths.runtime.parent, paths.runtime):
        try:
            # XDG_RUNTIME_DIR itself may be a link that the system made.
            ours = directory == paths.runtime
            info = directory.lstat() if ours else directory.stat()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise SetupError(f"{error.strerror}", where=str(directory)) from error
        _require_private(directory, info)


def _require_private(directory: Path, info: os.stat_result) -> None:
    """Raise SetupError unless a directory is ours and closed to others."""
    # guard: the runtime directory is ours alone
    if not stat.S_ISDIR(info.st_mode):
        problem = "is not a directory"
    elif info.st_uid != os.geteuid():
        problem = f"belongs to another user (uid {info.st_uid})"
    elif info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        problem = f"is writable by others (mode {stat.S_IMODE(info.st_mode):04o})"
    else:
        return
    raise SetupError(
        f"the directory for sockets {problem}",
        where=str(directory),
        hint=f"if the directory is yours, run 'chmod 700 {directory}'; otherwise, set XDG_RUNTIME_DIR to a directory that only you can enter, usually /run/user/{os.geteuid()}",
    )


_CONFIG_BYTES = 1 << 20


def read_config(path: Path, flags: int = 0) -> bytes:
    """Read a settings file that only root or this user can have written.

    ``flags`` are more of open(2), as O_NOFOLLOW.

    Raises FileNotFoundError when there is none, SetupError when it is another
    user's, can be written by others, is not a regular file, has more than 1 MiB
    or cannot be read.
    """
    # O_NONBLOCK: a FIFO of that name must not stop us.
    flags |= os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    try:
        with os.fdopen(os.open(path, flags), "rb") as file:
            info = os.fstat(file.fileno())
            problem = _foreign(info)
            # guard: settings are written by root or us alone
            if problem:
                raise SetupError(
                    problem,
                    where=str(path),
                    hint=f"use a regular file that you or root own, and run 'chmod go-w {path}'",
                )
            content = file.read(_CONFIG_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SetupError(
            f"{error.strerror}",
            where=str(path),
            hint="check that the path exists and who may read it",
        ) from error
    if len(content) > _CONFIG_BYTES:
        raise SetupError(
            "is larger than 1 MiB", where=str(path), hint="use a file of settings"
        )
    return content


def _foreign(info: os.stat_result) -> str:
    """Return why a file may be another user's writing; empty if it is not."""
    if not stat.S_ISREG(info.st_mode):
        return "is not a regular file"
    if info.st_uid not in {0, os.geteuid()}:
        return f"is owned by user {info.st_uid}, not by root or by you"
    if info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"is writable by others (mode {stat.S_IMODE(info.st_mode):04o})"
    return ""


def _absolute_only(env: Mapping[str, str]) -> Mapping[str, str]:
    """Return the variables without XDG directories that the specification ignores."""
    kept = dict(env)
    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        if not kept.get(name, "").startswith("/"):
            kept.pop(name, None)
    return kept
