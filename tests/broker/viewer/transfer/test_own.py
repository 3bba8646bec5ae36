"""The user's own files and programs, as children of a starter carry out orders about them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from broker.core.errors import RefusedError, SetupError, UpstreamError
from broker.core.services import OPEN_URL
from broker.core.transfer.quota import Quota
from broker.core.transfer.urls import take_url
from broker.ipc.control.api import OpenRequest
from broker.session.transfer.links import LOOP
from broker.viewer.exchange.guest_connection import Delivery
from broker.viewer.exchange.pipes import pipe
from broker.viewer.transfer.own import Own
from tests.kit.session import starter_of_orders

QUOTA = Quota(1 << 20, 1 << 20, 100)


@contextmanager
def desktop(home, **more):
    """Yield the user's files in this directory, and the session."""
    home.mkdir(exist_ok=True)
    with starter_of_orders({**os.environ, "HOME": str(home), **more}) as session:
        yield Own(session), session


def recorder(tmp_path, code=0):
    """Put a program 'gio' into a directory, which writes down how it was called."""
    script = tmp_path / "bin/gio"
    script.parent.mkdir()
    script.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        f"json.dump([sys.argv[1:], dict(os.environ)], open({str(tmp_path / 'called')!r}, 'w'))\n"
        f"sys.exit({code})\n"
    )
    script.chmod(0o755)
    return f"{script.parent}:{os.environ['PATH']}"


def permit(session, url="https://a.b/"):
    return session.permit(OPEN_URL, scheme="https", host="a.b", about=url)


async def named(own, session, *paths):
    request = OpenRequest(copy=list(map(str, paths)), sandbox="work")
    return await own.named(session.call("Open", request), ())


async def test_an_address_is_one_word_after_two_dashes(tmp_path):
    more = {"VITRAIL_SECRET": "x", "LD_PRELOAD": "", "PATH": recorder(tmp_path)}
    with desktop(tmp_path / "home", **more) as (own, session):
        url = "https://a.b/$(id)"
        await own.open_url(take_url(url), permit(session, url))
    words, env = json.loads((tmp_path / "called").read_text())
    assert words == ["open", "--", "https://a.b/$(id)"]
    assert "VITRAIL_SECRET" not in env
    assert "LD_PRELOAD" not in env
    assert env[LOOP] == "1"


async def test_a_program_that_fails_at_once_is_an_error(tmp_path):
    with (
        desktop(tmp_path, PATH=recorder(tmp_path, code=3)) as (own, session),
        pytest.raises(UpstreamError, match="code 3"),
    ):
        await own.open_url(take_url("https://a.b/"), permit(session))


async def test_a_desktop_without_a_program_for_addresses_is_told(tmp_path):
    with (
        desktop(tmp_path, PATH=str(tmp_path)) as (own, session),
        pytest.raises(SetupError, match="no program that opens") as caught,
    ):
        await own.open_url(take_url("https://a.b/"), permit(session))
    assert "gio" in caught.value.hint


async def test_the_users_files_go_into_a_pipe_and_others_are_kept(tmp_path):
    """Both ends at once: the files sent here are stored here."""
    source = tmp_path / "d"
    source.mkdir()
    (source / "x").write_text("content")
    with desktop(tmp_path / "home") as (own, session), pipe() as (read, write):
        found = await named(own, session, source)
        assert found.found.names == ("d",)
        delivery = Delivery("web-1", False, QUOTA, read.detach())
        async with own.storing(delivery, b""), own.sending(found.ticket, write):
            await delivery.done.wait()
    assert delivery.reason == ""
    # Below the name of the permit's sandbox.
    assert (tmp_path / "home/Incoming/web-1/d/x").read_text() == "content"


async def test_a_cut_transfer_is_reported_and_leaves_nothing(tmp_path):
    with desktop(tmp_path / "home") as (own, _session), pipe() as (read, write):
        delivery = Delivery("web-1", False, QUOTA, read.detach())
        async with own.storing(delivery, b""):
            write.close()
            await delivery.done.wait()
    assert delivery.reason == "the transfer was interrupted"
    assert list((tmp_path / "home/Incoming/web-1").iterdir()) == []


