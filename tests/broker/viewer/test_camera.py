"""The uses of the camera, by sandboxes that want too much of it; no PipeWire here."""

from __future__ import annotations

import json
import socket
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from broker.core.errors import RefusedError, UpstreamError
from broker.core.lease import Lease
from broker.core.names import LeaseId, SandboxName
from broker.core.services import CAMERA
from broker.ipc.guest.file_requests import CallService
from broker.ipc.session.media_orders import FoundCamera
from broker.session.video.camera import cameras_in
from broker.viewer import pipewire_video as video
from broker.viewer.calls.calls import SandboxCalls
from broker.viewer.camera import SIZES, Cameras
from broker.viewer.exchange.guest_connection import GuestConnection
from broker.viewer.pipewire_video import ENDED_SECONDS, OPENED_PER_MINUTE
from broker.wire.pending_call import Answer
from tests.kit.session import permit_of

KIND = "PipeWire:Interface:"
SIZE = SIZES["640x480"]


def lease(name="work", record=""):
    return Lease(
        LeaseId(f"l-{name}"), SandboxName(name), SandboxName(record or name), 1
    )


class Log:
    """The recorded events, in order, with notifications and openings."""

    def __init__(self):
        self.done = []
        self.full = False

    def check_share(self, lease):
        self.done.append("share")

    async def require(self, event):
        await trio.lowlevel.checkpoint()
        if self.full:
            raise UpstreamError("the disk is full")
        self.done.append(type(event).__name__)

    async def note(self, event):
        await trio.lowlevel.checkpoint()
        self.done.append(type(event).__name__)

    def show(self, kind, _sandbox, *, active, source=""):
        if kind.mark:
            self.done.append("shown" if active else "hidden")


class OneCamera:
    """A session that has one."""

    async def carry_out(self, _row, _order, *, warrant):
        await trio.lowlevel.checkpoint()
        return Answer(FoundCamera("webcam", 40), [])


@pytest.fixture
def made(monkeypatch):
    log = Log()
    cameras = Cameras(log, OneCamera(), log)

    @asynccontextmanager
    async def pictures(*_):
        log.done.append("opened")
        near, far = socket.socketpair()
        with near, far:
            try:
                yield near
            finally:
                log.done.append("closed")

    monkeypatch.setattr(video, "pictures", pictures)
    return cameras, log


async def at_once(_far):
    await trio.lowlevel.checkpoint()


async def for_ever(_far):
    await trio.sleep_forever()


async def test_a_use_is_recorded_and_shown_before_the_camera_is_opened(made):
    cameras, log = made
    await cameras.serve(permit_of(lease()), SIZE, at_once)
    order = ["share", "CameraOn", "shown", "opened", "closed", "hidden", "CameraOff"]
    assert log.done == order


async def test_a_use_that_cannot_be_recorded_opens_nothing(made):
    cameras, log = made
    log.full = True
    with pytest.raises(UpstreamError):
        await cameras.serve(permit_of(lease()), SIZE, at_once)
    assert "opened" not in log.done
    assert not cameras.uses()


async def test_ten_thousand_requests_open_the_camera_a_few_times(made, autojump_clock):
    cameras, log = made
    refused = 0
    for _ in range(10_000):
        try:
            await cameras.serve(permit_of(lease()), SIZE, at_once)
        except RefusedError:
            refused += 1
    assert log.done.count("opened") == OPENED_PER_MINUTE
    assert refused == 10_000 - OPENED_PER_MINUTE
    await trio.sleep(70)
    await cameras.serve(permit_of(lease()), SIZE, at_once)


async def test_a_disposable_has_no_tries_of_its_own(made):
    cameras, _ = made
    for number in range(OPENED_PER_MINUTE):
        await cameras.serve(permit_of(lease(f"disp{number}", "disp")), SIZE, at_once)
    with pytest.raises(RefusedError, match="times within a minute"):
        await cameras.serve(permit_of(lease("disp99", "disp")), SIZE, at_once)


async def test_a_sandbox_opens_the_camera_once_and_leaves_it_to_others(made):
    cameras, _ = made
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cameras.serve, permit_of(lease()), SIZE, for_ever)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(RefusedError, match="already"):
            await cameras.serve(permit_of(lease()), SIZE, at_once)
        for name in ("a", "b"):
            one = lease(f"disp-{name}", "disp")
            nursery.start_soon(cameras.serve, permit_of(one), SIZE, for_ever)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(RefusedError, match="too many"):
            await cameras.serve(permit_of(lease("disp-c", "disp")), SIZE, at_once)
        await cameras.serve(permit_of(lease("mail")), SIZE, at_once)
        nursery.cancel_scope.cancel()


