"""What a viewer that was taken over leaves in its directories for the next broker.

It writes there by its real confinement; then a broker starts.
"""

from __future__ import annotations

import multiprocessing
import os
import time

import pytest

from broker.core.paths import find_paths
from broker.helpers.filters.viewer_filter import viewer_filter
from broker.helpers.viewer_confinement import confine_viewer
from broker.viewer import own_files as module
from broker.viewer.own_files import clear_displays, own_files
from tests.kit.brokerctl import brokerctl
from tests.kit.eventually import eventually
from tests.kit.link.two_brokers import two
from tests.kit.needs import PID_NAMESPACES
from tests.kit.records import shown_record
from tests.kit.wayland.compositor import short_directory
from tests.kit.world import world

BOX = shown_record('kind = "bwrap"')
_SYNC = """\
import os, socket, struct
sock = socket.socket(socket.AF_UNIX)
sock.connect(os.path.join(os.environ["XDG_RUNTIME_DIR"], os.environ["WAYLAND_DISPLAY"]))
sock.sendall(struct.pack("=IHHI", 1, 0, 12, 2))
print(len(sock.recv(8)))
"""
"""A program that has the compositor answer wl_display.sync."""


def as_viewer(environ, action):
    """Have a confined viewer do this with its paths, and end."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.environ.update(environ)
            paths = find_paths()
            confine_viewer(viewer_filter(os.getpid()), *own_files(paths))
            action(paths)
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


def _file(paths):
    (paths.displays / "box").touch()


def _closed(paths):
    (paths.displays / "box").mkdir(mode=0)


def _unlisted(paths):
    (paths.displays / "box").mkdir(mode=0o300)
    (paths.displays / "box" / "file").touch()


_KINDS = (_file, _closed, _unlisted)


def left(paths):
    return list(paths.runtime.glob("left-*"))


@PID_NAMESPACES
@pytest.mark.parametrize("leave", _KINDS)
async def test_a_box_starts_whatever_is_in_the_place_of_its_sockets(leave):
    async with world({"box": BOX}, image=False, start=False) as w:
        as_viewer(w.environ, leave)
        await w.start()
        words = ("run", "-q", "box", "--", "/usr/bin/python3", "-c", _SYNC)
        told = await brokerctl(*words, env=w.environ)
        assert (told.code, told.out) == (0, "8\n"), told.err
        await eventually(lambda: not left(w.paths))


@pytest.mark.parametrize("leave", _KINDS)
async def test_the_viewer_of_two_machines_finds_its_directory_empty(leave):
    async with two(image=False, start=False) as both:
        viewer = both.viewer
        as_viewer(viewer.environ, leave)
        await viewer.start()
        assert list(viewer.paths.displays.iterdir()) == []
        await eventually(lambda: not left(viewer.paths))


@pytest.fixture
def paths(tmp_path, monkeypatch):
    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with short_directory() as run:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(run))
        yield find_paths()


def start(paths):
    """Be a broker's process that has made its directory; return another's end of it."""
    ours, theirs = multiprocessing.Pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            ours.close()
            clear_displays(paths)
            theirs.send(sorted(path.name for path in paths.displays.iterdir()))
            theirs.poll(60)
            code = 0
        finally:
            os._exit(code)
    theirs.close()
    return ours, pid


def started(paths):
    """Return what a broker that starts, and ends at once, finds in its directory."""
    ours, pid = start(paths)
    with ours:
        found = ours.recv()
    os.waitpid(pid, 0)
    return found


@pytest.mark.parametrize("leave", _KINDS)
async def test_what_it_left_is_removed(paths, leave):
    as_viewer({}, leave)
    assert started(paths) == []
    await eventually(lambda: not left(paths))


async def test_a_start_does_not_wait_until_much_is_removed(
    paths, monkeypatch, tmp_path
):
    """As of 300,000 files, which took each broker more than 30 seconds."""
    go, remove = tmp_path / "go", module.remove_tree

    def slow(path):
        while not go.exists():
            time.sleep(0.01)
        return remove(path)

    monkeypatch.setattr(module, "remove_tree", slow)
    as_viewer({}, _file)
    ours, pid = start(paths)
    try:
        with ours:
            assert ours.poll(10), "it waits for the removal"
            assert ours.recv() == []
            assert left(paths)
    finally:
        go.touch()
        os.waitpid(pid, 0)
    await eventually(lambda: not left(paths))


async def test_a_removal_that_was_cut_short_is_done_by_the_next_broker(paths):
    paths.runtime.mkdir(mode=0o700, parents=True)
    (paths.runtime / "left-abc" / "box").mkdir(parents=True)
    assert started(paths) == []
    await eventually(lambda: not left(paths))


def test_a_broker_that_ends_leaves_no_descriptor_of_its_own_in_a_removal(
    paths, monkeypatch, tmp_path
):
    monkeypatch.setattr(module, "remove_tree", lambda _: time.sleep(10))
    as_viewer({}, _file)
    reader, writer = os.pipe()
    ours, pid = start(paths)
    os.close(writer)
    with ours:
        ours.recv()
    os.waitpid(pid, 0)
    os.set_blocking(reader, False)
    for _ in range(100):
        try:
            assert os.read(reader, 1) == b""
            break
        except BlockingIOError:
            time.sleep(0.05)
    else:
        pytest.fail("the removal holds the broker's pipe")
    os.close(reader)


@pytest.mark.parametrize("moved", [False, True])
def test_a_second_broker_leaves_the_sockets_of_the_one_that_runs(paths, moved):
    """Also where the first one has moved what was left."""
    if moved:
        as_viewer({}, _file)
    ours, pid = start(paths)
    with ours:
        ours.recv()
        (paths.displays / "web").mkdir()
        assert started(paths) == ["web"]
    os.waitpid(pid, 0)


def test_nothing_is_removed_where_others_make_links(paths):
    paths.displays.mkdir(parents=True)
    (paths.displays / "web").mkdir()
    paths.runtime.chmod(0o777)
    ours, pid = start(paths)
    with ours, pytest.raises(EOFError):
        ours.recv()
    os.waitpid(pid, 0)
    assert (paths.displays / "web").exists()
