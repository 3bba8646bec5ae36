"""``brokerctl proxy wayland`` as a process, and what people put before it."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import sys

import pytest
import trio

from broker.helpers.process.spawn import DEVNULL, PIPE, spawn
from tests.kit.eventually import eventually
from tests.kit.listening import takes_connections
from tests.kit.wayland.compositor import desktop, wait_window
from tests.kit.wayland.stand import CONFIG, stand

_START = (
    "import sys; from broker.cli.proxy.wayland import command; from broker.core.errors import VitrailError\n"
    "try: command(standalone_mode=False)\n"
    "except VitrailError as e: sys.exit(e.diagnostics())\n"
)


def start(environment, *options: str):
    return spawn(
        [sys.executable, "-c", _START, *options],
        env={**environment, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        stdout=PIPE,
        stderr=PIPE,
    )


async def said(child) -> str:
    """Its standard error, after its end."""
    await child.wait()
    with child.popen.stderr, child.popen.stdout:
        return (await trio.to_thread.run_sync(child.popen.stderr.read)).decode()


async def test_one_command_frames_what_connects_to_its_socket():
    async with desktop(config_extra=CONFIG) as comp:
        path = comp.display.with_name("f")
        child = start(
            comp.environment,
            "--sandbox",
            "mail",
            "--listen",
            str(path),
            "--color",
            "#1010d0",
            "--label",
        )

        async def there() -> bool:
            return takes_connections(path)

        await eventually(there)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        foot = spawn(
            ["foot", "sh"],  # a system user's own shell may be nologin
            env={**comp.environment, "WAYLAND_DISPLAY": str(path)},
            stdout=DEVNULL,
            stderr=DEVNULL,
        )
        await wait_window(comp, title="[mail] foot")
        await foot.stop()
        child.kill(signal.SIGTERM)
        words = "".join((await said(child)).split())
        assert words == f"framingmail:WAYLAND_DISPLAY={path}"
        assert child.returncode == 0
        assert not path.exists()


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (("--sandbox", "Mail!"), "not a sandbox name"),
        (("--sandbox", "mail", "--color", "red"), "#rrggbb"),
        (("--sandbox", "mail", "--border", "0"), "without a border"),
        (
            ("--sandbox", "mail", "--allow", "ext_session_lock_manager_v1"),
            "can never be allowed",
        ),
        (
            ("--sandbox", "mail", "--display", "/nowhere/at-all"),
            "does not answer",
        ),
        (("--sandbox", "mail", "--listen", "/nowhere/at-all"), "cannot listen"),
    ],
)
async def test_what_a_newcomer_types_wrong_is_said(tmp_path, options, hint):
    listen = () if "--listen" in options else ("--listen", str(tmp_path / "f"))
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    child = start(environment, *options, *listen)
    assert hint in await said(child)
    assert child.returncode == 1
    assert not (tmp_path / "f").exists()


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