async def test_a_camera_that_was_taken_back_stays_so_for_a_while(made, autojump_clock):
    cameras, log = made
    refusals = []

    async def asks():
        try:
            await cameras.serve(permit_of(lease()), SIZE, for_ever)
        except RefusedError as error:
            refusals.append(str(error))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(asks)
        await trio.testing.wait_all_tasks_blocked()
        assert [use.title for use in cameras.uses()] == ["webcam"]
        await cameras.take_back("work")
        assert log.done[-3:] == ["closed", "hidden", "CameraOff"]
    assert refusals == ["the user revoked access to the camera"]
    with pytest.raises(RefusedError, match="revoked access to the camera"):
        await cameras.serve(permit_of(lease()), SIZE, at_once)
    await trio.sleep(ENDED_SECONDS)
    await cameras.serve(permit_of(lease()), SIZE, at_once)
    assert await cameras.take_back("work") is None


async def test_the_user_is_not_asked_again_for_a_camera_that_was_taken_back(made):
    """A rule that asks had four questions at once, each of whose yes was refused then."""
    cameras, _ = made
    cameras.refuse_a_while(lease())
    opening = SimpleNamespace(lease=lease(), stream=1, peer="", service="vitrail.Call")
    calls = SandboxCalls(
        None, None, None, SimpleNamespace(cameras=cameras, session=None)
    )
    exchange = GuestConnection(SimpleNamespace(lease=lease()), opening)
    with pytest.raises(RefusedError, match="revoked access to the camera"):
        await calls.call(exchange, CallService(CAMERA, "640x480"), None)


def node(number, **props):
    named = {key.replace("_", "."): value for key, value in props.items()}
    return {"id": number, "type": f"{KIND}Node", "info": {"props": named}}


FACTORY = {
    "id": 11,
    "type": f"{KIND}Factory",
    "info": {"props": {"factory.name": "client-node"}},
}


def test_a_shared_screen_is_not_taken_for_a_camera():
    video = {"media_class": "Video/Source", "object_serial": 40}
    screen = node(30, **video, priority_session=9000)
    webcam = node(31, **video, media_role="Camera", node_description="Web\ncam")
    better = node(32, **video, media_role="Camera", priority_session=100)
    sound = node(33, media_class="Audio/Source", media_role="Camera")
    gone = {"id": 2, "info": None}
    dump = json.dumps([gone, FACTORY, screen, webcam, sound, {"id": 1, "type": "x"}])
    (found,) = cameras_in(dump.encode())
    assert (found.serial, found.shown) == (40, (11, 31))
    assert "\n" not in found.title
    found = cameras_in(json.dumps([FACTORY, webcam, better]).encode())
    assert [one.shown[1] for one in found] == [32, 31]
    assert cameras_in(json.dumps([FACTORY, screen]).encode()) == []


def printed(*lists):
    """What pw-dump prints: a list for each round, indented."""
    return b"".join(json.dumps(one, indent=2).encode() + b"\n" for one in lists)


def test_an_object_that_goes_while_pw_dump_lists_is_a_list_of_its_own():
    video = {"media_class": "Video/Source", "media_role": "Camera"}
    webcam = node(31, **video, object_serial=40)
    webcam["info"]["props"]["node.description"] = "a\n]\n"
    dump = printed([{"id": 38, "info": None}], [FACTORY, webcam])
    assert [one.serial for one in cameras_in(dump)] == [40]
    # The last list counts: the camera itself has gone.
    dump = printed([FACTORY, webcam], [{"id": 31, "info": None}])
    assert cameras_in(dump) == []


@pytest.mark.parametrize("name", ["object_serial", "priority_session"])
def test_a_number_of_any_length_hides_no_camera(name):
    """Any program of the session chooses the properties of its node."""
    video = {"media_class": "Video/Source", "media_role": "Camera"}
    webcam = node(31, **video, object_serial=40, priority_session=9)
    long = {"object_serial": 41, name: "9" * 5000}
    dump = printed([FACTORY, node(32, **video, **long), webcam])
    assert [one.shown[1] for one in cameras_in(dump)] == [31, 32]


@pytest.mark.parametrize(
    "dump", [b"", b"{}", b"[]\n[", b"[]\n[]\n{}", b'[{"id":"x"}]', b"\xff", b"[" * 9999]
)
def test_a_list_of_another_form_is_an_error(dump):
    with pytest.raises(UpstreamError):
        cameras_in(dump)
