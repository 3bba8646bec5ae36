"""The guest's waypipe server and its Wayland socket."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Callable, List, Tuple

from shims.guest.account import kill_group, remove
from shims.guest.address import Address
from shims.guest.arena import open_arena_device
from shims.guest.loop import log
from shims.guest.protocol import PIECE_BYTES, TEXT
from shims.guest.streams import StreamCarrier
from shims.guest.tools import WAYLAND_END, write_file

if TYPE_CHECKING:
    from shims.guest.guest import Guest

# From waypipe's start to its socket: 20 s were not enough where every instruction is
# emulated and the host has ten times more work than processors.
DISPLAY_SECONDS = 60.0
GPU_NODE, GPU_LOST = "/dev/dri/renderD128", b"the GPU is lost"
"""As in ``shims/wayland/gpu_memory.py``."""


class Display:
    """The guest's one waypipe server and its Wayland socket.

    One server for all programs, and each program our own child beside it: so
    exit codes, signals and output are the program's own, a second program
    needs no second server, and the server is up before the first is asked for.
    """

    NAME = "wayland-0"

    def __init__(self, guest: "Guest", carrier: StreamCarrier) -> None:
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
        self._program_name = "waypipe"
        self._without_gpu = False
        self._without_arena = False
        """Whether our own end could not use the arena, so that waypipe is started."""
        self._restarts = False

    @property
    def path(self) -> str:
        """The Wayland socket that waypipe makes."""
        return os.path.join(self._guest.session_dir, self.NAME)

    @property
    def ready(self) -> bool:
        """Return whether programs can connect."""
        return self._ready and bool(self._process)

    @property
    def session(self) -> int:
        """The session of waypipe's processes; 0 while there are none."""
        return self._process

    def lead_to(self, address: Address) -> Address:
        """Carry connections there from now on; returns where they went before."""
        return self._carrier.lead_to(address)

    def when_ready(self, action: Callable[[str], None]) -> None:
        """Call ``action("")`` when programs can connect, or with the reason not.

        Starts the waypipe server, unless one runs.
        """
        if self.ready:
            action("")
            return
        self._waiting.append(action)
        self.start()

    def start(self) -> None:
        """Start the waypipe server, unless one runs."""
        if self._process:
            return
        try:
            with self._guest.account.rights():
                for leftover in (self.path, self.path + ".lock"):
                    remove(leftover)
        except OSError as error:
            self._settle(f"cannot remove the leftover {self.path}: {error}")
            return
        # waypipe lives as long as its command; this one waits for our end.
        feed_read, feed_write = os.pipe()
        err_read, err_write = os.pipe()
        os.set_blocking(err_read, False)
        argv, arena = self._program()
        try:
            process = self._guest.account.start(
                argv,
                env=self._guest.base_environment(),
                stdin=feed_read,
                stdout=err_write,
                stderr=err_write,
                # Outside of the home, which a rehearsal may not change by it.
                cwd="/",
                pass_fds=() if arena < 0 else (arena,),
            )
        except (OSError, subprocess.SubprocessError) as error:
            os.close(feed_write)
            os.close(err_read)
            missing = isinstance(error, FileNotFoundError)
            why = (
                "is not installed in the guest" if missing else f"cannot start: {error}"
            )
            self._settle(f"{self._program_name} {why}")
            return
        finally:
            os.close(feed_read)
            os.close(err_write)
            if arena >= 0:
                os.close(arena)
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

    def _program(self) -> Tuple[List[str], int]:
        """Return the words of the program, and a descriptor that it inherits, or -1."""
        settings = self._guest.settings
        carried = ["--socket", self._carrier.path]
        self._program_name = "waypipe"
        # A parent has no arena; each copy gets one, with its name.
        arena = settings.arena and bool(settings.name or not settings.parent)
        if arena and WAYLAND_END and not self._without_arena:
            program = os.path.join(settings.runtime, "vitrail_wayland.py")
            try:
                fd, base = open_arena_device(behind_image=settings.last_region)
                write_file(program, WAYLAND_END.encode(), 0o644)
            except (OSError, ValueError) as error:
                log(f"cannot use the arena for windows: {error}")
            else:
                log(f"the arena for windows starts at {base}")
                self._program_name = "vitrail_wayland.py"
                argv = ["python3", "-I", "-S", "-B", program, *carried]
                argv += ["--display", self.path, "--arena", str(fd)]
                argv += ["--base", str(base)]
                if settings.gpu and not self._without_gpu and self._open_gpu(0o666):
                    argv.append("--gpu")
                return argv, fd
        argv = ["waypipe", "--compress", "none", "--no-gpu", *carried]
        return [*argv, "--display", self.NAME, "server", "--", "cat"], -1

    def _open_gpu(self, mode: int) -> bool:
        """Set the GPU node's mode; return whether there is a GPU."""
        try:
            os.chmod(GPU_NODE, mode)
        except OSError as error:
            log(f"cannot use the GPU: {error}")
            return False
        return True

    def counted(self, displays: int) -> None:
        """Compare the broker's number of displays with ours; end lost streams.

        Of a stream that was lost on its way (a killed relay's, in
        vhost-device-vsock) we get no notice; its program would wait forever.
        """
        self._carrier.counted(displays)

    def stop(self) -> None:
        """End waypipe, if it runs."""
        if self._process:
            kill_group(self._process, signal.SIGTERM)

    def restart(self) -> None:
        """End waypipe, and start what the settings say now."""
        self._ready, self._restarts = False, bool(self._process)
        if self._process:
            kill_group(self._process, signal.SIGKILL)

    def _look(self) -> None:
        """Wait for the socket; there is no message from waypipe to wait for."""
        if not self._process or self._ready:
            return
        if os.path.exists(self.path):
            self._settle("")
        elif time.monotonic() > self._deadline:
            name = self._program_name
            self._given_up = f"{name} created no socket within {DISPLAY_SECONDS:.0f} s"
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
        """Read waypipe's output: its display's readiness, or log lines."""
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
        if GPU_LOST in self._said and not self._without_gpu:
            # Programs that start from now on draw with the processor.
            self._without_gpu = True
            self._open_gpu(0o600)
            self._guest.hop("gpu", "the GPU no longer answers", ok=False)

    def _ended(self, code: int) -> None:
        """Clean up after waypipe's end; start it again where that is planned."""
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
        if self._restarts:
            self._restarts = False
            self.start()
            return
        said = self._said.decode("utf-8", "replace").strip()[-TEXT // 2 :]
        name, came_up = self._program_name, self._ready
        ended = f"{name} ended with code {code}: {said or 'it wrote no message'}"
        if name != "waypipe" and not came_up:
            log(f"cannot use the arena for windows: {ended}")
            self._without_arena = True
            self.start()
            return
        self._settle(self._given_up or ended)
