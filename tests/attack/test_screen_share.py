"""Attack: a sandbox that wants to see more of the desktop, or longer, than its user chose."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import sys
import threading
from contextlib import asynccontextmanager, contextmanager, nullcontext
from functools import partial
from math import inf
from types import SimpleNamespace

import pytest
import trio
import trio.testing
from jeepney import HeaderFields, MessageType

from broker.core.errors import RefusedError, UpstreamError
from broker.core.question import Keep
from broker.core.services import SCREEN_SHARE
from broker.helpers.process.spawn import DEVNULL, PIPE, spawn
from broker.helpers.prompt import screen_frame
from broker.helpers.prompt.screen_frame import FramedOutput, ScreenFrame, meant
from broker.ipc.guest.file_requests import CallService
from broker.viewer import pipewire_video as video
from broker.viewer import screens
from broker.viewer.calls.calls import SandboxCalls, call_request
from broker.viewer.exchange.guest_connection import GuestConnection
from broker.viewer.orders.desktop_portal import PortalBus
from broker.viewer.orders.filtered_bus import FilteredBus
from broker.viewer.pipewire_video import ENDED_SECONDS
from broker.viewer.screens import (
    ScreenShares,
    SharedScreen,
    framed,
    screen_in,
)
from shims.files import camera as camera_shim
from shims.files import screens as shim
from shims.files.bus_messages import INTERFACE, MEMBER, SENDER, BusMessage
from shims.files.bus_service import CallError
from tests.broker.viewer.test_camera import Log, at_once, for_ever, lease
from tests.kit.rulebook import WORK, no, rulebook, yes
from tests.kit.session import permit_of, starter_of_orders
from tests.kit.wayland.compositor import desktop as headless

SIZE = (1280, 720)


class Portal:
    """The desktop's; ``choose`` is its dialog."""

    def __init__(self):
        self.closed = trio.Event()
        self.asked = 0
        self.chosen = SharedScreen(7, window=False, size=(1280, 800))
        self.answers = trio.Event()
        self.answers.set()

    async def call(self, _call):
        near, far = socket.socketpair()
        far.close()
        given = SimpleNamespace(to_raw_fd=near.detach)
        return SimpleNamespace(body=(given,))

    def message(self, *_):
        return None

    def rule(self, *_):
        return None

    async def signal(self, _rule):
        await self.closed.wait()

    async def choose(self, _bus):
        self.asked += 1
        await self.answers.wait()
        return "/session", self.chosen


@pytest.fixture
def made(monkeypatch):
    portal, log = Portal(), Log()
    shares = ScreenShares(log, None, FilteredBus(None), log)

    @asynccontextmanager
    async def portal_bus(*_words, **_more):
        yield portal

    @asynccontextmanager
    async def frame(*_words):
        log.done.append("framed")
        yield
        log.done.append("no frame")

    @asynccontextmanager
    async def pictures(*_):
        log.done.append("opened")
        yield None
        log.done.append("closed")

    monkeypatch.setattr(screens, "portal_bus", portal_bus)
    monkeypatch.setattr(screens, "_asked", portal.choose)
    monkeypatch.setattr(screens, "framed", frame)
    monkeypatch.setattr(video, "pictures", pictures)
    return shares, portal, log


async def fails(shares, one, carry, match):
    """A share that ends with a refusal."""
    with trio.fail_after(10_000):
        with pytest.RaisesGroup(
            RefusedError, allow_unwrapped=True, flatten_subgroups=True
        ) as told:
            await shares.serve(permit_of(one), SIZE, carry, "#102030")
    found = told.value
    while isinstance(found, ExceptionGroup):
        (found,) = found.exceptions
    assert match in str(found)


async def test_a_screen_is_framed_and_recorded_before_it_is_seen(made):
    shares, _, log = made
    await shares.serve(permit_of(lease()), SIZE, at_once, "#102030")
    order = ["framed", "ScreenOn", "shown", "opened", "closed", "hidden", "ScreenOff"]
    assert log.done == ["share", *order, "no frame"]


