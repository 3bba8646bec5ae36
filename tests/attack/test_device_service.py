"""Attacks on ``vitrail-devices``, which is root: by other users, by devices, by swaps."""

from __future__ import annotations

import os
import select
import shutil
import socket
import sys

import pytest
import trio
import trio.testing

from broker.core.errors import RefusedError, SetupError
from broker.ipc.devices import messages
from broker.root import monitor, usbip
from broker.root.claims import Claims
from broker.root.devices_service import Service
from broker.root.listener import listen
from broker.root.records import load_records
from broker.root.strict import StrictMode
from broker.root.sysfs import SysfsDevice
from tests.attack.test_control_inside import BOX
from tests.broker.root.test_sysfs import Seen, plug
from tests.integration.test_device_service import number, service
from tests.kit.eventually import eventually


def drive(folder, name):
    """Bind a device of a fake sysfs to a driver."""
    (folder / "driver").unlink(missing_ok=True)
    (folder / "driver").symlink_to(f"../../drivers/{name}")


class Bus:
    """The bus's files: the bytes written to them, and the effects of a driver's files."""

    def __init__(self, monkeypatch, root):
        self.root, self.written, self.before = root, [], None
        monkeypatch.setattr(usbip, "_put", self.put)
        monkeypatch.setattr(usbip, "available", lambda: "")

    def put(self, path, text):
        port = text.rpartition(" ")[2]
        self.written.append(f"{path.parent.name}/{path.name} {text}")
        link = self.root / port / "driver"
        if path.name == "unbind":
            link.unlink()
        if path.name == "bind":
            if self.before is not None:
                self.before()
            drive(self.root / port, "usbip-host")


async def test_device_that_is_swapped_while_it_is_bound_is_not_left_at_usbip_host(
    monkeypatch, tmp_path
):
    """``bind`` takes a port's name; the new device gets back to its driver."""
    bus = Bus(monkeypatch, tmp_path)
    drive(plug(tmp_path), "usb")
    held = SysfsDevice("2-1", tmp_path)
    decided = held.describe()

    def swap():
        shutil.rmtree(tmp_path / "2-1")
        plug(tmp_path, number=6, serial="A1")

    bus.before = swap
    here, there = socket.socketpair()
    with here, there, pytest.raises(Exception, match="unplugged"):
        usbip.export(held, decided, here)
    held.close()
    assert bus.written[-3:] == [
        "usbip-host/unbind 2-1",
        "usbip-host/match_busid del 2-1",
        f"{usbip.PROBE.parent.name}/{usbip.PROBE.name} 2-1",
    ]
    assert not (tmp_path / "2-1/usbip_sockfd").exists()


async def test_killed_service_leaves_no_device_with_a_guest(monkeypatch, tmp_path):
    bus = Bus(monkeypatch, devices_folder(tmp_path / "sysfs"))
    state = Claims(tmp_path)
    for port in ("2-1", "2-2", "2-3"):
        drive(plug(bus.root, port=port), "usbip-host")
        (bus.root / port / "usbip_sockfd").write_text("")
    drive(bus.root / "2-3", "usb")
    for port in ("2-1", "2-3"):
        os.close(state.take(port))  # it was killed
    # A new start; 2-2 is another program's, 2-3 is at its driver.
    await state.recover(authorize=True, root=tmp_path / "sysfs")
    assert (bus.root / "2-1/usbip_sockfd").read_text() == "-1"
    assert (bus.root / "2-1/authorized").read_text().strip() == "1"
    assert not [line for line in bus.written if "2-2" in line or "2-3" in line]
    assert list((tmp_path / "ports").iterdir()) == []


async def test_start_takes_back_what_a_killed_service_left(monkeypatch, tmp_path):
    recovered = []

    async def recover(self, *, authorize, root):
        await trio.lowlevel.checkpoint()
        recovered.append(authorize)

    monkeypatch.setattr(Claims, "recover", recover)
    async with service(monkeypatch) as place:
        await place.connect()
    assert recovered == [True]


