"""The jail of QEMU and vhost-device-vsock, made by bubblewrap.

Both hold all of a guest's memory and act on what the guest writes, so a hole
in one of them is the way out of the virtual machine.  Each runs alone:

* user, mount, pid, network, ipc, uts and cgroup namespaces that no other has; no
  capability, and none can be gained; a system-call filter;
* a root with the libraries and the firmware of this machine, read-only, and
  the files that are named in ``JailView``, under their own paths.  No home, no
  ``/proc``, no session, no other process.

QEMU gets its sockets as descriptors (monitor, console, vsock, network), so it
needs no network of its own even where the guest has one.

The processes outlive the broker, so nothing here is bound to its life: a
later broker proves them by the identity of the process inside.  bubblewrap's
outer process only waits for that one, and passes on its exit code.

Sources: bwrap(1), pid_namespaces(7), user_namespaces(7).

The host builds it for each machine.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import trio

from broker.core import limits
from broker.core.decoding import UNREADABLE
from broker.core.distribution import install_hint
from broker.core.errors import SetupError, UpstreamError, VitrailError
from broker.helpers.filters import program_filters
from broker.helpers.process.identity import identity_of, process_stat
from broker.helpers.process.jail_libraries import library_words
from broker.helpers.process.spawn import run_tool
from broker.host.processes.tracked import (
    Tracked,
    few_files,
    little_memory,
    ordinary,
    spawn_helper,
)
from broker.host.vmm.accel import DEVICE
from broker.host.vmm.qemu_arguments import Accel, VmSpec
from broker.wire.packets import when_ready

_NAMESPACES = (
    *("--unshare-user", "--unshare-ipc", "--unshare-pid"),
    *("--unshare-uts", "--unshare-cgroup"),
)
_FIRMWARE = (
    *("/usr/share/qemu", "/usr/share/seabios", "/usr/lib/ipxe"),
    # Fedora
    *("/usr/share/qemu-firmware", "/usr/share/ipxe", "/usr/share/seavgabios"),
)
"""And option ROMs; what a distribution does not have is left out."""
_INFO_BYTES = 4096
_START_SECONDS = 10.0
_MISSING = "bubblewrap is not installed"
_HINT = (
    "run 'brokerctl doctor' for the way to permit Vitrail user namespaces, or start "
    "the broker with --allow-unjailed-workers"
)


class JailError(SetupError):
    """The jail cannot be built on this machine."""


@dataclass(frozen=True)
class JailView:
    """The files that a jailed program has beside libraries and firmware.

    All are absolute, and have the same path inside.
    """

    program: Path
    readable: tuple[Path, ...] = ()
    writable: tuple[Path, ...] = ()
    devices: tuple[Path, ...] = ()
    proc: bool = False
    """A /proc of its processes, for a program that can open a descriptor
    only by a name (``/proc/self/fd``): the memory of a machine that is copied."""
    words: tuple[str, ...] = ()
    """Further words of bubblewrap."""
    rules: Callable[[], bytes] = program_filters.vmm_filter
    """Makes the system-call filter."""
    background: bool = False
    """The lowest priority, and killed when we end."""
    open_files: int = limits.VMM_FDS
    memory: int | None = None
    """Bytes of its own (RLIMIT_DATA); what it shares, as a guest's memory, is not counted.
    None: no limit."""
    before: tuple[str, ...] = ()
    """Words before bubblewrap, of programs that limit it and run the rest."""


def qemu_view(
    spec: VmSpec, qemu: Path, accel: Accel, *, boots: bool = True
) -> JailView:
    """Return the files that QEMU has in its jail: those that its command line names."""
    files: tuple[Path, ...] = (spec.kernel, spec.initrd) if boots else ()
    files += (spec.root,) if spec.root else ()
    devices = (DEVICE,) if accel.uses_kvm else ()
    home = () if spec.home is None else (spec.home.path,)
    # A passphrase and an arena are opened by the names of their descriptors.
    proc = (spec.home is not None and spec.home.key >= 0) or spec.arena_bytes > 0
    # A copy that shares its parent's memory maps it for itself: that is counted.
    # guard: a guest has its VMM take little memory
    own: int | None = limits.VMM_BYTES + (spec.memory_mib << 20)
    return JailView(
        qemu, readable=files, writable=home, devices=devices, proc=proc, memory=own
    )


class _Info(msgspec.Struct):
    """The output of bubblewrap's ``--info-fd``; further fields are ignored."""

    pid: int = msgspec.field(name="child-pid")


