"""The X11 bridge without processes: races, limits, ids, and hostile properties."""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
import subprocess
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.jail.wayland.protocol.tables import INTERFACES
from docs.tables import wayland_protocols
from docs.tables.imports import ROOT, modules, size
from fuzz import x11
from shims.guest.display_socket import bind_display, remove_display
from shims.x11.compound_text import decode_compound_text
from shims.x11.message_table import MESSAGES
from shims.x11.popups import family, placement, popup_parent
from shims.x11.properties import Hints, hints
from shims.x11.screens import xsettings
from shims.x11.selections import Selections, offered_types, wanted_type
from shims.x11.surfaces import joined
from shims.x11.window import XWindow, compositor_states
from shims.x11.wire import BridgeError
from shims.x11.x11 import Property
from tests.kit.x11 import GLOBALS, Ends, words

ONE, TWO, THREE = 0x400001, 0x400002, 0x400003
OTHER = 0x600001
CLIENT = 0x1FFFFF


def given_back(display):
    display.listener.close()
    display.reserved.close()


def test_a_display_whose_abstract_name_another_program_has_is_not_taken(tmp_path):
    """X11 programs connect to that name first, and tell their cookie to who listens."""
    directory = str(tmp_path / "sockets")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(f"\0{directory}/X0")
        other.listen()
        mine = bind_display(directory)
        assert mine.number == 1
        assert not (tmp_path / ".X0-lock").exists()
        # While ours runs, its other name is taken, and refuses: so libxcb goes on to the
        # file.
        with socket.socket(socket.AF_UNIX) as late, pytest.raises(OSError):
            late.bind(f"\0{directory}/X1")
        with socket.socket(socket.AF_UNIX) as client:
            assert client.connect_ex(f"\0{directory}/X1") == errno.ECONNREFUSED
            assert client.connect_ex(f"{directory}/X1") == 0
        given_back(mine)


@pytest.mark.parametrize(
    "make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/etc/passwd", path)]
)
def test_a_lock_that_is_no_file_holds_up_no_start(tmp_path, make):
    make(str(tmp_path / ".X0-lock"))
    mine = bind_display(str(tmp_path / "sockets"))
    given_back(mine)
    assert mine.number == 1


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_a_directory_in_which_others_replace_sockets_is_refused(tmp_path, mode):
    directory = tmp_path / "sockets"
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(OSError, match="chmod 1777"):
        bind_display(str(directory))
    directory.chmod(0o755)
    given_back(bind_display(str(directory)))


def test_a_directory_of_another_user_is_refused(tmp_path, monkeypatch):
    directory = tmp_path / "sockets"
    directory.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(OSError, match="could take over X11 windows"):
        bind_display(str(directory))


def test_a_look_for_a_free_display_starts_no_other_server(tmp_path):
    """Xwayland, and another agent's bridge, start with the first connection."""
    directory = tmp_path / "sockets"
    directory.mkdir()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(directory / "X0"))
        other.listen()
        other.settimeout(0)
        mine = bind_display(str(directory))
        assert mine.number == 1
        with pytest.raises(BlockingIOError):
            other.accept()
        given_back(mine)
        remove_display(1, str(directory))
    # The other server was killed: its socket is taken over.
    mine = bind_display(str(directory))
    given_back(mine)
    assert mine.number == 0


def test_an_x_server_and_the_bridge_take_no_display_of_each_other(tmp_path):
    """The bridge honours a lock whose process lives, and leaves one that servers honour."""
    sockets, lock = str(tmp_path / "sockets"), tmp_path / ".X0-lock"
    lock.write_text(f"{os.getppid():10}\n")
    mine = bind_display(sockets)
    given_back(mine)
    assert mine.number == 1
    assert (tmp_path / ".X1-lock").read_text() == f"{os.getpid():10}\n"
    remove_display(1, sockets)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [".X0-lock", "sockets"]
    ended = subprocess.Popen(["true"])
    ended.wait()
    lock.write_text(f"{ended.pid:10}\n")
    mine = bind_display(sockets)
    given_back(mine)
    assert mine.number == 0
    assert lock.read_text() == f"{os.getpid():10}\n"


