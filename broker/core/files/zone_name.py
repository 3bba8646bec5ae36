"""The name of this machine's time zone, which localtime(5) has in a link.

The viewer reads it for programs in machines, brokerctl for boxes.
"""

from __future__ import annotations

import re
from pathlib import Path

LOCALTIME = Path("/etc/localtime")
ZONES = Path("/usr/share/zoneinfo")
_NAME = re.compile(r"[A-Za-z0-9_+-]{1,40}(/[A-Za-z0-9_+-]{1,40}){0,2}")


def zone_name(local: Path = LOCALTIME) -> str | None:
    """Return the zone's name, such as Europe/Berlin; None where the file is a copy."""
    place = local.resolve()
    if not local.is_symlink() or not place.is_relative_to(ZONES) or not place.is_file():
        return None
    name = str(place.relative_to(ZONES))
    return name if _NAME.fullmatch(name) else None