def jail_args(view: JailView, env: Mapping[str, str] | None = None) -> list[str]:
    """Return bubblewrap's arguments, up to the program's own: pure."""
    words = [*_NAMESPACES, "--cap-drop", "ALL", "--as-pid-1"]
    # guard: a VMM has no network
    words += ["--unshare-net"]
    # Set inside only: LD_PRELOAD is the program's, not bubblewrap's.
    words += ["--clearenv", "--setenv", "PATH", os.defpath]
    for name, value in (env or {}).items():
        words += ["--setenv", name, value]
    words += [*_system(), *_mounts(view), *view.words, "--chdir", "/"]
    # guard: a VMM's root is read-only
    words += ["--remount-ro", "/"]
    return words


def _system() -> Iterator[str]:
    yield from library_words()
    for place in _FIRMWARE:
        yield from ("--ro-bind-try", place, place)


def _mounts(view: JailView) -> Iterator[str]:
    """Yield bubblewrap's arguments for the files and devices of one program."""
    for path in (view.program, *view.readable):
        yield from ("--ro-bind", str(path), str(path))
    for path in view.writable:
        yield from ("--bind", str(path), str(path))
    for path in (Path("/dev/null"), *view.devices):
        yield from ("--dev-bind", str(path), str(path))
    if view.proc:
        yield from ("--proc", "/proc")
    if view.background:
        yield "--die-with-parent"


def forget(_process: Tracked) -> None:
    """For a program that ends with us, or that its caller writes down later."""


async def spawn_jailed(
    role: str,
    argv: Sequence[str],
    view: JailView,
    *,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    unjailed: Callable[[str], None] | None = None,
    known: Callable[[Tracked], None] = forget,
    entered: Callable[[Tracked], Awaitable[None]] | None = None,
) -> Tracked:
    """Start a program of a machine in its jail; it outlives this process.

    ``argv[0]`` is ``view.program``.  With ``unjailed`` a machine that cannot
    build such a jail runs the program without one, and ``unjailed`` is called
    with the reason.

    ``known`` writes a process down for a later broker.  It is called with
    bubblewrap's outer process, then with the program's, each before that one
    does anything: at any instant that we are killed, each running process is recorded.

    ``entered`` is called when the jail is there and the program waits for its end.

    Raises SetupError when the program is not installed, JailError when the
    jail cannot be built.  What bubblewrap finds out
    later (a file that is missing) ends the process, with the reason in its
    ``words``: see ``explain``.
    """
    if shutil.which(argv[0]) is None:
        raise SetupError(
            f"{argv[0]} is not installed",
            hint="to find its package, run 'brokerctl doctor'",
        )
    if unjailed is not None:
        reason = await why_no_jail()
        # guard: a VMM without a jail has no device in this machine's network
        if reason and entered is not None:
            raise JailError(f"cannot give {role} a network without a jail: {reason}")
        if reason:
            unjailed(f"{role} is running without a jail: {reason}")
            process = spawn_helper(role, argv, env=env, pass_fds=pass_fds)
            with _killed_on_failure(process):
                known(process)
            return process
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise JailError(
            f"cannot jail {role}: {_MISSING}",
            hint=install_hint("bubblewrap"),
        )
    first = [*ordinary(), *(["nice", "-n", "19"] if view.background else [])]
    # guard: a VMM opens few files
    first += few_files(view.open_files)
    # guard: what serves a guest takes little memory for it
    first += little_memory(view.memory)
    words = [*first, *view.before, bwrap, *jail_args(view, env)]
    return await _spawn(
        role,
        words,
        argv,
        view.rules(),
        pass_fds=pass_fds,
        known=known,
        entered=entered,
    )


@contextmanager
def jailed_words(
    view: JailView, argv: Sequence[str]
) -> Iterator[tuple[list[str], int]]:
    """Yield the words that run a short-lived program in its jail, and a descriptor.

    The descriptor is that of the system-call filter, which bubblewrap must inherit.
    It ends when the process that starts it ends.  Raises JailError without bubblewrap.
    """
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise JailError(f"cannot jail {argv[0]}: {_MISSING}", hint=_HINT)
    with ExitStack() as ours:
        rules = _pipe(ours)
        os.write(rules.write, view.rules())
        rules.close_write()
        words = [bwrap, *jail_args(view), "--die-with-parent"]
        yield [*words, "--seccomp", str(rules.read), "--", *argv], rules.read


async def why_no_jail() -> str:
    """Return why the host cannot jail a VMM on this machine; empty: it can.

    Starts bubblewrap with an empty jail, to try it.
    """
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        return _MISSING
    try:
        await run_tool(
            [bwrap, *_NAMESPACES, "--unshare-net", "--ro-bind", "/", "/", "true"]
        )
    except UpstreamError as error:
        return error.message
    return ""


