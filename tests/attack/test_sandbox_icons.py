"""Attack: icons of a sandbox in the user's panel that are many, large, or another's."""

from __future__ import annotations

import gc
import io
import json
import math
import socket
import weakref
from types import SimpleNamespace
from typing import ClassVar

import msgspec
import pytest
import trio
import trio.testing
from PIL import Image

from broker.core.errors import PeerError, RefusedError, SetupError
from broker.core.framing import FrameReader, encode_frame
from broker.core.limits import tray as limits
from broker.core.limits.notifications import DAEMON_FRAME_BYTES, SILENT_SECONDS
from broker.ipc import transfer as messages
from broker.ipc.guest.daemons import (
    DaemonShow,
    HideIcon,
    IconClicked,
    ShowIcon,
    decode_from_daemon,
)
from broker.jail.worker.daemon_stream import DaemonStream
from broker.net.session_bus import PROPERTIES, UnknownCallError
from broker.viewer.exchange.guest_connection import GuestConnection
from broker.viewer.tray import tray_icons
from broker.viewer.tray.panel_bus import ITEM, ITEM_PATH
from broker.viewer.tray.sandbox_item import SECOND, SandboxItem, framed
from broker.viewer.tray.tray_icons import TrayIcons
from shims.files import tray, tray_pictures
from shims.files.bus_messages import (
    CALL,
    INTERFACE,
    MEMBER,
    REPLY,
    REPLY_SERIAL,
    SENDER,
    BusMessage,
)
from shims.files.bus_service import CallError

RED = 0xD01010
WHITE = b"\xff" * limits.ICON_BYTES
ALL = (ITEM_PATH, PROPERTIES, "GetAll", (ITEM,))


# -- what is read -------------------------------------------------------------------------


def test_a_picture_has_one_size():
    good = msgspec.json.encode(ShowIcon(1, "x" * 60, WHITE))
    assert decode_from_daemon(good) == ShowIcon(1, "x" * 60, WHITE)
    assert len(encode_frame(good, DAEMON_FRAME_BYTES)) < DAEMON_FRAME_BYTES
    for size in (1, limits.ICON_BYTES - 1):
        untrusted = msgspec.json.encode(
            {"type": "icon", "number": 1, "pixels": b"x" * size}
        )
        with pytest.raises(PeerError):
            decode_from_daemon(untrusted)
        # Nor does a worker that was taken over say so.
        packed = msgspec.msgpack.encode(
            {"type": "daemon-asked", "stream": 1, "ask": msgspec.json.decode(untrusted)}
        )
        with pytest.raises(msgspec.ValidationError):
            msgspec.msgpack.decode(packed, type=messages.StreamSaid)


def test_an_icon_of_4_gib_is_not_awaited():
    frames = FrameReader(DAEMON_FRAME_BYTES)
    with pytest.raises(PeerError):
        frames.feed((0xFFFFFFFF).to_bytes(4, "little"))


# -- a worker's part ----------------------------------------------------------------------


class Daemon:
    """A sandbox's daemon, and the broker, of one connection of a worker."""

    def __init__(self, sock, orders, said):
        self.stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        self.orders, self.said = orders, said
        self.ended = ""

    async def send(self, *asks):
        for ask in asks:
            body = msgspec.json.encode(ask)
            await self.stream.send_all(encode_frame(body, DAEMON_FRAME_BYTES))


@pytest.fixture
async def daemon(nursery):
    mine, theirs = socket.socketpair()
    theirs.settimeout(0)
    say, said = trio.open_memory_channel(math.inf)
    put, orders = trio.open_memory_channel(math.inf)
    made = Daemon(mine, put, said)
    with theirs:
        sock = trio.socket.from_stdlib_socket(theirs)
        stream = DaemonStream(1, sock, say.send, orders.receive, lambda *_: None)

        async def run():
            made.ended = await stream.run()

        nursery.start_soon(run)
        yield made
        await made.stream.aclose()


async def test_a_flood_of_icons_waits_in_its_sender(daemon, autojump_clock):
    await daemon.send(*(HideIcon(n) for n in range(1, 4)))
    await trio.testing.wait_all_tasks_blocked()
    assert daemon.said.statistics().current_buffer_used == 1
    for number in (1, 2, 3):
        assert daemon.said.receive_nowait() == messages.StreamSaid(1, HideIcon(number))
        daemon.orders.send_nowait(messages.DaemonMore(1))
        await trio.testing.wait_all_tasks_blocked()


