"""A FUSE file system with one file, whose server opens it and then falls silent.

A hostile sandbox mounts this in its own user namespace: a process that asks the
file for anything that the kernel does not know waits forever.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_IN = struct.Struct("=IIQQIIII")
_OUT = struct.Struct("=IiQ")
_LOOKUP, _GETATTR, _OPEN, _INIT = 1, 3, 14, 26
_FILE, _DIRECTORY = 0o100666, 0o040777
_UMOUNT_DETACH = 2
_SECONDS = 10
"""How long a question may take: it never waits for the server of the file."""
NO_MOUNT = "no mount"
ANSWERED = "answered"


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


def ask_about_silent_file(question: Callable[[int], None]) -> str:
    """Call a module's function with such a file in a user namespace of its own.

    There an ordinary user may mount it.  Returns ``ANSWERED``, ``NO_MOUNT`` where the
    kernel mounts none, or what else happened.
    """
    argv = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-P"]
    argv += ["-m", __name__, question.__module__, question.__name__]
    root = str(Path(__file__).resolve().parents[3])
    environ = dict(os.environ, PYTHONPATH=root)
    run = subprocess.run(
        argv, capture_output=True, text=True, timeout=120, env=environ, check=False
    )
    if run.returncode and "unshare failed" in run.stderr:
        return NO_MOUNT
    return (run.stdout + run.stderr).strip()


def _main(module: str, name: str) -> None:
    question = getattr(importlib.import_module(module), name)
    answers = [f"{name} waits for a hostile file server"]

    def ask(fd: int) -> None:
        try:
            question(fd)
        except BaseException as error:  # the caller's assertions, too
            answers.append(repr(error))
        else:
            answers.append(ANSWERED)

    with tempfile.TemporaryDirectory() as directory:
        try:
            with silent_file(Path(directory)) as fd:
                asked = threading.Thread(target=ask, args=(fd,), daemon=True)
                asked.start()
                asked.join(_SECONDS)
                print(answers[-1])
        except PermissionError:
            print(NO_MOUNT)


if __name__ == "__main__":
    _main(*sys.argv[1:])
