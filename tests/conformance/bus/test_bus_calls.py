"""Every row of the table of bus calls, at the guest's object and at the desktop's filter.

A new row gets all of these tests; the messages that come of it are in ``test_messages``.
"""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree as ET

import pytest
from jeepney import DBusAddress, new_method_call

from broker.core import services
from broker.session.session_bus_filter import USES
from shims.files import tray
from shims.files.bus_calls import BUS_OBJECTS
from shims.files.bus_messages import (
    CALL,
    INTERFACE,
    MEMBER,
    PATH,
    SENDER,
    BusMessage,
)
from shims.files.bus_service import CallError, PortalPart
from shims.files.notifications import Notifications
from shims.files.portal import Portal
from shims.files.tray import Tray
from tests.attack.test_session_orders_bus import connected, fails, session
from tests.kit.needs import requires

NO_OBJECT = {
    "org.freedesktop.portal.Request",
    "org.freedesktop.portal.Session",
    "org.freedesktop.DBus.Properties",
}
"""Of paths that a call has made; ``Portal.perform`` closes these."""
ROWS = [
    pytest.param(one.interface, row, id=f"{one.interface}.{row.member}")
    for one in BUS_OBJECTS.values()
    for row in one.rows.values()
    if one.interface not in NO_OBJECT
]
PARTS = {one.interface for one in PortalPart.__subclasses__()}
"""Those that are there where a rule may allow them; others call the broker later."""


@pytest.fixture
def objects(monkeypatch):
    """The guest's objects by interface, each with its service; all are offered."""
    monkeypatch.setattr(tray, "start_thread", lambda _work: None)
    monkeypatch.setattr(PortalPart, "offered", lambda _: True)
    ours, bus = socket.socketpair()
    with ours, bus:
        broker = SimpleNamespace(send=lambda _: None)
        on_bus = (Portal(ours), Tray(ours, broker), Notifications(ours))
        yield {
            one.interface: (service, one)
            for service in on_bus
            for one in service.interfaces
        }


@pytest.fixture
def answered(objects, monkeypatch):
    """The members of calls that reach an object: its answers do nothing."""
    found = []
    for _, one in objects.values():
        for row in BUS_OBJECTS[one.interface].rows.values():
            if row.guest and not row.signal:
                monkeypatch.setattr(one, row.answer, answer(found))
    return found


def answer(found):
    def take(call):
        found.append(call.text(MEMBER))
        return ("answered",)

    return take


def perform(service, interface, member, types):
    fields = {INTERFACE: interface, MEMBER: member, SENDER: ":1.5"}
    return service.perform(BusMessage(CALL, fields, types, ()))


def is_unknown(objects, interface, member, types):
    service, _ = objects[interface]
    with pytest.raises(CallError) as error:
        perform(service, interface, member, types)
    return error.value.name == "org.freedesktop.DBus.Error.UnknownMethod"


def test_each_object_of_a_guest_has_rows_and_each_row_an_object(objects):
    assert objects.keys() | NO_OBJECT == BUS_OBJECTS.keys()


def test_the_service_of_a_row_is_the_one_that_its_object_asks_for(objects):
    """In place of a name: what the object asks the broker for, to be offered."""
    kinds = {"choose": services.FILE_DIALOG, "print": services.PRINT}
    for _, one in objects.values():
        if (offer := getattr(one, "_offer", None)) is not None:
            asked = offer._ask.get("service") or kinds[offer._ask["type"]]
            assert BUS_OBJECTS[one.interface].service == asked
    named = {name for one in BUS_OBJECTS.values() for name in one.service.split(",")}
    known = {text for text in vars(services).values() if isinstance(text, str)}
    assert named - {""} <= known


@pytest.mark.parametrize(("interface", "row"), ROWS)
def test_a_call_with_the_types_of_its_row_is_answered(
    objects, answered, interface, row
):
    if row.signal or not row.guest:
        assert is_unknown(objects, interface, row.member, row.takes)
        assert answered == []
        return
    reply = perform(objects[interface][0], interface, row.member, row.takes)
    assert reply == (row.gives, ("answered",))
    assert answered == [row.member]


@pytest.mark.parametrize(("interface", "row"), ROWS)
def test_other_types_and_members_reach_no_answer(objects, answered, interface, row):
    for types in (f"{row.takes}s", row.takes[:-1] or "i"):
        assert is_unknown(objects, interface, row.member, types)
    for member in (f"{row.member}Again", row.answer, "answer", ""):
        assert is_unknown(objects, interface, member, row.takes)
    assert answered == []


@pytest.mark.parametrize(
    ("interface", "row"), [one for one in ROWS if one.values[0] in PARTS]
)
def test_a_part_of_the_portal_that_no_rule_allows_is_not_there(
    objects, answered, monkeypatch, interface, row
):
    monkeypatch.setattr(type(objects[interface][1]), "offered", lambda _: False)
    assert is_unknown(objects, interface, row.member, row.takes)
    assert is_unknown(objects, interface, "Get", "ss")
    assert answered == []


@pytest.mark.parametrize(
    ("interface", "row"), [one for one in ROWS if one.values[1].most]
)
def test_programs_of_a_guest_have_bounds_of_their_own_calls(
    objects, answered, monkeypatch, interface, row
):
    service, one = objects[interface]
    monkeypatch.setattr(one, "running", lambda: row.most - 1)
    perform(service, interface, row.member, row.takes)
    monkeypatch.setattr(one, "running", lambda: row.most)
    with pytest.raises(CallError, match=row.refusal) as error:
        perform(service, interface, row.member, row.takes)
    assert error.value.name == "org.freedesktop.DBus.Error.LimitsExceeded"
    assert answered == [row.member]


