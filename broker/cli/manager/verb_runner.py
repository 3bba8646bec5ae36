"""Run verbs for the window: what runs is shown at its foot, a failure in a dialog."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final

import trio

from broker.cli.manager.toolkit import Gtk
from broker.cli.manager.verb_calls import VerbResult, run_verb, start_verb
from broker.cli.manager.widgets import button, label, tell
from broker.cli.manager.words import tr
from broker.core.errors import UpstreamError

Work = Callable[[Callable[[], Awaitable[None]]], None]
"""Runs an async function beside the others."""
_SHOWN_AFTER: Final = 0.5
"""Seconds: a verb that ends sooner needs no row."""


def nothing(_result: VerbResult) -> None:
    """Do nothing with a result."""


class VerbRunner:
    """Runs verbs; ``widget`` has a row for each, ``ended`` is called after each."""

    def __init__(self, parent: Any, work: Work, ended: Callable[[], None]) -> None:
        self._parent = parent
        self._work = work
        self._ended = ended
        self.widget = Gtk.Box(orientation=Gtk.Orientation.VERTICAL, spacing=6)
        self.widget.set_margin_start(12)
        self.widget.set_margin_end(12)

    def start(self, *words: str) -> None:
        """Start a verb that reports by notifications, and outlives the window."""
        start_verb(*words)

    def run(
        self,
        *words: str,
        title: str = "",
        secret: bytes = b"",
        done: Callable[[VerbResult], None] = nothing,
    ) -> None:
        """Run a verb to its end; ``done`` gets a good result, a failure is shown.

        ``title`` says what runs.  ``secret`` is its standard input.
        """

        async def run() -> None:
            result = await self._shown(title or " ".join(words), words, secret)
            self._ended()
            if result is not None and self.succeeded(result):
                _show(result, done)

        self._work(run)

    def look(
        self,
        *words: str,
        codes: Collection[int] = (0,),
        done: Callable[[VerbResult], None],
    ) -> None:
        """Run a verb that changes nothing; ``done`` gets a result with one of these codes."""

        async def run() -> None:
            result = await run_verb(*words)
            # A refusal has a code, too, but prints no object.
            answered = result.code in codes and (result.done or result.data)
            if answered or self.succeeded(result):
                _show(result, done)

        self._work(run)

    def look_up(self, *words: str, key: str, done: Callable[[str], None]) -> None:
        """Run a verb that prints an object; ``done`` gets the text of its key."""
        self.look(
            *words,
            "--json",
            done=lambda result: done(str(result.json()[key])),
        )

    def succeeded(self, result: VerbResult) -> bool:
        """Return whether a verb did what it was asked for; show why not."""
        if not result.done:
            text = "\n".join(filter(None, (result.words, result.output)))
            tell(self._parent, tr("This was not done"), text)
        return result.done

    async def _shown(
        self, title: str, words: tuple[str, ...], secret: bytes
    ) -> VerbResult | None:
        """Run a verb with a row while it runs; None: the user cancelled it."""
        scope = trio.CancelScope()
        row = Gtk.Box(spacing=12, margin_top=3, margin_bottom=3)
        row.append(Gtk.Spinner(spinning=True))
        row.append(label(title))
        row.append(button(tr("Cancel"), scope.cancel, about=title))
        result = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._show_later, row)
            with scope:
                result = await run_verb(*words, secret=secret)
            nursery.cancel_scope.cancel()
        return result

    async def _show_later(self, row: Any) -> None:
        await trio.sleep(_SHOWN_AFTER)
        self.widget.append(row)
        try:
            await trio.sleep_forever()
        finally:
            self.widget.remove(row)


def _show(result: VerbResult, done: Callable[[VerbResult], None]) -> None:
    """Have a page show a result.

    Raises UpstreamError for an object that is not as expected: the program was updated
    while the window was open.
    """
    try:
        done(result)
    except (LookupError, TypeError, ValueError) as error:
        raise UpstreamError(
            f"brokerctl printed another object than this manager knows: {error!r}",
            hint="if Vitrail was just updated, start the manager again",
        ) from error
