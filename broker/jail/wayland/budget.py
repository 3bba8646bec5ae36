"""How fast a connection may go: buckets of messages and of pixels.

The compositor works for all connections of a sandbox, so they share a bucket of
each; messages cost the filter, too, and each connection has a separate bucket
for them besides.

Buckets that connections share are shared evenly.  A connection that finds a shared
bucket empty waits until all debts are paid, but never longer than if the bucket's rate
were divided among the sandbox's connections and it had only its part: an application
that draws its usual pictures is not affected by a flood of another.

Sans-IO: time is passed in; the answer is how long to stop reading.

``charge_drawing`` counts the pixels that a commit makes the compositor draw.
A compositor draws the damaged part of the screen once for each surface that lies
there, from the bottom to the top: a hundred translucent subsurfaces over one window
make it draw a hundred pictures for one damaged picture (measured on sway 1.7 with
pixman: 0.85 ns for a pixel, 72 ms for a picture of 100 layers of 1200 x 700).  So a
commit is charged for its damage, once for each layer below and above it, and a window
has a largest number of layers, because what another client draws has to be drawn
through them as well.

A pixel of a picture that is turned or scaled costs a CPU several plain ones (1500 x
1500 of them 6.4 ms, from 8192 x 8192 19 ms, where plain ones take 1.9).

The estimate is an upper bound: two surfaces of one sandbox are taken to lie over each
other as far as their sizes allow.  Where they really lie only the compositor knows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from broker.core.limits import wayland as limits
from broker.core.token_bucket import TokenBucket

if TYPE_CHECKING:
    from broker.jail.wayland.model import Surface, XdgSurface
    from broker.jail.wayland.sandbox import Sandbox
    from broker.jail.wayland.state import ClientState

_FEW_MESSAGES = 32
_FEW_PIXELS = 1 << 24
"""Below both, messages are counted together with those that follow: a picture is five
messages, and asking the buckets would cost as much as one of them."""


# The compositor's time is shared among sandboxes, not connections. Eight clients of one
# sandbox that sent empty commits as fast as each might made a round trip of another
# sandbox's window 8 ms long on sway; a commit of a window with forty subsurfaces
# made it 17 ms, eight of those a quarter of a second. So all connections of a sandbox
# draw on one bucket of requests and on one of pixels, and a commit counts for each
# surface that the compositor looks at because of it. The bucket's rate is one and a
# half times what a connection may have alone, so one heavy application is not slowed by
# it.
#
# An application must not stall because another one in its sandbox floods: a connection
# that finds a bucket empty waits until it is full again, but no longer than if it were
# divided evenly among the sandbox's connections. A round robin would achieve the same
# with a queue and a task that serves it; here no task has to wake another. A new
# connection begins with nothing saved up and one turn to wait for, or a client that
# keeps reconnecting would get ever more.
class SharedBucket:
    """A bucket of one sandbox; ``members`` says how many connections draw on it.

    ``at_once`` is what one of them may take before it is asked to wait.
    """

    def __init__(
        self, rate: int, burst: int, at_once: int, members: Callable[[], int]
    ) -> None:
        self.rate = rate
        self.at_once = at_once
        self.members = members
        self.pace = TokenBucket(rate, burst)


class _Share:
    """One connection's part of a shared bucket.

    Counted in the whole bucket's units: what one of eight connections sends
    costs it eightfold, so a part follows the number of connections at once.
    """

    def __init__(self, whole: SharedBucket) -> None:
        self._whole = whole
        self._part: TokenBucket | None = None

    def take(self, now: float, amount: int) -> float:
        """Take an amount from the bucket and this part of it.

        Return seconds to wait.
        """
        whole, members = self._whole, max(1, self._whole.members())
        part = self._part
        if part is None:
            # Nothing saved up, and one turn to wait for: else a sandbox that connects
            # again and again would get more and more.
            saved = int(whole.rate * limits.WAYLAND_SHARE_SECONDS)
            part = self._part = TokenBucket(whole.rate, saved)
            # guard: nothing saved up at first
            part.take(now, saved + whole.at_once * members)
        # guard: a part for each connection
        # guard: one budget for a sandbox
        return min(whole.pace.take(now, amount), part.take(now, amount * members))


class Budget:
    """All buckets of one connection."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._refused = sandbox.refused
        self._messages = TokenBucket(
            limits.WAYLAND_MESSAGES_PER_SECOND, limits.WAYLAND_MESSAGES_BURST
        )
        self._shares = (
            ("rate of all", _Share(sandbox.messages)),
            ("pixel rate", _Share(sandbox.pixels)),
        )
        self._seen = (0, 0)

    def first(self, now: float) -> float:
        """Seconds not to read at first: a turn, where others have spent it all."""
        return self._wait(now, (0, 0))

    def pause(self, messages: int, pixels: int, now: float) -> float:
        """Return how many seconds not to read, given the connection's totals so far."""
        before, drawn = self._seen
        if messages - before < _FEW_MESSAGES and pixels - drawn < _FEW_PIXELS:
            return 0.0
        self._seen = (messages, pixels)
        return self._wait(now, (messages - before, pixels - drawn))

    def _wait(self, now: float, spent: tuple[int, int]) -> float:
        """Return the longest wait of all buckets; count it under its bucket's name."""
        longest, what = self._messages.take(now, spent[0]), "rate"
        for (name, share), amount in zip(self._shares, spent, strict=True):
            wait = share.take(now, amount)
            if wait > longest:
                longest, what = wait, name
        if longest > 0:
            self._refused[what] += 1
        return longest


# -- what a commit makes the compositor draw ------------------------------------------


