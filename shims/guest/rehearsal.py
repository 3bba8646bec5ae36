"""A rehearsal: the record's program starts and draws once, and nothing of it stays.

In a template it brings into memory what each copy's first program reads.  In a machine
that waits it also has its emulator translate the code.  The program has a home of its
own, no connection out of the machine, and a screen that shows nothing; what it drew at
random, wrote or left running is removed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import shutil
import signal
import socket
import subprocess
import tempfile
from typing import TYPE_CHECKING, Callable, List, Optional, Set, Tuple

from shims.guest.account import kill_group
from shims.guest.address import Address
from shims.guest.loop import Timer, log
from shims.guest.protocol import PIECE_BYTES
from shims.guest.screen import Screen, ScreenError

if TYPE_CHECKING:
    from shims.guest.guest import Guest

REHEARSAL_SECONDS = 60.0  # for the program to draw, or to end
CLIENT_SECONDS = 0.02  # between looks for the socket of waypipe's client
SCREEN_DESCRIPTORS = 28  # of one message, as libwayland has it
SHARED_KINDS = ("shm", "sem", "msg")  # sysvipc(7)


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
        self._before = self._found()
        self._shared_before = shared_objects()
        self._deadline: Timer = self._loop.later(REHEARSAL_SECONDS, self._end)

    def begin(self) -> None:
        """Start waypipe's client in front of the screen, then the program."""
        account = self._guest.account
        os.chown(self._place, account.uid, account.gid)
        screen = os.path.join(self._place, "screen")
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(screen)
        os.chown(screen, account.uid, account.gid)
        self._listener.listen(4)
        self._listener.settimeout(0)
        self._loop.watch(
            self._listener.fileno(),
            selectors.EVENT_READ,
            lambda _events: self._accept(),
        )
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
        assert self._listener is not None
        try:
            peer, _ = self._listener.accept()
        except OSError:
            return
        # waypipe's client tries the screen with a connection of its own.
        self._leave()
        peer.settimeout(0)
        self._peer, self._screen = peer, Screen()
        self._loop.watch(
            peer.fileno(), selectors.EVENT_READ, lambda _events: self._read()
        )

    def _read(self) -> None:
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
            raise ScreenError("the program does not read")

    def _leave(self) -> None:
        if self._peer is not None:
            self._loop.forget(self._peer.fileno())
            self._peer.close()
            self._peer = None

    # -- the end

    def _end(self) -> None:
        """End everything, and go on in the next round; only the first call does."""
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
        if self._address is not None:
            self._guest.display.lead_to(self._address)
        self._guest.cut_all()
        self._loop.later(0, self._clear)

    def _clear(self) -> None:
        """Wait until no process of it is left, and remove its files."""
        # guard: no process of a rehearsal outlives it
        if self._kill_left():
            self._loop.later(CLIENT_SECONDS, self._clear)
            return
        # guard: no shared memory of a rehearsal outlives it
        if os.getpid() == 1:  # in a machine; elsewhere these may be the person's
            remove_shared(shared_objects() - self._shared_before)
        shutil.rmtree(self._place, ignore_errors=True)
        # guard: no file of a rehearsal outlives it
        for path in self._found() - self._before:
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path, ignore_errors=True)
                continue
            with contextlib.suppress(FileNotFoundError):  # with its directory
                os.unlink(path)
        self._guest.forget_hops()
        self._done()

    def _kill_left(self) -> int:
        """Kill the user's processes that are not waypipe's server; how many there are."""
        found = 0
        ours = os.getpid()
        if ours != 1:
            return found  # not a machine: these would be the person's
        for pid in [int(name) for name in os.listdir("/proc") if name.isdigit()]:
            with contextlib.suppress(OSError):
                users = os.stat(f"/proc/{pid}").st_uid == self._guest.account.uid
                kept = pid == ours or os.getsid(pid) == self._guest.display.session
                if users and not kept:
                    os.kill(pid, signal.SIGKILL)
                    found += 1
        return found

    def _found(self) -> Set[str]:
        """Return what is in the places where the user's programs may write."""
        places = ("/tmp", "/var/tmp", "/dev/shm", self._guest.session_dir)
        return {
            os.path.join(folder, name)
            for place in (*places, self._guest.account.home)
            for folder, folders, files in os.walk(place)
            for name in (*folders, *files)
        }


def shared_objects() -> Set[Tuple[str, int]]:
    """Return System V's memory, semaphores and queues, which outlive their makers."""
    found: Set[Tuple[str, int]] = set()
    for kind in SHARED_KINDS:
        # A kernel may be without them.
        with contextlib.suppress(OSError), open(f"/proc/sysvipc/{kind}") as file:
            found |= {(kind, int(line.split()[1])) for line in file.readlines()[1:]}
    return found


def remove_shared(objects: Set[Tuple[str, int]]) -> None:
    """Remove such objects.  What fails is logged."""
    libc = ctypes.CDLL(None, use_errno=True)
    remove = 0  # IPC_RMID
    for kind, number in objects:
        if kind == "sem":
            failed = libc.semctl(number, 0, remove)
        else:
            failed = getattr(libc, f"{kind}ctl")(number, remove, None)
        if failed:
            log(f"rehearsal: {kind} {number}: {os.strerror(ctypes.get_errno())}")
