"""A pointer over the dialog counts from when its image is ours."""

from __future__ import annotations

import time

import pytest

from broker.helpers.prompt.dialog import Dialog
from broker.helpers.prompt.input import DialogSeat
from broker.helpers.prompt.window import DialogWindow
from tests.kit.prompting import question

LEFT = 0x110


class Fake:
    """A wl_seat or a wl_pointer that only notes its handlers."""

    def __init__(self) -> None:
        self.dispatcher: dict = {}

    def get_pointer(self) -> Fake:
        return Fake()


class Showing:
    def __init__(self) -> None:
        self.dialog = Dialog(question())
        self.surface = object()
        self.focus = (False, frozenset())

    def draw(self) -> None:
        """Nothing is drawn here."""


@pytest.fixture
def window(monkeypatch):
    made = DialogWindow(lambda *_: None, lambda _: None)
    made.images = []
    monkeypatch.setattr(
        made, "set_cursor", lambda pointer, serial, done: made.images.append(done)
    )
    made._showing = Showing()
    made._seats[1] = DialogSeat(Fake(), made)
    made._seats[1]._capabilities(made._seats[1]._seat, 1)
    made.dialog.guard.visible(time.monotonic())
    return made


def enters(window: DialogWindow, serial: int = 1) -> DialogSeat:
    seat = window._seats[1]
    seat._pointer_enter(None, serial, window._showing.surface, 5, 5)
    return seat


def test_it_is_not_armed_while_the_image_is_another_windows(window):
    enters(window)
    assert window.dialog.guard.remaining(time.monotonic()) is None
    window.images[-1]()
    assert window.dialog.guard.remaining(time.monotonic()) is not None


def test_nothing_is_pressed_by_a_pointer_before_its_image_is_ours(window):
    seat = enters(window)
    window.images[-1]()
    window.dialog.guard.armed(time.monotonic() + 10)
    seat._pointer_leave(None, 2, None)
    enters(window, 3)
    deny = window.dialog.layout.deny
    window.dialog.motion(deny.x + 5, deny.y + 5)
    window.dialog.guard._armed = window.dialog._pointer._armed = True
    seat._button(None, 4, 0, LEFT, 1)
    assert window.dialog.pressed is None
    window.images[0]()  # of the enter before: too late
    assert not seat.imaged
    window.images[-1]()
    window.dialog.guard._armed = window.dialog._pointer._armed = True
    seat._button(None, 5, 0, LEFT, 1)
    assert window.dialog.pressed == deny
