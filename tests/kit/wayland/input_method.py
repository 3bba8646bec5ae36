"""A desktop's input method: fcitx5 with Pinyin, beside a compositor."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from pathlib import Path

from broker.cli.headless_sway import HeadlessCompositor
from broker.helpers.process.spawn import DEVNULL, run_tool, spawn
from tests.kit.eventually import eventually
from tests.kit.listening import takes_connections

NEEDED = ("fcitx5", "fcitx5-remote", "dbus-daemon")
_PROFILE = """\
[Groups/0]
Name=Default
Default Layout=us
DefaultIM=pinyin
[Groups/0/Items/0]
Name=keyboard-us
Layout=
[Groups/0/Items/1]
Name=pinyin
Layout=
[GroupOrder]
0=Default
"""
_FCITX = ("fcitx5", "--disable=xim,xcb,notifications,cloudpinyin")
_CONFIG = "[Behavior]\nActiveByDefault=True\nPreloadInputMethod=True\n"


def launcher(home: Path) -> Path:
    """Return a program that a compositor can start as its input method: Pinyin."""
    settings = home / "fcitx5"
    settings.mkdir(parents=True)
    (settings / "profile").write_text(_PROFILE)
    (settings / "config").write_text(_CONFIG)
    made = home / "input-method"
    made.write_text(
        f"#!/bin/sh\nexport HOME={home} XDG_CONFIG_HOME={home} XDG_DATA_HOME={home}/data\n"
        f"exec {' '.join(_FCITX)} > {home}/log 2>&1\n"
    )
    made.chmod(0o700)
    return made


@asynccontextmanager
async def pinyin(comp: HeadlessCompositor):
    """fcitx5 on a separate bus; input on this desktop becomes Chinese."""
    home = comp.display.parent / "fcitx"
    settings = home / "fcitx5"
    settings.mkdir(parents=True)
    (settings / "profile").write_text(_PROFILE)
    (settings / "config").write_text(_CONFIG)
    bus = home / "bus"
    env = {
        **os.environ,
        **comp.environment,
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home),
        "XDG_DATA_HOME": str(home / "data"),
        "DBUS_SESSION_BUS_ADDRESS": f"unix:path={bus}",
    }
    daemon = ["dbus-daemon", "--session", "--nofork", "--nopidfile"]
    words = [*daemon, f"--address=unix:path={bus}"]
    children = [spawn(words, env=env, stdout=DEVNULL, stderr=DEVNULL)]
    try:
        await eventually(lambda: takes_connections(bus))
        with (home / "log").open("w") as log:
            children.append(spawn(_FCITX, env=env, stdout=log, stderr=log))

        async def runs() -> bytes:
            try:
                return await run_tool(["fcitx5-remote"], env=env)
            except Exception:
                return b""

        await eventually(runs)
        yield
    except BaseException:
        print((home / "log").read_text()[-5000:])
        raise
    finally:
        for child in reversed(children):
            await child.stop()
