"""An override file: what Vitrail writes into it, and what undoes that."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from broker.core.errors import RefusedError, UpstreamError
from broker.core.paths import find_paths
from broker.host.launchers.flatpak.files import (
    held,
    remove_override,
    system_bus_names,
    write_override,
    x11_program,
)
from broker.host.launchers.flatpak.key_file import items, parse, write
from broker.host.launchers.flatpak.overrides import (
    FlatpakPermissions,
    apply,
    undo,
    wanted_change,
)
from broker.host.launchers.flatpak.process import flatpak_words

APP = "org.example.Foot"
THEIRS = """\
[Context]
sockets=wayland;!ssh-auth;
filesystems=home;xdg-download:ro;host:ro;

[Environment]
GTK_THEME=dark
PULSE_SERVER=tcp:elsewhere
"""


def wanted(**more):
    return FlatpakPermissions(Path("/run/user/1/vitrail/launch/1/s"), **more)


def test_what_the_person_had_is_there_again_after_an_undo():
    before = parse(THEIRS)
    change = wanted_change(wanted())
    made = apply(before, change)
    assert made["Environment"]["PULSE_SERVER"].startswith("unix:/run/user/1/")
    assert made["Environment"]["GTK_THEME"] == "dark"
    back = undo(parse(write(made)), change)
    for group, values in before.items():
        for key, value in values.items():
            assert sorted(items(back[group][key])) == sorted(items(value)), key
    assert parse(write(back)).keys() == before.keys()


def test_an_allowance_of_the_person_s_does_not_stand_beside_ours():
    """Flatpak takes the last of two; there is only one."""
    made = apply(parse(THEIRS), wanted_change(wanted()))
    sockets = items(made["Context"]["sockets"])
    assert "wayland" not in sockets
    assert sockets.count("!wayland") == 1
    files = items(made["Context"]["filesystems"])
    assert "host:ro" not in files
    assert files[:2] == ["home", "xdg-download:ro"]


def test_a_change_that_the_person_makes_meanwhile_stays():
    change = wanted_change(wanted())
    made = apply({}, change)
    made["Environment"]["GTK_THEME"] = "light"
    made["Context"]["sockets"] += "pcsc;"
    back = undo(made, change)
    assert back["Environment"] == {"GTK_THEME": "light"}
    assert back["Context"] == {"sockets": "pcsc;"}


def test_paths_with_signs_of_the_format_are_escaped():
    paths = (Path("/a;b:c\\d"),)
    change = wanted_change(wanted(read_write=paths))
    made = apply({}, change)
    assert made["Context"]["filesystems"].endswith("/a\\;b\\\\:c\\\\\\\\d;")
    groups = ("Context", "Environment", "Session Bus Policy", "System Bus Policy")
    assert undo(made, change) == {group: {} for group in groups}


def test_the_network_is_closed_unless_the_record_shares_it():
    closed = apply({}, wanted_change(wanted()))["Context"]
    assert "!network" in items(closed["shared"])
    shared = apply({}, wanted_change(wanted(share_network=True)))["Context"]
    assert "!network" not in items(shared["shared"])


def test_the_render_nodes_are_closed_unless_the_record_gives_them():
    closed = apply({}, wanted_change(wanted()))["Context"]
    assert "!dri" in items(closed["devices"])
    given = apply({}, wanted_change(wanted(gpu=True)))["Context"]
    assert "dri" in items(given["devices"])


@pytest.mark.parametrize("network", [True, False])
def test_the_memory_that_the_session_shares_is_closed(network):
    """Pictures of X11 programs are in it, and the kernel asks for the user id alone."""
    shared = apply({}, wanted_change(wanted(share_network=network)))["Context"]
    assert "!ipc" in items(shared["shared"])


@pytest.mark.parametrize("service", ["Flatpak", "systemd1"])
def test_no_pattern_opens_a_service_that_runs_commands(service):
    """xdg-dbus-proxy(1): "org.foo.*" matches "org.foo" and all names below it."""
    override = apply({}, wanted_change(wanted()))["Session Bus Policy"]
    name = f"org.freedesktop.{service}"
    for pattern in ("org.freedesktop.*", name, f"{name}.*"):
        assert override[pattern] == "none", pattern


def test_no_name_of_the_system_bus_stays_open(tmp_path):
    """An application's own permission alone is enough to have PowerOff called."""
    text = "[System Bus Policy]\norg.freedesktop.login1=talk\norg.bluez.*=own\nbad name=talk\n"
    (tmp_path / "metadata").write_text(text)
    names = system_bus_names(tmp_path)
    override = apply({}, wanted_change(wanted(system_names=names)))
    assert override["System Bus Policy"] == {
        "org.freedesktop.login1": "none",
        "org.bluez.*": "none",
    }


