"""The desktop's time zone and locale, for programs that are started now.

A zone is a value of TZ that needs no data in the guest:
the last line of a file of tzfile(5), version 2 and later, is a rule in POSIX's form
(``CET-1CEST,M3.5.0,M10.5.0/3``), which every C library reads without a database.

The viewer reads both; brokerctl reads the locale for a box.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from broker.core.errors import SetupError
from broker.core.files.zone_name import LOCALTIME, zone_name
from policy.records.model import ViewerRecord

LOCALES = (Path("/etc/locale.conf"), Path("/etc/default/locale"))
"""systemd-localed(8) writes the first file that a distribution has."""
_MOST_BYTES = 65536
_LOCALE = re.compile(r'^(LANG|LC_[A-Z]+)="?([A-Za-z0-9_.@-]{1,40})"?$', re.MULTILINE)
_RULE = re.compile(rb"[A-Za-z0-9<>+,./:-]{3,100}")


def zone_environment(timezone: str) -> dict[str, str]:
    """Return what a program that is started now has of a record's ``timezone``.

    Raises SetupError.
    """
    return {"TZ": time_zone(LOCALTIME)} if timezone == "desktop" else {}


def zone_variables(timezone: str) -> dict[str, str]:
    """Return the same for a guest, whose agent takes the name where it has the zone.

    ICU, and with it browsers and node, takes UTC for a rule, and Java no summer time.
    Raises SetupError.
    """
    variables = zone_environment(timezone)
    name = zone_name(LOCALTIME) if variables else None
    return variables if name is None else {**variables, "VITRAIL_TIME_ZONE": name}


def locale_environment(viewer: ViewerRecord) -> dict[str, str]:
    """Return the variables of a record's ``looks.language`` for a new program.

    For ``desktop`` they are read from this machine's files (``LOCALES``).  Also used by
    brokerctl's launchers.
    """
    chosen = dict(viewer.looks).get("language")
    if chosen and chosen != "desktop":
        return {"LANG": str(chosen)}
    for path in LOCALES if chosen else ():
        # Also a file that this user may not read: then the language is the sandbox's own.
        with suppress(OSError):
            return dict(_LOCALE.findall(path.read_text("utf-8", "replace")))
    return {}


def time_zone(path: Path) -> str:
    """Return the rule of the zone at ``path``; without a file the zone is UTC.

    Raises SetupError when the file is not a time zone.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES)
    except FileNotFoundError:
        return "UTC0"
    except OSError as error:
        raise SetupError(f"cannot read {path}: {error.strerror}") from error
    lines = content.split(b"\n")
    rule = lines[-2] if content.startswith(b"TZif") and len(lines) > 2 else b""
    if _RULE.fullmatch(rule) is None:
        raise SetupError(
            f"{path} is not a time zone file with a TZ rule; see tzfile(5)",
            hint="to set a time zone, run 'timedatectl set-timezone ZONE'",
        )
    return rule.decode()