async def test_one_dialog_about_screens_at_a_time(made):
    shares, portal, _ = made
    portal.answers = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shares.serve, permit_of(lease("mail")), SIZE, for_ever)
        await trio.testing.wait_all_tasks_blocked()
        portal.answers.set()
        await fails(shares, lease(), at_once, "open for another request")
        nursery.cancel_scope.cancel()
    assert portal.asked == 1


async def test_a_dialog_that_nobody_answers_goes(made, autojump_clock):
    shares, portal, _ = made
    portal.answers = trio.Event()
    await fails(shares, lease(), at_once, "did not select a window or screen")
    portal.answers.set()
    await shares.serve(permit_of(lease("mail")), SIZE, at_once)


async def test_a_dialog_that_was_dismissed_is_not_shown_again(made, autojump_clock):
    shares, portal, log = made
    portal.chosen = None
    await fails(shares, lease(), at_once, "did not select a window or screen")
    for _ in range(1000):
        await fails(shares, lease(), at_once, "revoked access to the screen")
    assert portal.asked == 1
    assert "ScreenOn" not in log.done
    await trio.sleep(ENDED_SECONDS)
    await fails(shares, lease(), at_once, "did not select a window or screen")


async def test_a_program_that_hangs_up_shows_no_dialog_after_the_other(
    made, autojump_clock
):
    shares, portal, _ = made
    portal.answers = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shares.serve, permit_of(lease()), SIZE, at_once)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    portal.answers.set()
    for _ in range(1000):
        await fails(shares, lease(), at_once, "revoked access to the screen")
    # Nor is the user asked whether there is to be one.
    guest = SimpleNamespace(lease=lease())
    opening = SimpleNamespace(lease=lease(), stream=1, peer="", service="vitrail.Call")
    calls = SandboxCalls(
        None, None, None, SimpleNamespace(screens=shares, session=None)
    )
    exchange = GuestConnection(guest, opening)
    with pytest.raises(RefusedError, match="revoked access to the screen"):
        await calls.call(exchange, CallService(SCREEN_SHARE, "1280x720"), None)
    assert portal.asked == 1
    await trio.sleep(ENDED_SECONDS)
    await shares.serve(permit_of(lease()), SIZE, at_once)
    await shares.serve(permit_of(lease()), SIZE, at_once)


class Bus:
    """A connection to the session's bus, on which the portal answers all but Close."""

    unique_name = ":1.9"

    def __init__(self):
        self.outgoing_serial = itertools.count(1)
        self.sent = []
        self._put, self._got = trio.open_memory_channel(100)

    def answer(self, serial):
        fields = {HeaderFields.reply_serial: serial}
        header = SimpleNamespace(message_type=MessageType.method_return, fields=fields)
        self._put.send_nowait(SimpleNamespace(header=header, body=("x",)))

    async def send(self, message, *, serial):
        await trio.lowlevel.checkpoint()
        self.sent.append((message.header.fields[HeaderFields.member], serial))
        if self.sent[-1][0] != "Close":
            self.answer(serial)

    async def receive(self):
        return await self._got.receive()


@pytest.mark.parametrize("answers", [True, False])
async def test_a_dialog_counts_until_the_portal_has_closed_it(answers, autojump_clock):
    bus, began = Bus(), trio.current_time()
    portal = PortalBus(bus, shim.SCREEN_CAST, "screen sharing", "")
    portal._owner = ":1.1"
    over = trio.Event()

    async def dialog():
        try:
            await portal.request("Start", "/session", "", options={})
        finally:
            over.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dialog)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.testing.wait_all_tasks_blocked()
            member, serial = bus.sent[-1]
            assert member == "Close"
            assert not over.is_set()
            if answers:
                bus.answer(serial)
            await over.wait()
    assert trio.current_time() - began == (0 if answers else 2)


async def test_a_share_does_not_outlive_its_window(made, autojump_clock):
    shares, portal, log = made
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fails, shares, lease(), for_ever, "no longer exists")
        await trio.testing.wait_all_tasks_blocked()
        assert [use.title for use in shares.uses()] == ["a screen of 1280x800"]
        portal.closed.set()
    assert log.done[-2:] == ["hidden", "ScreenOff"]
    # The desktop's own control, by which the user may have ended it.
    await fails(shares, lease(), at_once, "revoked access to the screen")


