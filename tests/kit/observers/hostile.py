"""A random hostile client of two connections, weighted over its kinds of action.

A protocol error ends a connection, and it opens the next.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.kit.observers.connection import CONTENT, Connection
from tests.kit.wayland.client import GoneError, ServerError

_HEARS_AGAIN = 0.1
"""Whether a deaf connection reads again, when it is its turn."""
WEIGHTS = {
    "anything": 8, "menus": 5, "images": 6, "regions": 2, "selections": 3,
    "drags": 2, "moves": 5, "files": 2, "pointers": 1, "deafness": 4, "windows": 2,
}  # fmt: skip
"""Its kinds of action, each with its relative frequency."""
ENDED = (ServerError, GoneError, BrokenPipeError, ConnectionError, TimeoutError)
"""How a connection ends."""


class Hostile:
    """The sandbox: two connections, ended and opened again."""

    def __init__(
        self, path: Path, seed: int, actions: Sequence[str] | None = None
    ) -> None:
        """``actions`` are some of ``WEIGHTS``; an empty one is an honest client."""
        self.actions = list(WEIGHTS if actions is None else actions)
        self.path, self.dice = path, random.Random(seed)
        self.ends = 0
        self.errors: Counter[str] = Counter()
        self.requests = 0
        self.mapped, self.mapped_at = 0, 0.0
        self.connections = [self._open(), self._open()]

    def _open(self) -> Connection:
        made = Connection(self.path, deadline=10.0)
        try:
            made.begin(self.dice)
        except ENDED:
            made.close()
            raise
        self._has_mapped()
        return made

    def _has_mapped(self) -> None:
        """Count a window that it has just given its first picture."""
        self.mapped, self.mapped_at = self.mapped + 1, time.monotonic()

    def play_for_focus(self, meanwhile: Callable[[], None]) -> bool:
        """Map a window and take it back; False where it is not let in soon.

        ``meanwhile``: what the user does while it is there.
        """
        connection = self.connections[0]
        connection.deaf, connection.deadline = False, 5.0
        try:
            shown = connection.show(40, 30, 0xFF000000 | CONTENT)
            self._has_mapped()
            meanwhile()
            for oid in reversed(shown):
                connection.send(oid, "destroy")
            connection.roundtrip()
        except ENDED:
            return False
        return True

    def take_selection(self) -> None:
        """Have both connections take the selection of their sandbox."""
        for at, connection in enumerate(self.connections):
            connection.deaf = False
            try:
                connection.listen()
                connection.take_selection(self.foreign(connection))
                connection.listen()
            except ENDED as error:
                self._again(at, error)

    def come_between(self) -> None:
        """Map a window now; most compositors give it the keyboard."""
        try:
            self._window(self.connections[0])
        except ENDED as error:
            self._again(0, error)

    def _again(self, at: int, error: Exception) -> None:
        """Open a connection in place of one that has ended."""
        self.ends += 1
        self.errors[str(error)[:80]] += 1
        self.connections[at].close()
        self.connections[at] = self._open()

    def close(self) -> None:
        """End all connections."""
        for connection in self.connections:
            connection.close()

    def marks(self) -> list[tuple[Connection, int]]:
        """A place in what each connection heard, for ``keys_since``."""
        return [(c, len(c.events)) for c in self.connections]

    def keys_since(self, marks: list[tuple[Connection, int]]) -> list[int]:
        """Codes of the keys that any of them read after that.

        One that was deaf meanwhile also reads the events sent before.
        """
        heard = []
        for connection, since in marks:
            if connection in self.connections:  # else it is closed
                with contextlib.suppress(*ENDED):
                    connection.listen()
            heard += connection.keys(since)
        return heard

    def foreign(self, than: Connection) -> list[int]:
        """Serials that the other connection received."""
        return [s for c in self.connections if c is not than for s in c.serials()]

    def act(self, times: int, *, windows: bool = False) -> None:
        """Do so many things, on either connection; new windows only where told."""
        for _ in range(times):
            at = self._chosen()
            connection = self.connections[at]
            try:
                self._once(connection, windows=windows)
                self.requests += 1
            except ENDED as error:
                self._again(at, error)

    def _chosen(self) -> int:
        """Most often the connection that was given a serial last: there is news."""
        if self.dice.random() < 0.5:
            return self.dice.randrange(len(self.connections))
        newest = [(c.serials() or [0])[-1] for c in self.connections]
        return newest.index(max(newest))

    def _once(self, c: Connection, *, windows: bool) -> None:
        if c.deaf:  # its silence would be over with the first answer it reads
            if c.dice.random() < _HEARS_AGAIN:
                c.deaf = False
            return
        c.listen()  # to what the person has just done
        foreign = self.foreign(c)
        serials = c.serials() + foreign
        does: dict[str, Callable[[], None]] = {
            "anything": lambda: c.any_request(serials, []),
            "menus": lambda: c.menu(serials),
            "images": lambda: c.image(serials),
            "regions": c.regions,
            "selections": lambda: c.select(serials),
            "drags": c.guess_drags,
            "moves": lambda: c.take_window(foreign),
            "files": c.scribble,
            "pointers": c.give_up_pointer,
            "deafness": c.go_deaf,
            "windows": lambda: self._window(c),
        }
        names = [n for n in self.actions if windows or n != "windows"]
        if names:
            does[self.dice.choices(names, [WEIGHTS[n] for n in names])[0]]()
        c.listen()

    def _window(self, c: Connection) -> None:
        c.deaf = False  # it has to hear how large the window may be
        c.new_window()
        self._has_mapped()