@pytest.mark.parametrize("content", ["", "-1\n", "0\n", "seven\n", "9999999999\n"])
def test_a_lock_that_names_no_process_is_left_alone(tmp_path, content):
    (tmp_path / ".X0-lock").write_text(content)
    mine = bind_display(str(tmp_path / "sockets"))
    given_back(mine)
    assert mine.number == 1
    assert (tmp_path / ".X0-lock").read_text() == content


def test_its_table_is_what_the_protocols_say():
    """Mend with: python -m docs.tables.wayland_protocols."""
    path = ROOT / "shims/x11/wayland_messages.py"
    assert path.read_text() == wayland_protocols.render_guest()


def test_its_messages_are_the_brokers():
    """Up to the versions bound; an event that it did not know would end it."""
    mine = {}
    for message in MESSAGES.values():
        of = mine.setdefault(message.interface, {">": [], "<": []})
        of[message.mark].append(message.name)
    for interface in mine.keys() & INTERFACES.keys():
        for mark, rows in zip("><", INTERFACES[interface], strict=True):
            names = [row.split()[0] for row in rows]
            assert names[: len(mine[interface][mark])] == mine[interface][mark]


def test_it_stays_within_its_lines():
    mine = [name for name in modules() if name.startswith("shims.x11")]
    # The measured size plus five percent: 2,630 before titles in compound text, windows
    # that are torn off and the abstract names of displays.
    assert size(mine).code <= 2_890


@pytest.mark.parametrize(
    ("data", "text"),
    [
        # As libX11 1.8 makes them of these texts.
        (b"\x1b-L\xc2\xd5\xe1\xe2 \x1b-F\xd9", "Тест Ω"),
        (b"\x1b-L\xc2\xd5\xe1\xe2 \x1b$(BF|K\\", "Тест 日本"),
        (b"Uhr Gr\xf6\xdfe \x1b-F\xd9", "Uhr Größe Ω"),
        ("\x1b%GТест\x1b%@ Caf".encode() + b"\xe9", "Тест Café"),
        (b"\x1b$)A\xd6\xd0\xce\xc4 a", "中文 a"),
        (b"\x1b$(C0!\x1b(B x", "가 x"),
        (b"\x1b%/1\x80\x8bkoi8-r\x02\xf4\xc5\xd3\xd4 x", "Тест x"),
        # Malformed: cut, unknown sets, lengths beyond the end.
        (b"\x1b", ""),
        (b"a\x1b%/1\xff\xff", "a"),
        (b"a\x1b%/1\xff\xffnone\x02\xe9", "aé"),
        (b"\x1b$(B\x46", "\N{REPLACEMENT CHARACTER}"),
        (b"\x1b-~\xe9", "é"),
        (b"\x9b1]abc", "abc"),
    ],
)
def test_compound_text(data, text):
    assert decode_compound_text(data) == text


@given(st.binary(max_size=200))
def test_any_bytes_are_a_compound_text(data):
    assert isinstance(decode_compound_text(b"\x1b" + data), str)


def test_a_long_compound_text_is_cut():
    assert len(decode_compound_text(b"a" * 200_000)) == 4096


@pytest.mark.parametrize(
    ("kind", "data", "title"),
    [
        ("UTF8_STRING", "Café Ω".encode(), "Café Ω"),
        ("COMPOUND_TEXT", b"\x1b-F\xd9", "Ω"),
        ("STRING", b"Caf\xe9", "Café"),
    ],
)
def test_a_title_is_decoded_by_its_type(kind, data, title):
    found = {"WM_NAME": Property(7, 8, data, 0)}
    assert hints(found, lambda atom: kind if atom == 7 else "").title == title


