"""``vitrail-devices`` and brokers over its real socket; sysfs is a directory.

What the kernel does with a device is tests/e2e/test_usb_vm.py's; here it is
who may ask for what, and that nothing stays handed over.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
from contextlib import asynccontextmanager

import pytest
import trio

from broker.core.errors import PeerError, RefusedError, SetupError, UpstreamError
from broker.host.devices import devices_client as device_client
from broker.ipc.devices import messages, socket_path
from broker.root import monitor, receiver, usbip
from broker.root.devices_service import Service, _Client
from broker.root.listener import listen
from broker.root.records import load_records
from broker.root.usbip import VhciValues
from tests.broker.root.test_sysfs import plug
from tests.kit.eventually import eventually
from tests.kit.usb.samples import KEYBOARD, descriptors
from tests.kit.wayland.compositor import short_directory

_RECORDS = """
[[device]]
sandboxes = ["work"]
with-interface = { op = "match-all", values = ["08:*:*"] }
"""


class Kernel:
    """What usbip would have done."""

    def __init__(self, monkeypatch):
        self.exported, self.released = [], []
        self.handed_over = set()
        self.in_use = True
        self.fails = None
        self.before = None
        monkeypatch.setattr(usbip, "export", self.export)
        monkeypatch.setattr(usbip, "release", self.release)
        monkeypatch.setattr(
            usbip, "in_use", lambda held: self.in_use and held.port in self.handed_over
        )

    def export(self, held, decided, conn):
        if self.before is not None:
            self.before()
        usbip.same(held, decided)
        if self.fails is not None:
            raise self.fails
        self.exported.append((decided.port, conn.family))
        self.handed_over.add(decided.port)
        return VhciValues(decided.bus << 16 | decided.number, 3)

    async def release(self, held, *, authorize):
        await trio.lowlevel.checkpoint()
        self.released.append(held.port)
        self.handed_over.discard(held.port)
        return True


class Place:
    def __init__(self, folder, kernel):
        self.folder, self.kernel = folder, kernel
        self.root = folder / "sysfs"
        self.path = folder / "devices.sock"
        self.watcher = None
        self.nursery = None

    async def look(self):
        await self.watcher.look_at_all()

    async def connect(self):
        ended = []
        made = device_client.connect(
            changed=lambda: None,
            ended=lambda name, reason: ended.append((name, reason)),
            path=self.path,
        )
        made.ended_ones = ended
        made.scope = await self.nursery.start(self._run, made)
        return made

    async def _run(self, made, task_status):
        with trio.CancelScope() as scope:
            task_status.started(scope)
            with pytest.raises(UpstreamError):
                await made.run()


@asynccontextmanager
async def service(monkeypatch, records=_RECORDS, shared=None, root=None):
    with short_directory() as folder:
        (folder / "sysfs").mkdir()
        (folder / "devices.toml").write_text(records)
        place = Place(folder, Kernel(monkeypatch))
        place.root = root or place.root

        async def watch(watcher, *, source, task_status):
            place.watcher = watcher
            await watcher.look_at_all()
            task_status.started()
            await trio.sleep_forever()

        monkeypatch.setattr(monitor, "watch", watch)
        if root is None:
            plug(place.root)
        receivers = receiver.start(os.getuid())
        made = Service(
            lambda: load_records(folder / "devices.toml"),
            shared=shared or folder / "shared",
            receivers=receivers,
            root=place.root,
        )
        with receivers, listen(place.path, os.getuid()) as listener:
            async with trio.open_nursery() as nursery:
                place.nursery = nursery
                await nursery.start(made.run, listener)
                place.service = made
                yield place
                nursery.cancel_scope.cancel()


async def number(client):
    (item,) = (await client.devices()).devices
    return item.number


async def test_device_is_listed_handed_over_and_taken_back(monkeypatch):
    async with service(monkeypatch) as place:
        client = await place.connect()
        (item,) = (await client.devices()).devices
        assert (item.port, item.device_id, item.sandboxes) == (
            "2-1",
            "0951:1666",
            ["work"],
        )
        here, there = socket.socketpair()
        with here, there:
            made = await client.export(item.number, "work", "lease", here)
            assert (made.devid, made.speed) == (0x20005, 3)
            assert place.kernel.exported == [("2-1", socket.AF_UNIX)]
            (item,) = (await client.devices()).devices
            assert (item.state, item.lease) == ("attached", "lease")
            await client.detach(made.attachment)
        assert place.kernel.released == ["2-1"]
        (item,) = (await client.devices()).devices
        assert (item.state, item.lease) == ("plugged", "")
        assert client.ended_ones == []


async def test_a_broker_that_has_gone_is_told_of_no_change(monkeypatch):
    """That it has gone is noticed a moment later; the service may end just then."""
    async with service(monkeypatch) as place:
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with here, here.dup() as channel:
            there.close()
            client = _Client(here, channel)
            client.stale.set()
            with trio.fail_after(60):
                await place.service._push(client)


async def test_records_refuse_other_sandboxes(monkeypatch):
    async with service(monkeypatch) as place:
        client = await place.connect()
        here, there = socket.socketpair()
        no = pytest.raises(RefusedError, match="does not allow the device")
        with here, there, no:
            await client.export(await number(client), "banking", "lease", here)
        assert place.kernel.exported == []


async def test_records_are_read_again_for_each_device(monkeypatch):
    async with service(monkeypatch) as place:
        client = await place.connect()
        (place.folder / "devices.toml").write_text("")
        here, there = socket.socketpair()
        no = pytest.raises(RefusedError, match="does not allow the device")
        with here, there, no:
            await client.export(await number(client), "work", "lease", here)


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
async def test_only_stream_sockets_go_to_the_kernel(monkeypatch, kind):
    async with service(monkeypatch) as place:
        client = await place.connect()
        here, there = socket.socketpair(socket.AF_UNIX, kind)
        with here, there, pytest.raises(RefusedError, match="needs the guest's socket"):
            await client.export(await number(client), "work", "lease", here)
        assert place.kernel.exported == []
        (item,) = (await client.devices()).devices
        assert item.state == "plugged"


async def test_broker_that_dies_leaves_nothing_handed_over(monkeypatch):
    async with service(monkeypatch) as place:
        client, other = await place.connect(), await place.connect()
        here, there = socket.socketpair()
        with here, there:
            made = await client.export(await number(client), "work", "lease", here)
            with pytest.raises(RefusedError, match="already in use"):
                await other.export(made.devid and 1, "work", "other", here)
            with pytest.raises(RefusedError, match="no such attachment"):
                await other.detach(made.attachment)
            client.scope.cancel()
            await eventually(lambda: place.kernel.released == ["2-1"])
        await eventually(lambda: True)
        (item,) = (await other.devices()).devices
        assert item.state == "plugged"


async def test_unplugged_device_ends_the_attachment(monkeypatch):
    async with service(monkeypatch) as place:
        client = await place.connect()
        here, there = socket.socketpair()
        with here, there:
            made = await client.export(await number(client), "work", "lease", here)
            shutil.rmtree(place.root / "2-1")
            await place.look()
            await eventually(lambda: client.ended_ones)
        assert client.ended_ones == [(made.attachment, "unplugged")]
        assert (await client.devices()).devices == []


async def test_guest_that_hangs_up_ends_the_attachment(monkeypatch):
    async with service(monkeypatch) as place:
        client = await place.connect()
        here, there = socket.socketpair()
        with here, there:
            await client.export(await number(client), "work", "lease", here)
            place.kernel.in_use = False
            await eventually(lambda: client.ended_ones)
        assert client.ended_ones[0][1] == "the guest closed the connection"


async def test_swap_in_the_port_between_verdict_and_handing_over_is_refused(
    monkeypatch,
):
    async with service(monkeypatch) as place:
        client = await place.connect()
        stale = await number(client)
        shutil.rmtree(place.root / "2-1")
        plug(place.root, number=6)
        await place.look()
        here, there = socket.socketpair()
        with here, there:
            with pytest.raises(RefusedError, match="unplugged or has changed"):
                await client.export(stale, "work", "lease", here)
            # In the last moment, too: nothing of the new device is touched.
            fresh = await number(client)

            def swap():
                shutil.rmtree(place.root / "2-1")
                plug(place.root, number=7, raw=descriptors(KEYBOARD))

            place.kernel.before = swap
            with pytest.raises(RefusedError, match="was unplugged"):
                await client.export(fresh, "work", "lease", here)
        assert place.kernel.exported == []
        assert (place.root / "2-1/authorized").read_text() == "1\n"


async def test_failed_attach_is_taken_back(monkeypatch):
    async with service(monkeypatch) as place:
        client = await place.connect()
        place.kernel.fails = UpstreamError("the kernel refuses")
        here, there = socket.socketpair()
        with here, there, pytest.raises(RefusedError, match="kernel refuses"):
            await client.export(await number(client), "work", "lease", here)
        assert place.kernel.released == ["2-1"]
        (item,) = (await client.devices()).devices
        assert item.state == "plugged"


@pytest.mark.parametrize("packet", [b"{", b"x" * 70000, b'{"type":"list","id":"x"}'])
async def test_bad_messages_end_that_connection_only(monkeypatch, packet):
    async with service(monkeypatch) as place:
        good = await place.connect()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as bad:
            bad.connect(os.fspath(place.path))
            bad.send(packet)
            bad.settimeout(0)
            with trio.fail_after(60):
                await trio.lowlevel.wait_readable(bad)
                try:
                    while data := bad.recv(65536):
                        assert isinstance(messages.decode_reply(data), messages.Changed)
                        await trio.lowlevel.wait_readable(bad)
                except ConnectionResetError:
                    pass
                except PeerError:
                    raise AssertionError(data) from None
        assert await number(good)


async def test_malformed_devices_are_named_and_never_handed_over(monkeypatch):
    async with service(monkeypatch) as place:
        client = await place.connect()
        plug(place.root, port="2-2", raw=descriptors(KEYBOARD)[:-2])
        await place.look()
        found = await client.devices()
        assert [item.port for item in found.devices] == ["2-1"]
        assert found.problems[0].startswith("port 2-2: ")


async def test_socket_is_the_users_alone(monkeypatch):
    async with service(monkeypatch) as place:
        assert place.path.stat().st_mode & 0o777 == 0o600


async def test_user_comes_through_to_the_socket_whatever_the_umask(tmp_path):
    before = os.umask(0o077)
    try:
        path = tmp_path / "run/devices.sock"
        listen(path, os.getuid()).close()
    finally:
        os.umask(before)
    assert path.parent.stat().st_mode & 0o777 == 0o755
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_second_service_does_not_take_the_socket_of_a_running_one(monkeypatch):
    async with service(monkeypatch) as place:
        with pytest.raises(SetupError, match="another program is listening"):
            listen(place.path, os.getuid())
        client = await place.connect()
        assert await client.devices()


def test_a_killed_service_s_socket_is_replaced(tmp_path):
    path = tmp_path / "run/devices.sock"
    listen(path, os.getuid()).close()
    listen(path, os.getuid()).close()


def test_each_user_s_service_has_a_directory_of_its_own():
    ada, bob = socket_path("ada"), socket_path("bob")
    assert ada.parent != bob.parent
    assert socket_path() == socket_path(pwd.getpwuid(os.geteuid()).pw_name)
