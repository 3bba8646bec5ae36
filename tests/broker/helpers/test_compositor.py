"""Which socket is the person's compositor."""

from __future__ import annotations

import os
import socket

import pytest

from broker.helpers.compositor_socket import adopt_display, find_compositor
from tests.kit.wayland.compositor import short_directory, windows


@pytest.fixture
def runtime():
    with short_directory() as path:
        yield path


@pytest.fixture
def listening(runtime):
    made = []

    def make(name):
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(runtime / name))
        sock.listen()
        made.append(sock)
        return runtime / name

    yield make
    for sock in made:
        sock.close()


def test_the_default_is_wayland_0_in_the_runtime_directory(runtime, listening):
    path = listening("wayland-0")
    assert find_compositor({"XDG_RUNTIME_DIR": str(runtime)}) == path
    empty = {"XDG_RUNTIME_DIR": str(runtime), "WAYLAND_DISPLAY": ""}
    assert find_compositor(empty) == path


def test_a_name_is_looked_up_there(runtime, listening):
    listening("wayland-0")
    path = listening("wayland-7")
    env = {"XDG_RUNTIME_DIR": str(runtime), "WAYLAND_DISPLAY": "wayland-7"}
    assert find_compositor(env) == path


def test_an_absolute_path_needs_no_runtime_directory(listening):
    path = listening("elsewhere")
    assert find_compositor({"WAYLAND_DISPLAY": str(path)}) == path


def test_a_name_without_a_runtime_directory_is_none():
    assert find_compositor({"WAYLAND_DISPLAY": "wayland-0"}) is None
    assert find_compositor({}) is None


def test_a_connected_descriptor_is_not_used(runtime, listening):
    path = listening("wayland-0")
    env = {"XDG_RUNTIME_DIR": str(runtime), "WAYLAND_SOCKET": "5"}
    assert find_compositor(env) == path


def test_a_socket_that_no_listener_on_is_none(runtime):
    env = {"XDG_RUNTIME_DIR": str(runtime)}
    assert find_compositor(env) is None
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(runtime / "wayland-0"))
        assert find_compositor(env) is None, "bound, but not listening"
    assert find_compositor(env) is None, "stale"
    (runtime / "wayland-0").unlink()
    (runtime / "wayland-0").touch()
    assert find_compositor(env) is None, "not a socket"


def test_a_compositor_that_does_not_accept_is_none_at_once(runtime):
    path = runtime / "wayland-0"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen(0)
        waiting = []
        while find_compositor({"WAYLAND_DISPLAY": str(path)}):
            held = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            held.setblocking(False)
            waiting.append(held)
            try:
                held.connect(str(path))
            except BlockingIOError:
                break
        assert find_compositor({"WAYLAND_DISPLAY": str(path)}) is None
        for held in waiting:
            held.close()


@pytest.mark.parametrize("path", ["/" + "x" * 200, "/nonexistent/wayland-0", "/"])
def test_a_path_that_is_no_socket_is_none(path):
    assert find_compositor({"WAYLAND_DISPLAY": path}) is None


def test_windows_are_the_nodes_with_a_process():
    window = {"type": "con", "pid": 7, "name": "a", "nodes": []}
    floating = {"type": "floating_con", "pid": 8, "name": "b"}
    workspace = {"type": "workspace", "nodes": [{"type": "con", "nodes": [window]}]}
    workspace["floating_nodes"] = [floating]
    assert windows({"type": "root", "nodes": [workspace]}) == [window, floating]


def test_without_a_name_the_only_other_one_that_answers_is_it(runtime, listening):
    """A broker may start before the session exports WAYLAND_DISPLAY, as sway's wayland-1."""
    env = {"XDG_RUNTIME_DIR": str(runtime)}
    (runtime / "wayland-1.lock").touch()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(runtime / "wayland-2"))
    assert find_compositor(env) is None
    path = listening("wayland-1")
    assert find_compositor(env) == path
    listening("wayland-3")
    assert find_compositor(env) is None, "nobody can say which"
    first = listening("wayland-0")
    assert find_compositor(env) == first


def test_a_name_that_is_set_is_never_replaced(runtime, listening):
    """Windows that were meant for a nested compositor go to no other one."""
    listening("wayland-1")
    env = {"XDG_RUNTIME_DIR": str(runtime), "WAYLAND_DISPLAY": "wayland-9"}
    assert find_compositor(env) is None


def test_a_program_that_starts_later_gets_the_name(runtime, listening, monkeypatch):
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    adopt_display()
    assert "WAYLAND_DISPLAY" not in os.environ
    path = listening("wayland-1")
    adopt_display()
    assert os.environ["WAYLAND_DISPLAY"] == str(path)