async def test_a_file_that_is_not_there_is_told(tmp_path):
    with desktop(tmp_path) as (own, session), pipe() as (_, write):
        with pytest.raises(RefusedError, match="absent: No such file"):
            await named(own, session, tmp_path / "absent")
        there = tmp_path / "gone"
        there.touch()
        found = await named(own, session, there)
        there.unlink()
        with pytest.RaisesGroup(UpstreamError):
            async with own.sending(found.ticket, write):
                await trio.sleep_forever()


async def test_a_file_to_open_has_its_size_and_a_directory_is_not_one(tmp_path):
    (tmp_path / "a.txt").write_text("four")
    with desktop(tmp_path) as (own, session):
        request = OpenRequest(path=str(tmp_path / "a.txt"))
        found = await own.named(session.call("Open", request), ())
        assert (found.found.names, found.found.size) == (("a.txt",), 4)
        for path, match in ((tmp_path, "is not a file"), (tmp_path / "b", "No such")):
            call = session.call("Open", OpenRequest(path=str(path)))
            with pytest.raises(RefusedError, match=match):
                await own.named(call, ())


async def test_an_edited_file_replaces_the_one_that_was_named(tmp_path):
    (tmp_path / "a.txt").write_text("before")
    with (
        desktop(tmp_path) as (own, session),
        pipe() as (read, write),
        pipe() as (back_read, back_write),
    ):
        request = OpenRequest(path=str(tmp_path / "a.txt"), edit=True)
        found = await own.named(session.call("Open", request), ())
        editing = own.editing(found.ticket, "work", write, back_read)
        async with editing as result:
            async with trio.lowlevel.FdStream(read.detach()) as stream:
                sent = b"".join([data async for data in stream])
            async with trio.lowlevel.FdStream(back_write.detach()) as stream:
                await stream.send_all(sent.replace(b"before", b"edited"))
    assert (tmp_path / "a.txt").read_text() == "edited"
    assert "was replaced" in result.text


def test_the_program_for_files_has_no_variable_of_the_session(tmp_path):
    """It is asked in a process that has one; the order is a real one."""
    program = """
import os, socket
import msgspec
import broker.session.transfer.files_program as files
from broker.ipc.session.file_orders import SEND_FILES
from broker.session.order_exchange import OrderExchange, one_of
from broker.session.warrant_check import WarrantCheck
from broker.wire import fdpass
from broker.wire.call_messages import CallMessage, encode_message
from broker.wire.row import serves
os.environ["TOKEN"] = "secret of the session"
files.carried_tool = lambda _: b"import os, sys; sys.stderr.write(' '.join(os.environ))"
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
call = CallMessage(1, "SendFiles", msgspec.Raw(msgspec.msgpack.encode({})))
fdpass.send(theirs, encode_message(call), [0, 1])

@serves(SEND_FILES)
def run(exchange, _request):
    exchange.fds = []
    print(files.run_files_tool(exchange, []).decode())

OrderExchange(ours, WarrantCheck(b"")).serve_next(one_of(run))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, text=True
    )
    assert done.stdout.strip()
    assert set(done.stdout.split()) <= {"LC_ALL", "PWD"}


async def test_a_name_in_another_script_is_kept_in_every_locale(tmp_path):
    source = tmp_path / "\N{GREEK SMALL LETTER LAMDA}"
    source.write_text("content")
    with (
        desktop(tmp_path / "home", LC_ALL="C") as (own, session),
        pipe() as (read, write),
    ):
        found = await named(own, session, source)
        delivery = Delivery("web-1", False, QUOTA, read.detach())
        async with own.storing(delivery, b""), own.sending(found.ticket, write):
            await delivery.done.wait()
    kept = tmp_path / "home/Incoming/web-1" / source.name
    assert kept.read_text() == "content"


async def test_more_paths_are_named_than_fit_into_a_message(tmp_path):
    with desktop(tmp_path) as (own, session):
        paths = [f"{tmp_path}/{'x' * 200}{number}" for number in range(2000)]
        for path in paths:
            Path(path).touch()
        found = await named(own, session, *paths)
        assert found.found.files == 2000


def test_a_child_for_these_orders_imports_no_event_loop():
    program = (
        "import sys, broker.session.child, broker.session.transfer.files_program\n"
        "sys.exit('trio' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
