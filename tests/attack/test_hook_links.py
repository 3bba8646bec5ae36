"""Attack: hooks of root's are led to a socket of root's by a link of the person's."""

from __future__ import annotations

import os
import socket
import time

import pytest

from tests.kit import hooks
from tests.kit.wayland.compositor import short_directory


@pytest.fixture(name="place")
def _place():
    """A directory with a socket of another service in it."""
    with short_directory() as directory, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(directory / "service"))
        listener.listen(4)
        listener.settimeout(0)
        yield directory, listener


def libvirt(path, uid):
    with socket.socket(socket.AF_UNIX) as sock:
        hooks.libvirt.connect_to_user(sock, os.fspath(path), uid)


def podman(path, uid):
    """Up to the broker's answer, which does not come."""
    broker = hooks.oci.Broker(os.fspath(path), uid, time.monotonic() + 0.1)
    broker.call("Ping", {}, patient=False)


HOOKS = pytest.mark.parametrize(
    ("hook", "refusal"),
    [
        (libvirt, hooks.libvirt.HookError),
        (podman, hooks.oci.HookError),
    ],
    ids=["libvirt", "podman"],
)


@HOOKS
def test_a_link_is_not_followed(place, hook, refusal):
    directory, listener = place
    (directory / "control").symlink_to("service")
    with pytest.raises(refusal, match="not a socket of user"):
        hook(directory / "control", os.getuid())
    with pytest.raises(BlockingIOError):
        listener.accept()


@HOOKS
def test_a_socket_of_another_user_is_not_connected_to(place, hook, refusal):
    """A directory in the path may be a link of the person's, too."""
    directory, listener = place
    with pytest.raises(refusal, match="not a socket of user"):
        hook(directory / "service", os.getuid() + 1)
    with pytest.raises(BlockingIOError):
        listener.accept()


@HOOKS
def test_the_user_s_own_socket_is_connected_to(place, hook, refusal):
    directory, listener = place
    if hook is libvirt:
        hook(directory / "service", os.getuid())
    else:
        with pytest.raises(refusal, match="does not answer"):
            hook(directory / "service", os.getuid())
    listener.accept()[0].close()
