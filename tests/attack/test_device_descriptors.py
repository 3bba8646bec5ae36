"""Descriptors that a client sends to ``vitrail-devices``: some cannot be closed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from broker.core.errors import RefusedError
from broker.ipc.devices import messages
from broker.root.sysfs import DeviceGoneError, SysfsDevice
from broker.wire import fdpass
from tests.broker.root.test_sysfs import plug
from tests.integration.test_device_service import number, service
from tests.kit.eventually import eventually

SENDER = """
import os, select, socket, sys
from pathlib import Path
from broker.wire import fdpass
from broker.ipc.devices import messages
from tests.kit.vm.silent_fuse import _libc, SilentFuse

place, path = Path(sys.argv[1]), sys.argv[2]
ready, mounted = os.pipe()
if os.fork() == 0:
    # Its server: all that waits for it resumes when it ends.
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    words = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
    if _libc.mount(b"silent", os.fsencode(place), b"fuse", 0, words.encode()):
        os._exit(1)
    SilentFuse(device)
    os.write(mounted, b"m")
    # The test has looked, or it was waited for.
    if not select.select([0], [], [], 15)[0]:
        place.with_name("over").touch()
    os._exit(0)
os.close(mounted)
if not os.read(ready, 1):
    sys.exit("cannot mount")
fd = os.open(place / "file", os.O_RDWR)
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.connect(path)
fdpass.send(sock, messages.encode(messages.ListDevices(1)), [fd])
sock.settimeout(10)
try:
    print("answered" if sock.recv(1 << 17) else "ended", flush=True)
except TimeoutError:
    print("silence", flush=True)
"""


async def test_descriptor_that_cannot_be_closed_stops_its_client_only(
    monkeypatch, tmp_path
):
    """The service would hang in close(2), deaf to every signal."""
    async with service(monkeypatch) as place:
        client = await place.connect()
        (tmp_path / "fuse").mkdir()
        words = ["unshare", "-Urm", sys.executable, "-c", SENDER]
        hostile = subprocess.Popen(
            [*words, str(tmp_path / "fuse"), str(place.path)],
            stdin=-1,
            stdout=-1,
            stderr=-1,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        try:
            said = await trio.to_thread.run_sync(hostile.stdout.readline)
            if not said:
                pytest.skip("no FUSE in a user namespace here")
            with trio.fail_after(10):
                for _ in range(3):
                    assert (await client.devices()).devices
            assert not (tmp_path / "over").exists(), "it was waited for"
            # Its client has the answer, too; the next message is never received.
            assert said == b"answered\n"
        finally:
            await trio.to_thread.run_sync(hostile.communicate)


async def test_refused_requests_leave_no_descriptor(monkeypatch):
    async with service(monkeypatch) as place:
        client = await place.connect()
        item = await number(client)
        before = len(os.listdir("/proc/self/fd"))
        read, write = os.pipe()
        raw = client._sock
        for _ in range(20):
            for fd in (read, write):
                request = messages.Attach(7, item, "work", "lease", "usbip")
                fdpass.send(raw, messages.encode(request), [fd])
        os.close(read)
        os.close(write)
        await client.devices()
        assert place.kernel.exported == []
        await eventually(lambda: len(os.listdir("/proc/self/fd")) <= before)


async def test_socket_that_is_no_guests_is_refused(monkeypatch):
    async with service(monkeypatch) as place:
        client = await place.connect()
        with socket.socket(socket.AF_INET) as odd, pytest.raises(RefusedError):
            await client.export(await number(client), "work", "lease", odd)


def test_device_that_cannot_be_read_for_want_of_descriptors_is_not_unplugged(tmp_path):
    """It would be taken for one that is back, and stay with the guest."""
    plug(tmp_path)
    held = SysfsDevice("2-1", tmp_path)
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limit[1]))
    try:
        with pytest.raises(Exception, match="cannot read") as caught:
            held.read("devnum")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
        held.close()
    assert not isinstance(caught.value, DeviceGoneError)
