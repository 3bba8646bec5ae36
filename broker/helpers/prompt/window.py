"""The dialog on a compositor: connection, surface, pictures, and input.

Above everything by layer-shell where the compositor has it; as an ordinary
window where not, which reports when another window is active and comes to the
front again when the user wants that.  Everything about meaning is ``Dialog``'s; this passes input
in, and pictures out.

The prompt agent runs it.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
import traceback
from collections.abc import Callable
from typing import Any

import msgspec
from pywayland.client import Display
from pywayland.protocol.wayland import WlCompositor, WlOutput, WlSeat, WlShm
from pywayland.protocol.xdg_activation_v1 import XdgActivationV1
from pywayland.protocol.xdg_shell import XdgToplevel, XdgWmBase

from broker.core import limits
from broker.core.errors import InternalError, UpstreamError
from broker.core.prompt_words import PROMPT_ID
from broker.core.question import PersonAnswer
from broker.helpers.prompt.description import describe, title_words
from broker.helpers.prompt.dialog import WIDTH, Dialog
from broker.helpers.prompt.input import DialogSeat
from broker.helpers.prompt.layershell import EXCLUSIVE, OVERLAY, LayerShell
from broker.helpers.prompt.paint import arrow, paint
from broker.ipc.prompt import Described, Show

_ARGB8888, _XRGB8888 = 0, 1
_GRAVE_SECONDS = 2.0
_VERSIONS = {
    "wl_compositor": (WlCompositor, 4),
    "wl_shm": (WlShm, 1),
    "xdg_wm_base": (XdgWmBase, 1),
    "xdg_activation_v1": (XdgActivationV1, 1),
    "zwlr_layer_shell_v1": (LayerShell, 4),
}
_ACTIVATED = XdgToplevel.state.activated


class DialogWindow:
    """One connection to a compositor, and at most one dialog on it.

    ``said`` hears the answer, ``seen`` that the dialog is on the screen, ``covered``
    that another window is active, or no longer; each with the question's id.
    ``described`` hears the dialog in words, when they change.
    """

    def __init__(
        self,
        said: Callable[[int, PersonAnswer], None],
        seen: Callable[[int], None],
        described: Callable[[Described], None] = lambda _: None,
        covered: Callable[[int, bool], None] = lambda *_: None,
    ) -> None:
        """Set up the window.

        ``said``, ``seen``, ``described`` and ``covered`` report to the agent.
        """
        self._said = said
        self._seen = seen
        self._described = described
        self._covered = covered
        self._behind = 0
        """The question that was reported to be behind other windows; 0: none."""
        self._words = Described()
        self._display: Any = Display()
        self._globals: dict[str, Any] = {}
        self._scales: dict[int, tuple[Any, int]] = {}
        self._seats: dict[int, DialogSeat] = {}
        self._showing: _Showing | None = None
        self._failed: BaseException | None = None
        # The library drops an object, with the events sent to it, when no reference to
        # it is left.
        self._registry: Any = None
        self._graves: list[tuple[Any, float]] = []
        self._buffers: set[Any] = set()
        self._cursor: Any = None
        self._syncs: set[Any] = set()

    @property
    def layer(self) -> bool:
        """Return whether dialogs lie above everything."""
        return "zwlr_layer_shell_v1" in self._globals

    @property
    def scale(self) -> int:
        """Pixels for a point: the largest of the screens'."""
        return max((scale for _, scale in self._scales.values()), default=1)

    def connect(self) -> int:
        """Connect to the compositor; returns the connection's descriptor.

        Raises UpstreamError when there is none, or it lacks a required global.
        """
        try:
            self._display.connect()
        except ValueError as error:
            raise UpstreamError("no compositor answers") from error
        self._registry = registry = self._display.get_registry()
        registry.dispatcher["global"] = self.guarded(self._global)
        registry.dispatcher["global_remove"] = self.guarded(self._global_gone)
        for _ in range(2):  # the globals, and their first events
            self._display.roundtrip()
        self._check()
        shell = self.layer or "xdg_wm_base" in self._globals
        if not shell or not {"wl_compositor", "wl_shm"} <= set(self._globals):
            raise UpstreamError("the compositor lacks wl_shm or xdg_wm_base")
        return int(self._display.get_fd())

    def guarded(self, function: Callable[..., None]) -> Callable[..., None]:
        """Wrap a callback so that its error is kept for ``_check``."""

        def call(*args: object) -> None:
            try:
                function(*args)
            except Exception as error:  # noqa: BLE001
                self._failed = self._failed or error

        return call

    def _check(self) -> None:
        if self._failed is not None:
            said = "".join(traceback.format_exception(self._failed))
            raise InternalError(f"internal error in the dialog: {said}")

    def _global(self, registry: Any, name: int, kind: str, version: int) -> None:
        """Bind a global of the compositor that the dialog needs."""
        if kind in _VERSIONS and kind not in self._globals:
            interface, most = _VERSIONS[kind]
            made = registry.bind(name, interface, min(version, most))
            self._globals[kind] = made
            if kind == "xdg_wm_base":
                made.dispatcher["ping"] = self.guarded(lambda base, n: base.pong(n))
        elif kind == "wl_output":
            output = registry.bind(name, WlOutput, min(version, 2))
            self._scales[name] = (output, 1)
            output.dispatcher["scale"] = self.guarded(
                lambda out, scale: self._scales.update({name: (out, scale)})
            )
        elif kind == "wl_seat":
            seat = registry.bind(name, WlSeat, min(version, 5))
            self._seats[name] = DialogSeat(seat, self)

    def _global_gone(self, registry: Any, name: int) -> None:
        """Forget a removed output or seat."""
        del registry
        self._scales.pop(name, None)
        seat = self._seats.pop(name, None)
        if seat is not None:
            seat.close()
            self.refocus()

    # -- showing ------------------------------------------------------------------

    def show(self, message: Show) -> None:
        """Show a question in place of the former one."""
        self.withdraw()
        self._showing = _Showing(message, self)
        self._display.flush()

    def show_behind(self, behind: int) -> None:
        """Show on the dialog how many questions wait after it."""
        if self._showing is not None:
            self._showing.dialog.behind = behind
            self._showing.draw()

    def withdraw(self) -> None:
        """Remove the dialog from the screen; the agent keeps its connection."""
        if self._showing is not None:
            self._showing.close()
            self._showing = None
            self.describe(Described())
        for seat in self._seats.values():
            seat.forget()
        self._display.flush()

    def make_surface(self) -> Any:
        """A new surface."""
        return self._globals["wl_compositor"].create_surface()

    def role(self, surface: Any, height: int, title: str) -> tuple[Any, ...]:
        """Give the surface its role; return what must be destroyed, in order."""
        if self.layer:
            shell = self._globals["zwlr_layer_shell_v1"]
            mine = shell.get_layer_surface(surface, None, OVERLAY, "vitrail-prompt")
            mine.set_size(WIDTH, height)
            mine.set_exclusive_zone(-1)
            mine.set_keyboard_interactivity(EXCLUSIVE)
            mine.dispatcher["configure"] = self.guarded(self._configured)
            mine.dispatcher["closed"] = self.guarded(lambda _: self._closed())
            return (mine,)
        outer = self._globals["xdg_wm_base"].get_xdg_surface(surface)
        outer.dispatcher["configure"] = self.guarded(self._configured)
        inner = outer.get_toplevel()
        inner.set_title(title)
        inner.set_app_id(PROMPT_ID)
        inner.set_min_size(WIDTH, height)
        inner.set_max_size(WIDTH, height)
        inner.dispatcher["close"] = self.guarded(lambda _: self._closed())
        inner.dispatcher["configure"] = self.guarded(self._states)
        return (inner, outer)

    def _states(self, _toplevel: Any, _width: int, _height: int, states: bytes) -> None:
        """Note whether the compositor has made the dialog the active window."""
        if self._showing is not None:
            found = struct.unpack(f"={len(states) // 4}I", bytes(states))
            self._showing.activated(_ACTIVATED in found)

    def raise_dialog(self, token: str) -> None:
        """Bring the dialog to the front: by a token of the compositor's if not empty.

        Where that is not enough it is shown as a new window, which a compositor gives
        the focus.  Its guard begins again with the focus, in either case.
        """
        showing = self._showing
        if showing is None or self.layer or showing.active:
            return
        activation = self._globals.get("xdg_activation_v1")
        if token and activation is not None:
            activation.activate(token, showing.surface)
            showing.renewed = time.monotonic() + limits.PROMPT_RAISED_SECONDS
        else:
            self._show_again(showing)
        self._display.flush()

    def _show_again(self, showing: _Showing) -> None:
        """Show a question as a new window, with the time that is left for it."""
        self.show(showing.again())
        self.show_behind(showing.dialog.behind)

    def covered(self, number: int, *, covered: bool) -> None:
        """Report, once, that the dialog is behind other windows, or no longer."""
        if covered != (self._behind == number):
            self._behind = number if covered else 0
            self._covered(number, covered)

    def _configured(self, surface: Any, serial: int, *_size: int) -> None:
        surface.ack_configure(serial)
        if self._showing is not None:
            self._showing.configured = True
            self._showing.draw()

    def _closed(self) -> None:
        """The compositor, or the user by it, has closed the dialog: a no."""
        self.answer(
            PersonAnswer(allow=False, by="person", reason="the dialog was closed")
        )

    def set_cursor(self, pointer: Any, serial: int, done: Callable[[], None]) -> None:
        """Give a pointer our arrow; ``done`` is called once the compositor has it."""
        if self._cursor is None:
            self._cursor = self.make_surface()
        scale = self.scale
        width, height, picture = arrow(scale)
        pointer.set_cursor(serial, self._cursor, 0, 0)
        made = self.buffer(picture, width, height, _ARGB8888)
        self._cursor.attach(made, 0, 0)
        self._cursor.set_buffer_scale(scale)
        self._cursor.damage_buffer(0, 0, width, height)
        self._cursor.commit()
        self.sync(done)

    def sync(self, done: Callable[[], None]) -> None:
        """Call ``done`` once the compositor has handled all our requests up to now."""
        sync = self._display.sync()
        self._syncs.add(sync)

        def heard(callback: Any, _serial: int) -> None:
            self._syncs.discard(callback)
            done()

        sync.dispatcher["done"] = self.guarded(heard)
        self._display.flush()

    def buffer(
        self, picture: bytes, width: int, height: int, form: int = _XRGB8888
    ) -> Any:
        """Return a buffer with a picture.

        Destroyed when the compositor is done with it.
        """
        fd = os.memfd_create("vitrail-prompt", os.MFD_CLOEXEC)
        try:
            os.pwrite(fd, b"\0", len(picture) - 1)  # it is this large then
            with mmap.mmap(fd, len(picture)) as memory:
                memory[:] = picture
            pool = self._globals["wl_shm"].create_pool(fd, len(picture))
            made = pool.create_buffer(0, width, height, width * 4, form)
            pool.destroy()
        finally:
            os.close(fd)
        self._buffers.add(made)
        made.dispatcher["release"] = self.guarded(self._released)
        return made

    def _released(self, buffer: Any) -> None:
        self._buffers.discard(buffer)
        buffer.destroy()

    def bury(self, surface: Any) -> None:
        """Destroy a surface when no more events about it can arrive.

        The compositor reports only then that the focus has left it, and the library
        cannot read a message about an object that does not exist.
        """
        self._graves.append((surface, time.monotonic() + _GRAVE_SECONDS))

    # -- input --------------------------------------------------------------------------

    @property
    def dialog(self) -> Dialog | None:
        """The dialog that is shown."""
        return None if self._showing is None else self._showing.dialog

    def mine(self, surface: Any) -> bool:
        """Return whether a surface is that of the dialog that is shown."""
        return self._showing is not None and surface is self._showing.surface

    def refocus(self) -> None:
        """Update the guard with the current focus.

        The keyboard's where there is one; else the pointer's; with neither
        there is only touch, which has none.
        """
        if self._showing is None:
            return
        seats = self._seats.values()
        keyboards = [seat for seat in seats if seat.keyboard is not None]
        pointers = [seat for seat in seats if seat.pointer is not None]
        held = True
        if keyboards:
            held = any(seat.typing for seat in keyboards)
        elif pointers:
            held = any(seat.pointing for seat in pointers)
        # Once it is armed, a pointer that comes in has its presses ignored until
        # its image is ours (``DialogSeat``), and typing continues.
        if not self._showing.dialog.guard.armed:
            # guard: no arming before the pointer image
            held &= all(seat.imaged for seat in pointers if seat.pointing)
        keys = frozenset(key for seat in keyboards for key in seat.keys_down)
        if (held, keys) != self._showing.focus:
            self._showing.focus = (held, keys)
            self._showing.dialog.guard.focus(time.monotonic(), held=held, keys=keys)
            self._showing.dialog.typed = ""
            self._showing.draw()

    def acted(self, answer: PersonAnswer | None = None) -> None:
        """Input has been passed to the dialog; it may look different now."""
        if answer is not None:
            self.answer(answer)
        elif self._showing is not None:
            self._showing.draw()

    def answer(self, answer: PersonAnswer) -> None:
        """The dialog is over."""
        if self._showing is not None:
            number = self._showing.message.id
            self.withdraw()
            self._said(number, answer)

    def describe(self, words: Described) -> None:
        """The dialog in words, as it is now."""
        if words != self._words:
            self._words = words
            self._described(words)

    def seen(self, number: int) -> None:
        """The compositor has shown it."""
        self._seen(number)

    # -- time and events ------------------------------------------------------------------

    def read(self) -> None:
        """Read and dispatch the compositor's events.

        Raises UpstreamError at its end.
        """
        try:
            self._display.read()
            self._display.dispatch(block=False)
        except RuntimeError as error:
            raise UpstreamError("the compositor has closed the connection") from error
        self._check()
        self._display.flush()

    def tick(self) -> None:
        """Do timed work: a picture of what has rested, buffers to free."""
        self.acted()
        now = time.monotonic()
        if self._showing is not None and not self.layer:
            self._showing.look_covered(now)
            if self._showing.renewed <= now:
                self._show_again(self._showing)
        while self._graves and self._graves[0][1] <= now:
            self._graves.pop(0)[0].destroy()
        self._check()
        self._display.flush()

    def wakes(self) -> float:
        """Return when ``tick`` is due, monotonic: in a second at the latest."""
        now = time.monotonic()
        grave = self._graves[0][1] if self._graves else float("inf")
        if self._showing is None:
            return grave
        wakes = self._showing.dialog.wakes(now)
        rest = now + 1.0 if wakes is None else wakes
        return min(grave, now + 1.0, rest, self._showing.renewed)

    def close(self) -> None:
        """Leave the compositor: destroy our objects, then the connection they belong to.

        The library writes to freed memory if an object is destroyed after its connection.
        """
        self._showing = None
        for seat in self._seats.values():
            seat.close()
        buried = [surface for surface, _ in self._graves]
        for proxy in (*buried, *self._buffers, *self._syncs):
            if not proxy.destroyed:
                proxy.destroy()
        self._graves.clear()
        self._buffers.clear()
        self._syncs.clear()
        # It destroys what is left, such as globals and the devices of seats.
        self._display.disconnect()


