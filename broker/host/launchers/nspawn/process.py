"""A container of systemd-nspawn, held before its program runs until it has its lease.

Only brokerctl runs this, with the user's rights and subordinate ids: it starts
systemd-nspawn, and reads its messages and ``/proc``.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from broker.core.distribution import install_hint
from broker.core.errors import SetupError, UpstreamError
from broker.core.escape import printable
from broker.core.process_status import descendants, status_fields
from broker.helpers.mounts.binding import file_words
from broker.helpers.mounts.bound_files import BoundFiles
from broker.helpers.mounts.opened import open_without_links
from broker.helpers.process.gate import READY, Gate, close_output
from broker.helpers.process.identity import open_pidfd
from broker.helpers.process.namespace_limits import limit_box
from broker.helpers.process.polled import lives
from broker.helpers.process.spawn import (
    PIPE,
    Child,
    has_ended,
    send_signal,
    spawn,
)
from broker.host.launchers.nspawn.arguments import (
    ContainerTree,
    Scope,
    nspawn_args,
)
from broker.host.launchers.piped_stderr import stderr_so_far

_PROGRAMS = ("systemd-nspawn", "unshare", "newuidmap", "newgidmap")
_START_SECONDS = 30.0
_LOOK_SECONDS = 0.01
_MESSAGE_CHARS = 500
_GROUPS = 2
"""Control groups that systemd-nspawn makes: its own and the container's."""
_DEEPER = 2
"""Namespaces of its first process below ours: unshare's, and nspawn's own."""
_KEPT = ("PATH", "HOME", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "TMPDIR")


@dataclass(eq=False)
class HeldTree:
    """A container whose program waits."""

    child: Child
    leader: int
    """The first process inside, as its pid is outside."""
    _pidfd: int
    _gate: Gate
    _group: Scope | Path

    def release(self) -> None:
        """Let the program run.  Raises OSError when it has gone."""
        self._gate.open()

    def abandon(self) -> None:
        """Give up the means to let it run; it ends without running its program."""
        self._gate.abandon()

    async def end(self) -> None:
        """End the container if it still runs, and close descriptors.

        Not cancellable.
        """
        with trio.CancelScope(shield=True):
            # nspawn ends after its container, and has its mounts to undo.
            send_signal(self._pidfd)
            self.abandon()
            with trio.move_on_after(_START_SECONDS):
                await self.child.wait()
            await self.child.stop()
            os.close(self._pidfd)
            _remove_group(self._group)


def choose_scope(
    environ: Mapping[str, str], memory_mib: int, pids: int
) -> Scope | None:
    """Return the control group to be made; None where our own may be divided.

    Raises SetupError where neither is possible.
    """
    runtime = environ.get("XDG_RUNTIME_DIR")
    if runtime and Path(runtime, "systemd/private").is_socket():
        return Scope(memory_mib, pids)
    if may_divide():
        return None
    raise SetupError(
        "systemd-nspawn requires a separate control group, and no systemd user manager in XDG_RUNTIME_DIR can create one",
        hint="run 'loginctl enable-linger' and set XDG_RUNTIME_DIR, or run this command in a delegated control group (Delegate= in systemd.resource-control(5))",
    )


def may_divide() -> bool:
    """Return whether we may make control groups below our own (cgroups(7))."""
    group = _group_of()
    return group is not None and all(
        os.access(path, os.W_OK) for path in (group, group / "cgroup.procs")
    )


def _group_of(process: str = "self") -> Path | None:
    """Return the directory of a process in the unified cgroup hierarchy."""
    try:
        # Paths in both may be any bytes but a newline.
        groups, mounts = (
            Path(f"/proc/{name}").read_text(errors="surrogateescape").split("\n")
            for name in (f"{process}/cgroup", "self/mountinfo")
        )
    except OSError:
        return None
    own = next((line[3:] for line in groups if line.startswith("0::")), None)
    root = next((line.split()[4] for line in mounts if " - cgroup2 " in line), None)
    if own is None or root is None:
        return None
    return Path(root, own.lstrip("/"))


