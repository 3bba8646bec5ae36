"""The X socket of the guest's programs, and the program that shows their windows.

The guest agent makes the socket and starts that program when the first client connects.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import socket
import struct
import subprocess
from typing import TYPE_CHECKING, Dict, Optional

from shims.guest.account import PATH
from shims.guest.display_socket import X_SOCKETS, bind_display, remove_display
from shims.guest.loop import log
from shims.guest.started_on_connect import StartedOnConnect
from shims.guest.tools import X11_BRIDGE, write_file

if TYPE_CHECKING:
    from shims.guest.guest import Guest

X_COOKIE_NAME = b"MIT-MAGIC-COOKIE-1"
X_LINES, X_LINE_BYTES = 50, 400
"""The log of one run of the program."""


class XServer:
    """The bridge, from the first X11 program on that connects.

    The bridge (``shims/x11``) and its Xwayland have the rights of the guest's user, and
    end after the last X11 program.
    """

    def __init__(self, guest: "Guest") -> None:
        self._guest = guest
        self._socket = StartedOnConnect(guest, "X11 windows", self._run)
        self._number = 0
        self._reserved: "Optional[socket.socket]" = None
        self._lines = 0

    def start(self) -> None:
        """Bind the X socket and write its cookie, where Xwayland exists."""
        path = self._guest.base_environment().get("PATH", PATH)
        if not X11_BRIDGE or shutil.which("Xwayland", path=path) is None:
            return
        program = os.path.join(self._guest.settings.runtime, "vitrail_x11.py")
        try:
            write_file(program, X11_BRIDGE.encode(), 0o644)
            with contextlib.suppress(FileExistsError):
                os.mkdir(X_SOCKETS)
                os.chmod(X_SOCKETS, 0o1777)
            with self._guest.account.rights():
                self._write_cookie()
                if self._guest.machine is not None:
                    remove_display(0)  # of the start before
                listener, self._number, self._reserved = bind_display()
        except OSError as error:
            log(f"X11 programs are not available: {error}")
            return
        self._socket.start(listener)

    def renew_cookie(self) -> None:
        """Draw another cookie than the parent's, which all of its copies have."""
        if self._socket.listening:
            try:
                with self._guest.account.rights():
                    self._write_cookie()
            except OSError as error:
                log(f"cannot draw another X11 cookie: {error}")

    def environment(self) -> Dict[str, str]:
        """Return the variables of X11 programs."""
        if not self._socket.listening:
            return {}
        return {
            "DISPLAY": f":{self._number}",
            "XAUTHORITY": self._cookie_path,
            "GDK_BACKEND": "wayland,x11",
            "QT_QPA_PLATFORM": "wayland;xcb",
            "SDL_VIDEODRIVER": "wayland,x11",
            "_JAVA_AWT_WM_NONREPARENTING": "1",
        }

    def stop(self) -> None:
        """Remove the socket, whose directory others may use, too."""
        if self._socket.listening:
            remove_display(self._number)
            self._socket.stop()
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None

    @property
    def _cookie_path(self) -> str:
        return os.path.join(self._guest.session_dir, "xauthority")

    def _write_cookie(self) -> None:
        """Write a new random cookie for X clients, readable by the user alone."""
        # Family 0xffff is any address; see Xauth(3).
        head = struct.pack(">HHHH", 0xFFFF, 0, 0, len(X_COOKIE_NAME)) + X_COOKIE_NAME
        data = head + struct.pack(">H", 16) + os.urandom(16)
        write_file(self._cookie_path, data, 0o600)

    def _run(self, listener: socket.socket) -> "subprocess.Popen[bytes]":
        """Start the program for X11 windows on a listener."""
        guest = self._guest
        read, write = os.pipe()
        os.set_blocking(read, False)
        program = os.path.join(guest.settings.runtime, "vitrail_x11.py")
        env = {**guest.base_environment(), **self.environment()}
        env["WAYLAND_DISPLAY"] = guest.display.path
        try:
            process = guest.account.start(
                ["python3", "-I", "-S", "-B", program, "--listen", "0"],
                env=env,
                stdin=listener.fileno(),
                stdout=write,
                stderr=write,
                cwd="/",
            )
        except (OSError, subprocess.SubprocessError):
            os.close(read)
            raise
        finally:
            os.close(write)
        self._lines = 0
        guest.loop.watch(read, selectors.EVENT_READ, lambda _: self._tell(read))
        return process

    def _tell(self, read: int) -> None:
        """Log the X11 program's error lines, up to a limit."""
        data = os.read(read, 4096)
        if not data:
            self._guest.loop.forget(read)
            os.close(read)
            return
        for line in data.decode("utf-8", "replace").splitlines():
            self._lines += 1
            if self._lines <= X_LINES:
                log(line[:X_LINE_BYTES])
