"""Compositors of newer Debians than ours, each suite in a separate root.

Programs run in it under bubblewrap, with our runtime directory.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from broker.cli.headless_sway import HeadlessCompositor
from broker.helpers.process.spawn import DEVNULL, spawn
from tests.kit.eventually import ready
from tests.kit.listening import takes_connections
from tests.kit.vm.suite_root import PACKAGES, suite_root
from tests.kit.vm.tinyguest import ordinary_user
from tests.kit.wayland.compositor import short_directory

SUITE, NEWEST = "trixie", "sid"
_PACKAGES = {SUITE: PACKAGES, NEWEST: ("labwc", "sway", "kwin-wayland", "xkb-data")}
"""Those of ``NEWEST`` have KWin 6, which brings 300 packages."""
_BUILD_SECONDS = {SUITE: 280, NEWEST: 900}


def compositor_root(suite: str) -> Path:
    """Return the root of a suite with its compositors; skips where it cannot be made."""
    return suite_root(suite, _PACKAGES[suite], seconds=_BUILD_SECONDS[suite])


def argv(root: Path, runtime: Path, *program: str) -> list[str]:
    """A program inside the root, with ``runtime`` at the same place as outside."""
    return [
        "bwrap", "--ro-bind", str(root), "/", "--dev", "/dev", "--proc", "/proc",
        "--tmpfs", "/tmp", "--bind", str(runtime), str(runtime), "--die-with-parent", "--",
        *program,
    ]  # fmt: skip


@asynccontextmanager
async def newer(
    kind: str,
    config: str = "",
    size: tuple[int, int] = (1280, 800),
    *,
    suite: str = SUITE,
):
    """A newer ``sway`` or ``labwc``, headless."""
    ordinary_user()
    root = await trio.to_thread.run_sync(compositor_root, suite)
    with short_directory() as directory:
        runtime = directory / "run"
        runtime.mkdir(mode=0o700)
        program = [kind]
        if kind == "sway":
            conf = runtime / "sway.conf"
            conf.write_text(
                f"output * resolution {size[0]}x{size[1]} position 0 0\n"
                f"xwayland disable\nswaybg_command -\ndefault_border none\n{config}\n"
            )
            program += ["-c", str(conf)]
        elif config.startswith("<"):
            conf = runtime / ".config/labwc/rc.xml"
            conf.parent.mkdir(parents=True)
            conf.write_text(config)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(runtime),
            "LANG": "C.UTF-8",
            "SHELL": "/bin/sh",
            "XDG_RUNTIME_DIR": str(runtime),
            "SWAYSOCK": str(runtime / "sway.sock"),
        }
        headless = {
            "WLR_BACKENDS": "headless",
            "WLR_RENDERER": "pixman",
            "WLR_LIBINPUT_NO_DEVICES": "1",
        }
        said = runtime / "said"
        with said.open("wb") as out:
            child = spawn(
                argv(root, runtime, *program),
                env={**environment, **headless},
                stdout=DEVNULL,
                stderr=out.fileno(),
            )
        try:
            found = await ready(
                child,
                lambda: [*filter(takes_connections, runtime.glob("wayland-[0-9]"))],
                output=said,
            )
            display = found[0]
            yield HeadlessCompositor(
                child, display, {**environment, "WAYLAND_DISPLAY": str(display)}
            )
        finally:
            with trio.CancelScope(shield=True):
                await child.stop()
