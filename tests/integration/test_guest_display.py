"""The agent's display: our own end where there is an arena, waypipe where it fails."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import pytest

from shims import bundle
from shims.guest import display as subject
from shims.guest.account import Account
from shims.guest.display import Display
from shims.guest.loop import Loop
from tests.kit.wayland.compositor import short_directory
from tests.kit.waypipe.guest_end import arena


def unusable() -> int:
    """A descriptor that cannot be mapped."""
    read, write = os.pipe()
    os.close(write)
    return read


def missing() -> int:
    raise OSError("there is no /dev/dax0.0")


@pytest.fixture
def place(monkeypatch):
    monkeypatch.setattr(subject, "WAYLAND_END", bundle.wayland_end().decode())
    with short_directory() as directory:
        yield directory


def come_up(
    place, monkeypatch, device, *, parent=False
) -> tuple[list[str], list[tuple[str, str, bool]], str]:
    """Start it; returns why there is no display, the steps, and what made it.

    With ``parent`` the machine gets its name, and its display again, when it has one.
    """
    monkeypatch.setattr(
        subject, "open_arena_device", lambda *, behind_image: (device(), 4096)
    )
    hops, reasons = [], []
    loop = Loop()
    guest = SimpleNamespace(
        loop=loop,
        account=Account(),
        session_dir=str(place),
        leaving=False,
        settings=SimpleNamespace(
            arena=True,
            gpu=False,
            last_region=False,
            display=None,
            runtime=str(place),
            parent=parent,
            name="",
        ),
        base_environment=lambda: {
            "PATH": os.environ["PATH"],
            "XDG_RUNTIME_DIR": str(place),
        },
        hop=lambda name, detail="", *, ok: hops.append((name, detail, ok)),
    )
    carrier = SimpleNamespace(path=str(place / "carried"))
    display = Display(guest, carrier)

    def ready(reason: str) -> None:
        reasons.append(reason)
        if not parent or guest.settings.name:
            loop.stop()
            return
        assert display._program_name == "waypipe", "a parent has no arena"
        guest.settings.name = "a-copy"
        display.restart()
        display.when_ready(ready)

    loop.later(60, loop.stop)
    display.when_ready(ready)
    loop.run()
    name = display._program_name
    guest.leaving = True
    display.stop()
    loop.child_number(display.session, lambda _code: loop.stop())
    loop.run()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    return reasons, hops, name


def test_our_own_end_serves_a_guest_with_an_arena(place, monkeypatch):
    with arena() as fd:
        found = come_up(place, monkeypatch, lambda: os.dup(fd))
    assert found == ([""], [("waypipe", "", True)], "vitrail_wayland.py")


def test_our_own_end_serves_a_copy_whose_parent_had_waypipe(place, monkeypatch):
    with arena() as fd:
        found = come_up(place, monkeypatch, lambda: os.dup(fd), parent=True)
    assert found == (["", ""], [("waypipe", "", True)] * 2, "vitrail_wayland.py")


@pytest.mark.parametrize("device", [unusable, missing])
def test_waypipe_serves_a_guest_whose_arena_cannot_be_used(place, monkeypatch, device):
    reasons, hops, name = come_up(place, monkeypatch, device)
    assert (reasons, hops) == ([""], [("waypipe", "", True)])
    assert name == "waypipe"
