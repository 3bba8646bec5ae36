"""Menu entries that a program in a box wrote: what 'launcher install' makes of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from broker.cli.launchers.box_entries import _ENTRY_BYTES, replaced
from tests.kit.brokerctl import called, home

WRAPPER = "/home/ada/.local/bin/distrobox-enter"


def is_old(word):
    return word in {"/usr/bin/distrobox-enter", "distrobox-enter"}


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("Exec=/usr/bin/distrobox-enter -n d1 -- foot %U", " -n d1 -- foot %U"),
        ('Exec="/usr/bin/distrobox-enter" -n d1', " -n d1"),
        ("Exec=distrobox-enter  -n  d1", "  -n  d1"),
        ("Exec=distrobox-enter", ""),
        # What follows is kept letter by letter: it meant the same before.
        ('Exec=distrobox-enter "a\\\\$b" %% ; | `id`', ' "a\\\\$b" %% ; | `id`'),
    ],
)
def test_the_program_alone_is_replaced(line, found):
    text = f"[Desktop Entry]\r\nName=x\r\n{line}\n[Desktop Action a]\n{line}\n"
    made = replaced(text, is_old, WRAPPER)
    new = f"Exec={WRAPPER}{found}"
    assert made == text.replace(line, new)
    back = replaced(made, WRAPPER.__eq__, "/usr/bin/distrobox-enter")
    assert back.count(f"Exec=/usr/bin/distrobox-enter{found}\n") == 2


@pytest.mark.parametrize(
    "line",
    [
        "Exec=/tmp/distrobox-enter -n d1",
        "Exec=/usr/bin/distrobox-enter;/tmp/evil",
        'Exec="/usr/bin/distrobox-enter"x -n d1',
        'Exec="/usr/bin/distrobox-enter -n d1',
        r"Exec=/usr/bin/distrobox\-enter -n d1",
        r'Exec="/usr/bin/distrobox-enter\\" -n d1',
        "Exec=env A=b /usr/bin/distrobox-enter -n d1",
        "Exec=sh -c '/usr/bin/distrobox-enter -n d1'",
        "Exec= distrobox-enter -n d1",
        "Exec=",
        'Exec=""',
        "XExec=distrobox-enter",
        "Exec[de]=distrobox-enter",
        "TryExec=distrobox-enter",
        "#Exec=distrobox-enter",
    ],
)
def test_other_programs_and_other_keys_stay(line):
    assert replaced(f"[Desktop Entry]\n{line}\n", is_old, WRAPPER) == (
        f"[Desktop Entry]\n{line}\n"
    )


def test_a_wrapper_with_spaces_stays_one_word():
    made = replaced("Exec=distrobox-enter -n d1\n", is_old, "/home/a b$/%f/enter")
    assert made == 'Exec="/home/a b\\\\$/%%f/enter" -n d1\n'


@pytest.fixture(name="menu")
def _menu():
    with home() as env:
        base = Path(env["HOME"])
        (base / "bin").mkdir()
        for name in ("distrobox-enter", "distrobox"):
            real = base / "bin" / name
            real.write_text("#!/bin/sh\n")
            real.chmod(0o755)
        env["PATH"] = f"{base}/.local/bin:{base}/bin:{env['PATH']}"
        folder = base / ".local/share/applications"
        folder.mkdir(parents=True)
        yield env, folder, base


def test_exported_entries_start_our_command_and_are_restored(menu):
    env, folder, base = menu
    text = (
        f"[Desktop Entry]\nName=\udcff\nExec={base}/bin/distrobox-enter -n d1 -- foot\n"
    )
    entry = folder / "foot.desktop"
    entry.write_bytes(text.encode("utf-8", "surrogateescape"))
    entry.chmod(0o755)
    before = entry.read_bytes()
    done = called("launcher", "install", "distrobox", env=env)
    assert done.code == 0, done
    ours = f"Exec={base}/.local/bin/distrobox-enter -n d1 -- foot\n"
    assert entry.read_bytes().endswith(ours.encode())
    assert entry.stat().st_mode & 0o777 == 0o755
    assert str(entry) in done.err
    front = base / ".local/bin/distrobox"
    assert str(base / ".local/bin/distrobox-enter") in front.read_text()
    done = called("launcher", "remove", "distrobox", env=env)
    assert done.code == 0, done
    assert entry.read_bytes() == before
    assert not front.exists()


def test_links_fifos_and_larger_files_are_left_alone(menu):
    env, folder, base = menu
    line = f"Exec={base}/bin/distrobox-enter -n d1\n"
    target = base / "secret"
    target.write_text(line)
    (folder / "link.desktop").symlink_to(target)
    os.mkfifo(folder / "fifo.desktop")
    large = folder / "large.desktop"
    large.write_text(line + "#" * _ENTRY_BYTES)
    done = called("launcher", "install", "distrobox", env=env)
    assert done.code == 0, done
    assert target.read_text() == line
    assert (folder / "link.desktop").is_symlink()
    assert large.read_text() == line + "#" * _ENTRY_BYTES