async def test_an_icon_that_never_ends_ends_its_connection(daemon, autojump_clock):
    await daemon.stream.send_all(b"\x10\x00\x00\x00{")
    await trio.sleep(SILENT_SECONDS + 1)
    assert daemon.ended == "the program did not finish a message in time"


async def test_a_daemon_that_reads_no_clicks_ends_alone(daemon, autojump_clock):
    for _ in range(1_000):
        daemon.orders.send_nowait(messages.StreamTell(1, IconClicked(1, second=False)))
    await trio.testing.wait_all_tasks_blocked()
    assert daemon.ended == "the daemon does not read its messages"


async def test_the_broker_ends_it_with_its_reason(daemon):
    daemon.orders.send_nowait(messages.TransferFinish(1, "over"))
    await trio.testing.wait_all_tasks_blocked()
    assert daemon.ended == "over"


# -- the viewer's part --------------------------------------------------------------------


class PaperPanel:
    """Takes the place of an item's connection to the session bus."""

    shown: ClassVar[list[PaperPanel]] = []

    def __init__(self, item, clicked, number):
        self.item, self.clicked, self.number = item, clicked, number
        self.told = []

    async def run(self):
        self.shown.append(self)
        self.ended = trio.Event()
        try:
            await self.ended.wait()
            raise SetupError("the session bus closed the connection")
        finally:
            self.shown.remove(self)

    async def tell(self, signals):
        self.told += signals


class Sandbox:
    """A sandbox whose daemon shows icons."""

    def __init__(self, icons, nursery, name, record=None):
        self.orders = []
        self.exchange = GuestConnection(self, SimpleNamespace(stream=1), call=True)
        self.lease = SimpleNamespace(id=name, sandbox=name, record=record or name)
        self.scope, self.more = trio.CancelScope(), trio.Event()
        self._nursery, self._icons = nursery, icons
        self.colour = "#d01010"
        self.ended = False

    def valid_record(self):
        if self.colour is None:
            raise RefusedError("is no longer valid")
        label = SimpleNamespace(colour=self.colour)
        return SimpleNamespace(viewer=SimpleNamespace(label=label))

    async def order(self, order):
        await trio.lowlevel.checkpoint()
        self.orders.append(order)
        if isinstance(order, messages.DaemonMore):
            self.more.set()

    async def serve(self):
        with self.scope:
            try:
                await self._icons.serve(self.exchange, None)
            except* (PeerError, RefusedError):
                self.ended = True

    async def ask(self, ask):
        """Send it, and wait until the next one may come."""
        self.more = trio.Event()
        self.exchange.take(messages.StreamSaid(1, ask))
        await self.more.wait()
        await trio.testing.wait_all_tasks_blocked()


@pytest.fixture
async def sandboxes(nursery, monkeypatch):
    monkeypatch.setattr(tray_icons, "Panel", PaperPanel)
    monkeypatch.setattr(PaperPanel, "shown", [])
    icons = TrayIcons(None)
    made = []

    def sandbox(name, record=None):
        one = Sandbox(icons, nursery, name, record)
        made.append(one)
        nursery.start_soon(one.serve)
        return one

    sandbox.icons = icons
    yield sandbox
    for one in made:
        one.scope.cancel()


async def test_a_thousand_icons_take_four_places_and_their_time(
    sandboxes, autojump_clock
):
    work = sandboxes("work")
    began = trio.current_time()
    for number in range(1, 1_001):
        await work.ask(ShowIcon(number))
    assert len(PaperPanel.shown) == limits.ICONS_PER_RECORD
    paced = 1_000 - limits.ICON_CHANGES_BURST
    assert trio.current_time() - began >= paced / limits.ICON_CHANGES_PER_SECOND
    # Another one of the same record has no other places; another record has.
    await sandboxes("disp1", "work").ask(ShowIcon(1))
    assert len(PaperPanel.shown) == limits.ICONS_PER_RECORD
    await sandboxes("personal").ask(ShowIcon(1))
    assert len(PaperPanel.shown) == limits.ICONS_PER_RECORD + 1
    # A place that is given back is used again.
    await work.ask(HideIcon(1))
    await work.ask(ShowIcon(9))
    assert len(PaperPanel.shown) == limits.ICONS_PER_RECORD + 1


async def test_all_sandboxes_together_have_sixteen_icons(sandboxes, autojump_clock):
    for number in range(6):
        one = sandboxes(f"s{number}")
        for icon in range(1, 5):
            await one.ask(ShowIcon(icon))
    assert len(PaperPanel.shown) == limits.ICONS_TOTAL


