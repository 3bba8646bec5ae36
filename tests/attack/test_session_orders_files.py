"""Attack: a viewer that was taken over orders what nobody has permitted, of files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import msgspec
import pytest
import trio

from broker.core.errors import PeerError, RefusedError, UpstreamError
from broker.core.paths import find_paths
from broker.core.services import FILE_COPY, FILE_DIALOG, OPEN_FILE, OPEN_URL, PRINT
from broker.core.transfer.urls import take_url
from broker.helpers.process.memory_file import memory_file
from broker.helpers.process.spawn import DEVNULL, spawn
from broker.helpers.tools.profiles import FILES
from broker.ipc.control.api import OpenRequest
from broker.ipc.guest.file_requests import ChooseFiles
from broker.ipc.sealed_memfd import sealed
from broker.ipc.session import file_orders as m
from broker.ipc.session.warrant import sign
from broker.session.printing import document
from broker.session.read_warrant import FileTicket
from broker.viewer.exchange.pipes import pipe
from broker.viewer.transfer.own import Own
from shims.bundle import carried_tool
from shims.files.protocol import LENGTH
from tests.kit.eventually import eventually
from tests.kit.listening import takes_connections
from tests.kit.session import Signed, starter_of_orders

SECRET = "a private key"
PORTAL = """
import json, sys
from jeepney import *
from jeepney.bus_messages import message_bus
from jeepney.io.blocking import open_dbus_connection
uris, log = json.loads(sys.argv[1]), open(sys.argv[2], "a", buffering=1)
with open_dbus_connection() as bus:
    bus.send_and_get_reply(message_bus.RequestName("org.freedesktop.portal.Desktop"))
    print("ready", file=log)
    while True:
        got = bus.receive()
        if got.header.message_type is not MessageType.method_call:
            continue
        fields = got.header.fields
        member, sender = fields[HeaderFields.member], fields[HeaderFields.sender]
        if member == "Get":
            bus.send(new_method_return(got, "v", (("u", 4),)))
            continue
        print(json.dumps([member, *got.body[1:2]]), file=log)
        if member == "Close":
            bus.send(new_method_return(got))
            continue
        place = sender.lstrip(":").replace(".", "_")
        token = got.body[2]["handle_token"][1]
        handle = f"/org/freedesktop/portal/desktop/request/{place}/{token}"
        bus.send(new_method_return(got, "o", (handle,)))
        if uris is not None:
            path = DBusAddress(handle, interface="org.freedesktop.portal.Request")
            body = (0, {"uris": ("as", uris)})
            bus.send(new_signal(path, "Response", "ua{sv}", body))
