"""Another user of the machine who prepares files and directories for us to use."""

from __future__ import annotations

import os
import socket
import stat
import sys

import click
import pytest
import trio

from broker.authority.audit import settings
from broker.authority.log_runtime import open_log_runtime
from broker.authority.options import Options
from broker.cli import render, verbs
from broker.cli.audit.verbs import _keep_cursor, _read_cursor
from broker.cli.run.connect import open_client
from broker.core.errors import SetupError
from broker.core.paths import Paths, find_paths, require_private
from broker.helpers.shipper import config as ship
from broker.ipc.control.api import Nothing
from broker.ipc.control.methods import STATUS
from broker.net.link_service import config as link
from tests.kit.wayland.compositor import short_directory


@pytest.fixture
def foreign(monkeypatch):
    """Everything on the disk is another user's."""

    def change():
        if os.geteuid() == 0:
            pytest.skip("root is every user")
        mine = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: mine + 1)

    return change


# -- XDG_RUNTIME_DIR ---------------------------------------------------------------------


def paths(base):
    return find_paths({"XDG_RUNTIME_DIR": str(base), "HOME": str(base)})


@pytest.mark.parametrize("which", ["", "vitrail"])
@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o702])
def test_a_runtime_directory_that_others_may_write(which, mode):
    """Who can rename in it serves 'control' to us, or reads what we say to it."""
    if os.geteuid() == 0:
        pytest.skip("root is every user")
    with short_directory() as base:
        (base / "vitrail").mkdir(mode=0o700)
        require_private(paths(base))
        (base / which).chmod(mode)
        with pytest.raises(SetupError, match="writable by others"):
            require_private(paths(base))


def test_a_runtime_directory_of_another_user(foreign):
    with short_directory() as base:
        (base / "vitrail").mkdir(mode=0o700)
        foreign()
        with pytest.raises(SetupError, match="another user"):
            require_private(paths(base))


def test_a_link_in_place_of_our_directory():
    if os.geteuid() == 0:
        pytest.skip("root is every user")
    with short_directory() as base:
        (base / "elsewhere").mkdir(mode=0o700)
        (base / "vitrail").symlink_to(base / "elsewhere")
        with pytest.raises(SetupError, match="not a directory"):
            require_private(paths(base))


async def test_a_broker_closes_no_directory_that_a_link_leads_to():
    """Its mode is 0700; a link made it that of any directory of the person's."""
    with short_directory() as base:
        (base / "public").mkdir()
        (base / "public").chmod(0o755)
        (base / "vitrail").symlink_to("public")
        with socket.socket() as sock, pytest.raises(SetupError):
            async with open_log_runtime("local", Options(paths(base), sock), 1):
                pass
        assert stat.S_IMODE((base / "public").stat().st_mode) == 0o755
        assert list((base / "public").iterdir()) == []


async def test_brokerctl_says_nothing_there():
    if os.geteuid() == 0:
        pytest.skip("root is every user")
    with short_directory() as base:
        (base / "vitrail").mkdir(mode=0o700)
        base.chmod(0o777)
        listener = trio.socket.socket(trio.socket.AF_UNIX)
        with listener:
            await listener.bind(str(base / "vitrail" / "control"))
            listener.listen()
            with pytest.raises(SetupError, match="writable by others"):
                async with open_client(paths(base)) as client:
                    await client.call(STATUS, Nothing())


# -- settings ------------------------------------------------------------------------------


def _paths(base):
    return Paths(base, base, base, (base,))


READERS = {
    "audit.toml": ('mode = "required"\n', lambda d: settings.load_settings((d,))),
    "link.toml": ("", lambda d: link._read(_paths(d))),
    "ship.toml": ("", lambda d: ship.load_config(d / "ship.toml")),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("how", ["owner", "mode", "fifo", "long"])
def test_settings_that_another_may_have_written(tmp_path, name, how, foreign):
    text, read = READERS[name]
    path = tmp_path / name
    path.write_text(text)
    path.chmod(0o644)
    read(tmp_path)
    if how == "owner":
        foreign()
    elif how == "mode":
        path.chmod(0o664)
    elif how == "fifo":
        path.unlink()
        os.mkfifo(path)
    else:
        path.write_text("#" * 2_000_000)
    with pytest.raises(SetupError) as caught:
        read(tmp_path)
    assert caught.value.where == str(path)


# -- the cursor's file ---------------------------------------------------------------------


def test_a_link_in_place_of_the_cursor_file(tmp_path):
    """In a directory of several users, where a cron job keeps it."""
    victim = tmp_path / "victim"
    victim.write_text("mine\n")
    kept = tmp_path / "cursor"
    (tmp_path / "cursor.new").symlink_to(victim)
    _keep_cursor(kept, "42")
    assert victim.read_text() == "mine\n"
    assert _read_cursor(kept) == "42"
    kept.unlink()
    kept.symlink_to(victim)
    with pytest.raises(click.UsageError, match=r"cannot read .*cursor"):
        _read_cursor(kept)
    _keep_cursor(kept, "43")
    assert victim.read_text() == "mine\n"
    assert not kept.is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "cursor",
        "cursor.new",
        "victim",
    ]


def test_a_fifo_in_place_of_the_cursor_file(tmp_path):
    os.mkfifo(tmp_path / "cursor")
    with pytest.raises(click.UsageError, match="regular"):
        _read_cursor(tmp_path / "cursor")


# -- what errors say ------------------------------------------------------------------------

ESCAPES = "a\x1b]52;c;ZXZpbA==\x07b\x9b6nc\u202ed\re"


@pytest.mark.parametrize("how", ["error", "hint", "usage", "note", "table"])
def test_no_error_drives_the_terminal(how, capsys, monkeypatch):
    """From a broker, a file name or a sandbox, in whichever way it gets into one."""
    if how == "error":
        verbs.report(SetupError(ESCAPES))
    elif how == "hint":
        verbs.report(SetupError("x", hint=ESCAPES, where=ESCAPES))
    elif how == "usage":
        verbs.report(click.UsageError(ESCAPES))
    elif how == "note":
        render.note(ESCAPES)
    else:
        render.table([ESCAPES], [[ESCAPES]])
    out = "".join(capsys.readouterr())
    assert "52;c;" in out, "shown, escaped"
    assert not set("\x1b\x07\x9b\u202e\r") & set(out)


def test_no_program_of_ours_says_one_either(capsys, monkeypatch):
    from broker.programs import start

    def fail(*_):
        raise SetupError(ESCAPES, hint=ESCAPES)

    monkeypatch.setattr(start, "_run", fail)
    monkeypatch.setattr(sys, "exit", lambda code: None)
    start.run_broker("vitrail-local", None, None)
    out = capsys.readouterr().err
    assert "52;c;" in out
    assert not set("\x1b\x07\x9b\u202e\r") & set(out)
