"""A browser in a box: what the box lacks is printed before, in lines that can be run."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.cli.quick.box_needs import note_needs
from broker.host.launchers.bubblewrap.arguments import Box


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Programs of a machine: two browsers, an editor of Electron, and a terminal."""
    for name in ("bin/firefox-esr", "bin/epiphany", "bin/foot", "code/bin/code"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    (tmp_path / "code/chrome_100_percent.pak").touch()
    (tmp_path / "bin/code").symlink_to(tmp_path / "code/bin/code")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


def notes(capsys, *command, lasting=False, **keys):
    note_needs(Box(command, Path(), (), **keys), "surf", lasting=lasting)
    return capsys.readouterr().err


def test_a_browser_without_network_is_told_of_the_preset(programs, capsys):
    err = notes(capsys, "firefox-esr")
    assert "the box of firefox-esr has no network" in err
    assert "brokerctl new NAME --for browser --in box --command firefox-esr" in err
    assert "namespaces" not in err


def test_a_record_without_network_is_changed_by_the_printed_command(programs, capsys):
    err = notes(capsys, "firefox-esr", lasting=True)
    assert "run 'brokerctl set surf network user'" in err


def test_an_electron_program_is_told_of_namespaces_only(programs, capsys):
    new = "run 'brokerctl new NAME --for browser --in box --command code', then "
    then = "'brokerctl set NAME launch.user_namespaces true', then 'brokerctl run NAME'"
    assert f"{new}{then}" in notes(capsys, "code")
    err = notes(capsys, "code", lasting=True)
    assert "run 'brokerctl set surf launch.user_namespaces true'" in err
    assert "network" not in err


def test_webkit_browser_is_given_namespaces_and_socket_name(programs, capsys):
    """Epiphany ends without a window if one of the two is missing."""
    script = (
        "ln -s \\$WAYLAND_DISPLAY \\$XDG_RUNTIME_DIR/wayland-0; "
        "WAYLAND_DISPLAY=wayland-0 exec epiphany"
    )
    command = f"'brokerctl set surf command sh -c \"{script}\"'"
    namespaces = "run 'brokerctl set surf launch.user_namespaces true'"
    err = notes(capsys, "epiphany", lasting=True, resolver=())
    assert f"{namespaces}, then {command}" in err
    err = notes(capsys, "epiphany", lasting=True, resolver=(), user_namespaces=True)
    assert f"run {command}" in err
    assert "user namespaces" not in err


@pytest.mark.parametrize(
    ("command", "keys"),
    [
        (("foot",), {}),
        (("no-such-program",), {}),
        (("firefox-esr",), {"resolver": ()}),
        (("code",), {"user_namespaces": True}),
        (("firefox-esr",), {"root": Path("/srv/tree")}),
    ],
)
def test_a_box_with_all_that_its_program_needs_has_no_note(
    programs, capsys, command, keys
):
    assert notes(capsys, *command, **keys) == ""


def test_an_address_needs_a_network_whatever_opens_it(programs, capsys):
    assert "no network" in notes(capsys, "foot", "https://a.example/")
