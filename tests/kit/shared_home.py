"""A home whose folders are shared with sandboxes, and what must stay outside."""

from __future__ import annotations

from pathlib import Path

from tests.kit.records import shown_record

RULES = """\
vitrail.Folder +docs      @anyvm @adminvm allow
vitrail.Folder +Downloads @anyvm @adminvm allow write=yes
"""


def machine_record(home: Path, *launch: str) -> str:
    """The record of a micro VM with one folder of the home, and a place for another."""
    return shown_record(
        *launch,
        'memory = "512M"',
        'network = "none"',
        "folders = 1",
        'command = ["sleep", "3600"]',
        colour="blue",
        tables=f'[folders]\nread_only = ["{home}/docs"]\n',
    )


def shared_home(base: Path) -> Path:
    """Make a home with two folders, a secret beside them, and links to it in one."""
    home = base / "home"
    for name in ("docs", "Downloads"):
        (home / name).mkdir(parents=True)
        (home / name / "file").write_text(name)
    (home / "secret").write_text("not shared")
    (home / "docs/out").symlink_to("../secret")
    (home / "docs/absolute").symlink_to(home / "secret")
    return home
