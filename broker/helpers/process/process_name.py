"""The first and the last of a forked child: its name in ps and top, and its exit.

The child runs it, whichever process forks.

Pumps, acceptors, keepers, workers, starters and session children call it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable
from typing import NoReturn

_PR_SET_NAME = 15


def set_name(name: str) -> None:
    """Name the calling process (prctl(2), PR_SET_NAME; 15 bytes)."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def run_and_exit(work: Callable[[], int], failed: int = os.EX_SOFTWARE) -> NoReturn:
    """Run a forked child's work and exit with its code; an error is reported."""
    code = failed
    try:
        code = work()
    except BaseException:  # noqa: BLE001 -- reported, and the process ends
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(code)