@pytest.mark.parametrize("space", [" ", "\t", "\v", "\xa0"])
def test_an_indented_line_is_one_of_its_own(space):
    """As in GKeyFile; else it is written back as a line, in a group that it names."""
    text = f"[a]\nx=1\n{space}y=2\n{space}[b]\nz=3\n"
    assert parse(text) == {"a": {"x": "1", "y": "2"}, "b": {"z": "3"}}


@pytest.mark.parametrize("text", ["x=1\n", "[a\n", "[a]\n=\n[", "nonsense"])
def test_another_text_is_not_a_key_file(text):
    with pytest.raises(UpstreamError):
        parse(text)


def paths_in(base):
    return find_paths({"XDG_RUNTIME_DIR": "/run/1", "HOME": str(base)})


def test_files_are_written_twice_and_removed_once(tmp_path):
    paths, folder = paths_in(tmp_path), tmp_path / "overrides"
    folder.mkdir()
    (folder / APP).write_text(THEIRS)
    assert write_override(paths, folder, APP, wanted())
    second = FlatpakPermissions(Path("/run/user/1/vitrail/launch/2/s"))
    assert not write_override(paths, folder, APP, second)
    text = (folder / APP).read_text()
    assert "launch/2" in text
    assert "launch/1" not in text
    assert remove_override(paths, folder, APP)
    assert parse((folder / APP).read_text()).keys() == parse(THEIRS).keys()
    assert not remove_override(paths, folder, APP)


def test_a_file_of_ours_alone_is_removed(tmp_path):
    paths, folder = paths_in(tmp_path), tmp_path / "overrides"
    write_override(paths, folder, APP, wanted())
    assert remove_override(paths, folder, APP)
    assert os.listdir(folder) == []


def test_a_file_that_is_not_one_is_left_alone(tmp_path):
    paths, folder = paths_in(tmp_path), tmp_path / "overrides"
    folder.mkdir()
    (folder / APP).write_bytes(b"\xff\xfe")
    with pytest.raises(UpstreamError, match="UTF-8"):
        write_override(paths, folder, APP, wanted())
    assert (folder / APP).read_bytes() == b"\xff\xfe"


def test_an_application_is_held_by_one_run(tmp_path):
    paths = paths_in(tmp_path)
    with (
        held(paths, APP),
        held(paths, "org.example.Other"),
        pytest.raises(RefusedError, match="is already running"),
        held(paths, APP),
    ):
        pass
    with held(paths, APP):
        pass


@pytest.mark.parametrize(
    ("sockets", "always", "program"),
    [
        ("x11;wayland;", False, "foot"),
        ("wayland;fallback-x11;", False, None),
        ("wayland;", True, "foot"),
        ("!x11;", False, None),
    ],
)
def test_an_application_with_x11_of_its_own_is_started_beside_an_x_server(
    tmp_path, sockets, always, program
):
    text = f"[Application]\ncommand=foot\n[Context]\nsockets={sockets}\n"
    (tmp_path / "metadata").write_text(text)
    assert x11_program(tmp_path, always=always) == program


def test_an_application_without_a_program_of_its_own_is_started_as_it_is(tmp_path):
    (tmp_path / "metadata").write_text("[Context]\nsockets=x11;\n")
    assert x11_program(tmp_path, always=False) is None
    start = flatpak_words(APP, ["a"], [])
    assert start[-2:] == [APP, "a"]
    start = flatpak_words(APP, ["a"], [], ("sh", "-c", "x", "foot"))
    assert start[-6:] == ["--command=sh", APP, "-c", "x", "foot", "a"]
