"""The desktop's own xdg-desktop-portal, with a part for it, from Debian's packages.

They are unpacked and not installed: a guest of the tests, which is a process of this
machine, would have the machine's portal in place of ours.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from broker.helpers.process.spawn import DEVNULL, run_tool, spawn
from tests.kit.eventually import eventually

_PACKAGES = (
    "xdg-desktop-portal",
    "xdg-desktop-portal-gtk",
    "xdg-desktop-portal-wlr",
)


def _unpacked() -> Path:
    """Return the directory with both programs; skips where they are not to be had."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = home / "vitrail-tests" / "desktop-portals"
    if place.is_dir():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as folder:
        words = ["apt-get", "download", "-q", *_PACKAGES]
        done = subprocess.run(words, cwd=folder, capture_output=True, check=False)
        if done.returncode:
            pytest.skip(f"apt-get download: {done.stderr.decode()[-200:]}")
        tree = Path(folder) / "tree"
        for package in Path(folder).glob("*.deb"):
            subprocess.run(["dpkg", "-x", package, tree], check=True)
        try:
            tree.rename(place)
        except OSError:  # another test was quicker
            assert place.is_dir()
    return place


@asynccontextmanager
async def desktop_portal(
    env, part="gtk", desktop="GNOME", words=(), more=None, cwd="/"
):
    """Serve the portal on the desktop's bus, whose programs have ``env``.

    ``words``, ``more``, ``cwd``: of the part: its arguments, more of its environment, and
    its directory.
    """
    tree = await trio.to_thread.run_sync(_unpacked)
    env = {
        **os.environ,
        **env,
        "XDG_DESKTOP_PORTAL_DIR": str(tree / "usr/share/xdg-desktop-portal/portals"),
        "XDG_CURRENT_DESKTOP": desktop,
    }
    children = []

    async def owned(name):
        words = ("-d", "org.freedesktop.DBus", "-o", "/org/freedesktop/DBus", "-m")
        call = ["gdbus", "call", "--session", *words]
        method = "org.freedesktop.DBus.NameHasOwner"
        said = await run_tool([*call, method, name], env=env)
        return b"true" in said

    try:
        for program, name, rest, extra, place in (
            (f"-{part}", f"impl.portal.desktop.{part}", words, more or {}, cwd),
            ("", "portal.Desktop", (), {}, "/"),
        ):
            argv = [str(tree / f"usr/libexec/xdg-desktop-portal{program}"), *rest]
            own = {**env, **extra}
            child = spawn(argv, env=own, cwd=place, stdout=DEVNULL, stderr=DEVNULL)
            children.append(child)
            await eventually(lambda n=name: owned(f"org.freedesktop.{n}"))
        yield
    finally:
        for child in reversed(children):
            await child.stop()
