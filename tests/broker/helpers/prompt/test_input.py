"""A pointer over the dialog counts from when its image is ours."""

from __future__ import annotations

import time

import pytest

from broker.helpers.prompt.dialog import Dialog
from broker.helpers.prompt.input import DialogSeat
from broker.helpers.prompt.window import DialogWindow
from broker.ipc.prompt import Show
from tests.kit.prompting import WORD, question

LEFT = 0x110


class Fake:
    """A wl_seat or a wl_pointer that only notes its handlers."""

    def __init__(self) -> None:
        self.dispatcher: dict = {}

    def get_pointer(self) -> Fake:
        return Fake()


class Showing:
    def __init__(self) -> None:
        self.dialog = Dialog(question(), WORD)
        self.surface = object()
        self.focus = (False, frozenset())

        self.drawn = 0

    def draw(self) -> None:
        """Count the pictures; nothing is drawn here."""
        self.drawn += 1


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
    window.dialog.shown(window.dialog.rests(time.monotonic() + 10))
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


class Display:
    """A connection whose requests are answered when the test says so."""

    def __init__(self) -> None:
        self.syncs: list[Fake] = []

    def sync(self) -> Fake:
        self.syncs.append(Fake())
        return self.syncs[-1]

    def flush(self) -> None:
        """Nothing waits in a buffer here."""


class Surface:
    def commit(self) -> None:
        """Nothing is drawn here."""


def test_a_key_that_arrives_just_after_the_shown_picture_is_of_before_it(monkeypatch):
    """A compositor that hung reports the picture, and reads the old key then."""
    window = DialogWindow(lambda *_: None, lambda _: None)
    window._display = Display()
    monkeypatch.setattr(window, "make_surface", Surface)
    monkeypatch.setattr(window, "role", lambda *_: ())
    window.show(Show(1, question(), "blue otter sings", 60.0, WORD))
    window._showing._shown((0, 0, 0, 0))
    dialog, now = window.dialog, time.monotonic()
    dialog.guard.focus(now, held=True)

    def shown(later: float) -> None:
        window._showing._shown(dialog.rests(now + later))

    def answered() -> None:
        sync = window._display.syncs[-1]
        sync.dispatcher["done"](sync, 1)

    shown(10)
    assert dialog.key(1, "Escape", "", now + 10) is None
    dialog.key_up(1, now + 10)
    answered()
    assert not dialog.guard.armed
    shown(20)
    answered()
    assert not dialog.key(1, "Escape", "", now + 20).allow


def test_a_pointer_that_comes_or_goes_changes_the_picture(window):
    """Also once the dialog is armed: its buttons wait for the pointer again."""
    seat = enters(window)
    window.images[-1]()
    window.dialog.shown(window.dialog.rests(time.monotonic() + 10))
    before = window._showing.drawn
    seat._pointer_leave(None, 2, None)
    assert window._showing.drawn > before
    enters(window, 3)
    before = window._showing.drawn
    window.images[-1]()
    assert window._showing.drawn > before
    assert window.dialog.hand_waits(time.monotonic())


@pytest.mark.parametrize(("place", "seconds"), [((5, 5), 0.5), ((300, 100), 1.0)])
def test_the_rest_is_as_long_as_the_place_of_entering_says(window, place, seconds):
    seat = window._seats[1]
    seat._pointer_enter(None, 1, window._showing.surface, *place)
    seat._motion(None, 0, 7, 7)
    window.images[-1]()
    rest = window.dialog._pointer.remaining(time.monotonic())
    assert seconds - 0.4 < rest <= seconds


def test_a_press_before_the_image_is_not_ignored_silently(window):
    seat = enters(window)
    seat._button(None, 4, 0, LEFT, 1)
    assert window.dialog.early
