"""Attack: a camera that is hostile, and a sandbox that wants more of one."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import sys
import threading
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio

from broker.core.errors import RefusedError, UpstreamError
from broker.core.services import CAMERA
from broker.helpers.process.spawn import run_tool
from broker.ipc.guest.file_requests import CallService
from broker.session.video.camera import find_camera
from broker.viewer.calls.calls import call_request
from broker.viewer.camera import Cameras
from broker.viewer.pipewire_video import VideoUse, pictures
from shims.files import camera as shim
from shims.files import video_node
from shims.files.bus_messages import INTERFACE, MEMBER, SENDER, BusMessage
from shims.files.bus_service import CallError
from shims.files.connection import BrokerConnection
from shims.files.protocol import frame
from tests.kit.cameras import camera, node, own_pipewire, stands_still
from tests.kit.eventually import eventually
from tests.kit.needs import requires
from tests.kit.session import permit_of, starter_of_orders

SIZE = (640, 480)
BYTES = 640 * 480 * 3 // 2
MIDDLE = 640 * 240 + 320
real = requires("pipewire", "wireplumber", "gst-launch-1.0")


async def received(far, count=BYTES):
    """So many bytes of the pictures, fewer at their end."""
    with trio.socket.from_stdlib_socket(far.dup()) as sock:
        data = bytearray()
        while len(data) < count:
            part = await sock.recv(count - len(data))
            if not part:
                break
            data += part
        return bytes(data)


@asynccontextmanager
async def taken():
    """Pictures of the session's camera."""
    with starter_of_orders() as session:
        async with (
            Cameras(None, session, None).source(
                VideoUse(None, permit_of(None))
            ) as source,
            pictures(session, source, SIZE) as far,
        ):
            yield far


@pytest.mark.parametrize(
    ("argument", "target"),
    [
        ("", "dom0"),
        ("2147483648x2147483648", "dom0"),
        ("640x481", "dom0"),
        ("-1x480", "dom0"),
        ("640x480", "personal"),
        ("offered", "personal"),
    ],
)
def test_a_sandbox_asks_for_pictures_of_our_sizes_at_the_desktop(argument, target):
    opening = SimpleNamespace(lease=None, stream=1, peer="", service="vitrail.Call")
    with pytest.raises(
        RefusedError,
        match=r"only dom0 serves vitrail\.Camera, with the argument 640x480 or",
    ):
        call_request(opening, CallService(CAMERA, argument, target))


LISTS = """
import ctypes, sys, threading
from shims.files.video_node import memory_at, narrowed, pipewire_library, pointers_to
from shims.files.camera import pipewire_remote
fd = pipewire_remote().detach()
if len(sys.argv) > 1:
    fd = narrowed(fd, [int(word) for word in sys.argv[1:]])
lib, done, place = pipewire_library(), threading.Event(), ctypes.c_void_p
lib.pw_proxy_add_object_listener.argtypes = (place,) * 4
loop = lib.pw_thread_loop_new(b"test", None)
context = lib.pw_context_new(lib.pw_thread_loop_get_loop(loop), None, 0)
core = lib.pw_context_connect_fd(context, fd, None, 0)
methods, data = memory_at("@PIPP", core)[2:]
(method,) = memory_at("@P", methods + 6 * 8)  # get_registry
get = ctypes.CFUNCTYPE(place, place, ctypes.c_uint32, ctypes.c_size_t)(method)
number, found = ctypes.c_uint32, []
kind = ctypes.CFUNCTYPE(None, place, number, number, place, number, place)
heard = {1: kind(lambda _, one, *rest: found.append(one))}
over = {4: ctypes.CFUNCTYPE(None, place, ctypes.c_int)(lambda *_: done.set())}
kept = [pointers_to(heard, 3), pointers_to(over, 6)]
hooks = [(ctypes.c_uint64 * 16)(), (ctypes.c_uint64 * 16)()]
registry = get(data, 3, 0)
lib.pw_proxy_add_object_listener(registry, hooks[0], kept[0], None)
lib.pw_proxy_add_listener(core, hooks[1], kept[1], None)
lib.pw_proxy_sync(core, 0)
lib.pw_thread_loop_start(loop)
assert done.wait(20)
print(*sorted(found), flush=True)
"""


@real
async def test_the_process_of_a_camera_sees_nothing_else_of_pipewire(monkeypatch):
    async with own_pipewire(monkeypatch) as env, camera(env, "webcam"):
        found = find_camera()
        shown = [str(one) for one in sorted(found.shown)]

        async def listed(*words):
            python = [sys.executable, "-c", LISTS, *words]
            root = str(Path(__file__).parents[2])
            said = await run_tool(python, env={**os.environ, "PYTHONPATH": root})
            return said.decode().split()

        assert len(await listed()) > 20
        # The server itself, and the two objects.
        assert await listed(*shown) == ["0", *shown]


