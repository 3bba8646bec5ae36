"""A session bus in a box or container, with our portal and notification daemon.

The program's own shell starts ``dbus-daemon``, where the sandbox has it: it belongs to
the sandbox as any of its programs does, and reaches the broker by the files tool alone.
Of the host's bus nothing is known there.

The host makes these files for a launch, brokerctl puts the shell's words into
bubblewrap's command, and the shell runs in the sandbox.
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

LINKS: Final = "vitrail-links"
"""The directory of data in its runtime directory that has our opener of addresses."""
PRINTER: Final = "vitrail-printer"
"""The socket of the sandbox's printer, in its runtime directory."""
_TOOL_WORDS: Final = f"/usr/bin/env python3 -I -S -B {SOCKETS}/{TOOL}"

# The socket is there when the program starts, and the printer's own program, which takes
# longer, when somebody connects.  With modules of C alone.
_PRINTER_START: Final = """\
import _socket, os, select, sys
listener = _socket.socket(_socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen(16)
if os.fork():
    os._exit(0)
os.setsid()
os.dup2(listener.fileno(), 0)
while True:
    select.select([0], [], [])
    pid = os.fork()
    if not pid:
        os.execvp(sys.argv[2], sys.argv[2:])
    os.waitpid(pid, 0)
    select.select([], [], [], 1)
"""

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
if [ -n "$VITRAIL_PRINTER" ] && [ -z "$CUPS_SERVER" ] && [ -e {SOCKETS}/{TOOL} ] \
&& {{ [ -S "$d/{PRINTER}" ] || /usr/bin/env python3 -I -S -B -c '{_PRINTER_START}' \
"$d/{PRINTER}" {_TOOL_WORDS} printer - </dev/null >/dev/null; }}
then export CUPS_SERVER="$d/{PRINTER}"
fi
if [ -n "$VITRAIL_LINKS" ] && [ -e {SOCKETS}/{TOOL} ] && mkdir -p "$d/{LINKS}/applications" \
&& printf '%s\\n' '[Desktop Entry]' Type=Application 'Name=Open elsewhere' NoDisplay=true \
'Exec={_TOOL_WORDS} vitrail-open %u' >"$d/{LINKS}/applications/vitrail-open.desktop" \
&& {{ echo '[Default Applications]'; for scheme in $VITRAIL_LINKS; do \
echo "x-scheme-handler/$scheme=vitrail-open.desktop"; done; }} \
>"$d/{LINKS}/applications/mimeapps.list"
then export XDG_DATA_DIRS="$d/{LINKS}:${{XDG_DATA_DIRS:-/usr/local/share:/usr/share}}"
fi
unset VITRAIL_PRINTER VITRAIL_LINKS
if ! command -v -- "$1" >/dev/null
then
printf "no program '%s' in the sandbox's PATH (%s)\\n" "$1" "$PATH" >&2
exit 127
fi
exec "$@"
"""
"""Words of sh(1) that run its arguments, as a command, with a session bus and, where a
rule may allow to print, a printer, and where one may open addresses elsewhere, our opener."""

_VERBS = {
    "org.freedesktop.portal.Desktop": "portal",
    "org.freedesktop.Notifications": "notifications",
    "org.kde.StatusNotifierWatcher": "tray",
}
"""As ``shims.guest.tools.BUS_SERVICES``; a test compares them."""


def session_files() -> dict[str, str]:
    """Return the files of a sandbox's session bus: its script and its services."""
    services = {
        f"{SERVICES}/{name}.service": f"[D-BUS Service]\nName={name}\nExec={_TOOL_WORDS} {verb}\n"
        for name, verb in _VERBS.items()
    }
    return {SESSION: SCRIPT, **services}
