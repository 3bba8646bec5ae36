"""Moments in which the kernel has no memory for a call: a pause, and another attempt.

Such a moment does not mean that the far end has closed.  Every process that waits on our sockets asks
here whether an error is one.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import Final, TypeVar

_T = TypeVar("_T")
SHORT_OF_MEMORY: Final = frozenset({errno.ENOMEM, errno.ENOBUFS})
SHORT_OF_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE})
PAUSE_SECONDS: Final = 0.05
"""The pause before a call is repeated for which the kernel had no memory."""


def is_short_of_memory(error: OSError) -> bool:
    """Return whether the same call may succeed a moment later."""
    return error.errno in SHORT_OF_MEMORY


def call_patiently(call: Callable[[], _T]) -> _T:
    """Call again while the kernel has no memory for it; in a process without a loop."""
    while True:
        try:
            return call()
        except OSError as error:
            # guard: a moment without memory ends no process without a loop
            if not is_short_of_memory(error):
                raise
            time.sleep(PAUSE_SECONDS)