async def test_socket_is_not_made_where_others_can_replace_it(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(SetupError, match="writable by other users"):
        listen(folder / "devices.sock", os.getuid())
    assert list(folder.iterdir()) == []
    link = tmp_path / "link"
    folder.chmod(0o755)
    link.symlink_to(folder)
    with pytest.raises(SetupError, match="writable by other users"):
        listen(link / "devices.sock", os.getuid())


@pytest.mark.parametrize("mode", [0o666, 0o664, 0o602])
def test_records_that_others_may_write_allow_nothing(tmp_path, mode):
    path = tmp_path / "devices.toml"
    path.write_text("")
    path.chmod(mode)
    with pytest.raises(SetupError, match="writable by other users"):
        load_records(path)


def test_records_that_are_a_pipe_do_not_stop_the_service(tmp_path):
    os.mkfifo(tmp_path / "devices.toml")
    with pytest.raises(SetupError, match="regular file"):
        load_records(tmp_path / "devices.toml")


class Stall:
    """A device that does not answer: the kernel's call returns when it is let go."""

    def __init__(self):
        self.begun = trio.Event()
        self._hangs, self._let_go = os.pipe()

    def call(self):
        """In the thread, and as deaf to cancellation as the kernel.

        For 30 s at most: a test that fails meanwhile ends, too.
        """
        trio.from_thread.run_sync(self.begun.set)
        select.select([self._hangs], [], [], 30)
        os.close(self._hangs)

    def let_go(self):
        os.close(self._let_go)


async def test_device_that_does_not_answer_does_not_keep_others_in_a_sandbox(
    monkeypatch,
):
    async with service(monkeypatch) as place:
        client, other = await place.connect(), await place.connect()
        plug(place.root, port="2-2")
        await place.look()
        first, second = (item.number for item in (await client.devices()).devices)
        here, there = socket.socketpair()
        with here, there:
            made = await client.export(first, "work", "lease", here)
            stall = Stall()
            place.kernel.before = stall.call
            async with trio.open_nursery() as nursery:
                nursery.start_soon(other.export, second, "work", "lease", here)
                await stall.begun.wait()
                # It hangs in the kernel; the other one is taken back.
                await client.detach(made.attachment)
                assert place.kernel.released == ["2-1"]
                place.kernel.before = None
                stall.let_go()


async def test_service_that_ends_during_an_attach_takes_it_back_behind_it(monkeypatch):
    stall = Stall()
    with trio.fail_after(30):
        async with service(monkeypatch) as place:
            client = await place.connect()
            place.kernel.before = stall.call
            here, there = socket.socketpair()

            async def attach():
                with here, there, pytest.raises(Exception):  # noqa: B017
                    await client.export(await number(client), "work", "lease", here)

            place.nursery.start_soon(attach)
            await stall.begun.wait()
            place.nursery.cancel_scope.cancel()
            stall.let_go()
    # In this order, or it would be a guest's without a service.
    assert place.kernel.exported == [("2-1", socket.AF_UNIX)]
    assert place.kernel.released == ["2-1"]


async def test_next_device_of_a_port_waits_until_the_last_is_back(monkeypatch):
    """sysfs names a port: the end of one would unbind the next."""
    async with service(monkeypatch) as place:
        client, other = await place.connect(), await place.connect()
        gate, asked, releasing = trio.Event(), trio.Event(), trio.Event()
        port_is_free = Service._port_is_free

        async def ask(of, port):
            if place.kernel.exported:
                asked.set()
            await port_is_free(of, port)

        monkeypatch.setattr(Service, "_port_is_free", ask)

        async def release(held, *, authorize):
            releasing.set()
            with trio.move_on_after(30):  # a test that fails meanwhile ends, too
                await gate.wait()
            return await place.kernel.release(held, authorize=authorize)

        monkeypatch.setattr(usbip, "release", release)
        here, there = socket.socketpair()
        with here, there:
            made = await client.export(await number(client), "work", "lease", here)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.detach, made.attachment)
                # A device that is seen to be gone before is taken back without a word.
                await releasing.wait()
                shutil.rmtree(place.root / "2-1")
                plug(place.root, number=6)
                await place.look()
                fresh = await number(other)

                async def attach():
                    await other.export(fresh, "work", "lease", here)
                    assert place.kernel.released == ["2-1"]

                nursery.start_soon(attach)
                await asked.wait()
                try:
                    await trio.testing.wait_all_tasks_blocked(0.1)
                    assert len(place.kernel.exported) == 1
                finally:
                    gate.set()
            assert len(place.kernel.exported) == 2


async def test_flood_of_events_about_a_stalled_device_is_one_more_look(
    monkeypatch, tmp_path
):
    stall, looks = Stall(), []
    real = monitor.describe

    def describe(port, root):
        looks.append(port)
        if len(looks) == 1:
            stall.call()
        return real(port, root)

    monkeypatch.setattr(monitor, "describe", describe)
    plug(tmp_path)
    plug(tmp_path, port="2-2")
    watcher = Seen(tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watcher.look_at, ["2-1"])
        await stall.begun.wait()
        for _ in range(200):
            nursery.start_soon(watcher.look_at, ["2-1"])
        await eventually(lambda: len(nursery.child_tasks) == 2)
        # Another port is not kept waiting.
        await watcher.look_at(["2-2"])
        assert watcher.said == [("seen", "2-2", 5)]
        stall.let_go()
    assert looks == ["2-1", "2-2", "2-1"]


