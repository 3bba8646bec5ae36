"""State that all Wayland connections of one sandbox share: counters, selections.

A selection belongs to the sandbox: its clipboard is made by any of its
applications and seen by the others, and nothing else ever comes in or out.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from broker.core import limits
from broker.core.limits import wayland as wayland_limits
from broker.jail.wayland.budget import SharedBucket
from broker.jail.wayland.protocol.wire import HEADER, NO_MEMORY, ProtocolFault

if TYPE_CHECKING:
    from broker.jail.wayland.handlers.exported_windows import ExportedWindow
    from broker.jail.wayland.handlers.selection import DataSource
    from broker.jail.wayland.ports import InputListener, Selection
    from broker.jail.wayland.state import ClientState

CEILINGS = MappingProxyType(
    {
        "clients": limits.WAYLAND_CLIENTS_PER_SANDBOX,
        "objects": wayland_limits.WAYLAND_OBJECTS_PER_SANDBOX,
        "listeners": wayland_limits.WAYLAND_LISTENERS_PER_SANDBOX,
        "surfaces": wayland_limits.WAYLAND_SURFACES,
        "windows": wayland_limits.WAYLAND_WINDOWS,
        "popups": wayland_limits.WAYLAND_POPUPS,
        "buffers": wayland_limits.WAYLAND_BUFFERS,
        "pools": wayland_limits.WAYLAND_POOLS,
        "gpu_planes": wayland_limits.WAYLAND_GPU_PLANES,
        "gpu_bytes": wayland_limits.WAYLAND_GPU_BYTES,
        "shm_bytes": wayland_limits.WAYLAND_SHM_BYTES,
        "kept_bytes": wayland_limits.WAYLAND_KEPT_BYTES,
        "shown_pixels": wayland_limits.WAYLAND_SHOWN_PIXELS,
    }
)
"""The counted resources of a sandbox, and their limits."""


_MINUTE = 60.0
"""Seconds."""

DRAG_MARK = b"application/x-vitrail-drag-"
"""Prefix of the private type of a drag; the rest is random."""
LOCAL_DRAG_MARK = DRAG_MARK + b"local-"
"""Prefix of the private type of a drag without content, which one client alone sees."""


class Usage:
    """One connection's share of its sandbox's counters."""

    __slots__ = ("_mine", "_sandbox")

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._mine = dict.fromkeys(CEILINGS, 0)

    def take(self, kind: str, number: int) -> None:
        """Count a use.  Raises ProtocolFault (no_memory) at the ceiling."""
        totals = self._sandbox.totals
        total = totals[kind] + number
        # guard: ceilings of the sandbox
        if total > self._sandbox.ceilings[kind]:
            self._sandbox.refused[kind] += 1
            raise ProtocolFault(
                1, NO_MEMORY, f"this sandbox has {totals[kind]} {kind}, the limit"
            )
        totals[kind] = total
        self._mine[kind] += number

    def room(self, kind: str) -> bool:
        """Return whether one more is to be had."""
        return self._sandbox.totals[kind] < self._sandbox.ceilings[kind]

    def give(self, kind: str, number: int) -> None:
        """Count something out."""
        self._sandbox.totals[kind] -= number
        self._mine[kind] -= number

    def give_all(self) -> None:
        """The connection ends: all that it held is free."""
        for kind, number in self._mine.items():
            self._sandbox.totals[kind] -= number
            self._mine[kind] = 0

    def snapshot(self) -> dict[str, int]:
        """This connection's numbers."""
        return dict(self._mine)


