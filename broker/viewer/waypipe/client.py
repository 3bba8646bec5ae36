"""The foreign half of a sandbox's display: ``waypipe client`` in a jail.

It decodes the output of the sandbox's ``waypipe server``, in C, so it is
treated as taken over by the sandbox.  bubblewrap gives it less than a
worker has: its own user, mount, pid, network, ipc, uts and cgroup
namespaces, no /proc, no files but its own program and libraries (read-only),
no capabilities, an allow-list of system calls, resource limits.  It can
reach only one directory with two sockets: the one on which it listens for the
sandbox, and the one of the sandbox's worker, which parses its output
again.  It never sees the compositor.

It must make its socket itself, in a directory, and bind(2) makes names there without
a limit.  So that directory is a further one, which is removed as soon as the socket
accepts, before a byte of the sandbox's has reached the client.

GPU buffers, video and compression are off: less of it runs.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import socket
import stat
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import trio

from broker.core import limits
from broker.core.errors import SetupError, UpstreamError
from broker.core.escape import printable
from broker.helpers.process import program_filters
from broker.helpers.process.spawn import STDOUT, Child, run_tool, spawn
from broker.ipc import fdpass

WAYPIPE_SOCKET = "waypipe.sock"
"""Where it listens for the sandbox, in the sandbox's display directory."""

WAYPIPE_ROOM = "client"
"""The directory below that one in which it makes its socket."""

_INSIDE = Path("/s")
_LIBRARIES = Path("/l")
_PROGRAM = Path("/waypipe")
_POLL_SECONDS = 0.005
_SAID_LENGTH = 2000
_LDD_LINE = re.compile(r"\s*(?:\S+ => )?(/\S+) \(0x[0-9a-f]+\)")


@dataclass(frozen=True)
class WaypipeProgram:
    """A program and what its loader needs, with no link left to follow."""

    path: Path
    interpreter: Path | None
    """The dynamic loader, which the kernel wants at just this path."""
    libraries: tuple[Path, ...]


@dataclass(eq=False)
class SocketPlace:
    """A socket's file, opened once (O_PATH); whatever takes its name later.

    The client's jail may write to the directory where it makes its socket, so the
    name there can become a symbolic link to a socket of the person's.
    """

    fd: int

    @property
    def path(self) -> Path:
        """The path for connect(2), valid while the descriptor is open."""
        # guard: a jailed client's socket is opened once
        return Path(f"/proc/self/fd/{self.fd}")

    def close(self) -> None:
        """Let go of it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def open_place(path: Path) -> SocketPlace:
    """Open a socket's file by name, following no link.

    Raises FileNotFoundError, and UpstreamError for a file of another kind.
    """
    # guard: no link in a jailed client's directory
    place = SocketPlace(os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC))
    if not stat.S_ISSOCK(os.fstat(place.fd).st_mode):
        place.close()
        raise UpstreamError(f"{path} is not a socket")
    return place


@dataclass(eq=False)
class WaypipeClient:
    """A running client.  ``child`` is bubblewrap; its end is the client's."""

    child: Child
    socket_path: Path
    pid: int
    """The client's own number outside its pid namespace."""
    output: int
    """Our end of a pipe for its output."""
    jail: str = "bubblewrap seccomp"
    """The jail that it runs in, for people."""
    place: SocketPlace | None = None
    """Its socket, once it accepts."""

    @property
    def room(self) -> Path:
        """The directory in which it makes its socket; gone once that accepts."""
        return self.socket_path.parent / WAYPIPE_ROOM

    def leave_room(self) -> None:
        """Take its socket out of the directory that it may write to, and that away.

        Raises UpstreamError where it made anything else there.
        """
        try:
            (self.room / WAYPIPE_SOCKET).rename(self.socket_path)
            # guard: a waypipe client has no directory to fill
            self.room.rmdir()
        except OSError as error:
            raise UpstreamError(
                f"the directory of the waypipe client is not as it should be: {error.strerror}"
            ) from error

    def said(self) -> str:
        """Return its output since the last call, escaped.

        What does not fit into the pipe (64 KiB) it could not print at all.
        """
        try:
            return printable(os.read(self.output, 1 << 16).strip(), _SAID_LENGTH)
        except BlockingIOError:
            return ""

    async def stop(self) -> int:
        """End it and everything in its jail; return bubblewrap's code."""
        self.child.kill()
        with trio.CancelScope(shield=True):
            code = await self.child.wait()
        if self.output >= 0:
            os.close(self.output)
            self.output = -1
        if self.place is not None:
            self.place.close()
        self.socket_path.unlink(missing_ok=True)
        shutil.rmtree(self.room, ignore_errors=True)  # it did not come to accept
        return code


_RUST = (0, 10)


async def waypipe_version(waypipe_path: Path | None = None) -> str:
    """Return the version of the installed waypipe, as ``0.8.4``.

    Raises SetupError when it is not installed, UpstreamError when it does
    not say one.
    """
    program = _find("waypipe", waypipe_path)
    return version_in(await run_tool([program, "--version"], deadline=10))