@real
async def test_a_camera_of_two_gigapixels_gives_no_picture(monkeypatch):
    async with (
        own_pipewire(monkeypatch) as env,
        camera(env, "huge", "none", size=(2147483647, 2)),
    ):
        with trio.fail_after(30):
            with pytest.raises(UpstreamError, match="does not send pictures"):
                async with taken() as far:
                    pytest.fail(f"{len(await received(far))} bytes came")


@real
async def test_pictures_that_are_not_taken_are_dropped(monkeypatch):
    async with own_pipewire(monkeypatch) as env, camera(env, "slow", "black") as child:
        out = trio.lowlevel.FdStream(os.dup(child.popen.stdout.fileno()))
        async with out, taken() as far:
            with trio.fail_after(60):
                first = (await received(far))[MIDDLE]
                shown = b""
                while shown.count(b"\n") < 100:  # nobody takes these
                    shown += await out.receive_some()
                later = [(await received(far))[MIDDLE] for _ in range(8)]
        # A few were on their way; then they are those of now.
        assert later[-1] > first + 60, (first, later)


@real
async def test_nothing_is_left_of_a_camera_that_was_closed(monkeypatch):
    async with own_pipewire(monkeypatch) as env, camera(env, "webcam"):
        async with taken() as far:
            assert len(await received(far)) == BYTES
            assert (await node(env, "webcam"))["state"] == "running"
            kept = far.dup()
        with kept:
            rest = await received(kept, 1 << 30)
        assert len(rest) < 4 * BYTES  # what was in the socket, and its end
        await eventually(lambda: stands_still(env, "webcam"))


def access(member, sender=":1.5", signature="a{sv}"):
    fields = {INTERFACE: shim.CAMERA, MEMBER: member, SENDER: sender}
    return BusMessage(1, fields, signature, ({},))


@pytest.fixture
def portal(monkeypatch):
    near, far = socket.socketpair()
    monkeypatch.setattr(shim, "pipewire_remote", lambda: near)
    made = shim.PortalCamera(lambda *_: None)
    monkeypatch.setattr(made._offer, "held", lambda: True)
    with near, far:
        yield made


def test_a_program_that_has_not_asked_gets_no_camera(portal):
    asked = access("OpenPipeWireRemote")
    with pytest.raises(CallError, match="call AccessCamera"):
        portal._remote(asked)
    assert not asked.given
    # The answer to one program is not another one's.
    monkey = SimpleNamespace(failed=False, close=lambda: None)
    portal._node = monkey
    portal._ask(access("AccessCamera"))
    portal._grant(*portal._asked)
    with pytest.raises(CallError, match="call AccessCamera"):
        portal._remote(access("OpenPipeWireRemote", ":1.6"))
    portal._remote(asked)
    portal.forget_program(":1.5")
    assert portal._node is None
    with pytest.raises(CallError, match="call AccessCamera"):
        portal._remote(access("OpenPipeWireRemote"))
    os.close(asked.given.pop())


def test_a_program_that_leaves_while_the_camera_starts_does_not_keep_it(
    portal, monkeypatch
):
    made, closed, told = [], [], []
    monkeypatch.setattr(portal, "_respond", lambda sender, *_: told.append(sender))

    def starting():
        made.append(SimpleNamespace(failed=False))
        made[-1].close = lambda: closed.append(made[-1])
        portal.forget_program(":1.5")
        return made[-1]

    monkeypatch.setattr(shim, "CameraNode", starting)

    def ask(*senders):
        for sender in senders:
            portal._ask(access("AccessCamera", sender))
        for one in list(portal._asked):
            portal._grant(one)

    ask(":1.5")
    assert (portal.busy(), portal._node, closed, told) == (0, None, made, [])
    # Another one has asked for it, too.
    ask(":1.5", ":1.6")
    assert (portal.busy(), portal._node, closed) == (1, made[1], made[:1])
    assert told == [":1.6"]
    portal.forget_program(":1.6")
    assert (portal.busy(), portal._node, closed) == (0, None, made)


class Shown:
    """A node without PipeWire."""

    def __init__(self, *_):
        self.changed, self.over = threading.Event(), threading.Event()
        self.wanted = self.failed = False
        self.showing = threading.Event()
        self.order: list[str] = []

    def number(self):
        return 1

    def want(self, wanted):
        self.wanted = wanted
        self.changed.set()

    def show(self, picture):
        if any(picture):
            return  # black
        self.order.append("begins")
        self.showing.set()
        self.over.wait(0.5)  # for whoever closes it too early
        self.order.append("ends")

    def close(self):
        self.order.append("closed")
        self.over.set()


