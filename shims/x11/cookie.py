"""The cookie of programs of the X server (Xauth(3))."""

from __future__ import annotations

import contextlib
import os
import struct

_NAME = b"MIT-MAGIC-COOKIE-1"


class XAuthority:
    """The cookie that Xwayland asks for; 24.1 lets nobody in without one."""

    def __init__(self, path: str, *, present: bool) -> None:
        self.path = path
        if present:
            with open(path, "rb") as known:
                self.cookie = known.read(4096)[-16:]
            return
        self.cookie = os.urandom(16)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        # Family 0xffff is any address.
        head = struct.pack(">HHHH", 0xFFFF, 0, 0, len(_NAME)) + _NAME
        with open(os.open(self.path, flags, 0o600), "wb") as file:
            file.write(head + struct.pack(">H", len(self.cookie)) + self.cookie)
