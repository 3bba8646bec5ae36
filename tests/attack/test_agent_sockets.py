"""Attack: a program of the guest's user has the agent, which is root, connect for it."""

from __future__ import annotations

import errno
import os
import socket

import pytest

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
