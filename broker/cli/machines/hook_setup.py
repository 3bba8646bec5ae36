"""What the installers of hooks have in common: whose they are, and failures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from broker.core.errors import SetupError


def sudo_caller() -> int:
    """Return the number of the user who called sudo(8), 0 where that is unknown."""
    return int(os.environ.get("SUDO_UID", "0"))


@contextmanager
def hook_written(hint: str = "") -> Iterator[None]:
    """Write a hook's files in the block.  Raises SetupError for one that cannot be."""
    try:
        yield
    except OSError as error:
        raise SetupError(
            f"the hook cannot be installed: {error.strerror}",
            where=str(error.filename or ""),
            hint=hint,
        ) from error
