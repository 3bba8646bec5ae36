"""The prompt agent: the only program that draws trusted questions.

Started by the viewer's broker in the user's session, with one descriptor:
its end of a pair of sockets, which has no name, so no other process can send to it.
It ends with the broker (the kernel kills it, and the socket's end says so too).
It shows the ordered question, and answers; the broker interprets the answer.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

import trio

from broker.core import limits
from broker.core.errors import VitrailError
from broker.core.question import PersonAnswer
from broker.helpers.compositor_socket import adopt_display
from broker.helpers.helper_confinement import confine_helper
from broker.helpers.process.process_name import set_name
from broker.helpers.prompt.window import DialogWindow
from broker.ipc.prompt import (
    Covered,
    Described,
    FromAgent,
    MoreQuestions,
    PromptAnswer,
    PromptHello,
    RaiseQuestion,
    Show,
    Shown,
    Unable,
    decode_to_agent,
    encode,
)


def main() -> None:
    """Entry point: ``prompt FD [READER_FD]``; the second is written to only."""
    # No other process may read the text of a question out of our memory.
    Path("/proc/self/coredump_filter").write_text("0")
    broker, *reader = (_socket(int(word)) for word in sys.argv[1:3])
    failed = False
    try:
        set_name("vitrail-prompt")
        # It stays in the session, as a keeper does; and like one it starts no
        # program, looks into none, and uses only UNIX sockets.
        adopt_display()
        confine_helper()
        trio.run(_Agent(broker, *reader).run, strict_exception_groups=True)
    except* VitrailError as errors:
        failed = True
        from broker.core.stderr_log import log_stderr  # late: hardly ever

        log_stderr(f"vitrail-prompt: {errors.exceptions[0]}")
    sys.exit(1 if failed else 0)


def _socket(fd: int) -> socket.socket:
    os.set_inheritable(fd, False)  # noqa: FBT003 -- the os module's own
    made = socket.socket(fileno=fd)
    made.setblocking(False)  # noqa: FBT003
    return made


class _Agent:
    def __init__(
        self, broker: socket.socket, reader: socket.socket | None = None
    ) -> None:
        """Set up the agent; ``reader``: the socket of a screen reader's process."""
        self._broker = trio.socket.from_stdlib_socket(broker)
        self._reader = reader
        self._window = DialogWindow(
            self._said, self._seen, self._described, self._covered
        )
        self._out: list[FromAgent] = []
        self._more = trio.Event()
        self._changed = trio.Event()

    async def run(self) -> None:
        """Show the broker's questions until it closes its socket."""
        try:
            fd = self._window.connect()
        except VitrailError as error:
            self._window.close()
            self._say(Unable(str(error)))
            await self._send_queued()
            return
        try:
            async with trio.open_nursery() as nursery:
                self._say(PromptHello(self._window.layer))
                nursery.start_soon(self._send)
                nursery.start_soon(self._read_compositor, fd)
                nursery.start_soon(self._tick)
                await self._read_broker()
                nursery.cancel_scope.cancel()
        finally:
            self._window.close()

    def _said(self, number: int, answer: PersonAnswer) -> None:
        self._say(PromptAnswer(number, answer))

    def _seen(self, number: int) -> None:
        self._say(Shown(number))

    def _covered(self, number: int, covered: bool) -> None:  # noqa: FBT001
        self._say(Covered(number, covered))

    def _described(self, words: Described) -> None:
        """Pass the shown words on to a screen reader's process.

        Drop an agent that does not read.
        """
        if self._reader is None:
            return
        try:
            self._reader.send(encode(words))
        except (OSError, VitrailError) as error:
            from broker.core.stderr_log import log_stderr  # late: hardly ever

            log_stderr(f"vitrail-prompt: cannot serve screen readers: {error}")
            self._reader.close()
            self._reader = None

    def _say(self, message: FromAgent) -> None:
        self._out.append(message)
        self._more.set()

    async def _send(self) -> None:
        while True:
            await self._send_queued()
            self._more = trio.Event()
            await self._more.wait()

    async def _send_queued(self) -> None:
        try:
            while self._out:
                await self._broker.send(encode(self._out.pop(0)))
        except (BrokenPipeError, ConnectionResetError):
            self._out.clear()  # the broker has gone, as our reading shows, too

    async def _read_broker(self) -> None:
        """Show and withdraw dialogs by the broker's messages, to its end."""
        while packet := await self._broker.recv(limits.PROMPT_MESSAGE_BYTES):
            message = decode_to_agent(packet)
            match message:
                case Show():
                    self._window.show(message)
                case MoreQuestions(behind):
                    self._window.show_behind(behind)
                case RaiseQuestion(token):
                    self._window.raise_dialog(token)
                case _:
                    self._window.withdraw()
            self._changed.set()

    async def _read_compositor(self, fd: int) -> None:
        while True:
            await trio.lowlevel.wait_readable(fd)
            self._window.read()
            self._changed.set()

    async def _tick(self) -> None:
        """Call the window when its time has come; its clock is the monotonic one."""
        while True:
            self._changed = trio.Event()
            with trio.move_on_after(max(0.0, self._window.wakes() - time.monotonic())):
                await self._changed.wait()
                continue
            self._window.tick()


if __name__ == "__main__":
    main()