def test_what_runs_is_counted(objects):
    """Of the objects that have a bound; the numbers of the rows count these."""
    dialogs = objects["org.freedesktop.portal.FileChooser"][1]
    dialogs._dialogs.update({"/1": None})
    screens = objects["org.freedesktop.portal.ScreenCast"][1]
    screens._sessions.update({"/1": None})
    camera = objects["org.freedesktop.portal.Camera"][1]
    camera._asked.append((":1.5", "/1"))
    camera._users.add(":1.6")
    for name in ("Print", "OpenURI"):
        objects[f"org.freedesktop.portal.{name}"][1]._running = 1
    objects["org.freedesktop.portal.NetworkMonitor"][1]._resolving = 1
    bounded = [objects[one.values[0]][1] for one in ROWS if one.values[1].most]
    assert {one.running() for one in bounded} == {1}


@pytest.mark.parametrize("interface", sorted(BUS_OBJECTS.keys() - NO_OBJECT))
def test_programs_read_of_all_rows_of_a_guest(objects, interface):
    words = objects[interface][1].described()
    for row in BUS_OBJECTS[interface].rows.values():
        kind = "signal" if row.signal else "method"
        assert (f'<{kind} name="{row.member}">' in words) is row.guest


STANDARD = "org.freedesktop.DBus"
PRINT = "org.freedesktop.portal.Print"


@pytest.mark.parametrize(
    ("member", "types", "body", "error"),
    [
        ("Get", "ss", (PRINT, "versions"), "UnknownProperty"),
        ("Get", "ss", ("org.example.None", "version"), "UnknownInterface"),
        ("GetAll", "s", ("org.example.None",), "UnknownInterface"),
        ("Get", "s", (PRINT,), "InvalidArgs"),
        ("Get", "", (), "InvalidArgs"),
        ("Other", "ss", (PRINT, "version"), "InvalidArgs"),
        ("Set", "ssv", (PRINT, "version", ("u", 9)), "PropertyReadOnly"),
    ],
)
def test_error_of_properties_names_the_cause(objects, member, types, body, error):
    """A caller tells an absent property from an absent service by it."""
    fields = {INTERFACE: f"{STANDARD}.Properties", MEMBER: member, SENDER: ":1.5"}
    call = BusMessage(CALL, fields, types, body)
    with pytest.raises(CallError) as raised:
        objects[PRINT][0].perform(call)
    assert raised.value.name == f"{STANDARD}.Error.{error}"


def test_property_that_is_not_offered_is_not_read(objects, monkeypatch):
    fields = {INTERFACE: f"{STANDARD}.Properties", MEMBER: "Get", SENDER: ":1.5"}
    call = BusMessage(CALL, fields, "ss", (PRINT, "version"))
    service, part = objects[PRINT]
    kind, ((value_type, _),) = service.perform(call)
    assert (kind, value_type) == ("v", "u")
    monkeypatch.setattr(type(part), "offered", lambda _: False)
    with pytest.raises(CallError, match="does not provide"):
        service.perform(call)


@pytest.mark.parametrize(
    ("path", "child"),
    [
        ("/", "org"),
        ("/org", "freedesktop"),
        ("/org/freedesktop/portal", "desktop"),
        ("/org/freedesktop/portal/desktop", None),
        ("/org/free", None),
    ],
)
def test_introspection_lists_the_objects_below(objects, path, child):
    fields = {INTERFACE: f"{STANDARD}.Introspectable", MEMBER: "Introspect"}
    fields |= {PATH: path, SENDER: ":1.5"}
    call = BusMessage(CALL, fields, "", ())
    _, (text,) = objects[PRINT][0].perform(call)
    root = ET.fromstring(text)
    names = [node.get("name") for node in root.findall("node")]
    assert names == ([child] if child else [])
    interfaces = [node.get("name") for node in root.findall("interface")]
    assert (PRINT in interfaces) == path.endswith("/desktop")


def test_machine_id_is_that_of_the_sandbox(objects):
    fields = {INTERFACE: f"{STANDARD}.Peer", MEMBER: "GetMachineId", SENDER: ":1.5"}
    reply = objects[PRINT][0].perform(BusMessage(CALL, fields, "", ()))
    assert reply == ("s", (Path("/etc/machine-id").read_text().strip(),))


@requires("dbus-daemon", "xdg-dbus-proxy")
@pytest.mark.parametrize("use", USES)
async def test_the_filter_passes_the_rows_of_its_use_alone(monkeypatch, use):
    passed = []
    async with (
        session(monkeypatch) as (desktop, orders),
        connected(orders, use) as router,
    ):
        for one in BUS_OBJECTS.values():
            address = DBusAddress(one.path.replace("*", "x"), one.name, one.interface)
            for row in one.rows.values():
                if not row.signal:
                    error = await fails(router, new_method_call(address, row.member))
                    if row.desktop and one.interface in USES[use]:
                        assert not error
                        passed.append(f"{one.interface}.{row.member}")
                    else:
                        assert error in {"AccessDenied", "ServiceUnknown"}
    assert desktop.called == passed != []
