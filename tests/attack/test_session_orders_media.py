"""Attack: a viewer that was taken over wants to hear and see what was not permitted."""

from __future__ import annotations

import os
import socket
import time
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from broker.core.errors import RefusedError, SetupError
from broker.core.services import AUDIO, CAMERA, SCREEN_SHARE, SECURITY_KEY, SSH_AGENT
from broker.ipc.session.bus_orders import HoldPermit
from broker.ipc.session.media_orders import (
    BannerRow,
    ConnectSound,
    FindCamera,
    OpenSecurityKey,
    ShowBanner,
    ShowFrame,
    TakeCamera,
    TakeScreen,
)
from tests.attack.test_camera import real
from tests.attack.test_given_up_jails import ended
from tests.kit.cameras import camera, node, own_pipewire, stands_still
from tests.kit.eventually import eventually
from tests.kit.session import Signed, starter_of_orders

TAKE = partial(TakeCamera, serial=1, width=640, height=480)
ORDERS = [
    pytest.param(ConnectSound, AUDIO, id="sound"),
    pytest.param(FindCamera, CAMERA, id="find"),
    pytest.param(TAKE, CAMERA, id="camera"),
    pytest.param(OpenSecurityKey, SECURITY_KEY, id="key"),
]
FORGED = {
    "none": lambda _session, _service: b"-",
    "another service": lambda session, _: session.permit(SSH_AGENT),
    "the other one": lambda session, service: session.permit(
        AUDIO if service == CAMERA else CAMERA
    ),
    "screen": lambda session, _: session.permit(SCREEN_SHARE),
    "target": lambda session, service: session.permit(service, target="mail"),
    "old": lambda session, service: session.permit(service, at=time.monotonic() - 61),
}


_OPENED = """
import os, pathlib, broker.session.security_keys.key_device as module
module.open_key = lambda: pathlib.Path({place!r}).touch() or os.open("/dev/null", 0)
"""


@pytest.fixture
def served(tmp_path):
    """A session with a sound server, a PipeWire and a security key."""
    environ = {
        **os.environ,
        "PULSE_SERVER": f"unix:{tmp_path}/sound",
        "XDG_RUNTIME_DIR": str(tmp_path),
    }
    with (
        socket.socket(socket.AF_UNIX) as sound,
        socket.socket(socket.AF_UNIX) as pipewire,
        starter_of_orders(environ, _OPENED.format(place=f"{tmp_path}/key")) as session,
    ):
        for server, name in ((sound, "sound"), (pipewire, "pipewire-0")):
            server.bind(str(tmp_path / name))
            server.listen()
            server.settimeout(0)
        yield session, (sound, pipewire)


@pytest.mark.parametrize("forged", FORGED)
@pytest.mark.parametrize(("order", "service"), ORDERS)
async def test_nothing_is_reached_without_a_permit(
    served, order, service, forged, tmp_path
):
    session, servers = served
    made = Signed(FORGED[forged](session, service), order())
    fds = [servers[0].fileno()] * 2 if order is OpenSecurityKey else []
    with pytest.raises(RefusedError):
        await session.carry_out(made, fds)
    assert not (tmp_path / "key").exists()
    for server in servers:
        with pytest.raises(BlockingIOError):
            server.accept()


@asynccontextmanager
async def with_a_screen(monkeypatch):
    """A session with a camera, and a screen that one of its programs shares."""
    async with (
        own_pipewire(monkeypatch) as env,
        camera(env, "webcam"),
        camera(env, "screen", role="Screen"),
    ):
        with starter_of_orders() as session:
            yield session, env


@real
async def test_a_permit_for_cameras_is_of_no_other_source(monkeypatch):
    async with with_a_screen(monkeypatch) as (session, env):
        webcam = (await session.carry_out(FindCamera())).value
        assert webcam.title == "Camera webcam"
        screen = await node(env, "screen")
        serial = int(screen["object.serial"])
        assert serial != webcam.serial
        with pytest.raises(SetupError, match="has no camera"):
            await session.carry_out(TAKE(serial=serial))
        assert (await node(env, "screen"))["state"] != "running"
        answer = await session.carry_out(TAKE(serial=webcam.serial))
        os.close(answer.fds[0])


SHORT = "from broker.session import read_warrant; read_warrant.SECONDS = 3.0\n"