class _Showing:
    """One dialog on the screen."""

    def __init__(self, message: Show, window: DialogWindow) -> None:
        self.message = message
        self.dialog = Dialog(message.question, message.yes_word)
        self.focus: tuple[bool, frozenset[int]] = (False, frozenset())
        self.configured = False
        self.active = False
        """The compositor shows it as the active window."""
        self.renewed = float("inf")
        """When it is shown as a new window, if it is not the active one by then."""
        self._passive_since = time.monotonic()
        self._deadline = time.monotonic() + message.seconds
        self._window = window
        self._seen = False
        self._drawn: tuple[int, ...] | None = None
        """What has rested in the newest picture whose showing is awaited or was heard."""
        self._frame: Any = None
        self.surface = window.make_surface()
        height = self.dialog.layout.height
        self._roles = window.role(self.surface, height, title_words(self.dialog))
        self.surface.commit()

    def draw(self) -> None:
        """Paint the dialog's current state, and commit the picture to its surface."""
        if not self.configured:
            return
        scale, now = self._window.scale, time.monotonic()
        picture = paint(self.dialog, self.message.phrase, now, self._deadline, scale)
        self._window.describe(describe(self.dialog, now))
        width, height = WIDTH * scale, self.dialog.layout.height * scale
        self.surface.attach(self._window.buffer(picture, width, height), 0, 0)
        self.surface.set_buffer_scale(scale)
        self.surface.damage_buffer(0, 0, width, height)
        rests = self.dialog.rests(now)
        if self._drawn is None or (any(rests) and rests != self._drawn):
            self._drawn = rests
            self._frame = self.surface.frame()
            self._frame.dispatcher["done"] = self._window.guarded(
                lambda _callback, _time: self._shown(rests)
            )
        self.surface.commit()

    def _shown(self, rests: tuple[int, ...]) -> None:
        """The compositor has shown a picture; the dialog may take answers then."""
        if not self._window.mine(self.surface):
            return
        if not self._seen:
            self._seen = True
            now = time.monotonic()
            self._deadline = now + self.message.seconds
            self.dialog.guard.visible(now)
            self._window.seen(self.message.id)
            self._window.refocus()
        # guard: input beside the picture in one round of the compositor
        # A compositor that hung has our picture, its screen's timer and the user's input
        # ready at once, and may report the picture shown before it reads the input. It
        # reads what we ask now in its next round, after that input.
        if any(rests):
            self._window.sync(lambda: self._counts(rests))

    def _counts(self, rests: tuple[int, ...]) -> None:
        """All input from before the picture was shown has arrived."""
        if not self._window.mine(self.surface):
            return
        answer = self.dialog.shown(rests)
        if answer is not None:
            self._window.answer(answer)

    def activated(self, active: bool) -> None:  # noqa: FBT001
        """Take the compositor's word whether it is the active window."""
        if active != self.active:
            self.active, self._passive_since = active, time.monotonic()
            if active:
                self.renewed = float("inf")
        if active:
            self._window.covered(self.message.id, covered=False)

    def look_covered(self, now: float) -> None:
        """Report a dialog that has not been the active window for a while."""
        waited = now - self._passive_since >= limits.PROMPT_COVERED_SECONDS
        if self._seen and not self.active and waited:
            self._window.covered(self.message.id, covered=True)

    def again(self) -> Show:
        """Return the question with the time that is left for it."""
        left = max(0.0, self._deadline - time.monotonic())
        return msgspec.structs.replace(self.message, seconds=left)

    def close(self) -> None:
        """Take the window from the screen."""
        for role in self._roles:
            role.destroy()
        self._window.bury(self.surface)