def charge_drawing(core: ClientState, root: Surface) -> None:
    """Charge what a commit of this tree makes the compositor draw.

    Raises ProtocolFault if its window has more layers than are allowed, or the
    windows of its sandbox have more pixels.
    """
    xdg = root.xdg
    if xdg is None or xdg.frame is None or xdg.frame.outer is None:
        return  # a cursor or a drag icon, whose side is bounded
    layers: list[_Layer] = []
    drawn = _walk(core, root, layers, moved=False)
    window = xdg.frame.outer[0] * xdg.frame.outer[1]
    before = xdg.painted if xdg.mapped else 0
    xdg.painted = window + sum(area * weight for area, weight in layers)
    most = max(limits.WAYLAND_LAYERS * window, limits.WAYLAND_LAYERED_PIXELS)
    # guard: layers of a window bounded
    if sum(area for area, _ in layers) > most:
        raise core.too_much("too many overlapping subsurfaces in one window")
    # guard: painted pixels of a sandbox bounded
    if xdg.painted > before and _painted(core, xdg) > _paintable(core):
        raise core.too_much("the windows of this sandbox cover too many pixels")
    drawn = min(drawn, window)
    if not drawn:
        return
    below = sum(min(drawn, area) * weight for area, weight in layers) + drawn
    # guard: drawn pixels are charged
    core.spend_pixels(core.pixel_weight * (below + _others(core, xdg, drawn)))


_SCREEN = 1280 * 800
"""A smaller screen counts as one of so many pixels, where painted ones are bounded."""
_Layer = tuple[int, int]
"""Pixels that a surface shows, and how many plain ones it costs to draw one of them."""
_NEARLY = 0.02
"""By how much a scale may differ from a screen's: sizes are whole pixels."""


def _weight(core: ClientState, surface: Surface) -> int:
    """Return the cost of drawing one pixel of a surface, in plain pixels.

    A CPU copies a row of pixels that fits the screen's; it calculates each pixel of a
    picture that is turned or scaled.
    """
    content = surface.content
    plain = content.scale == 1 and not content.transform and content.size is None
    # guard: pixels that are calculated cost more
    if core.pixel_weight == 1 or plain or content.buffer is None:
        return 1
    source, (wide, high) = content.source or content.whole(), surface.extent or (1, 1)
    scale = source.w * content.scale / 256 / max(1, wide)
    screens = core.screens.values()
    fits = content.scale == 1 and content.size is None
    for screen in screens:
        logical = screen.size() or (0, 0)
        real = screen.height if screen.turned else screen.width
        fits |= bool(logical[0]) and abs(scale - real / logical[0]) < _NEARLY
    if fits and (not content.transform or any(s.turned for s in screens)):
        return 1
    large = scale * source.h * content.scale / 256 / max(1, high)
    if large > limits.WAYLAND_SHRUNK_PIXELS:
        return limits.WAYLAND_SHRUNK_WEIGHT
    return limits.WAYLAND_SAMPLED_WEIGHT


def _walk(
    core: ClientState, surface: Surface, layers: list[_Layer], *, moved: bool
) -> int:
    """Return the pixels that the commit damages; append what each surface shows."""
    crop = surface.crop if surface.extent is not None else None
    shown = crop.w * crop.h if crop is not None else 0
    layers.append((shown, _weight(core, surface)))
    moved |= surface.moved
    drawn = shown if moved else min(shown, _damaged(surface))
    surface.moved, surface.applied = False, None
    for sub in surface.children:
        if sub.surface is not None:
            drawn += _walk(core, sub.surface, layers, moved=moved)
    return drawn


def _damaged(surface: Surface) -> int:
    """Return the logical pixels damaged by the last commit."""
    state = surface.applied
    if state is None:
        return 0
    content = surface.content
    area = sum(w * h for _, _, w, h in state.damage or ())
    if state.buffer_damage:
        # Through a viewport one pixel of a buffer may cover the window.
        if content.source is not None or content.size is not None:
            return 1 << 62
        area += sum(w * h for _, _, w, h in state.buffer_damage)
    return area


def _others(core: ClientState, than: XdgSurface, drawn: int) -> int:
    """Return the pixels drawn of other windows, as if all overlapped the damage."""
    total = 0
    for each in core.sandbox.filters:
        for other in each.windows:
            if other is than or not other.mapped or other.frame is None:
                continue
            outer = other.frame.outer or (0, 0)
            painted = other.painted or 2 * outer[0] * outer[1]
            total += min(painted, drawn * max(2, _deep(other)))
    return total


def _painted(core: ClientState, growing: XdgSurface) -> int:
    """Return the pixels of all layers of the sandbox's windows.

    What another client draws below or above them is drawn through all that lie there,
    also where they themselves never change.
    """
    windows = (each for other in core.sandbox.filters for each in other.windows)
    return sum(w.painted for w in windows if w.mapped and w is not growing) + (
        growing.painted
    )


def _paintable(core: ClientState) -> int:
    sizes = (screen.size() or (0, 0) for screen in core.screens.values())
    area = max((wide * high for wide, high in sizes), default=0)
    return limits.WAYLAND_PAINTED_SCREENS * max(area, _SCREEN)


def _deep(window: XdgSurface) -> int:
    """How many layers a window has at one place, at most."""
    outer = window.frame.outer if window.frame is not None else None
    area = outer[0] * outer[1] if outer else 0
    return -(-window.painted // area) if area else 0


def count_pixels(
    core: ClientState, previous: tuple[int, int] | None, current: tuple[int, int] | None
) -> None:
    """Count the pixels that the compositor may keep a copy of, before and after."""
    more = current[0] * current[1] if current is not None else 0
    if previous is not None:
        more -= previous[0] * previous[1]
    if more > 0:
        # guard: shown pixels are counted
        core.usage.take("shown_pixels", more)
    elif more:
        core.usage.give("shown_pixels", -more)
