"""Attack: programs of a sandbox use the portals of GIO against each other.

The trash moves files with the rights of the portal, and notifications have answers.
"""

from __future__ import annotations

import os
import socket
from configparser import ConfigParser
from types import SimpleNamespace

import pytest

from shims.files import bus_messages as bus
from shims.files import trash
from shims.files.bus_service import PORTAL_PATH, CallError
from shims.files.monitors import NETWORK_MONITOR
from shims.files.notifications import NOTIFICATIONS_NAME
from shims.files.portal import Portal
from shims.files.portal_notifications import (
    APPLICATION,
    NOTIFICATION,
    NOTIFICATIONS_AT_ONCE,
)

# -- trash ------------------------------------------------------------------------------


@pytest.fixture(name="home")
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", f"{tmp_path}/data")
    return tmp_path / "data/Trash"


def move(path, flags=os.O_RDWR):
    fd = os.open(path, flags)
    try:
        trash.move_to_trash(fd)
    finally:
        os.close(fd)


def entries(directory):
    """The paths that the trash's information names, by the entry."""
    paths = {}
    for file in (directory / "info").iterdir():
        parser = ConfigParser(interpolation=None)
        parser.read(file)
        paths[file.stem] = parser["Trash Info"]["Path"]
    assert paths.keys() == {file.name for file in (directory / "files").iterdir()}
    return paths


def test_files_of_one_name_are_both_in_the_trash(tmp_path, home):
    path = tmp_path / "a b"
    for text in ("first", "second"):
        path.write_text(text)
        move(path)
    recorded = f"{tmp_path}/a%20b"
    assert entries(home) == {"a b": recorded, "a b.2": recorded}
    assert (home / "files/a b").read_text() == "first"
    assert (home / "files/a b.2").read_text() == "second"


def test_entry_without_information_is_not_replaced(tmp_path, home):
    (home / "files").mkdir(parents=True)
    (home / "files/a").write_text("earlier")
    (tmp_path / "a").write_text("later")
    move(tmp_path / "a")
    assert (home / "files/a").read_text() == "earlier"
    assert (home / "files/a.2").read_text() == "later"


@pytest.mark.parametrize("name", ["ä" * 127, "x" * 255, b"\xff\n%".decode("latin-1")])
def test_name_of_any_length_is_moved(tmp_path, home, name):
    (tmp_path / name).write_text("x")
    move(tmp_path / name)
    assert not (tmp_path / name).exists()
    assert len(entries(home)) == 1


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_PATH], ids=["2.74", "2.80"])
def test_directory_is_moved_with_its_files(tmp_path, home, flags):
    """With the flags of that version of GLib."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d/file").write_text("x")
    move(tmp_path / "d", flags)
    assert (home / "files/d/file").read_text() == "x"


def test_file_that_cannot_be_moved_leaves_no_information(tmp_path, home, monkeypatch):
    (tmp_path / "a").write_text("x")

    def rename(*_, **__):
        raise OSError(16, "busy")

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(OSError, match="busy"):
        move(tmp_path / "a")
    assert entries(home) == {}


def test_file_opened_for_reading_is_not_moved(tmp_path, home):
    """A program of Flatpak in a sandbox has the user's documents read-only."""
    path = tmp_path / "document"
    path.write_text("x")
    for flags in (os.O_RDONLY, os.O_PATH):
        with pytest.raises(CallError, match="only read"):
            move(path, flags)
    path.chmod(0o400)
    if os.getuid():  # root may write to it all the same
        move(path, os.O_RDONLY)


def test_directory_on_read_only_mount_is_not_moved(tmp_path, home, monkeypatch):
    (tmp_path / "d").mkdir()
    status = SimpleNamespace(f_flag=os.ST_RDONLY)
    monkeypatch.setattr(os, "fstatvfs", lambda _: status)
    with pytest.raises(CallError, match="only read"):
        move(tmp_path / "d", os.O_RDONLY)
    assert (tmp_path / "d").is_dir()


def test_file_swapped_after_the_check_stays(tmp_path, home, monkeypatch):
    (tmp_path / "own").mkdir()
    (tmp_path / "own/name").write_text("own")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/name").write_text("other")

    def swap(*_):
        (tmp_path / "own").rename(tmp_path / "moved")
        (tmp_path / "other").rename(tmp_path / "own")

    monkeypatch.setattr(trash, "require_write_access", swap)
    with pytest.raises(CallError, match="moved meanwhile"):
        move(tmp_path / "own/name")
    assert (tmp_path / "own/name").read_text() == "other"


