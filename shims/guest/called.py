"""Settings of the services that other sandboxes call: their user, and when they begin.

The broker's command is ``vitrail-files serve TOKEN USER SERVICE+ARGUMENT``, or
``call-here '' USER SERVICE+ARGUMENT DIRECTORY COMMAND…`` for the user's own call.  Where it
names no user, Qubes' files for services do (``force-user=``); the same files have
``wait-for-session=1`` for services that need the display.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from shims.guest.own_process import FILES_PROGRAM

if TYPE_CHECKING:
    from typing import Dict, List, Tuple

QUBES_SETTINGS = ("/usr/local/etc/qubes/rpc-config", "/etc/qubes/rpc-config")
_SERVICE_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\+[A-Za-z0-9_+.-]*")
_SETTING = re.compile(r"\s*([a-z-]+)\s*=\s*['\"]?([A-Za-z0-9_-]+)['\"]?\s*")
_SETTING_BYTES = 1 << 16


def called(argv: List[str]) -> Tuple[str, Dict[str, str]]:
    """Return the user and the settings of the service that a command serves.

    The settings are read from Qubes' files (rpc-config); of other commands both are empty.
    """
    verbs = ([FILES_PROGRAM, "serve"], [FILES_PROGRAM, "call-here"])
    if argv[:2] not in verbs or len(argv) < 5:
        return "", {}
    settings = read_settings(argv[4])
    return argv[3] or settings.get("force-user", ""), settings


def read_settings(full: str) -> Dict[str, str]:
    """Return the settings of a service; ``NAME+ARGUMENT`` precedes ``NAME``."""
    if not _SERVICE_FILE.fullmatch(full):  # it becomes a file's name
        return {}
    for folder in QUBES_SETTINGS:
        for name in (full, full.partition("+")[0]):
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                with open(path, encoding="utf-8", errors="replace") as file:
                    lines = map(
                        _SETTING.fullmatch, file.read(_SETTING_BYTES).splitlines()
                    )
                return {line[1]: line[2] for line in lines if line}
    return {}


def waits_for_session(argv: List[str]) -> bool:
    """Return whether a command's service is started once the display is ready."""
    return called(argv)[1].get("wait-for-session") in ("1", "true", "yes")
