"""The embedded compositor, for real: a window, its pixels, typing into it."""

from __future__ import annotations

import os
import signal

import pytest
import trio

from broker.cli import headless_sway
from broker.cli.headless_sway import open_headless_sway
from broker.core.errors import SetupError, UpstreamError
from broker.helpers.compositor_socket import find_compositor
from broker.helpers.process.spawn import spawn
from tests.kit.eventually import eventually
from tests.kit.wayland.compositor import desktop, pixels, short_directory, wait_window


async def test_a_terminal_is_shown_and_typed_into():
    async with desktop(size=(800, 600)) as comp:
        assert stat_mode(comp.display.parent) == 0o700
        assert find_compositor(comp.environment) == comp.display
        foot = spawn(
            ["foot", "--title", "under test", "sh"],
            env={**comp.environment, "SHELL": "/bin/sh"},
            stderr=os.open(os.devnull, os.O_WRONLY),
        )
        try:
            (window,) = await wait_window(comp, title="under test")
            assert window["pid"] == foot.pid
            image = await pixels(comp)
            assert image.size == (800, 600)
            assert len(image.getcolors(1 << 20)) > 2, "nothing is drawn"
            typed = comp.display.parent / "typed -x"
            await comp.type_text(f"touch '{typed}'\n")

            async def there():
                return typed.exists()

            await eventually(there)
        finally:
            await foot.stop()


async def test_text_that_begins_with_a_dash_is_typed():
    async with desktop(size=(400, 300)) as comp:
        await comp.type_text("-x")


async def test_a_command_that_sway_refuses_is_an_error_with_its_words():
    async with desktop(size=(400, 300)) as comp:
        await comp.command("floating_modifier none")
        with pytest.raises(UpstreamError, match=r"'no such'.*Unknown/invalid command"):
            await comp.command("no such")


async def test_it_ends_and_leaves_no_process():
    async with desktop(size=(400, 300)) as comp:
        child = comp.child
    assert child.returncode is not None
    assert find_compositor(comp.environment) is None


async def test_a_killed_compositor_is_noticed():
    async with desktop(size=(400, 300)) as comp:
        comp.child.kill(signal.SIGKILL)
        with trio.fail_after(30):
            assert await comp.child.wait() == -signal.SIGKILL
        assert find_compositor(comp.environment) is None
        with pytest.raises(UpstreamError):
            await comp.tree()


async def test_a_configuration_it_cannot_read_is_an_error_with_its_words(monkeypatch):
    monkeypatch.setattr(headless_sway.limits, "COMPOSITOR_READY_SECONDS", 5)
    with short_directory() as path, pytest.raises(UpstreamError, match="sway"):
        # A runtime directory whose sockets' names are too long.
        await open_headless_sway(path / ("x" * 100))


async def test_root_gets_a_sentence(monkeypatch):
    monkeypatch.setattr(headless_sway.os, "geteuid", lambda: 0)
    with short_directory() as path, pytest.raises(SetupError, match="root"):
        await open_headless_sway(path)


def stat_mode(path):
    return path.stat().st_mode & 0o777
