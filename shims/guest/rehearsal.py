"""A rehearsal: the record's program starts and draws once, and nothing of it stays.

In a parent it brings into memory what each copy's first program reads.  In a machine
that waits it also has its emulator translate the code.  The program has a home of its
own, no connection out of the machine, and a screen that shows nothing; what it drew at
random, wrote or left running is removed, and the waypipe server that it could reach is
another one afterwards.

The guest agent runs this as process 1 of the machine; the rehearsed program and waypipe
are other processes.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import selectors
import signal
import socket
import stat
import subprocess
import tempfile
from typing import TYPE_CHECKING, Callable, Dict, List, Optional, Set, Tuple

from shims.guest.account import kill_group, remove_trees
from shims.guest.address import Address
from shims.guest.loop import Timer, log
from shims.guest.protocol import PIECE_BYTES
from shims.guest.screen import Screen, ScreenError
from shims.guest.storage import MNT_DETACH, MS_BIND

if TYPE_CHECKING:
    from shims.guest.guest import Guest

REHEARSAL_SECONDS = 60.0  # for the program to draw, or to end
CLIENT_SECONDS = 0.02  # between looks for the socket of waypipe's client
SCREEN_DESCRIPTORS = 28  # of one message, as libwayland has it
RESTART_SECONDS = 0.5  # from a waypipe that did not come up to the next
SHARED_KINDS = ("shm", "sem", "msg")  # sysvipc(7)
MS_RDONLY, MS_REMOUNT = 1, 32
KEPT_FLAGS = 0x02 | 0x04 | 0x08 | 0x400 | 0x800  # nosuid nodev noexec no(dir)atime
Fact = Tuple[str, int, int, int]


class Rehearsal:
    """One run of ``argv``; ``done`` is called when nothing of it is left."""

    def __init__(
        self, guest: "Guest", argv: List[str], done: Callable[[], None]
    ) -> None:
        self._guest = guest
        self._loop = guest.loop
        self._argv = argv
        self._done = done
        self._place = tempfile.mkdtemp(dir="/tmp")
        self._listener: Optional[socket.socket] = None
        self._peer: Optional[socket.socket] = None
        self._screen = Screen()
        self._address: Optional[Address] = None
        self._groups: List[int] = []
        self._ended = False
        self._covered = False  # the home, read-only
        self._mounts_before = set(mount_points())
        self._before = self._found()
        self._shared_before = shared_objects()
        self._deadline: Timer = self._loop.later(REHEARSAL_SECONDS, self._end)

    def begin(self) -> None:
        """Start waypipe's client in front of the screen, then the program."""
        account = self._guest.account
        screen = os.path.join(self._place, "screen")
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(screen)
        # While the directory is ours: in the user's, the name may be a link.
        os.chown(screen, account.uid, account.gid)
        os.chown(self._place, account.uid, account.gid)
        self._listener.listen(4)
        self._listener.settimeout(0)
        self._loop.watch(
            self._listener.fileno(),
            selectors.EVENT_READ,
            lambda _events: self._accept(),
        )
        # guard: a rehearsal changes no file of the home
        self._covered = os.getpid() == 1 and make_read_only(account.home)
        # Its environment is this process's, but for the server: no program learns of it.
        env = {**self._guest.base_environment(), "WAYLAND_DISPLAY": screen}
        words = ["--compress", "none", "--no-gpu", "--socket", self._wire, "client"]
        if self._start(["waypipe", *words], env, lambda _code: self._end()):
            # The name is in a directory of the user's, who could put another's there.
            address = Address(f"unix:{self._wire}", owner=self._guest.account.uid)
            self._address = self._guest.display.lead_to(address)
            self._look()

    @property
    def _wire(self) -> str:
        """Where waypipe's client waits for waypipe's server."""
        return os.path.join(self._place, "waypipe")

    def _look(self) -> None:
        """Start the program once the wire is there."""
        if self._ended:
            return
        if not os.path.exists(self._wire):
            self._loop.later(CLIENT_SECONDS, self._look)
            return
        env = self._guest.environment({"display": True, "env": {}})
        env["HOME"] = self._place
        self._start(self._argv, env, lambda _code: self._end())

    def _start(
        self, argv: List[str], env: "dict[str, str]", ended: Callable[[int], None]
    ) -> bool:
        """Start a process of the rehearsal; end it if that fails."""
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            process = self._guest.account.start(argv, env, null, null)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            log(f"rehearsal: {argv[0]}: {error}")
            self._end()
            return False
        finally:
            os.close(null)
        self._groups.append(process.pid)
        self._loop.child(process, ended)
        return True

    # -- the screen

    def _accept(self) -> None:
        """Accept waypipe's client, in place of the listener."""
        assert self._listener is not None
        try:
            peer, _ = self._listener.accept()
        except OSError:
            return
        # waypipe's client tries the screen with a separate connection.
        self._leave()
        peer.settimeout(0)
        self._peer, self._screen = peer, Screen()
        self._loop.watch(
            peer.fileno(), selectors.EVENT_READ, lambda _events: self._read()
        )

    def _read(self) -> None:
        """Pass the program's bytes to the screen; end at its first window."""
        assert self._peer is not None
        try:
            data, descriptors, _flags, _address = socket.recv_fds(
                self._peer, PIECE_BYTES, SCREEN_DESCRIPTORS
            )
            for fd in descriptors:
                os.close(fd)
            self._answer(self._peer, data)
        except BlockingIOError:
            return
        except (OSError, ScreenError) as error:
            log(f"rehearsal: {error}")
            self._end()
            return
        if self._screen.drawn:
            self._end()
        elif not data:
            self._leave()

    def _answer(self, peer: socket.socket, data: bytes) -> None:
        answer = self._screen.feed(data)
        if answer and peer.send(answer) < len(answer):
            raise ScreenError("the program does not read from the connection")

    def _leave(self) -> None:
        if self._peer is not None:
            self._loop.forget(self._peer.fileno())
            self._peer.close()
            self._peer = None

    # -- the end

    def _end(self) -> None:
        """End all processes, and clear up in the next round."""
        if self._ended:
            return
        self._ended = True
        self._deadline.cancel()
        self._leave()
        if self._listener is not None:
            self._loop.forget(self._listener.fileno())
            self._listener.close()
        for group in self._groups:
            kill_group(group, signal.SIGKILL)
        self._loop.later(0, self._clear)

    def _clear(self) -> None:
        """Wait until no process of the rehearsal is left; remove its files."""
        # guard: no process of a rehearsal outlives it
        if self._kill_left():
            self._loop.later(CLIENT_SECONDS, self._clear)
            return
        # Not before: a program that still ran would connect to the broker.
        if self._address is not None:
            self._guest.display.lead_to(self._address)
        self._guest.cut_all()
        # guard: no shared memory of a rehearsal outlives it
        if os.getpid() == 1:  # in a machine; elsewhere these may be the user's
            remove_shared(shared_objects() - self._shared_before)
        try:
            self._remove_files()
        except OSError as error:
            # As far as it went; a machine that never became ready would be worse.
            log(f"rehearsal: {error}")
        self._restart_display()

    def _remove_files(self) -> None:
        """Undo the rehearsal's mounts and files."""
        if self._covered:
            detach(self._guest.account.home)
        # guard: no mount of a rehearsal outlives it
        for number, place in reversed(list(mount_points().items())):
            if number not in self._mounts_before and os.getpid() == 1:
                detach(place)
        # guard: no file of a rehearsal outlives it
        remove_trees([self._place, *self._changed()])

    def _restart_display(self) -> None:
        """Wait for a waypipe server that no program of it could reach."""
        self._guest.display.when_ready(self._display_up)

    def _display_up(self, reason: str) -> None:
        if reason:
            self._loop.later(RESTART_SECONDS, self._restart_display)
            return
        self._guest.forget_hops()
        self._done()

    def _kill_left(self) -> int:
        """Kill the user's processes, waypipe's server too; how many there are.

        It has the program's user, who may trace it and go on in it (ptrace(2)).
        """
        found = 0
        ours = os.getpid()
        if ours != 1:
            return found  # not a machine: these would be the user's
        for pid in [int(name) for name in os.listdir("/proc") if name.isdigit()]:
            with contextlib.suppress(OSError):
                if pid != ours and self._guest.account.uid in users_of(pid):
                    os.kill(pid, signal.SIGKILL)
                    found += 1
        return found

    def _changed(self) -> List[str]:
        """Return new and changed entries in places where programs may write."""
        changed = []
        for path, fact in self._found(self._before).items():
            # Elsewhere than in a machine other programs may have changed it.
            # guard: no changed file of a rehearsal outlives it
            same = fact == self._before.get(path) or os.getpid() != 1
            if path not in self._before or not same:
                changed.append(path)
        return changed

    def _found(self, known: "Optional[Dict[str, Fact]]" = None) -> "Dict[str, Fact]":
        """Return the entries of the places where the user's programs may write."""
        places = ("/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue")
        return list_entries(
            [*places, self._guest.session_dir, self._guest.account.home], known
        )


