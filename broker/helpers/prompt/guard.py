"""Whether a dialog may take an answer, or the input was meant for another window.

A dialog that appears under a hand that types or clicks must not take that for
an answer.  So it is inert until it has been seen and has held the focus for
``limits.PROMPT_GUARD_SECONDS`` without a break and without any key or button,
pressed or held, and the screen has then shown that it takes answers.  Once it is
armed it stays so until it loses the focus.

Time alone does not arm it: while this process or the compositor hangs, input waits
in queues, and would be read as if it came after the rest.  The compositor reports a
shown picture, and answers a request that is sent then, after all input that it had
before the picture.

A pointer has such a guard too, from when it comes in, and fingers have one from
their first touch: while a button is held in another window the compositor sends
the pointer to that one, and the keyboard's second passes unheard.  A pointer that
a hand moves in over the edge has a shorter one, until a press comes too early.

Sans-IO: time is passed in, in seconds of a clock that does not go back.

The prompt agent runs it.
"""

from __future__ import annotations

from broker.core import limits


# An inert dialog does not accept a no either. The requirement is that nothing is
# allowed by accident. An accidental no is safe, but Esc typed for an editor would
# refuse the user's own request, and teach people to answer hastily. So the guard holds
# for every answer. The typed word counts when it has stood alone for 0.4 s: "allowed"
# is not a yes.
class Guard:
    """The guard of one dialog and one question: another question has another guard."""

    def __init__(self, hold: float = limits.PROMPT_GUARD_SECONDS) -> None:
        self._whole = self._hold = hold
        self._visible = False
        self._focused = False
        self._held: set[int] = set()
        self._since: float | None = None
        self._number = 0
        self._armed = False

    def visible(self, now: float) -> None:
        """The compositor has shown it."""
        if not self._visible:
            self._visible = True
            self._restart(now)

    @property
    def focused(self) -> bool:
        """Return whether the focus has come."""
        return self._focused

    def focus(
        self,
        now: float,
        *,
        held: bool,
        keys: frozenset[int] = frozenset(),
        hold: float | None = None,
    ) -> None:
        """Record that the focus came, with these keys down, or went.

        ``hold`` is how long it rests if nothing is pressed before.
        """
        self._hold = self._whole if hold is None else hold
        self._focused = held
        self._held = set(keys)
        self._restart(now)

    def press(self, code: int, now: float) -> bool:
        """Record a pressed key or button; return whether it may count."""
        self._held.add(code)
        # guard: a touch starts the second again
        if not self._armed:
            self._disturbed(now)
        return self._armed

    def release(self, code: int, now: float) -> bool:
        """Record a released key or button; return whether it may count."""
        self._held.discard(code)
        if not self._armed:
            self._disturbed(now)
        return self._armed

    def disturb(self, now: float) -> bool:
        """Something else of a hand (a wheel); whether it may mean something."""
        if not self._armed:
            self._disturbed(now)
        return self._armed

    @property
    def armed(self) -> bool:
        """Return whether the dialog takes an answer."""
        return self._armed

    def rest(self, now: float) -> int:
        """Return the number of the rest that has lasted long enough; 0: none has.

        A picture that is drawn then looks as if answers count.
        """
        # guard: focus for a second
        over = self._since is not None and now - self._since >= self._hold
        # guard: time alone arms nothing
        return self._number if over else 0

    def shown(self, rest: int) -> None:
        """The compositor has shown a picture that was drawn with that ``rest``."""
        # guard: a press on its way ends the rest
        if rest == self._number and rest:
            self._armed = True

    def remaining(self, now: float) -> float | None:
        """Seconds until its rest is over if nothing happens; None: it waits for focus."""
        if self.rest(now):
            return 0.0
        return None if self._since is None else self._since + self._hold - now

    def _disturbed(self, now: float) -> None:
        """The hand acts: it must rest for the whole time."""
        # guard: a press that was too early rests the whole second
        self._hold = self._whole
        self._restart(now)

    def _restart(self, now: float) -> None:
        self._armed = False
        self._number += 1
        # guard: seen before it counts
        # guard: the time before an answer begins when no key is held
        ready = self._visible and self._focused and not self._held
        self._since = now if ready else None