@pytest.mark.parametrize("surface_first", [True, False])
def test_a_window_and_its_surface_find_each_other_in_either_order(surface_first):
    ends = Ends()
    ends.create(ONE)
    made = ends.last + 1
    if not surface_first:
        ends.message(ONE, "WL_SURFACE_ID", made)
        ends.run()
    surface = ends.surface()
    ends.run()
    if surface_first:
        ends.message(ONE, "WL_SURFACE_ID", surface)
    ends.draw(surface, (300, 200))
    ends.run()
    assert ends.count("xdg_surface", "get_toplevel") == 1
    assert ends.count("xdg_surface", "ack_configure") == 1
    assert ends.count("wl_shm", "create_pool") == 1


def test_a_window_gets_the_size_that_it_asks_for_and_not_the_place():
    ends = Ends()
    ends.show(ONE)
    window = ends.core.windows[ONE]
    assert (window.x, window.y) == ends.core.size
    ends.event(16, "IIhhHHHB", 0x100, TWO, 0, 0, 200, 200, 0, 0)
    # x, width and height, in the bits of their mask.
    ends.event(23, "IIIhhHHHH", 0x100, TWO, 0, 7, 8, 320, 240, 1, 1 | 4 | 8)
    ends.run()
    window = ends.core.windows[TWO]
    assert (window.x, window.y, window.w, window.h) == (7, 0, 320, 240)


@pytest.mark.parametrize(
    ("states", "real"),
    [
        ((8, 7, 6, 5, 4), (4,)),
        ((8, 7, 6, 5), ()),
        ((4, 5, 6, 7, 8), (4, 5, 6, 7, 8)),
        ((4, 5), (4, 5)),
        ((4, 1), (4, 1)),
        ((), ()),
    ],
)
def test_tiles_that_the_filter_adds_fix_no_size(states, real):
    assert compositor_states(states) == real


def test_a_programs_message_gives_it_no_surface():
    """Only the server's own, which is not marked as sent."""
    ends = Ends()
    ends.create(ONE)
    surface = ends.surface()
    body = struct.pack(
        "<BBHIII", 33 | 0x80, 32, 0, ONE, ends.atom(b"WL_SURFACE_ID"), surface
    )
    ends.core.x.feed(body.ljust(32, b"\0"))
    ends.run()
    assert ends.count("xdg_surface", "get_toplevel") == 0


def test_pools_go_up_only_when_they_are_shown():
    ends = Ends()
    for _ in range(50):
        ends.draw(ends.surface(), (10, 10))
    ends.run()
    assert ends.count("wl_shm", "create_pool") == 0


def test_damage_is_joined():
    ends = Ends()
    surface = ends.show(ONE)
    before = ends.count("wl_surface", "damage_buffer")
    ends.draw(surface, (300, 200), rectangles=400)
    ends.run()
    assert ends.count("wl_surface", "damage_buffer") == before + 1
    assert joined([(n, n, 1, 2) for n in range(20)]) == [(0, 0, 20, 21)]
    assert joined([(1, 2, 3, 4)]) == [(1, 2, 3, 4)]


def test_a_menu_is_a_popup_and_its_end_is_a_click_on_the_root():
    ends = Ends()
    ends.show(ONE)
    ends.show(TWO, (1300, 820, 100, 100), own=True)
    assert ends.count("xdg_surface", "get_popup") == 1
    (window,) = [w for w in ends.core.order if w.popup is not None]
    # Where the compositor put it.
    assert (window.x, window.y) == (1290, 810)
    ends.tell(window.popup.up, "popup_done")
    ends.told.clear()
    ends.run()
    assert ends.count("xdg_popup", "destroy") == 1
    pointer = struct.pack("<I", ends.pointer)
    assert any(data.count(pointer) >= 4 for _, _, data in ends.told)
    assert len(ends.core.order) == 1


