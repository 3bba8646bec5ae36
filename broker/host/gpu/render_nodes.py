"""This machine's render nodes: the part of a GPU that draws, and shows nothing.

Mesa finds a node's driver by /sys (libdrm, drmGetDevice2); a box gets only that
part of /sys, without its screens; a container of Podman all of it, read-only, as by
default.

The host looks for them when it starts a machine, brokerctl for a box, a container of
Podman, and ``doctor``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

_NODES = Path("/dev/dri")
_SYS = Path("/sys/dev/char")


def render_nodes(folder: Path = _NODES) -> tuple[Path, ...]:
    """Return the device files; the card* beside them could show and scan out."""
    return tuple(sorted(folder.glob("renderD*")))


def joining(node: Path) -> str:
    """Return the shell command that gives this user access to a render node."""
    try:
        group = node.group()
    except KeyError:  # it has no name here, as in a container
        group = str(node.stat().st_gid)
    return f"run 'sudo usermod -aG {group} $USER' and log in again"


def box_words(folder: Path = _NODES, numbers: Path = _SYS) -> tuple[str, ...]:
    """Return bubblewrap's words that give a box the render nodes."""
    return render_words(render_nodes(folder), numbers)


def render_words(nodes: Sequence[Path], numbers: Path = _SYS) -> tuple[str, ...]:
    """Return bubblewrap's arguments that bind these render nodes into a jail.

    ``numbers`` is the directory of links from a device's number to what /sys has of it.
    """
    words = [word for node in nodes for word in ("--dev-bind", str(node), str(node))]
    for device in dict.fromkeys(_device(node, numbers) for node in nodes):
        words += ("--ro-bind-try", str(device), str(device))
    # Of a card* beside the node libdrm needs the name; inside is what the screens are.
    cards = (card for node in nodes for card in _cards(node, numbers))
    # guard: a box reads nothing of the screens
    for card in dict.fromkeys(map(str, cards)):
        words += ("--tmpfs", card, "--remount-ro", card)
    return (*words, *(word for node in nodes for word in _link(node, numbers)))


def _number(node: Path, numbers: Path) -> Path:
    number = node.stat().st_rdev
    return numbers / f"{os.major(number)}:{os.minor(number)}"


def _device(node: Path, numbers: Path) -> Path:
    device = (_number(node, numbers) / "device").resolve()
    # A virtio device's numbers are those of the PCI device above it.
    return device.parent if device.name.startswith("virtio") else device


def _cards(node: Path, numbers: Path) -> Iterator[Path]:
    device = (_number(node, numbers) / "device").resolve()
    return (device / "drm").glob("card*")


def _link(node: Path, numbers: Path) -> Iterator[str]:
    link = _number(node, numbers)
    if link.is_symlink():
        yield from ("--symlink", str(link.readlink()), str(link))
