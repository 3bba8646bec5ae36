"""Common parts of the installers of hooks and menu entries: whose they are, failures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from broker.core.errors import SetupError


def sudo_caller() -> int:
    """Return the number of the user who called sudo(8), 0 where that is unknown."""
    return int(os.environ.get("SUDO_UID", "0"))


@contextmanager
def setup_errors(problem: str, *, hint: str = "") -> Iterator[None]:
    """Raise SetupError for an OSError of the block: the problem, the reason, the file."""
    try:
        yield
    except OSError as error:
        raise SetupError(
            f"{problem}: {error.strerror}",
            where=str(error.filename or ""),
            hint=hint,
        ) from error


def hook_written(hint: str = "") -> AbstractContextManager[None]:
    """Write a hook's files in the block.  It raises SetupError where that fails."""
    return setup_errors("the hook cannot be installed", hint=hint)
