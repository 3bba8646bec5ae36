"""A FUSE file system with one file, whose server opens it and then falls silent.

A hostile sandbox mounts this in its own user namespace: a process that asks the
file for anything that the kernel does not know waits forever.
"""

from __future__ import annotations

import ctypes
import os
import struct
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_IN = struct.Struct("=IIQQIIII")
_OUT = struct.Struct("=IiQ")
_LOOKUP, _GETATTR, _OPEN, _INIT = 1, 3, 14, 26
_FILE, _DIRECTORY = 0o100666, 0o040777
_UMOUNT_DETACH = 2


def _attr(node: int, mode: int) -> bytes:
    # No validity: every question comes here again.
    return struct.pack(
        "=QQQQQQIIIIIIIIII", node, 1 << 20, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 0, 0
    )


class SilentFuse:
    """``silent`` from the moment on at which the file has been opened."""

    def __init__(self, device: int) -> None:
        self._device = device
        self.silent = False
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                data = os.read(self._device, 1 << 17)
            except OSError:
                return  # unmounted
            _, opcode, unique, node, *_ = _IN.unpack_from(data)
            if self.silent:
                continue
            body = self._answer(opcode, node)
            error = 0 if body is not None else -38
            os.write(
                self._device,
                _OUT.pack(_OUT.size + len(body or b""), error, unique) + (body or b""),
            )
            self.silent = opcode == _OPEN

    def _answer(self, opcode: int, node: int) -> bytes | None:
        if opcode == _INIT:
            return struct.pack(
                "=IIIIHHIIHHI28x", 7, 31, 0, 0, 0, 0, 1 << 16, 1, 0, 0, 0
            )
        if opcode == _GETATTR:
            return struct.pack("=QII", 0, 0, 0) + _attr(
                node, _DIRECTORY if node == 1 else _FILE
            )
        if opcode == _LOOKUP:
            return struct.pack("=QQQQII", 2, 0, 0, 0, 0, 0) + _attr(2, _FILE)
        if opcode == _OPEN:
            return struct.pack("=QII", 7, 0, 0)
        return None


@contextmanager
def silent_file(directory: Path):
    """A descriptor of such a file.  Raises OSError where none can be mounted."""
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    fd = -1
    try:
        words = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
        if _libc.mount(b"silent", os.fsencode(directory), b"fuse", 0, words.encode()):
            raise OSError(ctypes.get_errno(), "mount")
        try:
            SilentFuse(device)
            fd = os.open(directory / "file", os.O_RDWR | os.O_CLOEXEC)
            yield fd
        finally:
            _libc.umount2(os.fsencode(directory), _UMOUNT_DETACH)
    finally:
        os.close(device)  # a process that still waits gets an error
        if fd >= 0:
            with suppress(ConnectionAbortedError):
                os.close(fd)
