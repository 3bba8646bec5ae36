"""From a sandbox's record to the rules of its windows, also while the record changes.

A record's new colour may be another sandbox's former one: it is shown only after that
one's windows were drawn again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import trio

from broker.core.errors import UpstreamError
from broker.core.lease import Lease
from broker.core.limits.wayland import (
    WAYLAND_GPU_BYTES,
    WAYLAND_GPU_FIRST,
    WAYLAND_GPU_PLANES,
    WAYLAND_GPU_PLANES_OF_OTHERS,
)
from broker.core.names import LeaseId, SandboxName
from broker.core.streams.wayland_rules import (
    MAX_STRIP,
    Fullscreen,
    WindowRules,
    take_color,
)
from broker.core.streams.wayland_verdicts import OPTIONS
from broker.helpers.prompt.translation import tr
from broker.viewer.wayland.strip_letters import StripLetters
from broker.viewer.workers.process import Worker
from policy.records.model import GPU_GLOBAL, STRIP_PIXELS, Record

BETWEEN = 0x000000
"""The colour of frames while the one of the record is still another sandbox's."""


class FrameColours:
    """The colours that windows of the sandboxes have now, and their parts of the GPU."""

    def __init__(self) -> None:
        self._drawing: dict[LeaseId, None] = {}
        """Sandboxes whose windows show what the GPU drew, oldest first."""
        self._shown: dict[LeaseId, tuple[int, Callable[[], Record | None]]] = {}
        self._changed = trio.Event()

    def show(
        self, lease: LeaseId, color: int, record: Callable[[], Record | None]
    ) -> None:
        """Note the colour of a sandbox's windows, and where its record is."""
        self._shown[lease] = color, record
        self.look_again()

    def gone(self, lease: LeaseId) -> None:
        """A sandbox has no windows any more."""
        self._shown.pop(lease, None)
        self._drawing.pop(lease, None)
        self.look_again()

    def look_again(self) -> None:
        """Wake the tasks that wait: windows or records have changed."""
        self._changed.set()
        self._changed = trio.Event()

    def changed(self) -> trio.Event:
        """Return the event of the next change."""
        return self._changed

    def shown(self, lease: LeaseId) -> int | None:
        """Return the colour of a sandbox's windows; None: it has no worker."""
        return self._shown[lease][0] if lease in self._shown else None

    def gpu_planes(self, lease: LeaseId) -> int:
        """Return how many planes in memory of the GPU a sandbox may have.

        Each is one of the compositor's descriptors.
        """
        self._drawing.setdefault(lease)
        # guard: sandboxes with a GPU leave the compositor descriptors
        first = lease in [*self._drawing][:WAYLAND_GPU_FIRST]
        return WAYLAND_GPU_PLANES if first else WAYLAND_GPU_PLANES_OF_OTHERS

    def left_by(self, lease: LeaseId, color: int) -> bool:
        """Return whether another sandbox shows a colour that its record has no more."""
        return any(
            there == color and not _has(record(), color)
            for other, (there, record) in self._shown.items()
            if other != lease
        )


def _has(record: Record | None, color: int) -> bool:
    return record is None or take_color(record.viewer.label.colour) == color


