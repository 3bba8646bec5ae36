"""Attack: a program of the guest's user has the agent, which is root, act for it.

It puts links where the agent connects, or makes and removes files.
"""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from shims.guest import account as account_module
from shims.guest.account import Account, remove
from shims.guest.address import Address


@pytest.fixture(name="listener")
def _listener(tmp_path):
    """A socket that answers whom it takes for its user, with a link to it."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(tmp_path / "roots"))
        listener.listen(1)
        (tmp_path / "waypipe").symlink_to("roots")
        yield listener


def connect(tmp_path, owner):
    """What the agent gets of the name in the user's directory."""
    got = []
    address = Address(f"unix:{tmp_path}/waypipe", owner=owner)
    address.connect(None, lambda sock, code: got.append((sock, code)))
    return got


def test_a_link_to_another_user_s_socket_is_not_used(listener, tmp_path):
    assert connect(tmp_path, os.getuid() + 1) == [(None, errno.EACCES)]
    taken, _ = listener.accept()
    with taken:
        assert taken.recv(1) == b""


@pytest.mark.parametrize("checked", [True, False])
def test_its_own_user_s_socket_is(listener, tmp_path, checked):
    ((sock, code),) = connect(tmp_path, os.getuid() if checked else -1)
    with sock:
        assert code == 0


def test_what_is_made_in_the_user_s_directories_is_made_with_its_rights(monkeypatch):
    calls = []
    for name in ("setgroups", "setegid", "seteuid"):
        monkeypatch.setattr(
            account_module.os,
            name,
            lambda value, name=name: calls.append((name, value)),
        )
    monkeypatch.setattr(account_module.os, "getgroups", lambda: [0])
    account = Account()
    account._switch = {"user": 1000, "group": 1001, "extra_groups": [1001, 7]}
    account.uid, account.gid = 1000, 1001

    def make():
        with account.rights():
            calls.append("made")
            raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        make()
    assert calls == [
        ("setgroups", [1001, 7]),
        ("setegid", 1001),
        ("seteuid", 1000),
        "made",
        ("seteuid", 0),
        ("setegid", 0),
        ("setgroups", [0]),
    ]


def test_what_is_in_the_place_of_a_file_is_removed(tmp_path):
    """A directory, also one that is deeper than Python's recursion, and a link."""
    (tmp_path / "kept").write_text("kept")
    (tmp_path / "link").symlink_to("kept")
    deep = "import os\nfor _ in range(2000):\n    os.mkdir('d')\n    os.chdir('d')\n"
    (tmp_path / "deep").mkdir()
    subprocess.run([sys.executable, "-c", deep], cwd=tmp_path / "deep", check=True)
    for name in ("link", "deep", "absent"):
        remove(str(tmp_path / name))
    assert [path.name for path in Path(tmp_path).iterdir()] == ["kept"]