"""


@pytest.fixture(name="home")
def _home(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home/id").write_text(SECRET)
    return tmp_path / "home"


@contextmanager
def desktop(home, **more):
    """Yield the orders of a viewer whose user has this home."""
    environ = {**os.environ, "HOME": str(home), **more}
    environ |= {f"XDG_{name}_HOME": str(home / name) for name in ("CACHE", "CONFIG")}
    with starter_of_orders(environ) as session:
        yield session


def programs(home, *names):
    """Put programs into a directory that write down how they were called."""
    folder = home.parent / "bin"
    folder.mkdir()
    for name in names:
        (folder / name).write_text(
            f"#!{sys.executable}\nimport json, sys\n"
            f"with open({str(home.parent / 'called')!r}, 'a') as out:\n"
            "    print(json.dumps(sys.argv[1:]), file=out)\n"
        )
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def called(home):
    """Return the command lines of these programs."""
    place = home.parent / "called"
    return [*map(json.loads, place.read_text().splitlines())] if place.exists() else []


async def order_with(session, order, ticket, *fds):
    """Carry out an order with a ticket, and wait for its second answer."""
    with ExitStack() as stack:
        fd = memory_file(stack, ticket)
        async with session.carrying_out(order, [fd, *fds]) as begun:
            return await begun.outcome()


def ticket_of(*fields, ago=0.0):
    """Return a ticket that a session child has made then."""
    return FileTicket(time.monotonic() - ago, *fields)


# -- tickets ---------------------------------------------------------------------------


TICKETS = {
    "none": lambda session, path: b"",
    "other key": lambda session, path: sign(b"x" * 32, ticket_of("send", (path,))),
    "changed": lambda session, path: (
        sign(session.key, ticket_of("send", (b"/x",)))[:32]
        + msgspec.json.encode(ticket_of("send", (path,)))
    ),
    "permit": lambda session, path: session.permit(FILE_COPY),
    "call": lambda session, path: session.call("Open", OpenRequest(copy=["/x"])),
    "save": lambda session, path: sign(
        session.key, ticket_of("save", (path,), "work", ("-",))
    ),
    "edit": lambda session, path: sign(session.key, ticket_of("edit", (path,))),
}


@pytest.mark.parametrize("forge", TICKETS.values(), ids=TICKETS)
async def test_only_files_that_were_named_or_chosen_are_sent(home, forge):
    with desktop(home) as session, pipe() as (read, write):
        ticket = forge(session, os.fsencode(home / "id"))
        with pytest.raises(RefusedError):
            await order_with(session, m.SendFiles(), ticket, write.fileno())
        write.close()
        assert os.read(read.fileno(), 100) == b""


@pytest.mark.parametrize("order", [m.EditFile("work"), m.SaveFile(0)])
async def test_a_file_that_is_to_be_sent_is_not_replaced(home, order):
    with desktop(home) as session, pipe() as (read, write):
        ticket = sign(session.key, ticket_of("send", (os.fsencode(home / "id"),)))
        ends = [read.fileno()]
        if isinstance(order, m.EditFile):
            ends.insert(0, write.fileno())
        with pytest.raises(RefusedError, match="the user chose the files to"):
            await order_with(session, order, ticket, *ends)
    assert (home / "id").read_text() == SECRET


async def _edited(session, ticket, text):
    """Edit a file of a ticket, as its sandbox would."""
    read, write = os.pipe()
    with pipe() as (entries, back), os.fdopen(write, "wb") as out:
        entry = {"type": "file", "path": ["notes"], "size": len(text)}
        for message, content in ((entry, text), ({"type": "end"}, b"")):
            data = json.dumps(message).encode()
            out.write(LENGTH.pack(len(data)) + data + content)
        out.flush()
        fds = [back.fileno(), read]
        fd = sealed([ticket])
        try:
            async with session.carrying_out(m.EditFile("work"), [fd, *fds]) as begun:
                out.close()
                return await begun.outcome()
        finally:
            os.close(fd)
            os.close(read)
            assert entries


async def test_a_file_that_is_named_once_is_edited_once(home):
    """What the user has written since is not replaced, and not read."""
    notes = home / "notes"
    notes.write_text("before")
    with desktop(home) as session:
        request = OpenRequest(path=str(notes), edit=True)
        ticket, another = [
            (await Own(session).named(session.call("Open", request), ())).ticket
            for _ in range(2)
        ]
        await _edited(session, ticket, b"edited")
        assert notes.read_text() == "edited"
        with pytest.raises(RefusedError, match="changed since"):
            await _edited(session, another, b"attack")
        assert notes.read_text() == "edited"


async def test_a_ticket_outlives_the_warrant_of_its_call(home):
    """A sandbox may have to be started, and the user to be asked, before the copy."""
    with desktop(home) as session, pipe() as (read, write):
        ticket = sign(session.key, ticket_of("send", (os.fsencode(home / "id"),)))
        await order_with(session, m.SendFiles(), ticket, write.fileno())
        write.close()
        assert SECRET.encode() in os.read(read.fileno(), 4096)


@pytest.mark.parametrize("order", [m.SendFiles(), m.FindNamedFiles(), m.KeepPages("x")])
async def test_an_order_without_its_descriptors_is_refused(home, order):
    with desktop(home) as session:
        message = await session.refusal(type(order).__name__, order)
        assert "the viewer sent 0 descriptors" in message


# -- calls -----------------------------------------------------------------------------


CALLS = {
    "permit": lambda session, request: session.permit(OPEN_FILE),
    "other": lambda session, request: session.call("Run", request),
    "old": lambda session, request: session.call(
        "Open", request, at=time.monotonic() - 61
    ),
    "changed": lambda session, request: session.call("Open", request)[:-1] + b" ",
}


@pytest.mark.parametrize("forge", CALLS.values(), ids=CALLS)
async def test_only_files_that_the_user_calls_about_are_found(home, forge):
    with desktop(home) as session:
        request = OpenRequest(path=str(home / "id"))
        with pytest.raises(RefusedError):
            await Own(session).named(forge(session, request), ())


@pytest.mark.parametrize("writer", ["sandboxes.d/work", "services.d/notes"])
async def test_links_in_a_records_directory_are_known_without_the_viewer(home, writer):
    """It leaves out the directory where a sandbox has planted one."""
    (home / "shared").mkdir()
    (home / "shared/report.pdf").symlink_to("../id")
    file = home / "CONFIG/vitrail" / f"{writer}.toml"
    file.parent.mkdir(parents=True)
    file.write_text(
        f'command = ["cat"]\nwrite = ["{home}/shared"]\n'
        if writer.startswith("services.d")
        else 'class = "disposable"\n[launch]\nkind = "bwrap"\n'
        f'bind_read_write = ["{home}/shared"]\n'
    )
    with desktop(home) as session:
        call = session.call("Open", OpenRequest(path=f"{home}/shared/report.pdf"))
        with pytest.raises(RefusedError, match="link that a sandbox may have created"):
            await Own(session).named(call, ())


# -- addresses -------------------------------------------------------------------------


URL = "https://good.example/"
URLS = {
    "service": {"service": FILE_COPY},
    "host": {"host": "evil.example"},
    "no host": {"host": None},
    "scheme": {"scheme": "http"},
    "target": {"target": "work"},
    "the rest of it": {"about": f"{URL}other"},
}


@pytest.mark.parametrize("fields", URLS.values(), ids=URLS)
async def test_an_address_needs_its_own_permit(home, fields):
    with desktop(home, **programs(home, "gio")) as session:
        good = {"scheme": "https", "host": "good.example", "about": URL}
        warrant = session.permit(**{"service": OPEN_URL, **good, **fields})
        with pytest.raises(RefusedError):
            await session.carry_out(Signed(warrant, m.OpenAddress(URL)))
        await session.carry_out(
            Signed(session.permit(OPEN_URL, **good), m.OpenAddress(URL))
        )
    assert called(home) == [["open", "--", URL]]


async def test_a_scheme_needs_a_rule_that_names_it(home):
    with desktop(home, **programs(home, "gio")) as session:
        url = "matrix:u/a:b.c"
        fields = {"scheme": "matrix", "host": take_url(url, None).host, "about": url}
        warrant = session.permit(OPEN_URL, **fields)
        with pytest.raises(RefusedError, match="names the scheme"):
            await session.carry_out(Signed(warrant, m.OpenAddress(url)))
        assert not called(home)
        warrant = session.permit(OPEN_URL, **fields, schemes=("matrix",))
        await session.carry_out(Signed(warrant, m.OpenAddress(url)))
    assert len(called(home)) == 1


@pytest.mark.parametrize("url", ["file:///etc/passwd", "--help", "/etc/passwd", "x"])
async def test_what_is_not_an_address_is_not_opened(home, url):
    with desktop(home, **programs(home, "gio")) as session:
        fields = {"scheme": url.partition(":")[0], "host": None, "about": url}
        warrant = session.permit(OPEN_URL, **fields, schemes=(fields["scheme"],))
        with pytest.raises(RefusedError):
            await session.carry_out(Signed(warrant, m.OpenAddress(url)))
    assert not called(home)


@pytest.mark.parametrize(
    "request_",
    [
        OpenRequest(url="https://other.example/", sandbox="dom0"),
        OpenRequest(url=URL, sandbox="work"),
        OpenRequest(url=URL),
        OpenRequest(path="/x", sandbox="dom0"),
    ],
)
async def test_the_user_opens_the_address_of_the_call(home, request_):
    with desktop(home, **programs(home, "gio")) as session:
        warrant = session.call("Open", request_)
        with pytest.raises(RefusedError, match="not named this address"):
            await session.carry_out(Signed(warrant, m.OpenNamedAddress(URL)))
        warrant = session.call("Open", OpenRequest(url=URL, sandbox="dom0"))
        await session.carry_out(Signed(warrant, m.OpenNamedAddress(URL)))
    assert called(home) == [["open", "--", URL]]


# -- what is kept ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("service", "fields"),
    [(OPEN_FILE, {}), (FILE_DIALOG, {}), (FILE_COPY, {"target": "work"})],
)
async def test_files_are_kept_by_a_permit_of_copies_to_the_desktop(
    home, service, fields
):
    with desktop(home) as session, pipe() as (read, _write):
        order = Signed(session.permit(service, **fields), m.StoreFiles())
        with pytest.raises(RefusedError):
            await session.carry_out(order, [read.fileno()])
    assert not (home / "Incoming").exists()


def _stored(name, content):
    """Return the entries of a file, as a worker writes them into a pipe."""
    parts = ({"type": "file", "path": [name], "size": len(content)}, {"type": "end"})
    head, end = (json.dumps(part).encode() for part in parts)
    return b"".join([LENGTH.pack(len(head)), head, content, LENGTH.pack(len(end)), end])


async def _store(session, name=b"evil.desktop"):
    """Have the files of a permitted copy kept at the desktop."""
    with pipe() as (read, write):
        os.write(write.fileno(), _stored(name.decode(), b"attack"))
        write.close()
        order = Signed(session.permit(FILE_COPY, sandbox="work-1234"), m.StoreFiles())
        async with session.carrying_out(order, [read.fileno()]) as child:
            await child.outcome()


def _writer(home, *paths):
    """Have a sandbox write to these directories, by its record."""
    records = home / "CONFIG/vitrail/sandboxes.d"
    records.mkdir(parents=True)
    (records / "writer.toml").write_text(
        'class = "persistent"\n[launch]\nkind = "bwrap"\n'
        f"bind_read_write = {json.dumps([str(path) for path in paths])}\n"
    )


LINKS = {"of its own name": "Incoming/work-1234", "of the folder": "Incoming"}


@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)
async def test_files_denied_through_a_sandboxs_link_in_incoming(home, link):
    """Nothing is kept in, or made below, a directory that the sandbox chose."""
    (home / ".config/autostart").mkdir(parents=True)
    path = home / link
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(home / ".config/autostart")
    _writer(home, path.parent)
    with desktop(home) as session, pytest.raises(RefusedError, match="a sandbox"):
        await _store(session)
    assert list((home / ".config/autostart").iterdir()) == []


async def test_files_denied_where_a_sandbox_writes_to_incoming(home):
    """It could exchange what another sandbox sends, before the user opens it."""
    (home / "Incoming").mkdir()
    _writer(home, home / "Incoming")
    with desktop(home) as session, pytest.raises(RefusedError, match="can write to"):
        await _store(session)
    assert list((home / "Incoming").iterdir()) == []


async def test_files_kept_where_the_users_own_link_leads(home):
    (home / "Downloads").mkdir()
    (home / "Incoming").symlink_to("Downloads/sandboxes")
    with desktop(home) as session:
        await _store(session, b"notes.txt")
    notes = home / "Downloads/sandboxes/work-1234/notes.txt"
    assert notes.read_bytes() == b"attack"


async def test_link_made_after_the_check_is_not_stored_through(home, tmp_path):
    """The jailed program makes no directory and follows no link of its path."""
    (home / ".config/autostart").mkdir(parents=True)
    (home / "Incoming").mkdir()
    (home / "Incoming/work").symlink_to(home / ".config/autostart")
    tool = tmp_path / "tool"
    tool.write_bytes(carried_tool(FILES.verbs))
    argv = [sys.executable, "-I", tool, "store", home / "Incoming/work", "work", "0"]
    ended = subprocess.run(
        argv,
        check=False,
        input=_stored("evil.desktop", b"attack"),
        capture_output=True,
    )
    assert ended.returncode
    assert b"Incoming/work" in ended.stderr
    assert list((home / ".config/autostart").iterdir()) == []


# -- the dialog ------------------------------------------------------------------------


@asynccontextmanager
async def portal(home, uris):
    """Yield the orders of a desktop whose chooser answers this, and its calls."""
    log, address = home.parent / "log", f"unix:path={home.parent}/bus"
    words = ["dbus-daemon", "--session", "--nofork", "--nopidfile"]
    bus = spawn([*words, f"--address={address}"], stdout=DEVNULL, stderr=DEVNULL)
    try:
        await eventually(lambda: takes_connections(home.parent / "bus"))
        env = {**os.environ, "DBUS_SESSION_BUS_ADDRESS": address}
        argv = [sys.executable, "-c", PORTAL, json.dumps(uris), str(log)]
        chooser = spawn(argv, env=env, stdout=DEVNULL)
        try:
            await eventually(log.exists)
            await eventually(lambda: "ready" in log.read_text())

            def calls():
                return [*map(json.loads, log.read_text().splitlines()[1:])]

            with desktop(home, DBUS_SESSION_BUS_ADDRESS=address) as session:
                yield session, calls
        finally:
            await chooser.stop()
    finally:
        await bus.stop()


@pytest.mark.parametrize(
    ("service", "fields", "ask"),
    [
        (FILE_COPY, {"argument": "+open"}, ChooseFiles("open")),
        (FILE_DIALOG, {"argument": "+save"}, ChooseFiles("open")),
        (FILE_DIALOG, {"argument": "+open"}, ChooseFiles("save")),
        (FILE_DIALOG, {"argument": "+open", "target": "work"}, ChooseFiles("open")),
        (FILE_DIALOG, {"argument": "+save"}, ChooseFiles("save", names=("../x",))),
    ],
)
async def test_a_dialog_needs_its_own_permit(home, service, fields, ask):
    async with portal(home, [f"file://{home}/id"]) as (session, calls):
        warrant = session.permit(service, **fields)
        with pytest.raises((RefusedError, PeerError)):
            await Own(session).choose(ask, warrant, ())
        assert calls() == []


async def test_a_dialog_names_the_sandbox_and_its_choice_is_the_permission(home):
    async with portal(home, [f"file://{home}/id"]) as (session, calls):
        own = Own(session)
        warrant = session.permit(FILE_DIALOG, argument="+open", sandbox="web-1")
        found = await own.choose(ChooseFiles("open", name="x"), warrant, ())
        assert calls() == [["OpenFile", "web-1: open files"]]
        assert found.found.names == ("id",)
        with pipe() as (read, write):
            async with own.sending(found.ticket, write):
                data = await trio.to_thread.run_sync(os.read, read.fileno(), 4096)
        assert data
        # It is a choice to read, and nothing is saved by it.
        with pipe() as (read, _), pytest.raises(RefusedError):
            await order_with(session, m.SaveFile(0), found.ticket, read.fileno())


async def test_a_choice_to_save_replaces_what_was_there_then(home):
    async with portal(home, [f"file://{home}/id"]) as (session, _calls):
        warrant = session.permit(FILE_DIALOG, argument="+save")
        found = await Own(session).choose(ChooseFiles("save"), warrant, ())
        (home / "id").write_text("changed since")
        with pipe() as (read, write), pytest.RaisesGroup(UpstreamError):
            async with Own(session).saving(found.ticket, 0, read, ""):
                head = json.dumps({"type": "file", "path": ["x"], "size": 1}).encode()
                end = b'{"type":"end"}'
                for part in (head, b"x", end):
                    size = b"" if part == b"x" else len(part).to_bytes(4, "little")
                    os.write(write.fileno(), size + part)
                write.close()
        assert (home / "id").read_text() == "changed since"
        # Nothing but that file has a number.
        with (
            pipe() as (read, _),
            pytest.raises(RefusedError, match="files were chosen"),
        ):
            await order_with(session, m.SaveFile(1), found.ticket, read.fileno())


async def test_more_files_than_one_are_asked_for(home):
    async with portal(home, [f"file://{home}/id", f"file://{home}/x"]) as (session, _):
        several = ChooseFiles("open", several=True)
        first, second = [
            session.permit(FILE_DIALOG, argument="+open") for _ in range(2)
        ]
        with pytest.raises(UpstreamError, match="more than one"):
            await Own(session).choose(ChooseFiles("open"), first, ())
        found = await Own(session).choose(several, second, ())
        assert found.found.files == 2


async def test_a_dialog_that_is_given_up_is_closed(home):
    async with portal(home, None) as (session, calls):
        async with trio.open_nursery() as nursery:
            warrant = session.permit(FILE_DIALOG, argument="+open")
            nursery.start_soon(Own(session).choose, ChooseFiles("open"), warrant, ())
            await eventually(lambda: len(calls()) == 1)
            nursery.cancel_scope.cancel()
        # It is closed before the place for another dialog is free.
        assert [member for member, *_ in calls()] == ["OpenFile", "Close"]


# -- printing --------------------------------------------------------------------------


def made(home):
    """Put a document where a child would have; returns its name in orders."""
    folder = home / "CACHE/vitrail-printing/tmpx"
    folder.mkdir(parents=True)
    (folder / "work-1.pdf").write_text("%PDF")
    return "tmpx/work-1.pdf"


@pytest.mark.parametrize(
    ("change", "permit"),
    [
        ({"printer": "-oraw"}, {}),
        ({"printer": "a b"}, {}),
        ({"document": "../../id"}, {}),
        ({"document": "tmpx/../../../id.pdf"}, {}),
        ({"document": "tmpx/none.pdf"}, {}),
        ({}, {"service": FILE_COPY}),
        ({}, {"target": "work"}),
        ({}, {"printer": "Home"}),
        ({}, {"about": "Home"}),
        ({}, {"about": ""}),
    ],
)
async def test_only_a_document_of_ours_is_printed_by_its_permit(home, change, permit):
    (home / "id.pdf").write_text(SECRET)
    with desktop(home, **programs(home, "lp")) as session:
        name = made(home)
        good = {"service": PRINT, "about": "Office/two"}
        order = Signed(session.permit(**good), m.PrintDocument(name, "Office/two", "t"))
        bad = msgspec.structs.replace(order.order, **change)
        warrant = session.permit(**{**good, **permit})
        assert await session.refusal("PrintDocument", bad, warrant=warrant)
        assert not called(home)
        await session.carry_out(order)
    ((*words, path),) = called(home)
    assert words == ["-d", "Office/two", "-t", "web-1: t"]
    assert path.endswith("vitrail-printing/tmpx/work-1.pdf")


def test_documents_are_in_no_directory_of_the_viewers(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    paths = find_paths()
    with document("work-1") as path:
        for place in (paths.cache, paths.state, paths.runtime):
            assert not Path(path).is_relative_to(place)