@pytest.fixture(name="share")
def _share(tmp_path, home, monkeypatch):
    """A directory as if it were a mount of its own."""
    share = tmp_path / "share"
    share.mkdir()
    (share / "file").write_text("x")

    monkeypatch.setattr(
        trash, "mount_point", lambda path: str(share) if "share" in path else "/"
    )
    return share


def test_file_of_another_mount_stays_on_it(share):
    move(share / "file")
    assert entries(share / f".Trash-{os.getuid()}") == {"file": "file"}


def test_trash_directory_planted_as_link_is_refused(share, tmp_path):
    """Another sandbox has the same folder."""
    target = tmp_path / "target"
    target.mkdir()
    (share / f".Trash-{os.getuid()}").symlink_to(target)
    with pytest.raises(CallError, match="not a directory of ours"):
        move(share / "file")
    assert list(target.iterdir()) == []
    assert (share / "file").exists()


def test_mount_point_of_a_path_is_a_mount_above_it(tmp_path):
    top = trash.mount_point(f"{tmp_path}/file")
    assert os.path.ismount(top)
    assert str(tmp_path).startswith(top)
    assert trash.mount_point("/proc/self/status") == "/proc"
    assert trash.mount_point("/proc") == "/"


# -- notifications ----------------------------------------------------------------------

PROGRAM, SERVICE, OTHER = ":1.7", ":1.8", ":1.9"


class PortalOnBus:
    """A portal, and all programs of its bus."""

    def __init__(self, portal_end, bus_end):
        self.portal = Portal(portal_end)
        self._bus = bus_end
        self._data = b""

    def deliver(self, kind, sender, fields, signature="", body=()):
        """Have the portal handle a message; returns what it sends."""
        message = bus.BusMessage(kind, {**fields, bus.SENDER: sender}, signature, body)
        self.portal._data += bus.encode_message(message, 5)
        self.portal._take_messages()
        sent = []
        while True:
            try:
                self._data += self._bus.recv(1 << 20)
            except BlockingIOError:
                break
        while self._data:
            size = bus.message_size(self._data)
            sent.append(bus.decode_message(self._data[:size]))
            self._data = self._data[size:]
        return sent

    def call(self, member, signature, *body, sender=PROGRAM):
        """Call the portal of notifications; returns what it calls then."""
        fields = {bus.PATH: PORTAL_PATH, bus.INTERFACE: NOTIFICATION}
        fields[bus.MEMBER] = member
        reply, *calls = self.deliver(bus.CALL, sender, fields, signature, body)
        assert reply.kind == bus.REPLY
        return calls

    def add(self, name="first", sender=PROGRAM, **values):
        return self.call("AddNotification", "sa{sv}", name, values, sender=sender)

    def reply(self, call, signature, *body, sender=SERVICE):
        fields = {bus.REPLY_SERIAL: call.serial}
        return self.deliver(bus.REPLY, sender, fields, signature, body)

    def press(self, number, key, sender=SERVICE):
        fields = {bus.PATH: "/org/freedesktop/Notifications"}
        fields |= {bus.INTERFACE: NOTIFICATIONS_NAME, bus.MEMBER: "ActionInvoked"}
        return self.deliver(bus.SIGNAL, sender, fields, "us", (number, key))


@pytest.fixture(name="gio")
def _gio():
    portal_end, bus_end = socket.socketpair()
    with portal_end, bus_end:
        bus_end.setblocking(False)
        yield PortalOnBus(portal_end, bus_end)


def text_of(notify):
    assert (notify.text(bus.MEMBER), notify.signature) == ("Notify", "susssasa{sv}i")
    return notify.body[3]


BUTTONS = ("aa{sv}", [{"label": ("s", "Reply"), "action": ("s", "reply")}])


def test_notification_changed_before_it_has_a_number_is_one(gio):
    (first,) = gio.add(title=("s", "one"))
    assert gio.add(title=("s", "two")) == []
    assert gio.add(title=("s", "three")) == []
    (second,) = gio.reply(first, "u", 40)
    assert (text_of(second), second.body[1]) == ("three", 40)
    assert gio.reply(second, "u", 40) == []
    assert gio.portal._notifications.busy() == 1


def test_notification_withdrawn_before_it_has_a_number_is_closed(gio):
    (notify,) = gio.add(title=("s", "one"))
    assert gio.call("RemoveNotification", "s", "first") == []
    (close,) = gio.reply(notify, "u", 40)
    assert (close.text(bus.MEMBER), close.body) == ("CloseNotification", (40,))
    assert gio.portal._notifications.busy() == 0
    assert gio.call("RemoveNotification", "s", "first") == []


