"""The compositor that shows nothing: its globals, and the moment when a window is drawn."""

from __future__ import annotations

import struct

import pytest

from shims.guest.screen import SCREEN_GLOBALS, Screen, ScreenError, wire_text


def request(number, code, body=b""):
    return struct.pack("=II", number, (8 + len(body)) << 16 | code) + body


def words(*values):
    return struct.pack(f"={len(values)}I", *values)


def bind(name, interface, version, made):
    body = words(name) + wire_text(interface) + words(version, made)
    return request(2, 0, body)


def events(data):
    """Return (object, code) of each event."""
    found = []
    while data:
        number, word = struct.unpack_from("=II", data)
        found.append((number, word & 0xFFFF))
        data = data[word >> 16 :]
    return found


def window():
    """A screen with a window that has asked for its size, and its configure events."""
    screen = Screen()
    screen.feed(request(1, 1, words(2)))
    screen.feed(bind(1, "wl_compositor", 4, 3) + bind(5, "xdg_wm_base", 2, 4))
    screen.feed(request(3, 0, words(5)) + request(4, 2, words(6, 5)))
    screen.feed(request(6, 1, words(7)))
    return screen, events(screen.feed(request(5, 6)))


def test_a_program_is_offered_the_globals_and_is_answered():
    screen = Screen()
    answer = screen.feed(request(1, 1, words(2)) + request(1, 0, words(3)))
    assert events(answer) == [*[(2, 0)] * len(SCREEN_GLOBALS), (3, 0), (1, 1)]
    for interface, _version in SCREEN_GLOBALS:
        assert wire_text(interface) in answer
    assert events(screen.feed(bind(3, "wl_shm", 1, 4))) == [(4, 0), (4, 0)]
    assert events(screen.feed(bind(6, "wl_seat", 7, 5))) == [(5, 0), (5, 1)]
    output = [(6, 0), (6, 1), (6, 3), (6, 2)]
    assert events(screen.feed(bind(7, "wl_output", 4, 6))) == output


def test_a_window_is_drawn_with_its_first_buffer():
    screen, configured = window()
    assert configured == [(7, 0), (6, 0)]
    assert not screen.drawn
    screen.feed(request(5, 1, words(0, 0, 0)) + request(5, 6))
    assert not screen.drawn, "it has attached no buffer"
    frame = request(5, 3, words(9)) + request(5, 1, words(8, 0, 0)) + request(5, 6)
    assert events(screen.feed(frame)) == [(9, 0), (1, 1)]
    assert screen.drawn


def test_a_surface_that_is_no_window_is_not_one_that_was_drawn():
    screen, _ = window()
    screen.feed(request(3, 0, words(9)) + request(9, 1, words(8, 0, 0)) + request(9, 6))
    assert not screen.drawn


def test_bytes_may_come_in_any_pieces():
    whole = request(1, 1, words(2)) + bind(1, "wl_compositor", 4, 3)
    screen = Screen()
    answer = b"".join(screen.feed(whole[at : at + 1]) for at in range(len(whole)))
    assert len(events(answer)) == len(SCREEN_GLOBALS)


@pytest.mark.parametrize(
    "data",
    [words(1, 4 << 16), words(1, 5000 << 16), request(1, 0), request(1, 1, b"\0")],
)
def test_an_unknown_request_is_an_error(data):
    with pytest.raises(ScreenError):
        Screen().feed(data)


def test_objects_are_bounded():
    screen = Screen()
    screen.feed(request(1, 1, words(2)))
    many = b"".join(bind(1, "wl_compositor", 4, number) for number in range(3, 20000))
    with pytest.raises(ScreenError, match="objects"):
        screen.feed(many)
