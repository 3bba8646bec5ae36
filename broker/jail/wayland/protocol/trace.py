"""VITRAIL_DEBUG=wayland: one connection as a user reads it.

Four columns of arrows, because a filter has two conversations:

    client ->          requests of the client
            -> comp    requests to the compositor
            <- comp    events of the compositor
    client <-          events to the client

A message in only one column of a pair was dropped, held back or created by the
filter.  Text from either side is escaped; contents (selections, keys' meaning)
are not in Wayland messages but in descriptors, and those are not read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from typing_extensions import override

from broker.core.escape import printable
from broker.jail.wayland.filter import WaylandFilter
from broker.jail.wayland.protocol import wire
from broker.jail.wayland.protocol.objects import ProtocolObject
from broker.jail.wayland.protocol.signatures import (
    MessageSignature,
    events_of,
    requests_of,
)
from broker.jail.wayland.protocol.wire import Fd

ASKED, PASSED, SAID, TOLD = (
    "client ->",
    "        -> comp",
    "        <- comp",
    "client <-",
)


class Tracer:
    """Writes lines for whole messages; keeps nothing but half messages.

    ``names`` remembers the interface of each id on each side from the moment it was
    seen, so that the end of an object is still printed with its name.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._rest: dict[str, bytes] = {}
        self._names: dict[tuple[bool, int], str] = {}

    def see(
        self, arrow: str, data: bytes, objects: Mapping[int, ProtocolObject], now: float
    ) -> None:
        """Print the messages that passed along one of the four arrows."""
        client_side = arrow in {ASKED, TOLD}
        requests = arrow in {ASKED, PASSED}
        for oid, obj in objects.items():
            self._names[client_side, oid] = obj.interface
        data = self._rest.get(arrow, b"") + data
        pos = 0
        while len(data) - pos >= 8:
            oid, opcode, size = wire.HEADER.unpack_from(data, pos)
            if size < 8 or len(data) - pos < size:
                break
            interface = self._names.get((client_side, oid), "")
            text = self._message(
                interface,
                opcode,
                data[pos : pos + size],
                client_side=client_side,
                requests=requests,
            )
            self._write(f"{now:12.6f} {arrow:15} {interface or '?'}#{oid}.{text}")
            pos += size
        self._rest[arrow] = data[pos:][: wire.MAX_MESSAGE]

    def fault(self, error: Exception, now: float) -> None:
        """Note why the connection ends."""
        self._write(f"{now:12.6f} REFUSED         {printable(str(error), 300)}")

    def _message(
        self,
        interface: str,
        opcode: int,
        data: bytes,
        *,
        client_side: bool,
        requests: bool,
    ) -> str:
        """Return a message as text."""
        try:
            table = requests_of(interface) if requests else events_of(interface)
            message = table[opcode]
            args = wire.decode(message, data, 8, len(data))
        except (LookupError, ValueError):
            return f"{opcode}({len(data) - 8} bytes)"
        for argument, value in zip(message.args, args, strict=True):
            if argument.kind == "n" and argument.interface:
                self._names[client_side, value] = argument.interface
        return f"{message.name}({', '.join(_show(message, args))})"


def _show(message: MessageSignature, args: list[object]) -> list[str]:
    """Return a message's arguments as text."""
    shown = []
    for argument, value in zip(message.args, args, strict=True):
        if argument.kind == "h":
            shown.append("fd")
        elif argument.kind == "s":
            shown.append(
                "null"
                if value is None
                else f'"{printable(value, 80)}"'
                if isinstance(value, bytes)
                else "?"
            )
        elif argument.kind == "a":
            shown.append(f"{len(value) if isinstance(value, bytes) else 0} bytes")
        elif argument.kind == "f" and isinstance(value, int):
            shown.append(f"{value / 256:g}")
        elif argument.kind in "on":
            new = "new " if argument.kind == "n" else ""
            shown.append(
                f"{new}{argument.interface or ''}#{value}" if value else "null"
            )
        else:
            shown.append(str(value))
    return shown


class TracedFilter(WaylandFilter):
    """A filter that reports all messages to a tracer."""

    tracer: Tracer | None = None

    @override
    def from_client(self, untrusted_data: bytes, fds: Sequence[Fd], now: float) -> None:
        """Handle the client's bytes as WaylandFilter does, and print the trace."""
        self._around(
            ASKED,
            untrusted_data,
            lambda: super(TracedFilter, self).from_client(untrusted_data, fds, now),
            now,
        )

    @override
    def from_server(self, data: bytes, fds: Sequence[Fd], now: float) -> None:
        """Handle the compositor's bytes as WaylandFilter does, and print the trace."""
        self._around(
            SAID,
            data,
            lambda: super(TracedFilter, self).from_server(data, fds, now),
            now,
        )

    def _around(
        self, arrow: str, data: bytes, feed: Callable[[], None], now: float
    ) -> None:
        """Trace what a call of the filter reads and writes."""
        tracer = self.tracer
        up, down = len(self.up.data), len(self.down.data)
        if tracer is not None:
            tracer.see(
                arrow, data, self.by_client if arrow == ASKED else self.by_server, now
            )
        before = self.fault
        feed()
        if tracer is None:
            return
        tracer.see(PASSED, bytes(self.up.data[up:]), self.by_server, now)
        tracer.see(TOLD, bytes(self.down.data[down:]), self.by_client, now)
        if self.fault is not None and before is None:
            tracer.fault(self.fault, now)
