"""When the reader of our output (head, less) leaves before the end."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_SIGPIPE_STATUS = 141


@contextmanager
def reader_may_leave() -> Iterator[None]:
    """End quietly, with the status that SIGPIPE would give, when it does.

    click and rich would make 1 of it, which has a meaning of its own in verbs
    that search.  Flushes at the end, so that a late error is seen here.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Data still buffered is discarded at the interpreter's exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(_SIGPIPE_STATUS)
