"""Notes about a browser that starts in a box without what it needs."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from broker.core.escape import printable
from broker.host.launchers.bubblewrap.arguments import Box

_ENGINE = "chrome_100_percent.pak"
"""Name of a file in the directory of each program with Chromium's engine."""
_WEBKIT = frozenset({"epiphany", "epiphany-browser"})
"""Programs whose sandbox makes namespaces, and looks for 'wayland-0' alone."""
_NETWORK = "network user"
_NAMESPACES = "launch.user_namespaces true"
_PRESETS = {
    **dict.fromkeys(("firefox", "firefox-esr", "chromium", "google-chrome"), "browser"),
    **dict.fromkeys(("epiphany", "epiphany-browser", "falkon"), "browser"),
    "thunderbird": "mail",
}
"""What a program is for that is nothing without a network, as 'brokerctl new --for' has it."""


def note_needs(box: Box, record: str, *, lasting: bool) -> None:
    """Print which lines of a record a box's program will miss.

    Its own words are of a package to install, or of a server that cannot be found.
    ``lasting``: ``record`` is the user's own, and not made for this run.
    """
    command = box.command
    program = None if box.root is not None else shutil.which(command[0])
    if program is None:
        return
    name = printable(Path(program).name, 60)
    needs = []
    urls = any(arg.startswith(("http://", "https://")) for arg in command[1:])
    if box.resolver is None and (name in _PRESETS or urls):
        needs.append((_NETWORK, f"the box of {name} has no network"))
    sandboxed = name in _WEBKIT or _has_engine(Path(program))
    if not box.user_namespaces and sandboxed:
        text = (
            f"{name} does not start in a box without user namespaces, which open large "
            "parts of the kernel to it"
        )
        needs.append((_NAMESPACES, text))
    if name in _WEBKIT:
        text = f"the sandbox of {name} finds no Wayland socket but 'wayland-0'"
        script = (
            "ln -s \\$WAYLAND_DISPLAY \\$XDG_RUNTIME_DIR/wayland-0; "
            f"WAYLAND_DISPLAY=wayland-0 exec {name}"
        )
        needs.append((f'command sh -c "{script}"', text))
    if not needs:
        return
    settings = [f"brokerctl set {record} {setting}" for setting, _ in needs]
    if not lasting:
        new = f"brokerctl new NAME --for {_PRESETS.get(name, 'browser')} --in box"
        # The preset has a network.
        settings = [f"brokerctl set NAME {x}" for x, _ in needs if x != _NETWORK]
        settings = [f"{new} --command {name}", *settings, "brokerctl run NAME"]
    sys.stderr.write(
        "; ".join(text for _, text in needs)
        + "\n"
        + "  hint: "
        + "run '{commands}'".format(commands="', then '".join(settings))
        + "\n"
    )


def _has_engine(program: Path) -> bool:
    """Return whether a program has Chromium's engine, whose sandbox needs namespaces."""
    real = program.resolve()
    # Such as /usr/share/code/bin/code, and /usr/bin/chromium, a script.
    folders = (real.parent, real.parent.parent, Path("/usr/lib", program.name))
    return any((folder / _ENGINE).is_file() for folder in folders)
