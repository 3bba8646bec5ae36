"""Compositors without a screen and without another one around them: KWin and weston."""

from __future__ import annotations

import os
import shutil
from contextlib import asynccontextmanager

import pytest
import trio

from broker.cli.headless_sway import HeadlessCompositor
from broker.helpers.process.spawn import DEVNULL, spawn
from tests.kit.eventually import ready
from tests.kit.listening import takes_connections
from tests.kit.vm.tinyguest import ordinary_user
from tests.kit.wayland.compositor import desktop, short_directory
from tests.kit.wayland.mutter_person import gnome
from tests.kit.wayland.stand import CONFIG

_PROGRAMS = {
    "kwin": ("kwin_wayland",),
    "mutter": ("mutter", "dbus-run-session", "bwrap"),
}


@asynccontextmanager
async def compositor(kind: str):
    """Run sway, weston, KWin or mutter; yields a ``HeadlessCompositor`` (no pictures)."""
    for program in _PROGRAMS.get(kind, (kind,)):
        if not shutil.which(program):
            pytest.skip(f"{program} is missing")
    if kind == "sway":
        async with desktop(config_extra=CONFIG) as comp:
            yield comp
    elif kind == "mutter":
        async with gnome() as there:
            yield HeadlessCompositor(there.child, there.display, there.environment)
    else:
        async with _alone(kind) as comp:
            yield comp


@asynccontextmanager
async def _alone(kind: str):
    ordinary_user()
    with short_directory() as directory:
        run = directory / "run"
        run.mkdir(mode=0o700)
        if kind == "kwin":
            # Its file has capabilities that an ordinary user may not always gain.
            program = directory / "kwin_wayland"
            shutil.copyfile(shutil.which("kwin_wayland") or "", program)
            program.chmod(0o700)
            argv = [
                str(program), "--virtual", "--socket", "screenless", "--no-lockscreen",
                "--no-global-shortcuts", "--width", "1280", "--height", "800",
            ]  # fmt: skip
        else:
            argv = [
                "weston", "--backend=headless-backend.so", "--socket=screenless",
                "--use-pixman", "--no-config", "--idle-time=0", "--width=1280",
                "--height=800",
            ]  # fmt: skip
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(run),
            "LANG": "C.UTF-8",
            "XDG_RUNTIME_DIR": str(run),
            "KWIN_COMPOSE": "Q",
            "WAYLAND_DISPLAY": "screenless",
        }
        child = spawn(
            argv,
            env={k: v for k, v in environment.items() if k != "WAYLAND_DISPLAY"},
            stdout=DEVNULL,
            stderr=DEVNULL,
        )
        display = run / "screenless"
        try:
            await ready(child, lambda: takes_connections(display))
            yield HeadlessCompositor(child, display, environment)
        finally:
            with trio.CancelScope(shield=True):
                await child.stop()