async def start_held(tree: ContainerTree, scope: Scope | None) -> HeldTree:
    """Start systemd-nspawn, held before its program runs; its output goes to pipes.

    Without ``scope`` a control group is made below our own.  Raises SetupError when it
    is not installed, UpstreamError when the container does not begin in time,
    RefusedError when its files are others than were named.
    """
    for program in _PROGRAMS:
        if shutil.which(program) is None:
            raise SetupError(
                f"{program} is not installed",
                hint=install_hint("systemd-container", "uidmap"),
            )
    group = scope or _make_group()
    env = {name: os.environ[name] for name in _KEPT if name in os.environ}
    with ExitStack() as ours, ExitStack() as opened:
        files = BoundFiles(tree.binds, tree.without_links, opened)
        root = tree.without_links.get(tree.rootfs, tree.rootfs)
        words = file_words(root, _opened_root(root, opened))
        gate, release = os.pipe()
        ours.callback(os.close, release)
        try:
            child = spawn(
                nspawn_args(tree, group, words),
                name="systemd-nspawn",
                env=env,
                cwd="/",
                stdin=gate,
                stdout=PIPE,
                stderr=PIPE,
            )
        except BaseException:
            _remove_group(group)
            raise
        finally:
            os.close(gate)
        try:
            leader, pidfd = await _leader(child)
        except BaseException:
            with trio.CancelScope(shield=True):
                await child.stop(grace=0)
                close_output(child)
            _remove_group(group)
            raise
        ours.pop_all()
        held = HeldTree(child, leader, pidfd, Gate(release), group)
        try:
            await _wait_ready(child)
            # guard: what is mounted in a tree is what was looked at
            files.check(leader)
            # guard: a tree takes few of what is counted for its user
            limit_box(
                leader, nested=tree.user_namespaces, proc=not tree.user_namespaces
            )
            # guard: a tree makes no control groups
            _limit_groups(child.pid)
        except BaseException:
            await held.end()
            close_output(child)
            raise
        return held


def _opened_root(root: Path, opened: ExitStack) -> int:
    """Open the container's root directory without links.  Raises SetupError."""
    try:
        fd = open_without_links(str(root))
    except OSError as error:
        raise SetupError(
            f"cannot open the root of the container, {printable(str(root), 200)}: {error.strerror}"
        ) from error
    opened.callback(os.close, fd)
    return fd


def _make_group() -> Path:
    """Make a control group below our own: containers in one could end each other."""
    own = _group_of()
    if own is None:
        raise SetupError(
            "systemd-nspawn requires cgroups v2, which this machine does not use"
        )
    group = own / f"vitrail-{secrets.token_hex(6)}"
    try:
        group.mkdir()
    except OSError as error:
        raise SetupError(f"cannot create {group}: {error.strerror}") from error
    return group


def _limit_groups(outer: int) -> None:
    """Deny a container new control groups: the machine has 65,535.

    The limit is that of the group around its own, which it does not see; ``outer`` is a
    process in it.  Raises UpstreamError.
    """
    group = _group_of(str(outer))
    if group is None:
        raise UpstreamError("the container ended while starting")
    try:
        (group / "cgroup.max.descendants").write_text(str(_GROUPS))
    except OSError as error:
        raise UpstreamError(
            f"cannot limit the container's control groups in {group}: {error.strerror}"
        ) from error


def _remove_group(group: Scope | Path) -> None:
    """Remove a group that was made here, and all groups in it; systemd removes a scope."""
    if isinstance(group, Path):
        for path, _, _ in os.walk(group, topdown=False):
            with suppress(OSError):
                Path(path).rmdir()


async def _leader(child: Child) -> tuple[int, int]:
    """Wait for the container's first process; return its pid and pidfd.

    Raises UpstreamError with systemd-nspawn's message.
    """
    with trio.move_on_after(_START_SECONDS):
        while not has_ended(child.pidfd):
            for pid in descendants(child.pid):
                found = _held(pid, child.pid)
                if found is not None:
                    return pid, found
            await trio.sleep(_LOOK_SECONDS)
    raise _start_error(child)


async def _wait_ready(child: Child) -> None:
    """Wait for the gate, which runs when systemd-nspawn has set up all.

    Raises UpstreamError with systemd-nspawn's message.
    """
    assert child.popen.stdout is not None
    output, data = child.popen.stdout.fileno(), b""
    with trio.move_on_after(_START_SECONDS):
        while READY.startswith(data) and data != READY:
            await trio.lowlevel.wait_readable(output)
            more = os.read(output, len(READY) - len(data))
            if not more:
                break
            data += more
    if data != READY:
        raise _start_error(child)


def _start_error(child: Child) -> UpstreamError:
    """Return the error of a systemd-nspawn that does not start its container."""
    late = f"did not start the container within {_START_SECONDS:g} s"
    how = "ended" if has_ended(child.pidfd) else late
    message = stderr_so_far(child, _MESSAGE_CHARS) or "no message"
    return UpstreamError(
        f"systemd-nspawn {how}: {message}",
        hint="run 'brokerctl doctor', which checks user namespaces, /etc/subuid and /etc/subgid",
    )


def _held(pid: int, outer: int) -> int | None:
    """Return a pidfd of a process if it is the first of a container's pid namespace."""
    try:
        pidfd = open_pidfd(pid)
    except OSError:
        return None
    ours, its = _numbers(outer), _numbers(pid)
    # Read while the pidfd is open, and it still lives: the pid was not reused.
    if len(its) == len(ours) + _DEEPER and its[-1] == "1" and lives(pidfd):
        return pidfd
    os.close(pidfd)
    return None


def _numbers(pid: int) -> list[str]:
    """Return a process's ids, from our pid namespace down to its own; [] if it has gone."""
    try:
        return status_fields(pid).get("NSpid", [])
    except OSError:
        return []