def version_in(said: bytes) -> str:
    """Return the version in what ``waypipe --version`` says.  Raises UpstreamError."""
    found = re.match(rb"waypipe v?(\d+(?:\.\d+)*)", said)
    if not found:
        raise UpstreamError(f"waypipe says no version: {printable(said, 80)}")
    return found[1].decode()


async def require_rust(waypipe_path: Path | None = None) -> None:
    """Refuse this machine's client where it is of version 0.8 or 0.9."""
    refuse_c(await waypipe_version(waypipe_path))


def refuse_c(version: str) -> None:
    """Refuse a client of version 0.8 or 0.9.

    Those are written in C and were not made for a hostile peer; 0.10 is a new
    program in Rust.  Raises SetupError.
    """
    numbers = tuple(int(part) for part in version.split(".")[:2])
    if numbers < _RUST:
        raise SetupError(
            f"waypipe {version} is not started as a sandbox's client: it is written "
            "in C and was not made for a hostile peer",
            hint='remove display = "waypipe-client" from the record, so that the stream '
            "is decoded here, or install waypipe 0.10 or later",
        )


async def find_program(path: Path) -> WaypipeProgram:
    """Return the files that must be visible for a program to run (ldd(1)).

    Raises UpstreamError when ldd fails; SetupError when a library is missing.
    """
    try:
        said = (await run_tool(["ldd", path], deadline=10)).decode("utf-8", "replace")
    except UpstreamError as error:
        if "not a dynamic executable" not in error.message:
            raise
        return WaypipeProgram(path, None, ())
    if "not found" in said:
        raise SetupError(
            f"{path} lacks libraries: {printable(said)}",
            hint="install the package of waypipe again",
        )
    files = [Path(found[1]) for line in said.splitlines() if (found := _ldd(line))]
    loaders = [file for file in files if file.name.startswith("ld")]
    interpreter = loaders[0] if loaders else None
    return WaypipeProgram(
        path, interpreter, tuple(f for f in files if f != interpreter)
    )


def _ldd(line: str) -> re.Match[str] | None:
    return _LDD_LINE.fullmatch(line)


def jail_arguments(
    program: WaypipeProgram, display_dir: Path, arguments: Sequence[str]
) -> list[str]:
    """Return bubblewrap's arguments for the program in its jail.

    All libraries lie flat in one directory, so that it does not matter
    where the distribution has them.
    """
    words = [
        *("--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net"),
        *("--unshare-uts", "--unshare-cgroup", "--disable-userns"),
        *("--cap-drop", "ALL", "--new-session", "--die-with-parent", "--as-pid-1"),
        *("--hostname", "waypipe", "--clearenv"),
        *("--setenv", "XDG_RUNTIME_DIR", str(_INSIDE)),
        *("--setenv", "WAYLAND_DISPLAY", str(_INSIDE / "wayland.sock")),
        *("--setenv", "LD_LIBRARY_PATH", str(_LIBRARIES)),
        *("--ro-bind", str(program.path), str(_PROGRAM)),
        # It starts itself again for each connection, and asks this name who it
        # is.  There is no /proc.
        *("--symlink", str(_PROGRAM), "/proc/self/exe"),
    ]
    if program.interpreter:
        at = str(program.interpreter)
        words += ["--ro-bind", at, at]
    for library in program.libraries:
        words += ["--ro-bind", str(library), str(_LIBRARIES / library.name)]
    room = display_dir / WAYPIPE_ROOM
    words += ["--ro-bind", str(display_dir), str(_INSIDE)]
    words += ["--bind", str(room), str(_INSIDE / WAYPIPE_ROOM), "--remount-ro", "/"]
    return [*words, "--chdir", str(_INSIDE), "--", str(_PROGRAM), *arguments]


async def start_waypipe_client(
    display_dir: Path, waypipe_path: Path | None = None
) -> WaypipeClient:
    """Start a client for one sandbox; return it when its socket accepts.

    ``display_dir`` (0700, the sandbox's own) holds the worker's
    ``wayland.sock`` and gets ``waypipe.sock``; nothing else may be in it.

    Raises SetupError when bubblewrap or waypipe is missing or namespaces are
    not to be had, UpstreamError when the client does not come up.
    """
    waypipe = _find("waypipe", waypipe_path)
    program = await find_program(waypipe)
    socket_path = display_dir / WAYPIPE_SOCKET
    arguments = ["--compress", "none", "--no-gpu"]
    arguments += ["-s", str(_INSIDE / WAYPIPE_ROOM / WAYPIPE_SOCKET), "client"]
    # Both ends non-blocking: a client that prints more than the broker reads must
    # neither stall nor fill a disk.
    output, output_in = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        jailed = await start_jailed(program, display_dir, arguments, output_in)
    except BaseException:
        os.close(output)
        raise
    finally:
        os.close(output_in)
    client = WaypipeClient(jailed.child, socket_path, jailed.pid, output)
    ready = False
    try:
        with trio.fail_after(limits.WAYPIPE_START_SECONDS):
            await wait_accepting(client)
        ready = True
    except (trio.TooSlowError, UpstreamError) as error:
        raise _explain(client.said() or str(error)) from error
    finally:
        if not ready:
            await client.stop()
    return client