@contextmanager
def frames_by(*words):
    """A session whose frames are drawn by this program."""
    prepare = f"""
import broker.session.video.screens as module
module.our_program = lambda *_: {list(words)!r}
"""
    with starter_of_orders(prepare=prepare) as session:
        yield session


@pytest.mark.parametrize("program", ["true", "false"])
async def test_nothing_is_seen_without_its_frame(program):
    entered, ended = [], trio.Event().set
    with (
        frames_by(program) as session,
        pytest.RaisesGroup(UpstreamError, allow_unwrapped=True),
    ):
        async with framed(session, "#102030", SharedScreen(7, window=False), ended):
            entered.append(program)
            await trio.sleep_forever()
    assert not entered


async def test_a_frame_is_told_that_there_is_a_picture():
    program = "import os, select; os.write(1, b'1'); p = select.poll()\n"
    program += "p.register(1, 0); p.poll()"
    words = [sys.executable, "-c", program]
    ended, found = trio.Event(), SharedScreen(7, window=False)
    with (
        frames_by(*words) as session,
        trio.fail_after(60),
        pytest.RaisesGroup(RefusedError),
    ):
        async with framed(session, "#102030", found, ended.set) as seen:
            assert not ended.is_set()
            seen()
            await trio.sleep_forever()
    assert ended.is_set()


async def test_a_share_ends_when_the_program_of_its_frame_does():
    words, ended = ["sh", "-c", "printf 1; sleep 0"], trio.Event()
    found = SharedScreen(7, window=False)
    with (
        frames_by(*words) as session,
        pytest.RaisesGroup(RefusedError, allow_unwrapped=True),
    ):
        async with framed(session, "#102030", found, ended.set):
            await trio.sleep_forever()
    assert ended.is_set()


@pytest.mark.parametrize(
    "body",
    [
        (0, {}),
        (0, {"streams": ("a(ua{sv})", [])}),
        (0, {"streams": ("a(ua{sv})", [(1, {}), (2, {})])}),
        (0, {"streams": ("a(ua{sv})", [(1, {"size": ("s", "x")})])}),
        (0, {"streams": ("a(sa{sv})", [("9" * 5000, {})])}),
        (0, {"streams": ("a(sa{sv})", [("1", {})])}),
        (0, {"streams": ("a(ua{sv})", [(1, {"size": ("(dd)", (inf, 1.0))})])}),
        (9, None),
        (),
    ],
)
def test_a_response_of_another_form_is_an_error(body):
    with pytest.raises(UpstreamError):
        screen_in(body, windows=True)


def test_a_screen_that_is_called_a_window_has_a_frame():
    about = {"source_type": ("u", 2), "size": ("(ii)", (1280, 800))}
    body = (0, {"streams": ("a(ua{sv})", [(7, about)])})
    found = screen_in(body, windows=False)
    assert found == SharedScreen(7, window=False, size=(1280, 800))
    found = screen_in(body, windows=True)
    assert found is not None
    assert found.window
    assert screen_in((1, {}), windows=True) is None


def screen(*sizes, at=(0, 0)):
    return FramedOutput(None, sizes=set(sizes), positions={at})


def test_each_screen_that_may_be_the_shared_one_has_a_frame():
    big, small = (1920, 1080), (1280, 800)
    all_of_them = {
        1: screen(big),
        2: screen(big, at=(1920, 0)),
        3: screen(small, at=(3840, 0)),
    }
    # xdg-desktop-portal-wlr says of each that it is at 0, 0.
    assert meant(all_of_them, big, (0, 0)).keys() == {1, 2}
    assert meant(all_of_them, big, (1920, 0)).keys() == {2}
    assert meant(all_of_them, big, (5, 5)).keys() == {1, 2}
    assert meant(all_of_them, small, (0, 0)).keys() == {3}
    assert meant(all_of_them, (0, 0), (0, 0)).keys() == {1, 2, 3}
    assert meant(all_of_them, (7, 7), (1920, 0)).keys() == {1, 2, 3}


class Anything:
    """An object of the compositor's that takes each request."""

    def __init__(self):
        self.dispatcher = {}
        self.made = []

    def __getattr__(self, name):
        def request(*_words):
            self.made.append(Anything())
            return self.made[-1]

        return request


