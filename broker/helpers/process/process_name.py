"""The name of a process in ps and top."""

from __future__ import annotations

import ctypes

_PR_SET_NAME = 15


def set_name(name: str) -> None:
    """Name the calling process (prctl(2), PR_SET_NAME; 15 bytes)."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)