def list_entries(
    places: List[str], known: "Optional[Dict[str, Fact]]" = None
) -> "Dict[str, Fact]":
    """List the entries below directories, with what tells them apart.

    With ``known`` a directory that is not in it is not entered.
    """
    found: "Dict[str, Fact]" = {}
    left = list(places)
    while left:
        place = left.pop()
        # A place that is not there, or that is removed meanwhile, has none.
        with contextlib.suppress(OSError), os.scandir(place) as entries:
            for entry in entries:
                fact = entry_fact(entry)
                found[entry.path] = fact
                entered = known is None or known.get(entry.path) == fact
                if fact[0] == "dir" and entered:
                    left.append(entry.path)
    return found


def entry_fact(entry: "os.DirEntry[str]") -> Fact:
    """Return what changes with an entry, but not with what is in a directory."""
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError:  # the place of a file system whose server has ended
        return ("unreadable", 0, 0, 0)
    if stat.S_ISDIR(status.st_mode):
        return ("dir", status.st_dev, status.st_ino, 0)
    # No program can set the last one (inode(7)).
    return ("file", status.st_dev, status.st_ino, status.st_ctime_ns)


def users_of(pid: int) -> Set[int]:
    """Return the real, effective, saved and file system user ids of a process.

    The owner of ``/proc/PID`` is only the effective one: root, of a stopped su(1).
    Raises OSError.
    """
    with open(f"/proc/{pid}/status", "rb") as file:
        for line in file:
            if line.startswith(b"Uid:"):
                return set(map(int, line.split()[1:]))
    return set()