class Sandbox:
    """``totals`` are present numbers, ``refused`` counts what hit a ceiling.

    ``ceilings`` are those of all sandboxes, or lower ones of its own;
    ``secret`` is a word that others cannot guess.
    """

    def __init__(
        self,
        name: str,
        ceilings: Mapping[str, int] | None = None,
        secret: str = "",
    ) -> None:
        self.name = name
        self._secret = secret or name
        self.ceilings: dict[str, int] = {}
        self.bound_by(ceilings or {})
        self.totals = dict.fromkeys(CEILINGS, 0)
        self.refused: Counter[str] = Counter()
        self.filters: set[ClientState] = set()
        self.selections: dict[str, Selection | None] = {
            "clipboard": None,
            "primary": None,
        }
        self.messages = SharedBucket(
            wayland_limits.WAYLAND_MESSAGES_PER_SECOND_OF_ALL,
            wayland_limits.WAYLAND_MESSAGES_BURST_OF_ALL,
            wayland_limits.WAYLAND_CLIENT_READ_BYTES // HEADER.size,
            self._members,
        )
        """Shared bucket of its connections' messages."""
        self.pixels = SharedBucket(
            wayland_limits.WAYLAND_COMMIT_PIXELS_PER_SECOND,
            wayland_limits.WAYLAND_COMMIT_PIXELS_BURST,
            wayland_limits.WAYLAND_COMMIT_PIXELS_AT_ONCE,
            self._members,
        )
        """Shared bucket of the pixels that they commit."""
        self.hand: InputListener | None = None
        """Receives focus and chords; None if nothing ever crosses."""
        self._focused = False
        self.drags: dict[bytes, DataSource] = {}
        self.exports: dict[bytes, ExportedWindow] = {}
        """Windows that its programs may have as parents, by our handle."""
        self.tokens: OrderedDict[bytes, float] = OrderedDict()
        self._drag_number = 0
        self._window_number = 0
        self._handle_number = 0
        self._rings: dict[str, deque[float]] = {}
        self.acted: float | None = None
        """When the user last acted in a window of it (key, button, touch)."""
        self.excuse: float | None = None
        """The same, while the keyboard has not left the sandbox since then."""
        self.unasked: float | None = None
        """When a window that the user did not choose went last (``choice.py``)."""
        self.on_act: Callable[[], None] | None = None
        self.on_mapped: Callable[[], None] | None = None
        """Called when a window is mapped, so that it is on the screen."""

    def _members(self) -> int:
        return self.totals["clients"]

    def act(self, now: float) -> None:
        """The user has acted in a window of it."""
        self.acted = self.excuse = now
        if self.on_act is not None:
            self.on_act()

    def pressed(self, by: ClientState) -> None:
        """Dismiss menus of the sandbox's other connections after a press in this one.

        For the menus of the others that is outside, as for a popup grab.
        """
        for core in self.filters:
            if core is not by:
                core.dismiss_menus()

    @property
    def focused(self) -> bool:
        """Return whether a window of it has the keyboard."""
        return self._focused

    def note_mapped(self) -> None:
        """Have the worker report a newly mapped window to the viewer."""
        if self.on_mapped is not None:
            self.on_mapped()

    def note_focus(self) -> None:
        """Update whether a window of the sandbox has the keyboard; report a change."""
        focused = any(core.focused for core in self.filters)
        if focused != self._focused:
            self._focused = focused
            if not focused:
                # guard: no excuse once the user has turned away
                self.excuse = None
            if self.hand is not None:
                self.hand.focus(taken=focused)

    def bound_by(self, own: Mapping[str, int]) -> None:
        """Apply these ceilings from now on, where they are lower than the defaults."""
        for kind, most in CEILINGS.items():
            # guard: a record lowers and never raises
            self.ceilings[kind] = min(most, own.get(kind, most))

    def select(self, kind: str, source: Selection | None) -> None:
        """Make a source the selection and notify the client that has the keyboard."""
        before = self.selections[kind]
        if before is source:
            return
        self.selections[kind] = source
        if before is not None:
            before.cancel()
        for core in self.filters:
            if core.focused:
                core.selection_changed(kind)

    def forget(self, source: DataSource) -> None:
        """Forget a source that is gone: nothing is offered from it any more."""
        for kind, current in self.selections.items():
            if current is source:
                self.select(kind, None)
        for mime in [m for m, s in self.drags.items() if s is source]:
            del self.drags[mime]
            if self.hand is not None:
                self.hand.drags.ended(source)

    def next_number(self) -> int:
        """A number for a window, never used twice in this sandbox."""
        self._window_number += 1
        return self._window_number

    def new_drag(self, source: DataSource) -> bytes:
        """Create the private MIME type by which this sandbox's filters know a drag.

        A client that has seen some of them cannot guess the next.
        """
        mime = self.new_drag_type(DRAG_MARK)
        self.drags[mime] = source
        return mime

    def new_drag_type(self, mark: bytes) -> bytes:
        """Return a type with this prefix that no client can guess."""
        self._drag_number += 1
        word = f"{self._secret}-{self._drag_number}".encode()
        # guard: a drag's type has no name
        return mark + hashlib.blake2b(word, digest_size=16).hexdigest().encode()

    def new_handle(self) -> bytes:
        """A handle of a window, which no client can guess."""
        self._handle_number += 1
        word = f"{self._secret}-window-{self._handle_number}".encode()
        return hashlib.blake2b(word, digest_size=16).hexdigest().encode()

    def may(self, what: str, per_minute: int, now: float) -> bool:
        """Count an action if fewer than ``per_minute`` happened.

        Return whether it may.
        """
        times = self._rings.setdefault(what, deque())
        while times and now - times[0] >= _MINUTE:
            times.popleft()
        # guard: rates of bells and tokens
        if len(times) >= per_minute:
            self.refused[what] += 1
            return False
        times.append(now)
        return True

    def give_back(self, what: str, when: float | None) -> None:
        """Forget something that counted at this time, if it still does."""
        if when is not None and when in self._rings.get(what, ()):
            self._rings[what].remove(when)

    def keep_token(self, token: bytes, now: float) -> None:
        """Note an activation token that the compositor gave to this sandbox."""
        self.tokens[token] = now
        # guard: tokens bounded
        if len(self.tokens) > wayland_limits.WAYLAND_SERIALS:
            self.tokens.popitem(last=False)

    def use_token(self, token: bytes, now: float) -> bool:
        """Use up an activation token; return whether it was this sandbox's, and young.

        Compositors know their own tokens only, and some for ever: with those of many
        presses a window in the background could take the focus much later.
        """
        given = self.tokens.pop(token, None)
        # guard: an activation token is young
        return given is not None and now - given <= wayland_limits.WAYLAND_TOKEN_SECONDS
