"""Show the progress of long steps on standard error.

A step that is over within a second leaves one line; a longer one says that
it runs as soon as it has run for a second.  On a terminal that line is replaced, each
second by the time that has passed, and by the step's result.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from broker.cli import render
from broker.cli.quick.output import write_output
from broker.core.escape import printable
from broker.ipc.control.api import Progress, RunItem

_PATIENCE = 1.0
_ERASE = "\r\x1b[K"
"""To the line's begin, and erase to its end (ECMA-48)."""


class Steps:
    """Prints steps; ``quiet`` prints nothing, ``as_json`` one object a line.

    ``slow_only`` leaves out steps that took less than a second, and failures, which
    the error that follows reports.
    """

    def __init__(
        self, *, quiet: bool = False, as_json: bool = False, slow_only: bool = False
    ) -> None:
        self._quiet = quiet
        self._slow_only = slow_only
        self._json = as_json
        self._running: str | None = None
        self._since = 0.0
        self._announced = False
        self._detail = ""
        self._began = 0.0
        self._live = _is_terminal()
        self._drawn = ""

    @asynccontextmanager
    async def shown(self) -> AsyncIterator[None]:
        """Print slow steps while the block runs."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._announce)
                yield
                nursery.cancel_scope.cancel()
        finally:
            self._keep_line()

    async def _announce(self) -> None:
        """Print the running step once it takes long, until cancelled."""
        while True:
            await trio.sleep(_PATIENCE / 4)
            slow = trio.current_time() - self._since >= _PATIENCE
            if not self._running or self._quiet or self._json:
                continue
            text = f"  … {self._running}{self._detail}"
            if self._live and (slow or self._drawn):
                self._draw(text, trio.current_time() - self._began)
            elif slow and not self._announced:
                self._announced = True
                self._print(text)

    def _draw(self, text: str, seconds: float) -> None:
        """Replace the line of the step that runs; cut, for a line break would stay."""
        time = f" ({int(seconds)} s)"
        width = shutil.get_terminal_size((80, 24)).columns - 1 - len(time)
        line = text[: max(width, 0)] + time
        if line != self._drawn:
            sys.stderr.write(f"{_ERASE}{line}")
            sys.stderr.flush()
            self._drawn = line

    def _erase(self) -> None:
        if self._drawn:
            sys.stderr.write(_ERASE)
            sys.stderr.flush()
            self._drawn = ""

    def stop_drawing(self) -> None:
        """Replace no more lines: something else writes to the terminal."""
        self._erase()
        self._live = False

    def _keep_line(self) -> None:
        """End the drawn line, so that the next text begins below it."""
        if self._drawn:
            sys.stderr.write("\r\n")
            sys.stderr.flush()
            self._drawn = ""

    async def item(self, item: RunItem) -> None:
        """Handle an item of a run: print progress, write output."""
        if item.progress is not None:
            self.progress(item.progress)
        if item.output is not None:
            self.output(item.output)
        if item.stderr is not None:
            self.output(item.stderr, stderr=True)

    def progress(self, step: Progress) -> None:
        """Print a message of the broker about the progress of a step."""
        if self._json:
            self._object(step.step, step.state, step.detail, step.seconds)
            return
        if step.state == "begun" and step.detail and self._running == step.step:
            self.tell(step.detail)
        elif step.state == "begun":
            self.begin(step.step)
        elif step.state == "done":
            self.done(step.step, step.seconds)
        else:
            self._running = None
            if not self._slow_only:
                self._print(f"  ✗ {step.step}: {printable(step.detail, 1000)}")

    def begin(self, title: str) -> None:
        """Show that a step begins."""
        self._running, self._since = title, trio.current_time()
        self._began = self._since
        self._announced, self._detail = False, ""
        self._object(title, "begun")

    def tell(self, detail: str) -> None:
        """Show a detail of the running step, if it takes a while."""
        if self._running is not None:
            self._detail = f": {printable(detail)}"
            self._object(self._running, "begun", detail)
            if not self._live:
                self._announced = False
                self._since = trio.current_time()

    def done(self, title: str, seconds: float) -> None:
        """Show that a step is finished."""
        self._running = None
        self._object(title, "done", seconds=seconds)
        if self._slow_only and seconds < _PATIENCE:
            return
        self._print(f"  ✓ {title} ({render.seconds(seconds)})")

    @asynccontextmanager
    async def step(self, title: str) -> AsyncIterator[None]:
        """A step of our own."""
        self.begin(title)
        began = trio.current_time()
        yield
        self.done(title, trio.current_time() - began)

    def named(self, sandbox: str) -> None:
        """Print the name of the sandbox that is about to start, with ``--json``.

        A menu writes the entry of its windows before they open.
        """
        if self._json:
            render.json_line({"sandbox": sandbox, "state": "begun"})

    def output(self, untrusted_data: bytes, *, stderr: bool = False) -> None:
        """Print the output of the sandbox's program: escaped on a terminal."""
        self._erase()
        to = sys.stderr if stderr else sys.stdout
        if self._json:
            text = untrusted_data.decode("utf-8", "backslashreplace")
            render.json_line({"stderr" if stderr else "output": text})
        else:
            write_output(to, untrusted_data)

    def _object(
        self, step: str, state: str, detail: str = "", seconds: float = 0.0
    ) -> None:
        """Print a step's progress as a JSON object, with ``--json``."""
        if self._json:
            render.json_line(
                {
                    "step": step,
                    "state": state,
                    "detail": detail,
                    "seconds": round(seconds, 3),
                }
            )

    def _print(self, text: str) -> None:
        if not self._quiet and not self._json:
            self._erase()
            render.note(text)


def _is_terminal() -> bool:
    """Return whether a line of standard error can be replaced."""
    return sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
