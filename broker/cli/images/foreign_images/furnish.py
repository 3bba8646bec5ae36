"""Add the guest agent and its files to a merged tree.

Standard library only: this runs in a jail without our packages.
"""

from __future__ import annotations

import re

from broker.cli.images.foreign_images.tree import FileTree, Node, WrittenContent

HOME = "usr/lib/vitrail"
USER = "user"
UID = 1000
PYTHON = "usr/bin/python3"
PROGRAMS = {
    "python3": (PYTHON, "usr/local/bin/python3"),
    "waypipe": ("usr/bin/waypipe", "usr/local/bin/waypipe"),
}
"""Programs that the guest agent needs, and their possible places."""
_FILE_BYTES = 1 << 20
_STATUS_BYTES = 64 << 20
_DIRECTORIES = {
    **dict.fromkeys(("dev", "etc", "home", "proc", "root", "run", "sys", HOME), 0o755),
    **dict.fromkeys(("tmp", "var/tmp"), 0o1777),
}
_PACKAGE = re.compile(r"^(Package|Version|Status): (.*)$", re.MULTILINE)


class MissingError(Exception):
    """The image lacks a program that the guest agent needs."""


def furnish(tree: FileTree, agent: bytes) -> None:
    """Add the guest agent, its user and the mount points to the tree.

    Raises MissingError without python3 or waypipe, TreeError where a file is in
    the way.
    """
    missing = [
        name for name, places in PROGRAMS.items() if not any(map(tree.find, places))
    ]
    if missing:
        raise MissingError(" and ".join(missing))
    for name, mode in _DIRECTORIES.items():
        found = tree.find(name)
        if found is None or found.kind != "dir":
            tree.put(name, Node("dir", mode))
    if tree.find(PYTHON) is None:
        tree.put(PYTHON, Node("link", 0o777, target="/usr/local/bin/python3"))
    write(tree, f"{HOME}/vitrail_guest.py", agent)
    _add_user(tree)
    # Different at each boot, or of another machine.
    for name in ("etc/machine-id", "etc/hostname", "etc/resolv.conf"):
        tree.remove(name)
    write(tree, "etc/machine-id", b"")


def write(tree: FileTree, name: str, data: bytes, mode: int = 0o644) -> None:
    """Add our file to the tree, or replace an older one."""
    tree.put(name, Node("file", mode, size=len(data), content=WrittenContent(data)))


def _add_user(tree: FileTree) -> None:
    """Add the user and the home of programs to an image's tree."""
    shell = "/bin/bash" if tree.find("bin/bash") else "/bin/sh"
    lines = {
        "etc/passwd": f"{USER}:x:{UID}:{UID}::/home/{USER}:{shell}",
        "etc/group": f"{USER}:x:{UID}:",
    }
    for name, line in lines.items():
        present = tree.read(name, _FILE_BYTES)
        if re.search(rf"^{USER}:".encode(), present, re.MULTILINE):
            continue
        joined = present if present.endswith(b"\n") or not present else present + b"\n"
        write(tree, name, joined + line.encode() + b"\n")
    home = tree.find(f"home/{USER}")
    mode = 0o700 if home is None else home.mode
    tree.put(f"home/{USER}", Node("dir", mode, UID, UID))


def versions(tree: FileTree) -> dict[str, str]:
    """Return packages and versions as dpkg has them; {} on another distribution."""
    text = tree.read("var/lib/dpkg/status", _STATUS_BYTES).decode("utf-8", "replace")
    found: dict[str, str] = {}
    for paragraph in text.split("\n\n"):
        fields = dict(_PACKAGE.findall(paragraph))
        if "installed" in fields.get("Status", "").split():
            found[fields.get("Package", "")[:100]] = fields.get("Version", "")[:100]
    return found
