"""Attack: workers and a viewer that were taken over, and files that the user has dropped.

A session child asks a document portal (here a stand-in) which files a key stands for.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import asynccontextmanager

import pytest

from broker.core.errors import RefusedError, SetupError, UpstreamError
from broker.core.limits import clipboard as limits
from broker.core.services import FILE_COPY, OPEN_FILE
from broker.helpers.process.spawn import DEVNULL, spawn
from broker.ipc.session import file_orders as m
from broker.viewer.exchange.pipes import pipe
from broker.viewer.transfer.own import Own
from tests.attack.test_session_orders_files import SECRET, _home, desktop, order_with
from tests.kit.eventually import eventually
from tests.kit.listening import takes_connections
from tests.kit.session import Signed

__all__ = ["_home"]
GOOD = {"source": "@adminvm", "sandbox": "work", "target": "work"}
PORTAL = """
import json, sys
from jeepney import *
from jeepney.bus_messages import message_bus
from jeepney.io.blocking import open_dbus_connection
known = json.loads(sys.argv[1])
with open_dbus_connection() as bus:
    bus.send_and_get_reply(message_bus.RequestName("org.freedesktop.portal.Documents"))
    print("ready", flush=True)
    while True:
        got = bus.receive()
        if got.header.message_type is not MessageType.method_call:
            continue
        assert got.header.fields[HeaderFields.member] == "RetrieveFiles"
        files = known.pop(got.body[0], None)  # once, as the portal does
        if files is None:
            error = "org.freedesktop.DBus.Error.AccessDenied"
            bus.send(new_error(got, error, "s", ("Invalid transfer",)))
        else:
            bus.send(new_method_return(got, "as", (files,)))
"""


@asynccontextmanager
async def portal(home, known):
    """Yield the orders of a desktop whose portal knows these keys; None: it has none."""
    place, log = home.parent / "bus", home.parent / "log"
    words = ["dbus-daemon", "--session", "--nofork", "--nopidfile"]
    words += [f"--address=unix:path={place}"]
    bus = spawn(words, stdout=DEVNULL, stderr=DEVNULL)
    env = {**os.environ, "DBUS_SESSION_BUS_ADDRESS": f"unix:path={place}"}
    serving = None
    try:
        await eventually(lambda: takes_connections(place))
        if known is not None:
            argv = [sys.executable, "-c", PORTAL, json.dumps(known)]
            with log.open("w") as out:
                serving = spawn(argv, env=env, stdout=out.fileno())
            await eventually(lambda: "ready" in log.read_text())
        with desktop(home, DBUS_SESSION_BUS_ADDRESS=f"unix:path={place}") as it:
            yield it
    finally:
        if serving is not None:
            await serving.stop()
        await bus.stop()


async def test_a_key_is_good_once_and_with_a_permit_for_the_users_files(home):
    async with portal(home, {"key": [f"{home}/id"]}) as session:
        own = Own(session)
        files = await own.dropped("key", "work", ())
        assert (files.found.names, files.found.size) == (("id",), len(SECRET))
        with pytest.raises(RefusedError, match="has no files for this drop"):
            await own.dropped("key", "work", ())
        with pipe() as (read, write):
            order = Signed(session.permit(FILE_COPY, **GOOD), m.SendDroppedFiles())
            await order_with(session, order, files.ticket, write.fileno())
            write.close()
            assert SECRET.encode() in os.read(read.fileno(), 4096)


@pytest.mark.parametrize(
    ("service", "fields"),
    [
        (None, {}),
        (OPEN_FILE, GOOD),
        (FILE_COPY, GOOD | {"source": ""}),
        (FILE_COPY, GOOD | {"sandbox": "web", "target": "web"}),
        (FILE_COPY, GOOD | {"renewed": True}),
    ],
    ids=["none", "other service", "of the sandbox", "other sandbox", "renewed"],
)
async def test_dropped_files_are_not_sent_without_their_permit(home, service, fields):
    async with portal(home, {"key": [f"{home}/id"]}) as session:
        files = await Own(session).dropped("key", "work", ())
        warrant = session.permit(service, **fields) if service else b""
        with pipe() as (read, write):
            for order in (Signed(warrant, m.SendDroppedFiles()), m.SendFiles()):
                with pytest.raises(RefusedError):
                    await order_with(session, order, files.ticket, write.fileno())
            write.close()
            assert os.read(read.fileno(), 100) == b""


async def test_an_invented_key_names_no_file(home):
    async with portal(home, {}) as session:
        with pytest.raises(RefusedError, match="Invalid transfer") as caught:
            await Own(session).dropped("123456789", "work", ())
    assert caught.value.hint == "drag the files again"


async def test_a_desktop_without_a_portal_is_told_what_to_install(home):
    async with portal(home, None) as session:
        with pytest.raises(SetupError) as caught:
            await Own(session).dropped("123456789", "work", ())
    assert "install xdg-desktop-portal" in caught.value.hint


async def test_a_sandboxes_link_leads_no_dropped_file_elsewhere(home):
    shared = home / "shared"
    shared.mkdir()
    (shared / "report").symlink_to(home / "id")
    async with portal(home, {"key": [f"{shared}/report"]}) as session:
        with pytest.raises(RefusedError, match="a link that a sandbox may have"):
            await Own(session).dropped("key", "work", [shared])


@pytest.mark.parametrize("paths", [0, limits.CLIPBOARD_FILES + 1])
async def test_the_number_of_dropped_files_is_bounded(home, paths):
    async with portal(home, {"key": [f"{home}/id"] * paths}) as session:
        with pytest.raises(UpstreamError, match="files were dropped"):
            await Own(session).dropped("key", "work", ())