@pytest.mark.parametrize(("version", "popups"), [(2, 2), (5, 1)])
def test_a_menu_that_grows_is_shown_whole(version, popups, monkeypatch):
    """sway 1.7 has no xdg_popup.reposition: the menu is made again."""
    monkeypatch.setitem(GLOBALS, "xdg_wm_base", version)
    ends = Ends()
    ends.show(ONE)
    surface = ends.show(TWO, (1300, 820, 100, 100), own=True)
    for width in (150, 200):
        ends.event(22, "IIIhhHHHB", TWO, TWO, 0, 1290, 810, width, 120, 0, 1)
    ends.draw(surface, (200, 120))
    ends.run()
    ends.now += 0.1
    ends.run()
    assert ends.count("xdg_surface", "get_popup") == popups
    assert ends.count("xdg_popup", "reposition") == (2 if version == 5 else 0)
    sizes = [v for i, n, v in ends.asked if (i, n) == ("xdg_positioner", "set_size")]
    assert sizes[-1] == [200, 120]
    assert ends.core.surfaces[surface].open, "its picture is shown"


def test_the_end_of_a_window_ends_its_menus_first():
    ends = Ends()
    ends.show(ONE)
    ends.show(TWO, (1300, 820, 100, 100), own=True)
    ends.show(THREE, (1400, 830, 90, 90), own=True)
    before = len(ends.asked)
    ends.event(18, "II", 0x100, ONE)
    ends.run()
    gone = [i for i, n, _ in ends.asked[before:] if n == "destroy"]
    assert gone[:4] == ["xdg_popup", "xdg_surface", "xdg_popup", "xdg_surface"]
    assert "xdg_toplevel" in gone
    assert ends.core.order == []


def test_more_windows_than_the_filter_allows_wait():
    ends = Ends()
    for number in range(140):
        ends.core.input_at = ends.now
        ends.show(0x400010 + number)
    assert ends.count("xdg_surface", "get_toplevel") == 120


def test_a_circle_of_transient_windows_is_no_family():
    ends = Ends()
    for xid, parent in ((ONE, TWO), (TWO, THREE), (THREE, ONE)):
        ends.properties[xid, "WM_TRANSIENT_FOR"] = (32, struct.pack("<I", parent))
    for xid in (ONE, TWO, THREE):
        ends.show(xid)
    for xid in (ONE, TWO, THREE):
        ends.event(28, "IIIB", xid, ends.atom(b"WM_TRANSIENT_FOR"), 0, 0)
        ends.run()
    parents = {w.xid: w.parent and w.parent.xid for w in ends.core.order}
    assert sum(parent is not None for parent in parents.values()) == 2, parents


def test_titles_have_a_pace_and_the_last_one_is_shown():
    ends = Ends()
    ends.show(ONE)
    for number in range(20):
        ends.properties[ONE, "_NET_WM_NAME"] = (8, b"title %d" % number)
        ends.event(28, "IIIB", ONE, ends.atom(b"_NET_WM_NAME"), 0, 0)
        ends.run()
    assert ends.count("xdg_toplevel", "set_title") <= 2
    ends.now += 0.3
    ends.run()
    titles = [v for i, n, v in ends.asked if n == "set_title"]
    assert titles[-1] == ["title 19"]


@pytest.mark.parametrize(
    "found",
    [
        {"WM_NORMAL_HINTS": words(*[0xFFFFFFFF] * 18)},
        {"WM_NORMAL_HINTS": words(0x30, 0, 0, 0, 0, 500, 500, 1, 1)},
        {"WM_NORMAL_HINTS": words(0x30)},
        {"_GTK_FRAME_EXTENTS": words(*[0xFFFFFFFF] * 4)},
        {"WM_HINTS": words(1)},
        {"_MOTIF_WM_HINTS": words(2, 0)},
        {"_NET_WM_NAME": words(1, 2, 3)},
        {"WM_CLASS": words(1)},
    ],
)
def test_hostile_properties_stay_within_bounds(found):
    made = hints(found, lambda atom: "")
    for low, high in zip(made.smallest, made.largest, strict=True):
        assert 0 <= low <= 16384
        assert high == 0 or low <= high <= 16384
    assert all(0 <= extent <= 256 for extent in made.extents)
    assert len(made.title) <= 400


