"""A home whose folders are shared with sandboxes, and what must stay outside."""

from __future__ import annotations

from pathlib import Path


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