async def test_four_sandboxes_leave_an_icon_to_a_fifth(sandboxes, autojump_clock):
    for number in range(4):
        one = sandboxes(f"s{number}")
        for icon in range(1, 5):
            await one.ask(ShowIcon(icon))
    assert len(PaperPanel.shown) == 14
    await sandboxes("s4").ask(ShowIcon(1))
    assert len(PaperPanel.shown) == 15


async def test_connections_of_a_record_share_a_pace(sandboxes, autojump_clock):
    began = trio.current_time()
    for number in range(100):
        one = sandboxes(f"disp{number}", "work")
        await one.ask(HideIcon(1))
        one.scope.cancel()
    paced = 100 - limits.ICON_CHANGES_BURST
    assert trio.current_time() - began >= paced / limits.ICON_CHANGES_PER_SECOND
    # Others do not wait for it.
    before = trio.current_time()
    await sandboxes("other").ask(HideIcon(1))
    assert trio.current_time() == before


async def test_an_icon_that_waits_is_shown_as_it_is_when_a_place_comes_free(
    sandboxes, autojump_clock
):
    work, other = sandboxes("work"), sandboxes("disp1", "work")
    for number in range(1, 5):
        await work.ask(ShowIcon(number))
    await other.ask(ShowIcon(1, "former"))
    await other.ask(ShowIcon(2, "taken back"))
    await other.ask(ShowIcon(3, "later"))
    await other.ask(HideIcon(2))
    await other.ask(ShowIcon(1, "now"))
    assert len(PaperPanel.shown) == limits.ICONS_PER_RECORD
    await work.ask(HideIcon(1))
    await work.ask(HideIcon(2))
    await work.ask(HideIcon(3))
    values = [panel.item(*ALL)[0][1][0]["Title"][1] for panel in PaperPanel.shown]
    assert values == ["[work] ", "[disp1] now", "[disp1] later"]


async def test_sixteen_icons_of_a_daemon_wait(sandboxes, autojump_clock):
    work, other = sandboxes("work"), sandboxes("disp1", "work")
    for number in range(1, 5):
        await work.ask(ShowIcon(number))
    for number in range(1, 101):
        await other.ask(ShowIcon(number))
    shown = 0
    work.scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    for number in range(1, 101):
        shown = max(shown, number if len(PaperPanel.shown) else 0)
        await other.ask(HideIcon(number))
    assert shown == limits.ICONS_WAITING


async def test_icons_that_end_by_themselves_are_forgotten_and_come_back(
    sandboxes, autojump_clock
):
    work = sandboxes("work")
    seen = weakref.WeakSet()
    for number in range(1, 51):
        await work.ask(ShowIcon(number, "", WHITE))
        (panel,) = PaperPanel.shown
        seen.add(panel.item)
        panel.ended.set()
        del panel
        await trio.testing.wait_all_tasks_blocked()
    gc.collect()
    assert len(seen) <= 1
    await work.ask(ShowIcon(50, "again"))
    assert len(PaperPanel.shown) == 1


async def test_an_icon_without_a_record_takes_no_place(sandboxes, autojump_clock):
    for number in range(20):
        one = sandboxes(f"disp{number}", "work")
        one.colour = None
        one.exchange.take(messages.StreamSaid(1, ShowIcon(1)))
        await trio.testing.wait_all_tasks_blocked()
        assert one.ended
        await trio.sleep(1)
    await sandboxes("disp", "work").ask(ShowIcon(1))
    assert len(PaperPanel.shown) == 1


async def test_icons_have_the_colour_that_their_record_has_now(
    sandboxes, autojump_clock
):
    work, gone = sandboxes("work"), sandboxes("gone")
    await work.ask(ShowIcon(1, "", WHITE))
    await gone.ask(ShowIcon(1, "", WHITE))
    work.colour, gone.colour = "#1010d0", None
    await sandboxes.icons.follow()
    mine, other = PaperPanel.shown
    assert [one.member for one in mine.told] == ["NewIcon"]
    assert other.told == []
    ((_, _, pixels),) = mine.item(*ALL)[0][1][0]["IconPixmap"][1]
    assert pixels == framed(WHITE, 0x1010D0)
    await sandboxes.icons.follow()
    assert len(mine.told) == 1
    # Its next picture is in that colour, too.
    await work.ask(ShowIcon(1))
    ((_, _, pixels),) = mine.item(*ALL)[0][1][0]["IconPixmap"][1]
    assert pixels == framed(b"", 0x1010D0)


