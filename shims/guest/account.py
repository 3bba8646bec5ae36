"""The user that programs run as, and how they are started and signalled."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pwd
import shutil
import stat
import subprocess
import termios
from typing import Any, Dict, Iterator, List, Sequence

GUEST_USER = "user"
NETWORK_RIGHTS = "+net_admin,+net_raw,+net_bind_service"
"""Of the programs of a machine that is the network of others (capabilities(7))."""
PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games"


def take_terminal() -> None:
    """In the child: make standard input the terminal of its session."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def kill_group(pid: int, signum: int) -> None:
    """Send a signal to a process group that may have gone."""
    try:
        os.killpg(pid, signum)
    except (ProcessLookupError, PermissionError):
        return


class Account:
    """The account that runs programs: the guest's unprivileged user, or our own."""

    def __init__(self, name: str = "", *, network_rights: bool = False) -> None:
        """Find the user.  Raises OSError where programs cannot be that one's.

        ``network_rights``: its programs have NETWORK_RIGHTS, where we are root.
        """
        self._network_rights = network_rights
        self._switch: Dict[str, Any] = {}
        try:
            entry = (
                pwd.getpwnam(name or GUEST_USER)
                if name or os.geteuid() == 0
                else pwd.getpwuid(os.geteuid())
            )
        except KeyError:
            if name:
                raise OSError(errno.ENOENT, "no such user", name) from None
            entry = pwd.struct_passwd(
                (str(os.geteuid()), "x", os.geteuid(), os.getegid(), "", "/", "/bin/sh")
            )
        self.uid, self.gid = entry.pw_uid, entry.pw_gid
        self.name, self.home, self.shell = entry.pw_name, entry.pw_dir, entry.pw_shell
        if self.uid != os.geteuid():
            if name and os.geteuid() != 0:
                raise OSError(errno.EPERM, "the guest agent is not root", name)
            groups = os.getgrouplist(self.name, self.gid)
            self._switch = {"user": self.uid, "group": self.gid, "extra_groups": groups}

    def become(self) -> None:
        """Become this user, for good.  Raises OSError."""
        if self._switch:
            os.setgroups(self._switch["extra_groups"])
            os.setgid(self.gid)
            os.setuid(self.uid)

    @contextlib.contextmanager
    def rights(self) -> Iterator[None]:
        """Take on this user's file rights while the block runs.

        Its programs may have put links there: these lead to nothing that the user could
        not reach.  Raises OSError.
        """
        # guard: what the agent makes in the user's directories is made with its rights
        if not self._switch:
            yield
            return
        before = os.getgroups()
        os.setgroups(self._switch["extra_groups"])
        os.setegid(self.gid)
        os.seteuid(self.uid)
        try:
            yield
        finally:
            os.seteuid(0)
            os.setegid(0)
            os.setgroups(before)

    def start(
        self,
        argv: List[str],
        env: Dict[str, str],
        stdout: int,
        stderr: int,
        stdin: int = -1,
        *,
        terminal: bool = False,
        cwd: str = "",
        pass_fds: Sequence[int] = (),
    ) -> "subprocess.Popen[bytes]":
        """Start a program as this user in a new session, in its home or ``cwd``."""
        path = shutil.which(argv[0], path=env.get("PATH", PATH))
        if path is None:
            raise FileNotFoundError(errno.ENOENT, "no such program")
        switch = self._switch
        if self._network_rights and switch:
            # setpriv(1) becomes the user: root's rights end where a process does it.
            keep = ["--inh-caps=" + NETWORK_RIGHTS, "--ambient-caps=" + NETWORK_RIGHTS]
            ids = [f"--reuid={self.uid}", f"--regid={self.gid}", "--init-groups"]
            argv = ["setpriv", *ids, *keep, "--", path, *argv[1:]]
            path, switch = "/usr/bin/setpriv", {}
        return subprocess.Popen(
            argv,
            executable=path,
            env=env,
            cwd=cwd or (self.home if os.path.isdir(self.home) else "/"),
            stdin=subprocess.DEVNULL if stdin < 0 else stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            pass_fds=pass_fds,
            # We have one thread, so that what runs between fork and exec is safe.
            preexec_fn=take_terminal if terminal else None,  # noqa: PLW1509
            **switch,
        )


def remove(path: str) -> None:
    """Remove the entry of this name, if there is one.  Raises OSError."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        remove_trees([path])
    else:
        os.unlink(path)


def remove_trees(paths: List[str]) -> None:
    """Remove files, and directories with all that is in them.  Raises OSError.

    By rm(1): a tree may be deeper than Python's recursion, or than a path.
    """
    if paths:
        names = b"\0".join(map(os.fsencode, paths))
        done = subprocess.run(
            ["xargs", "-0", "rm", "-rf", "--"],
            input=names,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
        )
        if done.returncode:
            why = done.stderr.decode("utf-8", "replace").strip()[-200:]
            raise OSError(errno.EBUSY, f"rm: {why or done.returncode}")