def shown(xid, place=(0, 0, 300, 200), **more):
    window = XWindow(xid, place, own=True)
    window.xdg = window.toplevel = object()
    for name, value in more.items():
        setattr(window, name, value)
    return window


def test_a_menu_is_never_on_another_programs_window():
    menu, mine, theirs = shown(TWO), shown(ONE), shown(OTHER)
    assert popup_parent(menu, [mine, theirs], [theirs, theirs], CLIENT) is mine
    assert popup_parent(menu, [theirs], [theirs, theirs], CLIENT) is None
    menu.hints = Hints(transient=OTHER)
    assert popup_parent(menu, [mine, theirs], [None], CLIENT) is theirs


def test_a_submenu_flips_to_the_other_side_of_its_menu():
    base = shown(ONE)
    menu = shown(TWO, (100, 100, 200, 300), popup=object(), parent=base)
    right = shown(THREE, (298, 150, 120, 80), parent=menu)
    made = placement(right, 1.0)
    assert (made.anchor, made.gravity) == (7, 8)
    assert made.constraint_adjustment & 4
    assert made.anchor_rect == (2, 50, 196, 1), (
        "its right edge is where the submenu begins"
    )
    left = shown(THREE, (-18, 150, 120, 80), parent=menu)
    assert placement(left, 1.0).gravity == 6


def test_a_family_has_no_circle():
    one, two = shown(ONE), shown(TWO)
    assert family(one, two) is two
    two.parent = one
    assert family(one, two) is None
    assert family(one, one) is None


def dragging(ends, *, listed: bool = False):
    """A program drags text from window ONE; returns its wl_data_source and device."""
    surface = ends.show(ONE)
    pointer = ends.up(ends.pointer)
    ends.tell(pointer, "enter", 50, ends.up(surface), 10.0, 10.0)
    ends.tell(pointer, "button", 51, 0, 0x110, 1)
    ends.run()
    helper = ends.core.helper
    ends.event(90, "III", helper, ONE, ends.atom(b"XdndSelection"))
    ends.run()
    # To the helper, so that the program sends XdndEnter with its types.
    motion = dict(ends.heard(ends.pointer, "wl_pointer"))["motion"]
    assert motion[1:] == [10 - 1280, 10 - 800]
    ends.tell(pointer, "motion", 1, 90.0, 90.0)
    ends.run()
    heard = ends.heard(ends.pointer, "wl_pointer")
    assert heard == [], "it stays there until the program has seen the helper"
    kinds = [0, 0, 0]
    if listed:
        atoms = [ends.atom(name) for name in (b"a/b", b"c/d", b"UTF8_STRING", b"e/f")]
        data = struct.pack("<4I", *atoms)
        ends.properties[ONE, "XdndTypeList"] = (32, data)
    else:
        kinds[0] = ends.atom(b"UTF8_STRING")
    ends.message(helper, "XdndEnter", ONE, 5 << 24 | listed, *kinds)
    ends.run()
    ((device, source),) = [
        (ends.bridge.selections.device().device.up, v[0])
        for i, n, v in ends.asked
        if n == "start_drag" and v[1] == ends.up(surface) and v[3] == 51
    ]
    ends.tell(pointer, "leave", 52, ends.up(surface))
    ends.run()
    assert "leave" not in dict(ends.heard(ends.pointer, "wl_pointer"))
    return source, device