class GuestFrames:
    """The frames of one sandbox, as its record is now."""

    def __init__(
        self,
        lease: Lease,
        record: Callable[[], Record | None],
        letters: StripLetters,
        colours: FrameColours,
    ) -> None:
        self._lease, self._record = lease, record
        self._letters, self._colours = letters, colours
        self.asks = False
        """The user is being asked about this sandbox: its frames say so."""
        self.frozen = False
        """The host does not answer, and with it no program of this sandbox."""
        self.uses: tuple[str, ...] = ()
        """What it uses now, in words."""
        self._lettered = False
        """Its frames show names, whose letters are drawn if no other sandbox had them."""
        self._worker: Worker | None = None
        self._following = trio.Lock()

    @property
    def colour(self) -> str:
        """Colour of the record as ``#rrggbb``; grey without a valid record."""
        record = self._record()
        return "#555555" if record is None else record.viewer.label.colour

    async def begin(self, record: Record) -> WindowRules:
        """Return the rules for a worker that begins; ``follow`` comes after it."""
        rules = await self._rules(record)
        if self._colours.left_by(self._lease.id, rules.color):
            rules = replace(rules, color=BETWEEN)
        return rules

    async def follow(self, worker: Worker) -> None:
        """Send a worker the window rules of the record as it is now.

        Waits while the colour is on windows of a sandbox that is changing it.  Raises
        UpstreamError when the worker has ended; a worker that does not answer is ended.
        """
        self._worker = worker
        self._colours.look_again()
        async with self._following:
            while self._worker is worker and (record := self._record()) is not None:
                rules = await self._rules(record)
                changed = self._colours.changed()
                # guard: no colour of another sandbox before it is free
                if not self._colours.left_by(self._lease.id, rules.color):
                    return await self._paint(worker, rules)
                await self._paint(worker, replace(rules, color=BETWEEN))
                await changed.wait()
        return None

    async def letter(self) -> None:
        """Give frames that show a name a picture of it, in the desktop's font."""
        if self._lettered:  # its worker may have been taken over
            return
        self._lettered = True
        if self._worker is not None:
            with suppress(UpstreamError):  # it has just ended
                await self.follow(self._worker)

    def mark(
        self,
        *,
        asks: bool | None = None,
        frozen: bool | None = None,
        uses: tuple[str, ...] | None = None,
    ) -> bool:
        """Set what the frames say from their next change on; None: leave it.

        Return whether it differs from before.
        """
        former = self.asks, self.frozen, self.uses
        self.asks = self.asks if asks is None else asks
        self.frozen = self.frozen if frozen is None else frozen
        self.uses = self.uses if uses is None else uses
        return former != (self.asks, self.frozen, self.uses)

    async def _rules(self, record: Record) -> WindowRules:
        rules = rules_from(record, self._lease.sandbox)
        state = tr("asks") if self.asks else tr("frozen") if self.frozen else ""
        marks = (*filter(None, [state]), *self.uses)
        rules = replace(rules, marks=marks, in_use=bool(self.uses))
        # Drawing takes some 50 ms, which a first window would wait for, and many
        # compositors draw title bars, so that frames have no name.
        if self._lettered or self._letters.has(rules.named_top):
            rules = await drawn(rules, self._letters)
        if GPU_GLOBAL not in rules.allow:
            return rules
        planes = self._colours.gpu_planes(self._lease.id)
        return replace(rules, ceilings={**rules.ceilings, "gpu_planes": planes})

    async def _paint(self, worker: Worker, rules: WindowRules) -> None:
        """Send rules, and wait until the worker has drawn frames in their colour."""
        await worker.follow(rules)
        former = self._colours.shown(self._lease.id)
        if former == rules.color:
            return
        if former is not None:  # else it has just begun, and has no windows
            try:
                await worker.windows()  # answered after the frames were drawn
            except UpstreamError:
                # guard: windows that keep a former colour end
                await worker.close("it did not redraw its windows in the new colour")
                raise
        if self._worker is worker:
            self._colours.show(self._lease.id, rules.color, self._record)

    def gone(self) -> None:
        """The worker, and with it all windows, has ended."""
        self._worker = None
        self._colours.gone(self._lease.id)


async def drawn(rules: WindowRules, letters: StripLetters) -> WindowRules:
    """Return the window rules, with the strip's words drawn in the desktop's font."""
    if rules.label is False:
        return rules
    strip = await letters.name(rules.strip_words, rules.named_top)
    # What is too wide for an order is drawn with the letters of our own.
    return replace(rules, strip=strip if len(strip) <= MAX_STRIP else b"")


def rules_from(record: Record, sandbox: SandboxName) -> WindowRules:
    """Return the rules for the windows of a sandbox that was started from a record.

    Where the record has no words of its own for them, the sandbox's name
    precedes its titles: disposables of one record differ by it.  Beside such words it
    is the sandbox's number.
    """
    window = record.viewer.window
    prefix = "" if window.title_prefix == record.name else window.title_prefix
    if prefix and sandbox != record.name:
        prefix += f" {sandbox.rpartition('-')[2]}"
    if not record.host.launch.kind.boundary:
        # A frame promises a boundary; if there is none, the frame itself says so.
        # guard: a shared box's frame says that it is a label
        prefix = tr("{name}: label, not boundary", name=prefix or sandbox)
    return WindowRules(
        name=sandbox,
        color=take_color(record.viewer.label.colour),
        prefix=prefix,
        border=window.border,
        top=window.top,
        named_top=window.top if window.name_strip else max(window.top, STRIP_PIXELS),
        label=window.name_strip,
        translucent=window.translucent,
        fullscreen=Fullscreen(window.fullscreen),
        allow=window.allow & OPTIONS,
        deny=window.deny,
        promote=window.subsurfaces == "promote",
        ceilings={
            "clients": record.viewer.limits.wayland_clients,
            "windows": window.windows,
            "popups": window.popups,
            "surfaces": window.surfaces,
            "shm_bytes": window.buffer_memory,
            "gpu_bytes": min(window.buffer_memory, WAYLAND_GPU_BYTES),
        },
    )