@real
async def test_a_camera_ends_with_its_permit(monkeypatch):
    """Whatever a viewer keeps open, which was taken over."""
    async with own_pipewire(monkeypatch) as env, camera(env, "webcam"):
        with starter_of_orders(prepare=SHORT) as session:
            found = await session.carry_out(FindCamera())
            order = TAKE(serial=found.value.serial)
            async with session.carrying_out(order) as begun:
                (fd,) = begun.fds
                for _ in range(7):
                    fresh = session.permit(CAMERA, renewed=True)
                    await begun.more(Signed(fresh, HoldPermit()))
                    await trio.sleep(0.5)  # past the time of the first one
                assert not begun.process.has_ended()
                with socket.socket(fileno=fd), trio.fail_after(30):
                    await begun.process.wait()
            await eventually(lambda: stands_still(env, "webcam"))


KEY = """
from broker.session.security_keys import key_device
key_device.open_key = lambda: key_device.os.open("/dev/null", 0)
key_device.our_program = lambda *_: ["/bin/sleep", "600"]
"""


async def test_a_security_key_ends_with_its_permit():
    """Whatever a viewer keeps open, which was taken over."""
    ours, theirs = socket.socketpair()
    with ours, theirs, starter_of_orders(prepare=SHORT + KEY) as session:
        fds = [theirs.fileno()] * 2
        async with session.carrying_out(OpenSecurityKey(), fds) as begun:
            theirs.close()
            for _ in range(7):
                await begun.more(HoldPermit())
                await trio.sleep(0.5)  # past the time of the first one
            assert not begun.process.has_ended()
            with trio.fail_after(30):
                await begun.process.wait()
            assert ours.recv(1) == b""


@pytest.mark.parametrize(
    "order",
    [
        TAKE(width=1 << 31),
        TAKE(serial="1 ! filesink"),
        TakeScreen(-1, 640, 480),
        TakeScreen("1 ! filesink location=x", 640, 480),
        TakeScreen(1, 640, 0),
        ShowBanner(()),
        ShowBanner((BannerRow("102030", "work", ("microphone",)),) * 9),
        ShowBanner((BannerRow("10203", "work", ("microphone",)),)),
        ShowBanner((BannerRow("102030", "Wo rk", ("microphone",)),)),
        ShowBanner((BannerRow("102030", "work\n", ("microphone",)),)),
        ShowBanner((BannerRow("102030", "work", ()),)),
        ShowBanner((BannerRow("102030", "work", ("Enter your password",)),)),
        ShowFrame("1; rm x", 640, 480, 0, 0),
        ShowFrame("102030\n", 640, 480, 0, 0),
        ShowFrame("102030", 640, 480, 1 << 31, 0),
        ShowFrame("102030", "-c", 480, 0, 0),
    ],
)
async def test_no_words_of_an_order_reach_a_command_line(served, order):
    session, _ = served
    name = type(order).__name__
    warrant = session.permit(CAMERA)
    message = await session.refusal(name, order, [0] * (name == "TakeScreen"), warrant)
    assert f"the viewer sent an invalid {name}" in message


@pytest.mark.parametrize("killed", [False, True])
async def test_a_jail_that_starts_ends_with_its_order(tmp_path, killed):
    """Its first process leaves the group, and asks for its death last.

    A viewer that was taken over kills the process of its order meanwhile: so it kept
    the camera, and a folder, after their permits' end.
    """
    made, place = tmp_path / "bwrap", tmp_path / "number"
    made.write_text(f"""#!/bin/sh
setsid sh -c 'echo $$ > {place}.new; mv {place}.new {place}; exec sleep 1000' &
wait
""")
    made.chmod(0o755)
    environ = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    near, far = socket.socketpair()
    with near, far, starter_of_orders(environ) as session:
        order = TakeScreen(1, 640, 480)
        async with session.carrying_out(order, [far.fileno()]) as begun:
            os.close(begun.fds[0])
            await eventually(place.exists)
            inside = os.pidfd_open(int(place.read_text()))
            if killed:
                begun.process.kill()
        await ended(inside)
        os.close(inside)


@pytest.mark.parametrize("count", [0, 2])
async def test_descriptors_are_as_many_as_an_order_has(served, count):
    session, _ = served
    warrant = session.permit(SECURITY_KEY)
    for order, least in ((TakeScreen(1, 640, 480), 0), (OpenSecurityKey(), 1)):
        fds = [0] * (least + count)
        message = await session.refusal(type(order).__name__, order, fds, warrant)
        assert f"sent {len(fds)} descriptors" in message


async def test_a_permitted_key_is_opened_for_its_process_alone(served, tmp_path):
    session, _ = served
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with near, far:
        order = Signed(session.permit(SECURITY_KEY), OpenSecurityKey())
        async with session.carrying_out(order, [far.fileno()] * 2) as begun:
            assert begun.fds == []
            assert (tmp_path / "key").exists()