def make_room(display_dir: Path) -> None:
    """Make the directory in which a client makes its socket, with nothing in it."""
    (display_dir / WAYPIPE_SOCKET).unlink(missing_ok=True)
    room = display_dir / WAYPIPE_ROOM
    shutil.rmtree(room, ignore_errors=True)
    room.mkdir(mode=0o700)


@dataclass(frozen=True)
class Jailed:
    """bubblewrap, and the program in its jail by its number outside."""

    child: Child
    pid: int


class _Info(msgspec.Struct):
    pid: int = msgspec.field(name="child-pid")


async def start_jailed(
    program: WaypipeProgram, display_dir: Path, arguments: Sequence[str], output: int
) -> Jailed:
    """Start a program in the jail of a waypipe client.

    ``output`` takes its standard output and error; the caller keeps it.

    Raises SetupError when bubblewrap is missing, UpstreamError when it fails.
    """
    bwrap = _find("bwrap", None)
    make_room(display_dir)
    info_in, info_out = os.pipe2(os.O_CLOEXEC)
    try:
        with tempfile.TemporaryFile() as rules:
            rules.write(program_filters.waypipe_filter())
            rules.seek(0)
            child = spawn(
                [
                    *(bwrap, "--info-fd", str(info_out)),
                    *("--seccomp", str(rules.fileno())),
                    *jail_arguments(program, display_dir, arguments),
                ],
                name="waypipe client",
                env={},
                pass_fds=[info_out, rules.fileno()],
                stdout=output,
                stderr=STDOUT,
            )
    except BaseException:
        os.close(info_in)
        raise
    finally:
        os.close(info_out)
    try:
        with trio.fail_after(limits.WAYPIPE_START_SECONDS):
            async with trio.lowlevel.FdStream(info_in) as stream:
                said = b"".join([chunk async for chunk in stream])
        pid = msgspec.json.decode(said, type=_Info).pid
        with contextlib.suppress(ProcessLookupError):
            _limit(pid)  # unless it has ended already: the waiting task hears of that
    except (msgspec.DecodeError, trio.TooSlowError) as error:
        await _end(child)
        raise UpstreamError("bubblewrap did not start the waypipe client") from error
    except BaseException:
        await _end(child)
        raise
    return Jailed(child, pid)


async def _end(child: Child) -> None:
    child.kill()
    with trio.CancelScope(shield=True):
        await child.wait()


def _limit(pid: int) -> None:
    """Set the resource limits of the program, before a sandbox can reach it.

    From outside and not before the start: RLIMIT_NPROC set earlier would
    count all the person's processes (user_namespaces(7), ucounts).
    """
    for kind, value in (
        (resource.RLIMIT_NPROC, limits.WAYPIPE_PROCESSES),
        (resource.RLIMIT_NOFILE, limits.WAYPIPE_FDS),
        (resource.RLIMIT_FSIZE, limits.WAYPIPE_FILE_BYTES),
        (resource.RLIMIT_AS, limits.WAYPIPE_ADDRESS_BYTES),
        (resource.RLIMIT_DATA, limits.WAYPIPE_DATA_BYTES),
        (resource.RLIMIT_CORE, 1),  # see launch.jail
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        _, hard = resource.prlimit(pid, kind)
        most = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.prlimit(pid, kind, (most, most))


async def wait_accepting(client: WaypipeClient) -> None:
    """Return when the socket accepts, and keep it open as ``client.place``.

    Raises UpstreamError when the client ended, or put something else there.
    """
    while not _accepts(client):
        with trio.move_on_after(_POLL_SECONDS):
            code = await client.child.wait()
            raise UpstreamError(f"the waypipe client ended with code {code}")
    client.leave_room()


def _accepts(client: WaypipeClient) -> bool:
    try:
        place = open_place(client.room / WAYPIPE_SOCKET)
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        fdpass.refuse_descriptors(sock)
        sock.settimeout(0)
        try:
            sock.connect(os.fspath(place.path))
        except (ConnectionRefusedError, BlockingIOError):
            place.close()
            return False
    client.place = place
    return True


def _explain(words: str) -> Exception:
    if "namespace" in words or "uid map" in words:
        return SetupError(
            f"the waypipe client's jail cannot be built: {words}",
            hint="allow unprivileged user namespaces ('brokerctl doctor' says how)",
        )
    return UpstreamError(f"the waypipe client did not start: {words}")


def _find(name: str, path: Path | None) -> Path:
    found = shutil.which(name if path is None else path)
    if found:
        return Path(found).resolve()
    package = {"bwrap": "bubblewrap"}.get(name, name)
    raise SetupError(
        f"{path or name} is not installed",
        hint=f"install the package {package} (apt install {package})",
    )