class Calls:
    """The camera's calls to a broker; each is made when it is released."""

    def __init__(self):
        self.begun = [threading.Semaphore(0) for _ in range(2)]
        self.released = [threading.Event() for _ in range(2)]
        self.pairs = [socket.socketpair() for _ in range(2)]
        self.made = 0
        self.hung_up = threading.Semaphore(0)

    def connection(self, _):
        number, self.made = self.made, self.made + 1
        self.begun[number].release()
        assert self.released[number].wait(20)
        near, far = self.pairs[number]
        far.settimeout(20)
        return BrokerConnection("", near)


@pytest.fixture
def calls(monkeypatch):
    made = Calls()
    hang_up = shim.CameraNode._hang_up

    def hanging_up(self):
        hang_up(self)
        made.hung_up.release()

    monkeypatch.setattr(shim.CameraNode, "_hang_up", hanging_up)
    monkeypatch.setattr(shim.PipeWireServers, "hold", lambda *_: None)
    monkeypatch.setattr(shim, "VideoNode", Shown)
    monkeypatch.setattr(shim, "BrokerConnection", made.connection)
    monkeypatch.setattr(shim, "LINGER_SECONDS", 0)
    yield made
    for event in made.released:
        event.set()
    for pair in made.pairs:
        for end in pair:
            end.close()


def test_a_camera_that_nobody_looks_at_any_more_is_not_opened(calls):
    made = shim.CameraNode()
    node = made._node
    node.want(True)
    assert calls.begun[0].acquire(timeout=20)
    node.want(False)  # before its call is made
    assert calls.hung_up.acquire(timeout=20)
    node.want(True)
    assert calls.begun[1].acquire(timeout=20)
    calls.released[1].set()
    assert calls.pairs[1][1].recv(4096)
    calls.released[0].set()
    assert not calls.pairs[0][1].recv(4096), "it asks for the camera"
    # The end of that one is not the end of the next, which ends as well.
    node.want(False)
    assert calls.hung_up.acquire(timeout=20)
    assert not calls.pairs[1][1].recv(4096)
    made.close()


def test_a_node_is_not_closed_under_a_picture(calls):
    made = shim.CameraNode()
    node = made._node
    calls.released[0].set()
    node.want(True)
    far = calls.pairs[0][1]
    far.settimeout(20)
    assert far.recv(4096)
    far.sendall(frame({"type": "go"}) + bytes(2 * BYTES))
    assert node.showing.wait(20)
    made.close()
    assert node.over.wait(20)
    while far.recv(4096):
        pass
    assert node.order[-1] == "closed"
    assert node.order.count("begins") == node.order.count("ends") > 0


def test_a_node_shows_pictures_in_memory_of_its_own_that_ends_with_it():
    size, queued, chunk = 4096, [], bytearray(16)
    there = (ctypes.c_char * 16).from_buffer(chunk)
    data = video_node.SPA_DATA.pack(1 << 2, 0, -1, 0, 0, 0, ctypes.addressof(there))
    datas = ctypes.create_string_buffer(data, len(data))
    buffer = (ctypes.c_uint64 * 3)(0, 0, ctypes.addressof(datas))
    taken = (ctypes.c_uint64 * 1)(ctypes.addressof(buffer))
    node = object.__new__(video_node.VideoNode)
    node._size, node._stride, node._picture, node._stream = size, 64, b"", None
    node._lib = SimpleNamespace(
        pw_stream_dequeue_buffer=lambda _: ctypes.addressof(taken),
        pw_stream_queue_buffer=lambda _, buffer: queued.append(buffer),
    )
    node._memory = {}
    node._add_buffer(None, ctypes.addressof(taken))
    kind, _, fd, start, length, _, given = video_node.SPA_DATA.unpack(datas.raw)
    assert (kind, start, length, given) == (2, 0, size, ctypes.addressof(there))
    node._process(None)
    assert not any(chunk)  # nothing before the first picture
    node._picture = b"\xaa" * size
    node._process(None)
    assert os.pread(fd, size, 0) == node._picture
    assert struct.unpack("IIii", chunk) == (0, size, 64, 0)
    assert len(queued) == 2
    node._remove_buffer(None, ctypes.addressof(taken))
    assert not node._memory
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_node_that_has_no_memory_for_a_picture_ends(monkeypatch):
    """Its buffer had none, was taken and never given back: pictures stood without a word."""

    def none_left(*_):
        raise OSError(errno.EMFILE, "too many open files")

    node = object.__new__(video_node.VideoNode)
    node._size, node._memory, node._stream = 4096, {}, None
    node._lib = SimpleNamespace(pw_stream_dequeue_buffer=lambda _: 1)
    node.changed, node.wanted, node.failed = threading.Event(), True, False
    with monkeypatch.context() as patch:
        patch.setattr(os, "memfd_create", none_left)
        node._add_buffer(None, 1)
    assert node.failed
    assert node.changed.is_set()
    node._state_changed(None, 0, video_node.PW_STREAMING, None)
    node._process(None)
    node._remove_buffer(None, 1)
    assert node.failed
