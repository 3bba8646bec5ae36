"""An application's override file: its sockets away, those of a lease in place.

Only brokerctl runs this; it prepares text, and writes nothing.

An override, because the environment and the options of one ``flatpak run`` do not
reach an instance that the application starts by its D-Bus name or by the portal's
Spawn; an override reaches every instance (flatpak-metadata(5), flatpak-override(1)).

The settings of the user stay: ``OverrideChange`` remembers those that it displaced;
``undo`` puts that back and leaves later changes alone.  Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from broker.host.launchers.flatpak.key_file import Groups, items, listed

CONTEXT, ENVIRONMENT, BUS = "Context", "Environment", "Session Bus Policy"
SYSTEM_BUS = "System Bus Policy"
_SOCKETS = (
    # Both X11 words: without "wayland" alone the fallback to X11 is turned on.
    *("wayland", "x11", "fallback-x11", "inherit-wayland-socket", "pulseaudio"),
    *("session-bus", "system-bus", "ssh-auth", "gpg-agent", "pcsc", "cups"),
)
# /dev/snd comes with the socket "pulseaudio" and with the device "all".
_DEVICES = ("all", "kvm", "shm", "input", "usb")
# Its services run commands on the host.  "NAME.*" is NAME and all below it, and an
# application whose own permissions have one keeps it beside a "none" for NAME alone.
# guard: a pattern of names opens no service that runs commands
_COMMANDS = (
    "org.freedesktop.*",
    *("org.freedesktop.Flatpak", "org.freedesktop.Flatpak.*"),
    *("org.freedesktop.systemd1", "org.freedesktop.systemd1.*"),
)
# Clears the files of the layers below: an application's own "xdg-run/wayland-0" or
# "/run/user/1000" would show it the real sockets.
_RESET = ("!host:reset", "!host")


@dataclass(frozen=True)
class FlatpakPermissions:
    """The permissions that an application gets by its override file."""

    sockets: Path | None
    """The directory of its lease's sockets: a directory, because a socket that is
    bound alone is the dead one after a restart of the broker.  None: it has no lease."""
    share_network: bool = False
    gpu: bool = False
    """Whether it has the render nodes; its wish for them does not count."""
    read_only: Sequence[Path] = ()
    read_write: Sequence[Path] = ()
    system_names: Sequence[str] = ()
    """Of the system bus, which the application's own permissions have.  "!system-bus"
    closes the whole bus alone: Flatpak starts a proxy for these names."""


class OverrideChange(msgspec.Struct, forbid_unknown_fields=True):
    """Entries that were written into an override file, and those that they displaced."""

    lists: dict[str, list[str]]
    """Items that were added to a list of [Context]."""
    values: dict[str, dict[str, str]]
    """Values that were set in other groups."""
    displaced_lists: dict[str, list[str]] = msgspec.field(default_factory=dict)
    displaced_values: dict[str, dict[str, str]] = msgspec.field(default_factory=dict)


# A Flatpak that is started alone has no display. Menus, autostart, D-Bus activation and
# the portal's `Spawn` start a Flatpak without `brokerctl`. An application that was set
# up for Vitrail then has neither display nor sound, unless a run of `brokerctl` has a
# lease for it. `brokerctl launcher install flatpak --app APP` replaces its menu
# entries, so that the usual way works. Rejected: a broker that leases any instance that
# appears in `$XDG_RUNTIME_DIR/.flatpak`. The override would have to name sockets that
# stay for ever, the first connection would decide which record the instance has before
# a user chose to start it, and an instance would run before its lease begins. Rejected
# as well: a wrapper named `flatpak` in `~/.local/bin`. Exported entries, D-Bus services
# and the portal name `/usr/bin/flatpak`, so it would cover what people type and nothing
# else.
def wanted_change(wanted: FlatpakPermissions) -> OverrideChange:
    """Return the entries of an application's override file for its permissions."""
    sockets = wanted.sockets
    # System V's shared memory of the session: pictures of its X11 programs.
    # guard: an application has no shared memory of the session's
    shared = ["!ipc"]
    shared += [] if wanted.share_network else ["!network"]
    files = [*_RESET]
    files += [] if sockets is None else [f"{_escaped(sockets)}:ro"]
    files += [f"{_escaped(path)}:ro" for path in wanted.read_only]
    files += [_escaped(path) for path in wanted.read_write]
    # guard: render nodes by record only
    nodes = "dri" if wanted.gpu else "!dri"
    # guard: an application has no name of the system bus
    system = dict.fromkeys(wanted.system_names, "none")
    return OverrideChange(
        lists={
            "shared": shared,
            "sockets": [f"!{name}" for name in _SOCKETS],
            "devices": [
                *(f"!{name}" for name in _DEVICES),
                nodes,
            ],
            "filesystems": files,
        },
        values={
            ENVIRONMENT: {}
            if sockets is None
            else {
                "WAYLAND_DISPLAY": f"{sockets}/wayland-0",
                "PULSE_SERVER": f"unix:{sockets}/vitrail.Audio",
            },
            BUS: dict.fromkeys(_COMMANDS, "none"),
            SYSTEM_BUS: system,
        },
    )


def apply(groups: Groups, change: OverrideChange) -> Groups:
    """Return an override file's groups with a change, which records the values that it displaced."""
    made = {group: dict(values) for group, values in groups.items()}
    context = made.setdefault(CONTEXT, {})
    for key, added in change.lists.items():
        names = {_name(item) for item in added}
        present = items(context.get(key, ""))
        # guard: our permissions replace the user's for the same thing
        kept = [item for item in present if _name(item) not in names]
        change.displaced_lists[key] = [item for item in present if item not in kept]
        if kept or added:
            context[key] = listed(kept + added)
    for group, values in change.values.items():
        present_values = made.setdefault(group, {})
        change.displaced_values[group] = {
            key: present_values[key] for key in values if key in present_values
        }
        present_values.update(values)
    return made


def undo(groups: Groups, change: OverrideChange) -> Groups:
    """Return an override file without a change, and with the displaced entries."""
    made = {group: dict(values) for group, values in groups.items()}
    context = made.setdefault(CONTEXT, {})
    for key, added in change.lists.items():
        kept = [item for item in items(context.get(key, "")) if item not in added]
        kept += change.displaced_lists.get(key, [])
        context[key] = listed(kept)
        if not kept:
            del context[key]
    for group, values in change.values.items():
        present = made.setdefault(group, {})
        for key, value in values.items():
            if present.get(key) == value:
                del present[key]
        present.update(change.displaced_values.get(group, {}))
    return made


def _name(item: str) -> str:
    """The permission that an item is about: without "!", and a path's mode."""
    return item.removeprefix("!").rpartition(":")[0] or item.removeprefix("!")


def _escaped(path: Path) -> str:
    """A path as an item of a list; flatpak-metadata(5) escapes colon and backslash."""
    # GKeyFile takes one backslash away, Flatpak the other.
    return str(path).replace("\\", "\\\\\\\\").replace(":", "\\\\:").replace(";", "\\;")