def test_values_of_other_types_are_left_out(gio):
    values = {"title": ("u", 7), "buttons": ("s", "x"), "priority": ("as", [])}
    (notify,) = gio.add(**values, icon=("(sv)", ("bytes", ("ay", [1, 2]))))
    assert notify.body[3:6] == ("", "", ["default", ""])
    (notify,) = gio.add("second", buttons=("aa{sv}", [{"label": ("u", 1)}]))
    assert notify.body[5] == ["default", "", "0", ""]


def test_answer_reaches_the_program_with_its_parameter(gio):
    target = {"target": ("(sas)", ("a", ["b"]))}
    buttons = ("aa{sv}", [{**BUTTONS[1][0], **target}])
    (notify,) = gio.add(buttons=buttons)
    gio.reply(notify, "u", 40)
    (signal,) = gio.press(40, "0")
    assert signal.text(bus.DESTINATION) == PROGRAM
    assert signal.text(bus.MEMBER) == "ActionInvoked"
    assert signal.typed_body() == ("first", "reply", [target["target"]])


@pytest.mark.parametrize(
    ("action", "member", "body"),
    [("app.quit", "ActivateAction", ("quit", [], {})), ("", "Activate", ({},))],
)
def test_action_of_an_application_is_activated_there(gio, action, member, body):
    (notify,) = gio.add(**{"default-action": ("s", action)})
    gio.reply(notify, "u", 40)
    (names,) = gio.press(40, "default")
    assert names.text(bus.MEMBER) == "ListNames"
    listed = ["org.example.Other", "org.example.The-App"]
    foreign, matching = gio.reply(names, "as", listed)
    assert gio.reply(foreign, "s", OTHER) == []
    (call,) = gio.reply(matching, "s", PROGRAM)
    assert call.text(bus.DESTINATION) == PROGRAM
    assert call.text(bus.PATH) == "/org/example/The_App"
    assert (call.text(bus.INTERFACE), call.text(bus.MEMBER)) == (APPLICATION, member)
    assert call.body == body


def test_answer_of_another_program_is_none(gio):
    (notify,) = gio.add(buttons=BUTTONS)
    assert gio.press(0, "0", sender=OTHER) == []
    gio.reply(notify, "u", 40)
    assert gio.press(40, "0", sender=OTHER) == []
    assert gio.press(41, "0") == []
    assert gio.press(40, "7") == []
    assert len(gio.press(40, "0")) == 1


def test_notifications_without_end_keep_no_memory(gio):
    for number in range(NOTIFICATIONS_AT_ONCE + 50):
        (notify,) = gio.add(str(number), title=("s", "x"))
        gio.reply(notify, "u", number + 1)
    assert gio.portal._notifications.busy() == NOTIFICATIONS_AT_ONCE


@pytest.mark.parametrize("ended", [PROGRAM, SERVICE])
def test_notification_without_its_program_or_service_is_forgotten(gio, ended):
    (notify,) = gio.add(title=("s", "x"))
    gio.reply(notify, "u", 40)
    fields = {bus.INTERFACE: "org.freedesktop.DBus", bus.MEMBER: "NameOwnerChanged"}
    fields[bus.PATH] = "/org/freedesktop/DBus"
    gio.deliver(bus.SIGNAL, "org.freedesktop.DBus", fields, "sss", (ended, ended, ""))
    assert gio.portal._notifications.busy() == 0


def test_notification_that_the_service_refuses_is_forgotten(gio, capfd):
    (notify,) = gio.add(title=("s", "x"))
    fields = {bus.REPLY_SERIAL: notify.serial, bus.ERROR_NAME: "org.example.Error"}
    gio.deliver(bus.ERROR, SERVICE, fields, "s", ("no service",))
    assert gio.portal._notifications.busy() == 0
    assert "no service" in capfd.readouterr().err


# -- network ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "port"), [("a" * 300, 1), ("\udcff", 1), ("", 1), ("127.0.0.1", 1 << 31)]
)
def test_host_that_is_no_name_is_not_reached(gio, host, port):
    (monitor,) = (
        part for part in gio.portal.interfaces if part.interface == NETWORK_MONITOR
    )
    call = bus.BusMessage(bus.CALL, {bus.SENDER: PROGRAM}, "su", (host, port))
    assert monitor._can_reach(call) == ()
    assert monitor.running() == 1
    assert call.work() == (False,)
    assert monitor.running() == 0