def mount_points() -> Dict[int, str]:
    """Read the agent's ``/proc/self/mountinfo``; return each mount's place by its id.

    In the order of the file; proc_pid_mountinfo(5).
    """
    found = {}
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            number, _, _, _, place = line.split()[:5]
            name = re.sub(rb"\\([0-7]{3})", lambda code: _octal(code[1]), place)
            found[int(number)] = os.fsdecode(name)
    return found


def _octal(digits: bytes) -> bytes:
    return bytes([int(digits, 8)])


def make_read_only(place: str) -> bool:
    """Mount a directory read-only over itself; return success."""
    libc = ctypes.CDLL(None, use_errno=True)
    name = os.fsencode(place)
    done = libc.mount(name, name, None, MS_BIND, None) == 0
    # What the mount below it has is kept, and is the same bits here.
    flags = MS_REMOUNT | MS_BIND | MS_RDONLY
    flags |= os.statvfs(place).f_flag & KEPT_FLAGS
    if done and libc.mount(None, name, None, flags, None) == 0:
        return True
    log(f"rehearsal: {place}: {os.strerror(ctypes.get_errno())}")
    if done:
        detach(place)
    return False


def detach(place: str) -> None:
    """Unmount at once.  What fails is logged."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(place), MNT_DETACH):
        log(f"rehearsal: {place}: {os.strerror(ctypes.get_errno())}")


def shared_objects() -> Set[Tuple[str, int]]:
    """Return System V's memory, semaphores and queues, which outlive their makers."""
    found: Set[Tuple[str, int]] = set()
    for kind in SHARED_KINDS:
        # A kernel may be without them.
        with contextlib.suppress(OSError), open(f"/proc/sysvipc/{kind}") as file:
            found |= {(kind, int(line.split()[1])) for line in file.readlines()[1:]}
    return found


def remove_shared(objects: Set[Tuple[str, int]]) -> None:
    """Remove System V IPC objects (kind, number).  Logs failures."""
    libc = ctypes.CDLL(None, use_errno=True)
    remove = 0  # IPC_RMID
    for kind, number in objects:
        if kind == "sem":
            failed = libc.semctl(number, 0, remove)
        else:
            failed = getattr(libc, f"{kind}ctl")(number, remove, None)
        if failed:
            log(f"rehearsal: {kind} {number}: {os.strerror(ctypes.get_errno())}")