async def test_a_sandbox_changes_its_own_icons_only(sandboxes, autojump_clock):
    work, other = sandboxes("work"), sandboxes("other")
    await work.ask(ShowIcon(7, "mine"))
    await other.ask(HideIcon(7))
    await other.ask(ShowIcon(7, "yours"))
    assert len(PaperPanel.shown) == 2
    await other.ask(ShowIcon(7, "changed"))
    mine, yours = PaperPanel.shown
    assert mine.told == []
    assert [one.member for one in yours.told] == ["NewTitle", "NewToolTip"]
    # The same again tells the panel nothing.
    await other.ask(ShowIcon(7, "changed"))
    assert len(yours.told) == 2


async def test_icons_end_with_their_connection_and_late_clicks_go_nowhere(
    sandboxes, autojump_clock
):
    work = sandboxes("work")
    await work.ask(ShowIcon(1))
    await work.ask(ShowIcon(2))
    panel = PaperPanel.shown[0]
    await panel.clicked("Activate")
    assert work.orders[-1] == messages.StreamTell(1, IconClicked(1, second=False))
    await panel.clicked(SECOND)
    assert work.orders[-1] == messages.StreamTell(1, IconClicked(1, second=True))
    work.scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert PaperPanel.shown == []
    # Its places are free again.
    for number in range(1, 5):
        await sandboxes("disp2", "work").ask(ShowIcon(number))
    assert len(PaperPanel.shown) == limits.ICONS_PER_RECORD


async def test_a_notification_on_a_call_about_icons_ends_it(sandboxes):
    work = sandboxes("work")
    work.exchange.take(messages.StreamSaid(1, DaemonShow(1, "s")))
    await trio.testing.wait_all_tasks_blocked()
    assert work.ended
    assert PaperPanel.shown == []


async def test_clicks_of_a_program_of_the_desktop_are_paced(sandboxes, autojump_clock):
    work = sandboxes("work")
    await work.ask(ShowIcon(1))
    for _ in range(1000):
        await PaperPanel.shown[0].clicked("Activate")
    clicks = [o for o in work.orders if isinstance(o, messages.StreamTell)]
    assert len(clicks) == limits.ICON_CLICKS_BURST
    await trio.sleep(1)
    await PaperPanel.shown[0].clicked("Activate")
    assert isinstance(work.orders[-1], messages.StreamTell)


# -- what is shown ------------------------------------------------------------------------


def test_a_title_is_plain_and_after_the_name():
    item = SandboxItem("work", 2, RED)
    item.update(ShowIcon(1, "<b>&\n\u202e[personal]"))
    values = item.call(ITEM_PATH, PROPERTIES, "GetAll", (ITEM,))[0][1][0]
    title = values["Title"][1]
    assert title.startswith("[work] ")
    assert not set("<>&\n\u202e") & set(title)
    assert values["ToolTip"][1][2:] == (title, "")
    assert values["Id"] == ("s", "vitrail-work-2")
    assert values["Menu"] == ("o", "/NO_DBUSMENU")
    # The longest of all is bounded, escapes included.
    item.update(ShowIcon(1, "\u202e" * 60))
    title = item.call(ITEM_PATH, PROPERTIES, "Get", (ITEM, "Title"))[0][1][0][1]
    assert len(title) <= len("[work] ") + limits.ICON_TITLE_CHARS


def test_a_picture_never_covers_its_frame():
    edge = bytes.fromhex("ffd01010")
    for pixels in (WHITE, bytes(limits.ICON_BYTES)):
        image = framed(pixels, RED)
        assert len(image) == limits.ICON_BYTES
        side = limits.ICON_PIXELS
        spots = [image[4 * n : 4 * n + 4] for n in range(side * side)]
        for n, spot in enumerate(spots):
            y, x = divmod(n, side)
            inside = 5 <= x < side - 5 and 5 <= y < side - 5
            assert spot == (pixels[:4] if inside else edge), (x, y)
    assert framed(b"", RED) == edge * limits.ICON_PIXELS**2


@pytest.mark.parametrize(
    ("path", "interface", "member", "body"),
    [
        ("/MenuBar", "com.canonical.dbusmenu", "GetLayout", (0, -1, [])),
        (ITEM_PATH, ITEM, "Register", ()),
        (ITEM_PATH, PROPERTIES, "Get", (ITEM, "Secret")),
        (ITEM_PATH, PROPERTIES, "Get", (ITEM,)),
        (ITEM_PATH, PROPERTIES, "Get", ()),
        (ITEM_PATH, PROPERTIES, "Set", (ITEM, "Title", ("s", "x"))),
        ("/", ITEM, "Activate", (0, 0)),
    ],
)
def test_panels_ask_for_nothing_else(path, interface, member, body):
    with pytest.raises(UnknownCallError):
        SandboxItem("work", 2, RED).call(path, interface, member, body)


