"""Files of the host's that a record gives its guest: fonts, locale, certificates.

The guest agent unpacks them into the machine's file system at its start.
"""

from __future__ import annotations

import binascii
import io
import json
import os
import re
import shutil
import tarfile
from typing import Dict

from shims.guest.launch import LAUNCH
from shims.guest.loop import log

# A compressed tar archive in base64, and a value of LANG, where the record has
# launch.host_files: see ``LAUNCH``.
LAUNCH_FILES = ""
LAUNCH_LANG = ""

CERTIFICATES = "etc/ssl/certs"
ADDED = "usr/local/share/ca-certificates"
ZONES = "/usr/share/zoneinfo"
ZONE = re.compile(r"[A-Za-z0-9_+-]{1,40}(/[A-Za-z0-9_+-]{1,40}){0,2}")
FIREFOX = "etc/firefox/policies/policies.json"


def host_environment() -> Dict[str, str]:
    """Return the variables that belong to the host's files."""
    lang = LAUNCH.get("LAUNCH_LANG", LAUNCH_LANG)
    return {"LANG": lang} if lang else {}


def with_locales(env: Dict[str, str], told: Dict[str, str]) -> Dict[str, str]:
    """Return a program's environment with what the broker says of it.

    Locales that this guest lacks are left out: programs would warn and use C.  The time
    zone has its name where this guest knows it, which browsers and Java need.
    """
    import locale

    for name, value in told.items():
        if name == "LANG" or name.startswith("LC_"):
            try:
                # Of LC_COLLATE, because this process sorts no text for users.
                locale.setlocale(locale.LC_COLLATE, value)
            except locale.Error:
                continue
        env[name] = value
    zone = env.pop("VITRAIL_TIME_ZONE", "")
    # The rule in TZ is for guests without the zone's file.
    if ZONE.fullmatch(zone) and os.path.isfile(os.path.join(ZONES, zone)):
        env["TZ"] = zone
    return env


def unpack_host_files(text: str = "", root: str = "/") -> None:
    """Unpack the host's files.  Logs what fails."""
    text = text or LAUNCH.get("LAUNCH_FILES", LAUNCH_FILES)
    if not text:
        return
    try:
        with tarfile.open(fileobj=io.BytesIO(binascii.a2b_base64(text))) as archive:
            if CERTIFICATES in archive.getnames():
                # A root that the host does not trust must not stay from the image.
                shutil.rmtree(os.path.join(root, CERTIFICATES), ignore_errors=True)
            archive.extractall(root)
        _tell_firefox(root)
    except (OSError, ValueError, EOFError, tarfile.TarError) as error:
        log(f"cannot unpack files of the host: {error}")


def _tell_firefox(root: str) -> None:
    """Add the host's own roots to Firefox's policy: it does not read the system's."""
    policy, added = os.path.join(root, FIREFOX), os.path.join(root, ADDED)
    if not (os.path.exists(policy) and os.path.isdir(added)):
        return
    with open(policy, encoding="utf-8") as file:
        content = json.load(file)
    roots = [f"/{ADDED}/{name}" for name in sorted(os.listdir(added))]
    content.setdefault("policies", {})["Certificates"] = {"Install": roots}
    with open(policy, "w", encoding="utf-8") as file:
        json.dump(content, file)
