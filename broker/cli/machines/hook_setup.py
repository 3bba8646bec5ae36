"""What the installers of hooks have in common: whose they are, and failures."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager

from broker.core.errors import setup_errors


def sudo_caller() -> int:
    """Return the number of the user who called sudo(8), 0 where that is unknown."""
    return int(os.environ.get("SUDO_UID", "0"))


def hook_written(hint: str = "") -> AbstractContextManager[None]:
    """Write a hook's files in the block.  It raises SetupError where that fails."""
    return setup_errors("the hook cannot be installed", hint=hint)