# -- in the sandbox -----------------------------------------------------------------------


class PaperBroker:
    """The daemon's connection to the broker."""

    def __init__(self):
        self.sent = []

    def send(self, data):
        self.sent.append(json.loads(data[4:]))


@pytest.fixture
def guests(monkeypatch):
    monkeypatch.setattr(tray, "start_thread", lambda _work: None)
    ours, bus = socket.socketpair()
    with ours, bus:
        bus.settimeout(5)
        yield tray.Tray(ours, PaperBroker()), bus


def register(daemon, sender, word):
    fields = {
        INTERFACE: tray.WATCHER,
        MEMBER: "RegisterStatusNotifierItem",
        SENDER: sender,
    }
    return daemon.perform(BusMessage(CALL, fields, "s", (word,)))


def told(daemon, kind, serial=0, sender=":1.1", values=None, **fields):
    known = {REPLY_SERIAL: serial, SENDER: sender}
    daemon.handle_reply(BusMessage(kind, {**known, **fields}, "a{sv}", (values or {},)))


def test_the_guests_daemon_has_bounds_of_its_own(guests):
    daemon, _ = guests
    for number in range(tray.ITEMS_AT_ONCE):
        register(daemon, ":1.1", f"/item/{number}")
    with pytest.raises(CallError, match="too many"):
        register(daemon, ":1.2", "/item")
    register(daemon, ":1.1", "/item/0")  # it is known


def test_an_items_answer_is_taken_once_and_from_the_one_that_was_asked(guests):
    daemon, _ = guests
    register(daemon, ":1.1", "org.kde.StatusNotifierItem-7-1")
    (serial,) = daemon._awaited
    told(daemon, REPLY, serial + 1, values={"Title": "wrong"})
    assert daemon._broker.sent == []
    told(
        daemon,
        REPLY,
        serial,
        values={"Title": "mail", "IconPixmap": [(1, 1, [255] * 4)]},
    )
    told(daemon, REPLY, serial, values={"Title": "again"})
    (sent,) = daemon._broker.sent
    assert sent["title"] == "mail"
    ask = decode_from_daemon(json.dumps(sent).encode())
    assert ask == ShowIcon(1, "mail", WHITE)
    # Values of other types are no picture.
    daemon._look(next(iter(daemon._items.values())))
    (serial,) = daemon._awaited
    told(daemon, REPLY, serial, values={"Title": "x" * 99, "IconPixmap": [1, "a"]})
    assert decode_from_daemon(json.dumps(daemon._broker.sent[-1]).encode()) == ShowIcon(
        1, "x" * 60
    )
    daemon.forget_program(":1.1")
    assert daemon._broker.sent[-1] == {"type": "gone", "number": 1}


@pytest.mark.parametrize("mode", ["RGBA", "RGB", "L", "LA", "P"])
def test_a_png_file_is_drawn(mode, tmp_path):
    image = Image.new("RGBA", (96, 96), "#20a0ff")
    image.paste("#ff0000", (0, 0, 48, 96))
    path = tmp_path / "mail.png"
    image.convert(mode).save(path)
    pixels = tray_pictures.drawn([], "mail", str(tmp_path))
    width, height, found = tray_pictures.png_pixels(path.read_bytes())
    assert (width, height, len(found)) == (96, 96, 4 * 96 * 96)
    wanted = image.convert(mode).convert("RGBA").resize((48, 48), Image.Resampling.BOX)
    red, green, blue, alpha = wanted.split()
    assert pixels == Image.merge("RGBA", (alpha, red, green, blue)).tobytes()
    assert tray_pictures.drawn([], str(path), "") == pixels


@pytest.mark.parametrize("cut", [0, 8, 20, 40, 60])
def test_a_file_that_is_not_one_has_no_picture(cut, tmp_path):
    whole = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(whole, "PNG")
    (tmp_path / "a.png").write_bytes(whole.getvalue()[:cut])
    (tmp_path / "b.svg").write_text("<svg")
    for name in ("a", "b", "../a", "", "none"):
        assert tray_pictures.drawn([], name, str(tmp_path)) == b""
    assert tray_pictures.drawn([(1 << 16, 1 << 16, [0])], "", "") == b""
