"""What a program under '.ci/as-user' can do with root's terminal: ``python -m`` this."""

from __future__ import annotations

import fcntl
import os
import sys
import termios
import time
from collections.abc import Callable


def _tried(action: Callable[[], object]) -> str:
    try:
        action()
    except OSError as error:
        return str(error.strerror)
    return "done"


def _claims() -> int:
    print("uid", os.getuid(), "tty", os.isatty(0))
    print("steal:", _tried(lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)))
    print("open:", _tried(lambda: os.open("/dev/tty", os.O_RDWR)))
    print("type:", _tried(lambda: fcntl.ioctl(0, termios.TIOCSTI, b"x")))
    return 7


def _waits() -> int:
    try:
        print("ready", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        return 3
    return 0


if __name__ == "__main__":
    raise SystemExit({"claims": _claims, "waits": _waits}[sys.argv[1]]())
