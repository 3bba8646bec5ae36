"""The guest's waypipe server and its Wayland socket."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Callable, List

from shims.guest.account import kill_group, remove
from shims.guest.address import Address
from shims.guest.protocol import PIECE_BYTES, TEXT
from shims.guest.streams import Carrier

if TYPE_CHECKING:
    from shims.guest.guest import Guest

# From waypipe's start to its socket: 20 s were not enough where every instruction is
# emulated and the host has ten times more work than processors.
DISPLAY_SECONDS = 60.0


class Display:
    """The guest's one waypipe server and its Wayland socket.

    One server for all programs, and each program our own child beside it: so
    exit codes, signals and output are the program's own, a second program
    needs no second server, and the server is up before the first is asked for.
    """

    NAME = "wayland-0"

    def __init__(self, guest: "Guest", carrier: Carrier) -> None:
        self._guest = guest
        self._loop = guest.loop
        self._carrier = carrier
        self._process = 0
        self._ready = False
        self._waiting: List[Callable[[str], None]] = []
        self._stderr = -1
        self._said = b""
        self._keep_alive = -1
        self._deadline = 0.0
        self._given_up = ""

    @property
    def path(self) -> str:
        """The Wayland socket that waypipe makes."""
        return os.path.join(self._guest.session_dir, self.NAME)

    @property
    def ready(self) -> bool:
        """Whether programs can connect."""
        return self._ready and bool(self._process)

    @property
    def session(self) -> int:
        """The session of waypipe's processes; 0 while there are none."""
        return self._process

    def lead_to(self, address: Address) -> Address:
        """Carry connections there from now on; returns where they went before."""
        return self._carrier.lead_to(address)

    def when_ready(self, action: Callable[[str], None]) -> None:
        """Call ``action("")`` when programs can connect, or with the reason not."""
        if self.ready:
            action("")
            return
        self._waiting.append(action)
        self.start()

    def start(self) -> None:
        """Start waypipe unless it runs."""
        if self._process:
            return
        try:
            with self._guest.account.rights():
                for leftover in (self.path, self.path + ".lock"):
                    remove(leftover)
        except OSError as error:
            self._settle(f"a leftover at {self.path} stays: {error}")
            return
        # waypipe lives as long as its command; this one waits for our end.
        feed_read, feed_write = os.pipe()
        err_read, err_write = os.pipe()
        os.set_blocking(err_read, False)
        argv = [
            "waypipe",
            "--compress",
            "none",
            "--no-gpu",
            "--socket",
            self._carrier.path,
        ]
        argv += ["--display", self.NAME, "server", "--", "cat"]
        try:
            process = self._guest.account.start(
                argv,
                env=self._guest.base_environment(),
                stdin=feed_read,
                stdout=err_write,
                stderr=err_write,
                # Outside of the home, which a rehearsal may not change by it.
                cwd="/",
            )
        except (OSError, subprocess.SubprocessError) as error:
            os.close(feed_write)
            os.close(err_read)
            missing = isinstance(error, FileNotFoundError)
            why = (
                "is not installed in the guest" if missing else f"cannot start: {error}"
            )
            self._settle(f"waypipe {why}")
            return
        finally:
            os.close(feed_read)
            os.close(err_write)
        self._process, self._stderr, self._keep_alive = (
            process.pid,
            err_read,
            feed_write,
        )
        self._said, self._ready, self._given_up = b"", False, ""
        self._deadline = time.monotonic() + DISPLAY_SECONDS
        self._loop.watch(err_read, selectors.EVENT_READ, lambda _events: self._listen())
        self._loop.child(process, self._ended)
        self._look()

    def counted(self, displays: int) -> None:
        """The broker has so many displays of ours.

        Of a stream that was lost on its way (a killed relay's, in
        vhost-device-vsock) we get no notice; its program would wait forever.
        """
        self._carrier.counted(displays)

    def stop(self) -> None:
        """End waypipe, if it runs."""
        if self._process:
            kill_group(self._process, signal.SIGTERM)

    def _look(self) -> None:
        """Wait for the socket; there is no message from waypipe to wait for."""
        if not self._process or self._ready:
            return
        if os.path.exists(self.path):
            self._settle("")
        elif time.monotonic() > self._deadline:
            self._given_up = f"waypipe made no socket in {DISPLAY_SECONDS:.0f} s"
            kill_group(self._process, signal.SIGKILL)
        else:
            self._loop.later(0.02, self._look)

    def _settle(self, reason: str) -> None:
        self._ready = not reason
        self._guest.hop("waypipe", reason, ok=not reason)
        waiting, self._waiting = self._waiting, []
        for action in waiting:
            action(reason)

    def _listen(self) -> None:
        try:
            data = os.read(self._stderr, PIECE_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._loop.forget(self._stderr)
            os.close(self._stderr)
            self._stderr = -1
            return
        self._said = (self._said + data)[-4096:]

    def _ended(self, code: int) -> None:
        if self._stderr >= 0:
            self._listen()
        if self._stderr >= 0:
            self._loop.forget(self._stderr)
            os.close(self._stderr)
            self._stderr = -1
        os.close(self._keep_alive)
        self._process = 0
        if self._guest.leaving:
            return
        said = self._said.decode("utf-8", "replace").strip()[-TEXT // 2 :]
        ended = f"waypipe ended with code {code}: {said or 'it said nothing'}"
        self._settle(self._given_up or ended)