def test_a_frame_ends_with_its_screen_and_when_it_is_closed():
    def frame():
        one = object.__new__(ScreenFrame)
        one._over, one._framed, one._waiting, one._kept = False, {3}, 0, []
        shell = Anything()
        one._globals = {"wl_compositor": Anything(), "zwlr_layer_shell_v1": shell}
        one._strip(screen((1, 1)), 0, 1, 1)
        return one, shell.made[0]

    one, _ = frame()
    one._gone(None, 4)
    assert not one._over
    one._gone(None, 3)
    assert one._over
    one, strip = frame()
    strip.dispatcher["closed"](strip)
    assert one._over


FRAME = """
import sys
from broker.helpers.prompt import screen_frame
def fails(*_):
    raise MemoryError
{}
screen_frame.main(*sys.argv[1:])
"""


@pytest.mark.skipif(not shutil.which("sway"), reason="sway is needed")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("", b"1"),
        ("screen_frame.ScreenFrame._buffer = fails", b""),
        ("screen_frame.meant = lambda *_: {}", b""),
        ("screen_frame._XRGB8888 = 99", b""),  # the compositor hangs up
    ],
)
async def test_a_frame_that_is_not_drawn_does_not_say_so(change, says):
    async with headless() as comp:
        words = ("102030", "1280", "800", "0", "0")
        argv = [sys.executable, "-c", FRAME.format(change), *words]
        path = os.pathsep.join(path for path in ("", *sys.path))
        env = {**os.environ, **comp.environment, "PYTHONPATH": path}
        child = spawn(argv, env=env, stdout=PIPE, stderr=DEVNULL)
        with child.popen.stdout as out, trio.fail_after(30):
            try:
                assert (
                    await trio.to_thread.run_sync(out.read, 1, abandon_on_cancel=True)
                    == says
                )
                if not says:
                    assert await child.wait() == 1
            finally:
                await child.stop()


@pytest.mark.parametrize("fails", ["_buffer", "ack_configure", ""])
def test_a_frame_that_cannot_follow_its_screen_ends_the_share(fails):
    one = object.__new__(ScreenFrame)
    one._over, one._framed, one._waiting, one._kept = False, {3}, 0, []
    shell = Anything()
    one._globals = {"wl_compositor": Anything(), "zwlr_layer_shell_v1": shell}
    one._buffer = lambda *_: None
    one._strip(screen((1, 1)), 0, 1, 1)
    (strip,) = shell.made
    strip.dispatcher["configure"](strip, 1, 9, 9)
    assert (one._waiting, one._over) == (0, False)

    def broken(*_words):
        raise MemoryError

    if fails:
        setattr(one if fails == "_buffer" else strip, fails, broken)
    with pytest.raises(MemoryError) if fails else nullcontext():
        strip.dispatcher["configure"](strip, 2, 1 << 14, 9)
    assert one._over == bool(fails)


def test_a_frame_is_drawn_again_until_there_is_a_picture(monkeypatch):
    one = object.__new__(ScreenFrame)
    surface, display = Anything(), Anything()
    one._over, one._kept, one._display = False, [(surface, None, None)], display
    read, write = os.pipe()
    monkeypatch.setattr(screen_frame, "OUTPUT", write)
    steps = []

    def roundtrip():
        steps.append("again")
        if steps.count("again") == 3:
            os.close(read)
        return 0

    def dispatch(*, block):
        steps.append("waits")
        one._over = block

    display.roundtrip, display.dispatch = roundtrip, dispatch
    one.run()
    os.close(write)
    assert steps == ["again", "again", "again", "waits"]


@pytest.mark.parametrize(
    ("argument", "target"),
    [("", "dom0"), ("640x480", "dom0"), ("1280x720", "personal"), ("own", "personal")],
)
def test_a_sandbox_asks_for_pictures_of_our_sizes_at_the_desktop(argument, target):
    opening = SimpleNamespace(lease=None, stream=1, peer="", service="vitrail.Call")
    with pytest.raises(
        RefusedError, match=r"only dom0 serves vitrail\.ScreenShare, with"
    ):
        call_request(opening, CallService(SCREEN_SHARE, argument, target))