@pytest.mark.parametrize("listed", [False, True])
def test_a_programs_drag_over_other_windows_speaks_to_the_helper(listed):
    ends = Ends()
    source, device = dragging(ends, listed=listed)
    kinds = [v[0] for i, n, v in ends.asked if (i, n) == ("wl_data_source", "offer")]
    assert "text/plain;charset=utf-8" in kinds
    assert ("c/d" in kinds) == listed
    helper, position = ends.core.helper, ends.atom(b"XdndPosition")
    ends.tell(device, "enter", 53, 0, 0.0, 0.0, 0)
    ends.tell(device, "leave")
    ends.run()
    # To the helper's place, told relative to the window that Xwayland's pointer is on.
    motion = dict(ends.heard(ends.pointer, "wl_pointer"))["motion"]
    assert motion[1:] == [10 - 1280, 10 - 800]
    ends.event(33, "II5I", helper, position, ONE, 0, 0, 0, 0)
    ends.run()
    assert [v[1] for k, v in ends.x_messages(ONE) if k == "XdndStatus"] == [0]
    ends.tell(source, "target", "text/plain")
    ends.run()
    assert [v[1] for k, v in ends.x_messages(ONE) if k == "XdndStatus"] == [1]
    ends.tell(source, "dnd_drop_performed")
    ends.run()
    assert dict(ends.heard(ends.pointer, "wl_pointer"))["button"][2:] == [0x110, 0]
    # The target may be done before the program tells of the drop.
    ends.tell(source, "dnd_finished")
    ends.run()
    assert ends.x_messages(ONE) == []
    ends.event(33, "II5I", helper, ends.atom(b"XdndDrop"), ONE, 0, 0, 0, 0)
    ends.run()
    assert [v[1] for k, v in ends.x_messages(ONE) if k == "XdndFinished"] == [1]
    ends.now += 30
    ends.run()
    assert ends.count("wl_data_source", "destroy") == 1


@pytest.mark.parametrize("taken", [1, 0])
def test_what_others_drag_reaches_a_program_and_its_refusal_them(taken):
    """A drop that was not taken is no "finish": the source of a move keeps it."""
    ends = Ends()
    surface = ends.show(ONE)
    ends.properties[ONE, "XdndAware"] = (32, struct.pack("<I", 5))
    device, offer = ends.bridge.selections.device().device.up, 0xFF000005
    ends.tell(device, "data_offer", offer)
    ends.above[offer] = "wl_data_offer"
    ends.run()
    ends.tell(offer, "offer", "text/plain")
    ends.tell(device, "enter", 60, ends.up(surface), 20.0, 30.0, offer)
    ends.run()
    kinds = dict(ends.x_messages(ONE))
    assert kinds["XdndEnter"][1] >> 24 == 5
    assert kinds["XdndPosition"][2] == (1300 << 16 | 830)
    status = ends.atom(b"XdndStatus")
    ends.event(33, "II5I", ends.core.helper, status, ONE, 0, 0, 0, 0)
    ends.run()
    words = [v for i, n, v in ends.asked if (i, n) == ("wl_data_offer", "set_actions")]
    assert words[-1] == [0, 0], "a preferred action that is not allowed is an error"
    ends.event(33, "II5I", ends.core.helper, status, ONE, 1, 0, 0, 0)
    ends.run()
    ends.tell(offer, "action", 1)
    finished = ends.atom(b"XdndFinished")
    # An answer to a drop that there was not.
    ends.event(33, "II5I", ends.core.helper, finished, ONE, 1, 0, 0, 0)
    ends.run()
    ends.tell(device, "drop")
    ends.tell(device, "leave")
    ends.run()
    assert "XdndDrop" in dict(ends.x_messages(ONE))
    assert ends.count("wl_data_offer", "destroy") == 0
    ends.event(33, "II5I", ends.core.helper, finished, ONE, taken, 0, 0, 0)
    ends.run()
    assert ends.count("wl_data_offer", "finish") == taken
    assert ends.count("wl_data_offer", "destroy") == 1


