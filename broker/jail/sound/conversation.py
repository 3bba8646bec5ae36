"""Asking the sound server, and answering the client.

The client's tags never reach the server.  Ours do, each with a note of who
asked and what becomes of the answer, so an answer can neither be forged by the
client nor reach another request.  This half of a connection knows nothing of
what a command means; ``Filter``, its only subclass, does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from broker.core.errors import UpstreamError
from broker.jail.sound import frames
from broker.jail.sound.commands import INVALID, Command, Error, SoundRefusedError
from broker.jail.sound.events import CommandRefused
from broker.jail.sound.outgoing import PulseOutgoing
from broker.jail.sound.sandbox import SoundSandbox
from broker.jail.sound.tagstruct import Reader, encode

_EVENT_TAG = INVALID

Answer = Callable[[Reader], bytes]
"""Makes the client's answer from the server's."""


@dataclass(frozen=True)
class Pending:
    """Callbacks for the server's reply to one command: success or error code."""

    done: Callable[[Reader], None]
    failed: Callable[[int], None]


class Conversation:
    """Requests to the server in ``up``, answers to the client in ``down``.

    ``wake`` is called whenever something was queued.
    """

    def __init__(self, sandbox: SoundSandbox, wake: Callable[[], None]) -> None:
        self.sandbox = sandbox
        self.wake = wake
        self.up = bytearray()
        self.down = PulseOutgoing()
        self._pending: dict[int, Pending] = {}
        self._next_tag = 0

    @property
    def outstanding(self) -> int:
        """How many requests the server has not answered yet."""
        return len(self._pending)

    # -- to the server -------------------------------------------------------

    def send_up(self, frame: bytes) -> None:
        """Queue a whole frame for the server."""
        self.up += frame
        self.wake()

    def ask(
        self,
        command: Command,
        fields: bytes,
        done: Callable[[Reader], None] = lambda _reader: None,
        failed: Callable[[int], None] = lambda _code: None,
    ) -> None:
        """Send a command of our own; one of the two is called with the answer."""
        self.send_up(self.prepare(command, fields, done, failed))

    def prepare(
        self,
        command: Command,
        fields: bytes,
        done: Callable[[Reader], None] = lambda _reader: None,
        failed: Callable[[int], None] = lambda _code: None,
    ) -> bytes:
        """Encode a command to the sound server and register it; return its frame."""
        # guard: tags of our own
        tag = self._next_tag
        self._next_tag = (tag + 1) & 0x7FFFFFFF
        self._pending[tag] = Pending(done, failed)
        return frames.command(command, tag, fields)

    def relay(
        self,
        tag: int,
        command: Command,
        fields: bytes,
        answer: Answer = Reader.rest,
        settled: Callable[[], None] = lambda: None,
    ) -> None:
        """Forward a client's command and answer it with the server's reply.

        When the server has answered, with a reply or an error, ``settled`` is
        called first; ``answer`` makes the client's reply from the server's.
        """
        self.send_up(self.prepare_relay(tag, command, fields, answer, settled))

    def prepare_relay(
        self,
        tag: int,
        command: Command,
        fields: bytes,
        answer: Answer = Reader.rest,
        settled: Callable[[], None] = lambda: None,
    ) -> bytes:
        """Prepare the forwarding of a client's command.

        Return its frame (``relay``).
        """

        def done(reader: Reader) -> None:
            settled()
            try:
                self.reply(tag, answer(reader))
            except SoundRefusedError as refusal:
                self.refuse(command, tag, refusal)

        def failed(code: int) -> None:
            settled()
            self.error(tag, code)

        return self.prepare(command, fields, done, failed)

    # -- to the client -------------------------------------------------------

    def reply(self, tag: int, fields: bytes = b"") -> None:
        """Answer a client's command."""
        self.down.add(frames.command(Command.REPLY, tag, fields))
        self.wake()

    def error(self, tag: int, code: int) -> None:
        """Answer it with an error."""
        self.down.add(frames.command(Command.ERROR, tag, encode("L", [code])))
        self.wake()

    def event(self, command: Command, fields: bytes) -> None:
        """Send the client an event, which answers no request."""
        self.down.add(frames.command(command, _EVENT_TAG, fields))
        self.wake()

    def refuse(self, number: Command, tag: int, refusal: SoundRefusedError) -> None:
        """Answer a refused command; "access denied" is an event, too."""
        if refusal.code is Error.ACCESS:
            self.sandbox.refused[number.name] += 1
            self.sandbox.tell(CommandRefused(number.name, refusal.message))
        self.error(tag, refusal.code)

    # -- from the server -----------------------------------------------------

    def pending_of(self, tag: int) -> Pending:
        """The request with this tag.  Raises UpstreamError if there is none."""
        pending = self._pending.pop(tag, None)
        if pending is None:
            raise UpstreamError("the sound server answered a request that was not sent")
        return pending
