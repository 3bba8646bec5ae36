"""``hooks_dir`` of containers.conf: where Podman looks for hooks.

Only brokerctl runs this, for the user's own file or, as root, for one below ``/etc``.
"""

from __future__ import annotations

import os
from pathlib import Path

from broker.core.files.replace_file import replace_file
from broker.host.launchers.podman.hooks import ROOTFUL_HOOKS

DROP_IN = "50-vitrail.conf"
ROOTFUL_CONF = Path("/etc/containers/containers.conf.d") / DROP_IN
_DEFAULTS = (Path("/usr/share/containers/oci/hooks.d"), ROOTFUL_HOOKS)
"""Root's Podman 4.3 reads both without being told, and Podman 5 only the first."""


def name_hooks(folder: Path, conf: Path) -> Path | None:
    """Write a containers.conf that names the directory of our hooks for Podman.

    Returns the file that Podman reads in place of it, or that sets ``hooks_dir``
    itself: nothing is written then, and the user adds the directory there.  Raises
    OSError.
    """
    other = _other_setting(conf)
    if other is None:
        conf.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        replace_file(conf, _engine(folder).encode(), mode=0o644)
    return other


def _engine(folder: Path) -> str:
    """Return the text of our containers.conf with hook directories."""
    folders = dict.fromkeys((*_DEFAULTS, folder))
    listed = ", ".join(f'"{path}"' for path in folders)
    return f"# Written by 'brokerctl launcher install podman'.\n[engine]\nhooks_dir = [{listed}]\n"


def _other_setting(ours: Path) -> Path | None:
    """Return another containers.conf that sets ``hooks_dir``, if any."""
    alone = os.environ.get("CONTAINERS_CONF")
    if alone:
        return Path(alone)
    main = ours.parent.parent / "containers.conf"
    for path in (main, *sorted(ours.parent.glob("*.conf"))):
        if path == ours:
            continue
        try:
            text = path.read_text("utf-8", "replace")
        except FileNotFoundError:
            continue
        if any(line.strip().startswith("hooks_dir") for line in text.splitlines()):
            return path
    return None