def explain(error: VitrailError, words: str) -> VitrailError:
    """Return the error of a process that ended early: bubblewrap's, where it was."""
    if not words.startswith("bwrap: "):
        return error
    return JailError(f"{error.message}: {words}", hint=_HINT)


async def _spawn(
    role: str,
    bwrap: list[str],
    argv: Sequence[str],
    system_calls: bytes,
    *,
    pass_fds: Sequence[int],
    known: Callable[[Tracked], None],
    entered: Callable[[Tracked], Awaitable[None]] | None,
) -> Tracked:
    """Start bubblewrap and the jailed program; return both processes."""
    with ExitStack() as ours:
        # Bubblewrap's end is open for reading, too: without a reader, because we have
        # died, it would end and leave its child waiting for it (pipe(7), SIGPIPE).
        info = _pipe(ours, os.O_RDWR)
        # The program waits for this until its identity is known: so even a program
        # that fails at once is reported in its words.  It cannot be a gate: bubblewrap
        # takes the end of this pipe, which is our death, for a byte.
        block = _pipe(ours)
        # This is one: the kernel refuses the empty filter that our death leaves
        # bubblewrap.  A shell as the gate, as boxes have it, would need a shell in here.
        rules = _pipe(ours)
        words = [*bwrap, "--info-fd", str(info.write), "--block-fd", str(block.read)]
        # guard: a VMM has a system-call filter
        words += ["--seccomp", str(rules.read)]
        fds = (info.write, block.read, rules.read, *pass_fds)
        outer = spawn_helper(role, [*words, "--", *argv], pass_fds=fds)
        try:
            # guard: a VMM's jail is written down before it is built
            known(outer)
            os.write(rules.write, system_calls)
            rules.close_write()
            info.close_write()
            inside = enter(outer, await _read_pid(info.read))
        except UpstreamError as error:
            with trio.move_on_after(limits.VM_QUIT_SECONDS):
                await outer.wait()  # its message is complete then
            reason = outer.words or error.message
            outer.kill_now()
            message = f"cannot build the jail of {role}: {reason}"
            raise JailError(message, hint=_HINT) from error
        except BaseException:
            outer.kill_now()
            raise
        with _killed_on_failure(inside):
            # guard: a VMM is written down before it runs
            known(inside)
            if entered is not None:
                await entered(inside)
        os.write(block.write, b"x")
        return inside


@contextmanager
def _killed_on_failure(process: Tracked) -> Iterator[None]:
    """Kill the process if the block fails."""
    try:
        yield
    except BaseException:
        process.kill_now()
        raise


def enter(outer: Tracked, pid: int) -> Tracked:
    """Return the jailed process ``pid``, a proven child of bubblewrap (``outer``).

    ``outer`` then has nothing left to close.  The number is proven: the child of
    a process that lives and has not reaped it.  Raises UpstreamError otherwise.
    """
    pidfd = -1
    try:
        pidfd = os.pidfd_open(pid)
        parent = int(process_stat(pid)[1])
        identity = identity_of(pid, pidfd)
    except (OSError, ValueError, IndexError) as error:
        _close(pidfd)
        raise UpstreamError(f"{outer.role} exited while starting") from error
    # guard: the process in a jail is bubblewrap's own child
    if parent != outer.pid:
        _close(pidfd)
        raise UpstreamError(f"{outer.role}: process {pid} is not a child of bubblewrap")
    return outer.into(identity, pidfd)


def _close(fd: int) -> None:
    if fd >= 0:
        os.close(fd)


class _Pipe:
    def __init__(self, mode: int = os.O_WRONLY) -> None:
        self.read, self.write = os.pipe2(os.O_CLOEXEC)
        if mode != os.O_WRONLY:
            self.close_write()
            self.write = os.open(f"/proc/self/fd/{self.read}", mode | os.O_CLOEXEC)

    def close_write(self) -> None:
        fd, self.write = self.write, -1
        if fd >= 0:
            os.close(fd)

    def close(self) -> None:
        self.close_write()
        os.close(self.read)


def _pipe(stack: ExitStack, mode: int = os.O_WRONLY) -> _Pipe:
    pipe = _Pipe(mode)
    stack.callback(pipe.close)
    return pipe


async def _read_pid(fd: int) -> int:
    """Read what bubblewrap writes before the program runs, to its end."""
    os.set_blocking(fd, False)
    data = b""
    with trio.move_on_after(_START_SECONDS):
        while len(data) < _INFO_BYTES:
            read = partial(os.read, fd, _INFO_BYTES)
            chunk = await when_ready(read, trio.lowlevel.wait_readable, fd)
            if not chunk:
                break
            data += chunk
    try:
        return msgspec.json.decode(data, type=_Info).pid
    except UNREADABLE as error:
        raise UpstreamError("bubblewrap did not report its child process") from error
