"""A record from an application's permissions: less than it had, and a note for each loss."""

from __future__ import annotations

from pathlib import Path

import pytest

from policy.tools.importers import ImportFileError
from policy.tools.importers.flatpak import import_flatpak, record_name
from policy.tools.record_files import parse_record

PERMISSIONS = """\
[Context]
shared=network;ipc;
sockets=x11;wayland;pulseaudio;!cups;
devices=dri;all;
filesystems=host;xdg-download:ro;~/notes;/srv/data:create;xdg-run/pipewire-0;!/tmp;

[Session Bus Policy]
org.freedesktop.Flatpak=talk
org.freedesktop.*=talk
org.freedesktop.Notifications=talk
"""


def imported(text=PERMISSIONS, app="org.gnome.Gedit"):
    return import_flatpak(app, text, Path("/home/ada"))


def test_the_record_is_valid_and_binds_narrow_paths_only():
    ((name, text),) = imported().files.items()
    assert name == "sandboxes.d/gedit.toml"
    record, problems = parse_record("gedit", Path(name), text.encode())
    assert problems == []
    launch = record.host.launch
    assert launch.app == "org.gnome.Gedit"
    assert not launch.share_network
    assert launch.read_only == (Path("/home/ada/Downloads"),)
    assert launch.read_write == (Path("/home/ada/notes"), Path("/srv/data"))
    assert record.viewer.audio.playback == "allow"
    assert record.viewer.audio.microphone == "deny"


def test_each_loss_has_a_note():
    notes = [note.where.partition(": ")[2] for note in imported().notes]
    assert notes == [
        "filesystems=host",
        "filesystems=xdg-run/pipewire-0",
        "sockets=x11",
        "sockets=pulseaudio",
        "devices=all",
        "shared=ipc",
        "shared=network",
        "org.freedesktop.Flatpak",
        "org.freedesktop.*",
    ]


@pytest.mark.parametrize(
    "wide",
    [
        "~/",
        "~/.",
        "~//",
        "//",
        "/.",
        "/home",
        "/home/",
        "/home/./ada",
        "/home/ada",
        "/var/home/ada",
        "/var",
        "xdg-documents//",
        "/run/user",
        "//run",
        "/./run",
        "/var/run",
        "/proc",
        "/dev/shm",
        "~/..",
        "xdg-music/..",
        "/srv/../home",
        "~/.config",
        "~/.config/vitrail",
        "~/.ssh:ro",
        "~/.bashrc",
        "~//.local/share/flatpak/overrides",
        "~/./.config/autostart:create",
        "/home/ada/.config/systemd/user",
        "/var/home/ada/.gnupg",
        "/home//ada/.mozilla",
    ],
)
def test_an_application_does_not_get_everything_by_another_spelling(wide):
    """Its author writes it, and could write to the person's start-up files."""
    found = imported(f"[Context]\nfilesystems={wide};\n")
    ((name, text),) = found.files.items()
    record, problems = parse_record("gedit", Path(name), text.encode())
    assert problems == []
    taken = [*record.host.launch.read_only, *record.host.launch.read_write]
    assert taken in ([], [Path("/home/ada/Documents")])
    assert bool(taken) != bool(found.notes), "a permission that is not taken has a note"


def test_an_application_without_permissions_is_silent():
    ((_, text),) = imported("").files.items()
    assert 'playback = "none"' in text
    assert imported("").notes == ()


@pytest.mark.parametrize(
    ("app", "name"),
    [
        ("org.gnome.gedit", "gedit"),
        ("com.example.Two_Words", "two-words"),
        ("org.example._x", "app--x"),
        (f"org.example.{'x' * 60}", "x" * 31),
    ],
)
def test_the_name_of_the_record(app, name):
    assert record_name(app) == name
    ((file, text),) = imported(app=app).files.items()
    record, problems = parse_record(name, Path(file), text.encode())
    assert problems == []
    assert record is not None


def test_another_text_is_refused():
    with pytest.raises(ImportFileError):
        imported("error: not installed")
