"""A viewer that was taken over orders directories that nobody has shared.

The child that opens a directory is the only way to the host's mounts, so whatever it
does not give is mounted in no sandbox.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from broker.core.errors import PeerError, RefusedError
from broker.core.services import AUDIO, BLOCK, FOLDER
from broker.host.folders.given import GivenFolders
from broker.ipc.session.folder_orders import (
    DrawIcons,
    GiveFolder,
    OpenFolder,
    OpenRecordFolder,
    ServeFolder,
)
from tests.kit.records import shown_record
from tests.kit.session import Signed, starter_of_orders

RECORD = """\
class = "persistent"
display = "allow"
[launch]
kind = "bwrap"
[label]
colour = "blue"
[folders]
read_only = ["{home}/read"]
read_write = ["{home}/written"]
[[mounts]]
kind = "directory"
at = "/srv/placed"
source = "{home}/placed"
"""
MACHINE = """\
class = "persistent"
display = "allow"
[[disks]]
tag = "data"
source = "{home}/data.img"
"""

BOX = shown_record(
    'kind = "bwrap"',
    'rootfs = "{home}/trees/debian"',
    "[folders]",
    'read_write = ["{home}/trees"]',
)


@pytest.fixture
def home(tmp_path):
    home = tmp_path / "home"
    (home / "trees/debian/usr").mkdir(parents=True)
    for name in ("docs", "read", "written", "placed", "other/docs", ".ssh"):
        (home / name).mkdir(parents=True)
    records = home / ".config/vitrail/sandboxes.d"
    records.mkdir(parents=True)
    (records / "web.toml").write_text(RECORD.format(home=home))
    (records / "machine.toml").write_text(MACHINE.format(home=home))
    (records / "other.toml").write_text(BOX.format(home=home))
    (home / "data.img").write_bytes(b"data")
    (home / "other.img").write_bytes(b"other")
    return home


@pytest.fixture
def session(home):
    environ = {k: v for k, v in os.environ.items() if not k.startswith("XDG_")}
    environ |= {"HOME": str(home), "XDG_RUNTIME_DIR": "/nonexistent/run"}
    with starter_of_orders(environ) as orders:
        yield orders


def share(session, path, *, write=False, sandbox="web"):
    return session.call("FolderShare", path=str(path), sandbox=sandbox, write=write)


def permit(session, home, name="docs", **fields):
    fields = {"about": str(home / name), **fields}
    return session.permit(FOLDER, argument=f"+{name}", **fields)


async def given(session, order, warrant):
    """What the host gets: the folder's path, and whether it may be written to."""
    async with session.carrying_out(order) as opened:
        ticket = (await opened.more(Signed(warrant, GiveFolder()))).value.ticket
        folder, write, holder = GivenFolders(session.host).take(ticket, "web-1")
        os.close(holder)
        try:
            assert os.path.samestat(os.fstat(folder.fd), folder.path.stat())
        finally:
            folder.close()
        return folder.path, write


@pytest.mark.parametrize("write", [False, True])
async def test_the_host_gets_what_the_user_shares(session, home, write):
    path = home / "docs"
    order = Signed(share(session, path, write=write), OpenFolder(str(path), write))
    assert await given(session, order, permit(session, home, write=write)) == (
        path,
        write,
    )


async def test_the_host_gets_the_folders_of_a_record(session, home):
    for name, write in (("read", False), ("written", True)):
        order = OpenRecordFolder(str(home / name), write, record="web")
        warrant = permit(session, home, name, write=write)
        assert await given(session, order, warrant) == (home / name, write)


async def test_the_host_learns_the_place_of_a_mount_from_the_record(session, home):
    order = OpenRecordFolder(str(home / "placed"), False, record="web")
    async with session.carrying_out(order) as opened:
        await opened.more(Signed(permit(session, home, "placed"), GiveFolder()))
        (message, folder, holder) = kept(session)
        os.close(holder)
        folder.close()
        assert (message.at, message.tag) == ("/srv/placed", "")


def kept(session):
    """What the child has sent to the host."""
    given_folders = GivenFolders(session.host)
    given_folders._receive()
    ((message, folder, holder),) = given_folders._given.values()
    return message, folder, holder


def image(home, name="data.img", *, write=False, tag="data", record="machine"):
    return OpenRecordFolder(str(home / name), write, record=record, tag=tag)


async def test_the_host_gets_the_image_of_a_record(session, home):
    about = str(home / "data.img")
    warrant = session.permit(
        BLOCK, argument="+data", about=about, sandbox="machine", record="machine"
    )
    async with session.carrying_out(image(home)) as opened:
        await opened.more(Signed(warrant, GiveFolder()))
        message, folder, holder = kept(session)
        os.close(holder)
        assert (message.tag, message.write) == ("data", False)
        assert os.read(folder.fd, 9) == b"data"
        folder.close()


