"""A broker shows its windows on the compositor that it was started for."""

from __future__ import annotations

import pytest

from broker.cli.quick.other_display import on_another_display
from broker.helpers.compositor_socket import named_display


@pytest.fixture
def here(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-2")
    return tmp_path


def test_another_compositor_is_named_with_what_to_do(here):
    told = on_another_display(str(here / "wayland-1"))
    assert f"appear on the compositor at {here}/wayland-1" in told
    assert f"not at {here}/wayland-2" in told
    assert "run 'brokerctl restart'" in told


def test_nothing_is_said_of_the_same_compositor(here):
    (here / "link").symlink_to("wayland-2")
    assert not on_another_display(str(here / "wayland-2"))
    assert not on_another_display(str(here / "link"))


def test_nothing_is_said_where_one_of_them_names_no_compositor(here, monkeypatch):
    assert not on_another_display("")
    monkeypatch.delenv("WAYLAND_DISPLAY")
    assert not on_another_display(str(here / "wayland-1"))
    assert named_display() == ""


def test_the_name_of_a_broker_drives_no_terminal(here):
    assert "\x1b" not in on_another_display("/x\x1b[2J")
