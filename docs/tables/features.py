"""The features of Vitrail, by which each module is found from its path alone.

Folders are processes first, because rights are what a reviewer must see; a folder or a
file below says the feature.  The leftmost word of a module's path that names a feature
decides; a module without one belongs to the frame, which every feature plugs into.
``docs/features.md`` is printed from this table (``python -m docs.print_features``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

from docs.tables.imports import imports_of, modules

FRAME: Final = "frame"


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature.

    ``words``: words of paths that name it, its own name first.  ``uses``: features whose
    modules its own import, beside the frame; the test compares them with the imports.
    """

    title: str
    words: tuple[str, ...]
    uses: frozenset[str] = frozenset()


def _feature(title: str, words: str, uses: str = "") -> Feature:
    return Feature(title, tuple(words.split()), frozenset(uses.split()))


FEATURES: Mapping[str, Feature] = {
    "wayland": _feature(
        "windows, and waypipe",
        "wayland waypipe windows",
        "clipboard transfer",
    ),
    "x11": _feature(
        "X11 programs",
        "x11",
        "launchers transfer",
    ),
    "gpu": _feature(
        "drawing with the GPU",
        "gpu",
        "machines",
    ),
    "clipboard": _feature(
        "copy, paste and drags",
        "clipboard",
        "wayland",
    ),
    "sound": _feature("sound and the microphone", "sound"),
    "transfer": _feature(
        "files and links",
        "transfer opening",
        "calls clipboard dialogs images link printing ssh wayland",
    ),
    "folders": _feature(
        "shared folders",
        "folders folder",
        "launchers link machines transfer",
    ),
    "devices": _feature(
        "USB devices",
        "devices device usb",
        "camera link machines screens sound",
    ),
    "security_keys": _feature(
        "security keys",
        "security_keys security_key",
        "devices",
    ),
    "ssh": _feature(
        "keys of ssh",
        "ssh",
        "calls transfer",
    ),
    "secrets": _feature(
        "secrets of the keyring",
        "secrets",
        "transfer",
    ),
    "calls": _feature(
        "calls of services",
        "calls call",
        "camera looks notifications screens secrets ssh transfer tray",
    ),
    "network": _feature(
        "networks by rule",
        "network",
        "calls wayland",
    ),
    "notifications": _feature(
        "notifications",
        "notifications notification",
        "calls transfer wayland",
    ),
    "tray": _feature(
        "icons in the panel",
        "tray",
        "calls manager transfer wayland",
    ),
    "dialogs": _feature(
        "file dialogs",
        "dialogs",
        "calls transfer",
    ),
    "printing": _feature(
        "printing",
        "printing",
        "calls transfer",
    ),
    "looks": _feature(
        "the desktop's looks",
        "looks",
        "calls transfer",
    ),
    "screens": _feature(
        "screen share",
        "screens",
        "calls camera",
    ),
    "camera": _feature(
        "the camera",
        "camera",
        "calls",
    ),
    "link": _feature(
        "the link of two machines",
        "link link_service",
        "devices folders machines",
    ),
    "fleet": _feature(
        "shipping logs, and fleets",
        "fleet shipper ingest",
        "transfer",
    ),
    "images": _feature(
        "images of machines",
        "images",
        "machines transfer",
    ),
    "homes": _feature(
        "persistent homes",
        "homes",
        "boxes clipboard folders machines sound transfer",
    ),
    "proxy": _feature("a relay without sandboxes", "proxy"),
    "boxes": _feature(
        "boxes without a record",
        "quick",
        "folders gpu homes images launchers network",
    ),
    "doctor": _feature(
        "the check of this machine",
        "doctor",
        "fleet gpu images launchers link machines network sound transfer",
    ),
    "launchers": _feature(
        "launchers of sandboxes",
        "launchers",
        "boxes doctor folders gpu homes images link machines network transfer x11",
    ),
    "manager": _feature(
        "the window to manage sandboxes",
        "manager",
        "calls homes images",
    ),
    "machines": _feature(
        "virtual machines",
        "vmm machines",
        "folders gpu homes images launchers network",
    ),
}

ROWS: Mapping[str, str] = {
    "broker.authority": "authority",
    "broker.host": "host",
    "broker.viewer": "viewer",
    "broker.session": "session",
    "broker.jail.worker": "worker's shell",
    "broker.jail": "jail",
    "broker.helpers": "helpers",
    "broker.root": "root",
    "broker.cli": "brokerctl",
    "shims": "guest",
    "broker.core": "all: core",
    "broker.ipc": "all: ipc",
    "broker.net": "all: net",
    "policy": "records and rules",
    "broker": "composition",
}
"""Folders of one process each, or of code for several; the longest prefix decides."""
SEVERAL: Final = frozenset(
    {"all: core", "all: ipc", "all: net", "records and rules", "composition", "guest"}
)
"""Rows where a feature may lie in more than one place: folders by kind of content."""

_BY_WORD: Mapping[str, str] = {
    word: name for name, feature in FEATURES.items() for word in feature.words
}


def row_of(module: str) -> str:
    """Return the row of a module: the name of its process, or of its kind of code."""
    prefix = max((p for p in ROWS if f"{module}.".startswith(f"{p}.")), key=len)
    return ROWS[prefix]


def place_of(module: str) -> tuple[str, str]:
    """Return a module's feature, or ``FRAME``, and the part of its path that says so.

    Only the module's name is looked at: a whole component, then its words between
    underscores, from the left.  ``broker.wire`` carries the calls of every feature.
    """
    if module.startswith("broker.wire."):
        return FRAME, module
    parts = module.split(".")
    for at, part in enumerate(parts[1:], 2):
        for word in (part, *part.split("_")):
            if (name := _BY_WORD.get(word)) is not None:
                return name, ".".join(parts[:at])
    return FRAME, module


def feature_of(module: str) -> str:
    """Return the name of a module's feature, or ``FRAME``."""
    return place_of(module)[0]


@cache
def by_feature() -> Mapping[str, tuple[str, ...]]:
    """Return the modules of each feature, and of the frame; packages are left out."""
    found: dict[str, list[str]] = {name: [] for name in (*FEATURES, FRAME)}
    for module, path in sorted(modules().items()):
        if path.name != "__init__.py":
            found[feature_of(module)].append(module)
    return {name: tuple(members) for name, members in found.items()}


def uses(name: str) -> frozenset[str]:
    """Return the features that a feature's modules import, in functions too."""
    return frozenset(
        other
        for module in by_feature()[name]
        for target in imports_of(module)
        if (other := feature_of(target)) not in {name, FRAME}
        and modules()[target].name != "__init__.py"
    )