@pytest.mark.parametrize(
    "forged",
    [
        {"name": "other.img"},
        {"write": True},
        {"tag": "other"},
        {"record": "web"},
        {"record": "mail"},
    ],
)
async def test_a_disk_that_no_record_has(session, home, forged):
    with pytest.raises(RefusedError, match="has no such disk"):
        await session.carry_out(image(home, **forged))


async def test_a_permit_for_a_folder_attaches_no_disk(session, home):
    about = str(home / "data.img")
    for service, argument in ((FOLDER, "+data"), (BLOCK, "+other")):
        warrant = session.permit(
            service, argument=argument, about=about, sandbox="machine", record="machine"
        )
        async with session.carrying_out(image(home)) as opened:
            with pytest.raises(RefusedError, match="permit is for"):
                await opened.more(Signed(warrant, GiveFolder()))


@pytest.mark.parametrize(
    ("forge", "write"),
    [
        (lambda session, home: b"-", False),
        (permit, False),
        (lambda session, home: session.call("FilesOpen", path="docs"), False),
        (lambda session, home: share(session, home / "other"), False),
        (lambda session, home: share(session, home / "docs"), True),
    ],
    ids=["none", "a permit", "another call", "another path", "to read only"],
)
async def test_a_folder_that_the_user_did_not_share(session, home, forge, write):
    order = Signed(forge(session, home), OpenFolder(str(home / "docs"), write))
    with pytest.raises(RefusedError):
        await session.carry_out(order)


@pytest.mark.parametrize(
    ("name", "write", "record"),
    [
        ("docs", False, "web"),
        ("read", True, "web"),
        ("read", False, "mail"),
        ("read/../docs", False, "web"),
    ],
)
async def test_a_folder_that_no_record_has(session, home, name, write, record):
    order = OpenRecordFolder(f"{home}/{name}", write, record=record)
    with pytest.raises(RefusedError, match=r"has no read_(only|write) folder"):
        await session.carry_out(order)


async def test_link_of_a_service_is_not_shared(session, home):
    folder = home / ".config/vitrail/services.d"
    folder.mkdir()
    (folder / "notes.toml").write_text(f'command = ["cat"]\nwrite = ["{home}/other"]\n')
    (home / "other/link").symlink_to("../docs")
    path = str(home / "other/link")
    with pytest.raises(RefusedError, match="link that a sandbox may have created"):
        await session.carry_out(Signed(share(session, path), OpenFolder(path, False)))


@pytest.mark.parametrize("name", ["trees", "trees/debian", "trees/debian/usr"])
async def test_the_programs_of_a_box_are_not_shared_to_write(session, home, name):
    """The sandbox would choose what the box runs, which may run already."""
    path = str(home / name)
    order = Signed(share(session, path, write=True), OpenFolder(path, True))
    with pytest.raises(RefusedError, match=r"'other' has its programs \(rootfs\)"):
        await session.carry_out(order)
    order = Signed(share(session, path), OpenFolder(path, False))
    permitted = permit(session, home, name.rpartition("/")[2], about=path)
    assert await given(session, order, permitted) == (Path(path), False)


OVERLAPS = {
    "below a folder to change": ("written/hooks", False),
    "above a folder to read": ("above", True),
    "below a folder to change, by the user's link": ("link/hooks", False),
}


@pytest.mark.parametrize(("name", "write"), OVERLAPS.values(), ids=OVERLAPS)
async def test_share_denied_if_the_record_undoes_it(session, home, name, write):
    """The sandbox could change by its record's folder what it may only read."""
    (home / "written/hooks").mkdir()
    (home / "above/inner").mkdir(parents=True)
    (home / "read").rmdir()
    (home / "read").symlink_to("above/inner")
    (home / "link").symlink_to("written")
    path = (home / name).resolve()
    order = Signed(
        share(session, home / name, write=write), OpenFolder(f"{home}/{name}", write)
    )
    warrant = permit(
        session, home, path.name, about=str(path), write=write, record="web"
    )
    with pytest.raises(
        RefusedError, match=r"web may only read .*, but could change it"
    ):
        await given(session, order, warrant)


@pytest.mark.parametrize("name", ["Incoming", "arrivals", "arrivals/here"])
async def test_share_to_write_denied_for_incoming(session, home, name):
    """The sandbox would choose, by a link, where files of another one are kept."""
    if name != "Incoming":
        (home / "arrivals/here").mkdir(parents=True)
        (home / "Incoming").symlink_to("arrivals/here")
    else:
        (home / "Incoming").mkdir()
    path = str(home / name)
    order = Signed(share(session, path, write=True), OpenFolder(path, True))
    with pytest.raises(RefusedError, match="files of all sandboxes arrive"):
        await session.carry_out(order)
    order = Signed(share(session, path), OpenFolder(path, False))
    permitted = permit(session, home, name.rpartition("/")[2], about=path)
    assert await given(session, order, permitted) == (Path(path), False)


