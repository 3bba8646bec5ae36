"""Programs of other sandboxes before a filter: behind waypipe, and in bubblewrap."""

from __future__ import annotations

import shutil

import pytest

from broker.helpers.process.spawn import DEVNULL, spawn
from tests.kit.eventually import eventually
from tests.kit.listening import takes_connections
from tests.kit.wayland.compositor import wait_window
from tests.kit.wayland.stand import stand


@pytest.mark.parametrize("program", ["foot sh", "gtk3-demo"])
async def test_an_application_behind_waypipe(program):
    async with stand() as it:
        wire = it.comp.display.with_name("w")
        plain = ["waypipe", "--no-gpu", "--compress", "none", "--socket", str(wire)]
        viewer = it.run(*plain, "client")
        await eventually(lambda: takes_connections(wire))
        server = spawn(
            [*plain, "server", "--", *program.split()],
            env={
                **it.comp.environment,
                "GDK_BACKEND": "wayland",
                "WAYLAND_DISPLAY": "none",
            },
            stdout=DEVNULL,
            stderr=DEVNULL,
        )
        await wait_window(it.comp, title="[work]")
        assert it.ends == []
        await server.stop()
        await viewer.stop()


@pytest.mark.skipif(not shutil.which("bwrap"), reason="bubblewrap is missing")
async def test_an_application_in_bubblewrap_with_nothing_but_the_filters_socket():
    async with stand() as it:
        child = it.run(
            "bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", "/usr", "/usr", "--ro-bind", "/etc", "/etc",
            "--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64",
            "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", "/run", "--dir", "/run/u",
            "--ro-bind", str(it.path), "/run/u/wayland-0", "--setenv", "XDG_RUNTIME_DIR", "/run/u",
            "--setenv", "WAYLAND_DISPLAY", "wayland-0", "gtk3-demo",
        )  # fmt: skip
        await wait_window(it.comp, title="[work]")
        assert it.ends == []
        await child.stop()
