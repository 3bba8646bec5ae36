"""A session bus in a box or container, with our portal and notification daemon.

The program's own shell starts ``dbus-daemon``, where the sandbox has it: it belongs to
the sandbox as any of its programs does, and reaches the broker by the files tool alone.
Of the host's bus nothing is known there.
"""

from __future__ import annotations

from typing import Final

SOCKETS: Final = "/run/vitrail"
TOOL: Final = "vitrail-files"
"""The program for files, links and calls, beside the sockets of a container or box."""
CALL_TOOL: Final = "vitrail-call"
"""The program beside it that calls, and starts faster."""
CALL_COMMANDS: Final = ("vitrail-call", "qrexec-client-vm")
SERVICES: Final = "dbus-services"
SESSION: Final = "vitrail-session"
"""The same for a container, whose command may begin with ``sh /run/vitrail/NAME``."""

# dbus-daemon(1) looks for services in the runtime directory first, if the directory is
# its own user's, which the host's one is not in a box with a user id of its own.
SCRIPT: Final = f"""\
d=$XDG_RUNTIME_DIR
if [ -d {SOCKETS}/{SERVICES} ] && [ -z "$DBUS_SESSION_BUS_ADDRESS" ] \
&& command -v dbus-daemon >/dev/null && mkdir -p "$d/dbus-1/services" \
&& cp {SOCKETS}/{SERVICES}/* "$d/dbus-1/services" \
&& dbus-daemon --session --fork --nopidfile --nosyslog --address="unix:path=$d/bus" \
</dev/null >/dev/null 2>&1
then export DBUS_SESSION_BUS_ADDRESS="unix:path=$d/bus"
fi
if ! command -v -- "$1" >/dev/null
then
printf "no program '%s' in the sandbox's PATH (%s)\\n" "$1" "$PATH" >&2
exit 127
fi
exec "$@"
"""
"""Words of sh(1) that run its arguments, as a command, with a session bus."""

_VERBS = {
    "org.freedesktop.portal.Desktop": "portal",
    "org.freedesktop.Notifications": "notifications",
    "org.kde.StatusNotifierWatcher": "tray",
}
"""As ``shims.guest.tools.BUS_SERVICES``; a test compares them."""


def session_files() -> dict[str, str]:
    """Return the files of a sandbox's session bus: its script and its services."""
    tool = f"/usr/bin/env python3 -I -S -B {SOCKETS}/{TOOL}"
    services = {
        f"{SERVICES}/{name}.service": f"[D-BUS Service]\nName={name}\nExec={tool} {verb}\n"
        for name, verb in _VERBS.items()
    }
    return {SESSION: SCRIPT, **services}