async def test_directory_in_incoming_shared_to_write(session, home):
    """What has arrived from one sandbox may be the project of another one."""
    path = home / "Incoming/web-1"
    path.mkdir(parents=True)
    order = Signed(share(session, path, write=True), OpenFolder(str(path), True))
    permitted = permit(session, home, "web-1", about=str(path), write=True)
    assert await given(session, order, permitted) == (path, True)


@pytest.mark.parametrize("name", ["links", "links/more"])
async def test_a_link_to_the_programs_of_a_box_is_not_shared_to_write(
    session, home, name
):
    """The sandbox would have it lead to a tree of its own, also once it has ended."""
    (home / "links/more").mkdir(parents=True)
    (home / "links/more/current").symlink_to("../../trees/debian")
    (home / "links/current").symlink_to("more/current")
    text = BOX.format(home=home).partition("[folders]")[0]
    record = home / ".config/vitrail/sandboxes.d/other.toml"
    record.write_text(text.replace("trees/debian", "links/current"))
    path = str(home / name)
    order = Signed(share(session, path, write=True), OpenFolder(path, True))
    with pytest.raises(RefusedError, match=r"'other' has its programs \(rootfs\)"):
        await session.carry_out(order)
    path = str(home / "written")
    order = Signed(share(session, path, write=True), OpenFolder(path, True))
    permitted = permit(session, home, "written", about=path, write=True)
    assert await given(session, order, permitted) == (Path(path), True)


async def test_a_record_does_not_write_to_the_programs_of_a_box(session, home):
    order = OpenRecordFolder(f"{home}/trees", True, record="other")
    with pytest.raises(RefusedError, match="has its programs"):
        await session.carry_out(order)


async def test_a_secret_that_the_user_named(session, home):
    """The viewer has no say in which directories are never shared."""
    for place in (".ssh", ".config/vitrail"):
        path = home / place
        with pytest.raises(RefusedError, match="cannot share"):
            await session.carry_out(
                Signed(share(session, path), OpenFolder(str(path), False))
            )


@pytest.mark.parametrize(
    "fields",
    [
        {"write": False},
        {"argument": "+other"},
        {"about": "/another/docs"},
        {"sandbox": "mail-1", "record": "mail"},
        {"target": "mail"},
    ],
    ids=["to read", "folder", "path", "sandbox", "target"],
)
async def test_a_permit_for_something_else(session, home, fields):
    path = home / "docs"
    order = Signed(share(session, path, write=True), OpenFolder(str(path), True))
    good = {"argument": "+docs", "about": str(path), "write": True}
    warrant = session.permit(FOLDER, **good | fields)
    async with session.carrying_out(order) as opened:
        with pytest.raises(RefusedError):
            await opened.more(Signed(warrant, GiveFolder()))
    session.host.setblocking(False)
    with pytest.raises(BlockingIOError):
        session.host.recv(1)


async def test_a_permit_for_another_service(session, home):
    path = home / "docs"
    order = Signed(share(session, path), OpenFolder(str(path), False))
    async with session.carrying_out(order) as opened:
        with pytest.raises(RefusedError):
            await opened.more(
                Signed(session.permit(AUDIO, argument="+docs"), GiveFolder())
            )


async def test_a_folder_that_was_given_to_no_one_is_not_served(session, home):
    path = home / "docs"
    session.host.close()
    for first in (Signed(permit(session, home), GiveFolder()), ServeFolder()):
        with pytest.raises(PeerError, match="does not belong to this order"):
            await session.carry_out(first, [0] * isinstance(first, ServeFolder))
    order = Signed(share(session, path), OpenFolder(str(path), False))
    async with session.carrying_out(order) as opened:
        with pytest.raises(PeerError, match="does not belong to this order"):
            await opened.more(ServeFolder(), [0])


async def test_the_viewer_is_not_served_the_folders_of_this_machine(session, home):
    """It would read them itself."""
    path = home / "docs"
    order = Signed(share(session, path), OpenFolder(str(path), False))
    async with session.carrying_out(order) as opened:
        await opened.more(Signed(permit(session, home), GiveFolder()))
        with pytest.raises(PeerError, match="does not belong to this order"):
            await opened.more(ServeFolder(), [0])


async def test_icons_are_drawn_by_their_records_alone(session, home):
    """The viewer says neither how an icon looks, nor which there are."""
    icons = home / ".local/share/icons/hicolor/scalable/apps"
    icons.mkdir(parents=True)
    ours, other = icons / "vitrail-sandbox-web.svg", icons / "vitrail-sandbox-x.svg"
    for file in (ours, other):
        file.write_text("before")
    await session.carry_out(DrawIcons())
    assert "#" in ours.read_text()
    assert other.read_text() == "before"
    assert sorted(icons.iterdir()) == [ours, other]


def test_a_folders_child_has_no_event_loop():
    code = "import broker.session.folders.shared_folder, sys; sys.exit('trio' in sys.modules)"
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
