"""A hostile guest on another machine, whose folders come over its connections.

The server is the real sftp-server in its real jail.
"""

from __future__ import annotations

import os
import socket
import struct
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from broker.core.errors import RefusedError, SetupError
from broker.core.lease import Opening
from broker.core.limits import host_viewer as folder_limits
from broker.core.limits import transfer as limits
from broker.core.services import FOLDER
from broker.ipc.session.folder_orders import OpenFolder
from broker.session.folders.folder_server import find_sftp_server
from broker.viewer.folders.desk import give
from broker.viewer.folders.streamed import StreamedFolders
from tests.kit import sftp
from tests.kit.rulebook import VAULT, WORK, rulebook
from tests.kit.session import starter_of_orders
from tests.kit.sftp import Sftp, attributes, text

HERE = "/shared/here"


@pytest.fixture(autouse=True)
def _server():
    try:
        find_sftp_server()
    except SetupError as error:
        pytest.skip(str(error))


class Told:
    """A log; its refusals, which are written together later, are kept here."""

    def __init__(self, log, refusals):
        self._refusals = refusals
        self.require, self.note = log.require, log.note

    async def refused(self, event):
        self._refusals.append(event.reason)


class Stand:
    """The viewer's folders of one sandbox, and connections of its guest."""

    def __init__(self, home, book, nursery, session):
        self._session = session
        self.home = home
        self.events = book.events
        self.refusals = []
        self.folders = StreamedFolders(Told(book.log, self.refusals))
        self._nursery = nursery
        self._count = 0
        self.streams = []

    @asynccontextmanager
    async def shared(self, name="docs", *, write=False):
        """A shared directory of the user's; yields it and what the desk has of it."""
        path = self.home / name
        path.mkdir(exist_ok=True)
        (path / "file").write_text(name)
        order = OpenFolder(str(path), write)
        async with self._session.carrying_out(order) as opened:
            given = await give(path, opened, b"")
            async with self.folders.mounted(WORK, given, write=write) as mounted:
                yield path, mounted

    async def connect(self, lease=WORK):
        """A connection of a guest; it has sent nothing."""
        self._count += 1
        near, far = socket.socketpair()
        far.setblocking(False)
        opening = Opening(lease, FOLDER, self._count, "the test")
        await self._nursery.start(self.folders.carry, opening, far)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(near))
        self.streams.append(stream)
        return stream

    async def guest(self, place=0):
        """A guest that speaks SFTP for a place."""
        stream = await self.connect()
        await stream.send_all(bytes([place]))
        client = Sftp(stream)
        await client.begin()
        return client, stream


@pytest.fixture
async def stand(tmp_path, nursery):
    home = tmp_path / "home"
    home.mkdir()
    (home / "secret").write_text("not shared")
    environ = dict(os.environ, HOME=str(home), XDG_STATE_HOME=str(tmp_path / "state"))
    async with rulebook() as book:
        with starter_of_orders(environ) as session:
            session.host.close()
            made = Stand(home, book, nursery, session)
            yield made
            for stream in made.streams:
                await stream.aclose()


async def ended(stream):
    """Whether the far end has closed."""
    with trio.fail_after(60):
        try:
            while await stream.receive_some(65536):
                pass
        except trio.BrokenResourceError:
            return True
    return True


async def test_a_folder_is_served_and_changed(stand):
    async with stand.shared(write=True) as (path, mounted):
        assert (mounted.path, mounted.place) == ("/folders/docs", 0)
        guest, _ = await stand.guest()
        assert await guest.names(HERE) == {"file"}
        assert await guest.read(f"{HERE}/file") == b"docs"
        handle = await guest.open(f"{HERE}/new", sftp.FOR_WRITING | sftp.CREATE)
        rest = text(handle) + struct.pack(">Q", 0) + text("from the guest")
        assert await guest.code(sftp.WRITE, rest) == sftp.OK
        assert (path / "new").read_text() == "from the guest"
        assert (path / "new").stat().st_uid == os.getuid()
        (path / "mine").write_text("from the user")
        assert await guest.read(f"{HERE}/mine") == b"from the user"
    opened, closed = stand.events("stream.opened"), stand.events("stream.closed")
    assert [event["service"] for event in opened] == [FOLDER]
    assert len(closed) == 1


async def test_links_and_paths_lead_to_nothing_of_the_users(stand):
    async with stand.shared(write=True) as (path, _):
        (path / "out").symlink_to("../secret")
        (path / "absolute").symlink_to(stand.home / "secret")
        guest, _ = await stand.guest()
        for name in ("out", "absolute", "../secret", f"../..{stand.home}/secret"):
            assert await guest.read(f"{HERE}/{name}") == sftp.NO_SUCH_FILE
        target = text(str(stand.home / "secret"))
        assert await guest.code(sftp.SYMLINK, target + text(f"{HERE}/own")) == sftp.OK
        assert await guest.read(f"{HERE}/own") == sftp.NO_SUCH_FILE
        for place in (stand.home, "/home", "/proc", "/run", "/tmp", "/var"):
            assert await guest.names(str(place)) == sftp.NO_SUCH_FILE
        # Its whole root: libraries, and files that are made for it.
        assert await guest.names("/") <= {
            *("dev", "etc", "lib", "lib64", "shared", "usr", "nix", "gnu"),
        }
        assert await guest.names("/etc") <= {"passwd", "ld.so.cache"}
        handle = await guest.open("/shared/x", sftp.FOR_WRITING | sftp.CREATE)
        assert handle in {sftp.DENIED, sftp.FAILURE}
    assert (stand.home / "secret").read_text() == "not shared"


