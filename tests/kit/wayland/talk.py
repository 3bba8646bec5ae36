"""A client, a filter and the model compositor in one process, no sockets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from broker.core.streams.wayland_rules import WindowRules
from broker.jail.wayland.filter import WaylandFilter
from broker.jail.wayland.sandbox import Sandbox
from tests.kit.wayland.client import GoneError, Window
from tests.kit.wayland.machine import FakeMachine
from tests.kit.wayland.model import Model, connect


class Talk(Window):
    """A client: ``say`` sends requests; ``events`` are the answers.

    Raises ServerError as soon as the filter answers with an error.
    """

    def __init__(
        self,
        rules: WindowRules | None = None,
        *,
        sandbox: Sandbox | None = None,
        model: Model | None = None,
        machine: FakeMachine | None = None,
    ) -> None:
        self.machine = machine or FakeMachine()
        self.model = model or Model()
        self.rules = rules or WindowRules("work")
        self.sandbox = sandbox or Sandbox(self.rules.name)
        self.core = WaylandFilter(self.rules, self.sandbox, self.machine)
        self.now = 0.0
        self.next_id = 2
        self.free, self.events, self.globals = [], [], {}
        self.kinds = {1: "wl_display"}
        self.rest, self.fds, self.error = b"", [], None
        self.deadline = 0.0
        self.received_fds: list[Any] = []
        connect(self.core, self.model)

    def raw(self, data: bytes, fds: list[Any] | None = None) -> None:
        self.core.from_client(data, fds or [], self.now)
        self.pump()
        while self.core.paused:
            self.core.from_client(b"", [], self.now)
            self.pump()

    @contextmanager
    def in_one_piece(self) -> Iterator[None]:
        """Requests within arrive together, before what the compositor has said."""
        written = bytearray()
        self.raw = lambda data, fds=None: written.extend(data)  # type: ignore[method-assign]
        yield
        del self.raw
        self.raw(bytes(written))

    def pump(self) -> None:
        """Pass bytes between both sides until none wait; raise the client's error."""
        connect(self.core, self.model, self.now)
        self.hear()
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        if self.core.fault is not None:
            raise self.core.fault

    def hear(self) -> None:
        """Take what waits for the client."""
        data = bytes(self.core.down.data)
        self.received_fds += self.core.down.drain_fds()
        if data:
            self._dispatch(self.rest + data)

    def read(self) -> None:
        raise GoneError("nothing more will come")

    def close(self) -> None:
        self.core.close()
        for fd in self.received_fds:
            self.machine.close(fd)
        self.received_fds.clear()

    def buffer(self, w: int, h: int, color: int = 0, *, form: int = 0) -> int:
        size = w * h * 4
        pool = self.make(
            self.shm,
            "create_pool",
            "wl_shm_pool",
            None,
            size,
            fds=[self.machine.fd("pool")],
        )
        buffer = self.make(
            pool, "create_buffer", "wl_buffer", None, 0, w, h, w * 4, form
        )
        self.send(pool, "destroy")
        return buffer

    def popup_on(self, parent: int, size: int = 60) -> tuple[int, int, int, int]:
        """Make a popup of a window; its positioner, surface, xdg_surface and role."""
        place = self.make(self.shell, "create_positioner", "xdg_positioner")
        self.send(place, "set_size", size, size)
        self.send(place, "set_anchor_rect", 0, 0, 10, 10)
        surface = self.surface()
        xdg = self.make(self.shell, "get_xdg_surface", "xdg_surface", None, surface)
        popup = self.make(xdg, "get_popup", "xdg_popup", None, parent, place)
        return place, surface, xdg, popup

    def heard(self, name: str, oid: int | None = None) -> list[list[Any]]:
        """Arguments of all events of this name (of one object), oldest first."""
        return [e[3] for e in self.events if e[2] == name and oid in {None, e[0]}]

    def told(self, kind: str, name: str) -> list[list[Any]]:
        """Arguments of all requests of this name that reached the compositor."""
        return [args for k, n, args in self.model.requests if (k, n) == (kind, name)]

    def all_hear(self, kind: str, name: str, *args: Any) -> None:
        """The compositor says an event to all objects of a kind, the newest first.

        So it does with input: the filter has a pointer and a keyboard.
        """
        for thing in reversed(
            [t for t in self.model.things.values() if t.kind == kind]
        ):
            self.model.tell(thing, name, *args)
        self.pump()

    def server_side(self, oid: int) -> Any:
        """Return the model's object for a client's object id."""
        return self.model.things[self.core.by_client[oid].sid]