async def test_many_devices_that_do_not_answer_keep_none_in_a_sandbox(monkeypatch):
    """A hub can have more of them than trio has threads."""
    real = monitor.describe
    hangs, let_go = os.pipe()

    def describe(port, root):
        if port != "2-1":
            os.read(hangs, 1)
        return real(port, root)

    async with service(monkeypatch) as place:

        async def release_in_thread(held, *, authorize):
            await trio.to_thread.run_sync(held.there)
            return await release(held, authorize=authorize)

        release = usbip.release
        monkeypatch.setattr(usbip, "release", release_in_thread)
        client = await place.connect()
        here, there = socket.socketpair()
        with here, there:
            made = await client.export(await number(client), "work", "lease", here)
            monkeypatch.setattr(monitor, "describe", describe)
            limiter = trio.to_thread.current_default_thread_limiter()
            for n in range(int(limiter.total_tokens)):
                plug(place.root, port=f"2-2.{n + 1}")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(place.look)
                await trio.testing.wait_all_tasks_blocked(0.1)
                try:
                    with trio.fail_after(10):
                        await client.detach(made.attachment)
                finally:
                    os.close(let_go)
        os.close(hangs)
        assert place.kernel.released == ["2-1"]


def test_driver_that_would_bind_between_verdict_and_qemu_is_kept_off(tmp_path):
    devices = tmp_path / "devices"
    drive(plug(devices_folder(devices)), "usb")
    switch = tmp_path / "drivers_autoprobe"
    switch.write_text("1")
    controller(devices)
    mode, claims = StrictMode(tmp_path / "shared", devices), Claims(tmp_path / "shared")
    mode.set(wanted=True)
    with mode.no_driver_binds(claims.is_taken):
        assert switch.read_text() == "0"
        plug(devices, port="2-2")  # plugged in meanwhile: it gets its driver later
        # Another service moves it to usbip-host.
        plug(devices, port="2-3")
        claims.take("2-3")
    assert switch.read_text() == "1"
    assert (tmp_path / "drivers_probe").read_text() == "2-2"


def devices_folder(path):
    path.mkdir()
    return path


def controller(root, name="usb2", value="1"):
    (root / name).mkdir(parents=True, exist_ok=True)
    file = root / name / "authorized_default"
    file.write_text(f"{value}\n")
    return file


async def test_wrong_device_is_never_attached_when_numbers_are_swapped(monkeypatch):
    """Same port, ids, serial number: a verdict is about one plug-in."""
    async with service(monkeypatch) as place:
        client = await place.connect()
        verdict = await number(client)
        for address in range(6, 9):
            shutil.rmtree(place.root / "2-1")
            plug(place.root, number=address)
            await place.look()
            here, there = socket.socketpair()
            with here, there, pytest.raises(RefusedError, match="unplugged or has"):
                await client.export(verdict, "work", "lease", here)
        assert place.kernel.exported == []


async def test_record_that_was_removed_takes_the_device_back(monkeypatch):
    async with service(monkeypatch) as place:
        client = await place.connect()
        here, there = socket.socketpair()
        with here, there:
            made = await client.export(await number(client), "work", "lease", here)
            records = (place.folder / "devices.toml").read_text()
            (place.folder / "devices.toml").write_text("not toml")
            with pytest.raises(RefusedError):
                await client.devices()
            assert place.kernel.released == []
            (place.folder / "devices.toml").write_text(records.replace("work", "web"))
            await client.devices()
            await eventually(lambda: client.ended_ones)
        assert client.ended_ones == [
            (made.attachment, "this machine's records changed")
        ]
        assert place.kernel.released == ["2-1"]


@pytest.mark.parametrize("way", ["usbip", "node"])
async def test_a_device_that_another_service_has_handed_over_stays_there(
    monkeypatch, way
):
    async with service(monkeypatch) as place:
        client = await place.connect()
        item = await number(client)
        place.kernel.handed_over.add("2-1")
        here, there = socket.socketpair()
        words = (item, "work", "lease")
        ask = client.node(*words) if way == "node" else client.export(*words, here)
        with (
            here,
            there,
            pytest.raises(RefusedError, match="usbip already exports it"),
        ):
            await ask
        assert (place.kernel.exported, place.kernel.released) == ([], [])
        # It is this service's to give when the other one has taken it back.
        place.kernel.handed_over.clear()
        here, there = socket.socketpair()
        with here, there:
            made = await client.export(item, "work", "lease", here)
        assert made.devid == 0x20005


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap")
async def test_program_of_a_box_asks_for_no_device(monkeypatch):
    """It has the user's id, and may see the socket by a mount of the directory above."""
    program = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "s.settimeout(60)\n"
        "s.connect(sys.argv[1])\n"
        "try:\n"
        "    s.send(bytes.fromhex(sys.argv[2]))\n"
        "except OSError:\n"
        "    pass  # refused already\n"
        "try:\n"
        "    print(len(s.recv(65536)))\n"
        "except ConnectionResetError:\n"
        "    print(0)\n"
    )
    asks = messages.encode(messages.ListDevices(1)).hex()
    async with service(monkeypatch) as place:
        python = f"{sys.base_prefix}/bin/python3"
        outside = [python, "-c", program, str(place.path), asks]
        said = [
            (await trio.run_process(argv, capture_stdout=True)).stdout.strip()
            for argv in (outside, [*BOX, *outside])
        ]
    assert int(said[0]) > 0, "the user's broker is told of the devices"
    assert said[1] == b"0"