@pytest.mark.parametrize(
    "rule", ["allow ttl=2h", "ask ttl=2h", "ask ttl=2h remember=session"]
)
async def test_no_rule_and_no_remembered_yes_shares_a_screen_unasked(rule):
    """A portal without a program that lets the user choose shares the first screen."""
    async with rulebook(f"vitrail.ScreenShare * work @adminvm {rule}\n") as b:
        opening = SimpleNamespace(lease=WORK, stream=1, peer="", service="vitrail.Call")
        b.person.says = lambda asked: yes(asked.keeps[-1])(asked)
        request = call_request(opening, CallService(SCREEN_SHARE, "1280x720"))
        for number in (1, 2):
            async with b.decider.permit(request) as permit:
                # What the rule bounds is bounded, too.
                assert permit.scope.deadline <= trio.current_time() + 7200
            assert len(b.person.asked) == number
        assert not b.decider.grants.all(0)
        question = b.person.asked[-1]
        assert question.sandbox == "work"
        assert question.keeps == (Keep.ONCE,)
        assert question.words == "to see a screen or window that you choose"
        b.person.says = no
        with pytest.raises(RefusedError, match="no"):
            async with b.decider.permit(request):
                raise AssertionError("it was permitted")


# -- programs of one guest ---------------------------------------------------------------


def call(member, *body, sender=":1.5", signature="a{sv}"):
    fields = {INTERFACE: shim.SCREEN_CAST, MEMBER: member, SENDER: sender}
    return BusMessage(1, fields, signature, (*body, {}))


@pytest.fixture
def portal(monkeypatch):
    near, far = socket.socketpair()
    monkeypatch.setattr(camera_shim, "pipewire_remote", lambda: near)
    made = shim.PortalScreens(lambda *_: None, lambda *_: None)
    monkeypatch.setattr(made._offer, "held", lambda: True)
    monkeypatch.setattr(made._own, "held", lambda: True)
    with near, far:
        yield made


def test_a_program_gets_only_the_screen_that_was_chosen_for_it(portal):
    portal._create(call("CreateSession"))
    (path,) = portal._sessions
    remote = {"signature": "oa{sv}"}
    with pytest.raises(CallError, match="shares no screen"):
        portal._remote(call("OpenPipeWireRemote", path, **remote))
    portal._sessions[path].shared = True
    for answer in (portal._select, portal._remote):
        other = call("OpenPipeWireRemote", path, sender=":1.6", **remote)
        with pytest.raises(CallError, match="unknown session"):
            answer(other)
        assert not other.given
    with pytest.raises(CallError, match="the session does not exist"):
        portal.close(":1.6", path)
    known = call("OpenPipeWireRemote", path, **remote)
    portal._remote(known)
    os.close(known.given.pop())
    portal.forget_program(":1.6")
    assert portal.busy() == 1
    portal.forget_program(":1.5")
    assert portal.busy() == 0


async def test_a_dialog_whose_program_has_gone_is_not_shown_again(made, autojump_clock):
    shares, portal, _ = made
    portal.answers = trio.Event()
    with trio.move_on_after(1):
        await shares.serve(permit_of(lease()), SIZE, at_once)
    portal.answers.set()
    await fails(shares, lease(), at_once, "revoked access to the screen")
    assert portal.asked == 1


def test_a_program_is_told_of_a_source_that_failed(monkeypatch):
    """It went on to show the last picture, as if the screen stood still."""
    near, far = socket.socketpair()
    session, ended = shim.ScreenSession(":1.1", "/session"), threading.Event()
    servers = SimpleNamespace(release=lambda _session: None)
    monkeypatch.setattr(shim, "pipewire_servers", lambda: servers)
    with near, far, near.makefile("rb") as reader:
        session._asking = near
        connection = SimpleNamespace(socket=near, reader=reader)
        receive = partial(session._receive, connection, 64, ended.set)
        thread = threading.Thread(target=receive, daemon=True)
        thread.start()
        session._show(SimpleNamespace(failed=True, close=lambda: None))
        assert ended.wait(20)
        thread.join()