async def test_what_may_be_read_is_not_changed(stand):
    async with stand.shared() as (path, _):
        guest, _ = await stand.guest()
        flags = sftp.FOR_WRITING | sftp.CREATE
        refused = {sftp.DENIED, sftp.FAILURE}
        assert await guest.open(f"{HERE}/new", flags) in refused
        assert await guest.open(f"{HERE}/file", sftp.FOR_WRITING) in refused
        assert await guest.code(sftp.REMOVE, text(f"{HERE}/file")) in refused
        rest = text(f"{HERE}/made") + attributes()
        assert await guest.code(sftp.MKDIR, rest) in refused
        rest = text(f"{HERE}/file") + attributes(0o777)
        assert await guest.code(sftp.SETSTAT, rest) in refused
        assert await guest.read(f"{HERE}/file") == b"docs"
        assert [p.name for p in path.iterdir()] == ["file"]


async def test_no_file_becomes_setuid(stand):
    async with stand.shared(write=True) as (path, _):
        guest, _ = await stand.guest()
        rest = text(f"{HERE}/file") + attributes(0o4755)
        assert await guest.code(sftp.SETSTAT, rest) != sftp.OK
        flags = sftp.FOR_WRITING | sftp.CREATE
        await guest.open(f"{HERE}/new", flags, mode=0o6755)
        for made in path.iterdir():
            assert made.stat().st_mode & 0o7000 == 0, made


@pytest.mark.parametrize("place", [1, 7, 255])
async def test_a_folder_that_the_sandbox_has_not(stand, place):
    async with stand.shared():
        stream = await stand.connect()
        await stream.send_all(bytes([place]))
        assert await ended(stream)
        (reason,) = stand.refusals
        assert "no shared folder" in reason
        guest, _ = await stand.guest()
        assert await guest.names(HERE) == {"file"}


async def test_a_folder_of_another_sandbox(stand):
    async with stand.shared():
        stream = await stand.connect(VAULT)
        await stream.send_all(b"\0")
        assert await ended(stream)
        (reason,) = stand.refusals
        assert "no shared folder" in reason


async def test_a_second_connection_for_a_folder(stand):
    async with stand.shared():
        guest, _ = await stand.guest()
        stream = await stand.connect()
        await stream.send_all(b"\0")
        assert await ended(stream)
        (reason,) = stand.refusals
        assert "another connection" in reason
        assert await guest.names(HERE) == {"file"}


async def test_a_connection_that_names_nothing(stand, monkeypatch):
    monkeypatch.setattr(folder_limits, "FOLDER_PLACE_SECONDS", 0.05)
    async with stand.shared():
        assert await ended(await stand.connect())
        (reason,) = stand.refusals
        assert "did not name a folder" in reason


async def test_a_folder_that_is_taken_back_is_served_no_longer(stand):
    async with stand.shared(write=True) as (path, mounted):
        guest, _ = await stand.guest()
        handle = await guest.open(f"{HERE}/file", sftp.FOR_WRITING)
    # Its process has ended, and with it what the guest had open.
    assert mounted.over.is_set()
    assert not mounted.kept
    with pytest.raises((EOFError, trio.BrokenResourceError)):
        await guest.code(sftp.WRITE, text(handle) + struct.pack(">Q", 0) + text("late"))
    assert (path / "file").read_text() == "docs"


async def test_a_guest_that_goes_loses_its_folder(stand):
    async with stand.shared() as (_, mounted):
        _, stream = await stand.guest()
        await stream.aclose()
        with pytest.raises(Exception, match="closed its connection to the folder"):
            with trio.fail_after(60):
                await mounted.lost()


async def test_nonsense_ends_one_connection(stand):
    async with stand.shared(), stand.shared("more") as (_, other):
        _, first = await stand.guest()
        second, _ = await stand.guest(place=other.place)
        await first.send_all(b"\xff" * 4096)
        assert await ended(first)
        assert await second.names(HERE) == {"file"}


async def test_many_open_files_are_the_guests_own_trouble(stand):
    async with stand.shared():
        guest, _ = await stand.guest()
        failed = 0
        for _ in range(folder_limits.FOLDER_SERVER_FILES):
            failed += isinstance(await guest.open(f"{HERE}/file"), int)
        assert failed
        assert await guest.read(f"{HERE}/file") == sftp.FAILURE


async def test_more_folders_than_places(stand):
    async with AsyncExitStack() as stack:
        for number in range(limits.FOLDERS_PER_SANDBOX):
            await stack.enter_async_context(stand.shared(f"docs{number}"))
        with pytest.raises(RefusedError, match="shared folders"):
            await stack.enter_async_context(stand.shared("more"))