def test_two_pastes_at_once_of_one_type_are_both_taken():
    """The owner delivers the second before the first one's property is read."""
    asked, reads = [], []
    x = SimpleNamespace(
        atoms={"TARGETS": 1, "CLIPBOARD": 2, "UTF8_STRING": 3, "INCR": 4, "STRING": 5},
        name=lambda atom: {2: "CLIPBOARD"}.get(atom, ""),
        intern=lambda names, then: then([100 + len(asked)]),
        request=lambda *words: asked.append(words),
        property=lambda _window, prop, then, *_, **__: reads.append((prop, then)),
    )
    core = SimpleNamespace(
        x=x, relay=None, helper=9, clock=lambda: 0.0, attach=lambda part: None
    )
    selections = Selections(core)
    mime = "text/plain;charset=utf-8"
    source = SimpleNamespace(data=("CLIPBOARD", {mime: 3}), dead=False)
    ends = []
    for _ in range(2):
        read, write = os.pipe()
        ends.append(read)
        selections._wl_data_source_send(source, mime, write)
    props = [words[4] for words in asked]
    try:
        for prop in props:
            selections._on_x_selection(0, 9, 2, 3, prop)
        assert [prop for prop, _ in reads] == props
        for number, (_, then) in enumerate(reads):
            then(Property(3, 8, b"%d" % number, 0))
        for _ in range(2):
            selections.ready(selections.writers())
        assert [os.read(end, 9) for end in ends] == [b"0", b"1"]
    finally:
        selections.close()
        for end in ends:
            os.close(end)


def test_targets_and_types_mean_each_other():
    names = ["TARGETS", "UTF8_STRING", "STRING", "image/png", "x" * 300 + "/y"]
    types = offered_types(names, [1, 2, 3, 4, 5])
    assert types == {"text/plain;charset=utf-8": 2, "text/plain": 2, "image/png": 4}
    assert offered_types(["STRING"], [3]) == {"text/plain": 3}
    assert offered_types(["UTF8_STRING", "text/plain"], [2, 6])["text/plain"] == 6
    assert wanted_type("STRING", ["text/plain"]) == "text/plain"
    assert wanted_type("image/png", ["text/plain"]) == ""


def test_settings_are_as_the_specification_has_them():
    data = xsettings(7, [("Xft/DPI", 98304)])
    assert data[:12] == struct.pack("<B3xII", 0, 7, 1)
    assert data[12:] == struct.pack("<BxH8sIi", 0, 7, b"Xft/DPI\0", 7, 98304)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (struct.pack("<II", 1, 4 << 16), "a message of 4 bytes"),
        (struct.pack("<II", 999, 8 << 16), "unknown object 999"),
        (struct.pack("<II", 1, 8 << 16 | 77), "wl_display message 77"),
        (struct.pack("<II", 1, 8 << 16), "an invalid wl_display.error"),
    ],
)
def test_a_compositor_that_errs_ends_the_connection_with_the_reason(data, why):
    ends = Ends()
    ends.core.relay.up.feed(data)
    with pytest.raises(BridgeError, match=re.escape(why)):
        ends.run()


@pytest.mark.parametrize(
    ("oid", "what"), [(2, "wl_registry"), (4000, "a destroyed object")]
)
def test_the_compositors_refusal_is_the_reason(oid, what):
    ends = Ends()
    ends.tell(1, "error", oid, 3, "no such thing")
    why = f"the compositor rejected {what} (3): no such thing"
    with pytest.raises(BridgeError, match=re.escape(why)):
        ends.run()


def test_xwayland_may_not_use_what_it_has_destroyed():
    """Its id at the compositor may be another object's by then."""
    ends = Ends()
    surface = ends.surface()
    ends.request(surface, "wl_surface", "destroy")
    ends.request(surface, "wl_surface", "commit")
    with pytest.raises(BridgeError, match="used a destroyed wl_surface"):
        ends.run()


def test_an_event_without_its_surface_is_dropped():
    ends = Ends()
    ends.tell(ends.up(ends.pointer), "enter", 5, 0, 1.0, 1.0)
    ends.run()
    assert ends.heard(ends.pointer, "wl_pointer") == []


@pytest.mark.parametrize("seed", [1, 2])
def test_a_thousand_messages_of_programs_end_nothing(seed):
    """The fuzz target itself; a finding is raised."""
    ends = x11.fuzz(seconds=60, limit=1000, seed=seed)
    assert ends["messages"] >= 1000
    assert any("programs: went on" in how for how in ends)
