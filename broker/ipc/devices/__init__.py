"""USB devices: descriptors, descriptions, and who has which.  Sans-IO.

``vitrail-devices`` runs all of it; the host has ``socket_path`` and the messages, the
viewer the messages.
"""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from broker.core.errors import SetupError

SHARED = Path("/run/vitrail-devices")
"""Root's directory with the state of the machine: one for the services of all users."""


def socket_path(user: str = "") -> Path:
    """Return where a user's ``vitrail-devices`` listens; by default, this user's.

    ``vitrail-devices`` calls it for its user, the host for its own.  Reads the user
    database.  Raises SetupError for a user without a name.
    """
    try:
        name = user or pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise SetupError(f"uid {os.geteuid()} has no user name") from None
    return Path(f"/run/vitrail-devices-{name}/devices.sock")
