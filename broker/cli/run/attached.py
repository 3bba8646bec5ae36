"""A program in a sandbox with this command's standard streams.

Output and end come by the call that runs it; input and the terminal's size go
by short calls, each on a separate connection, so that a program
that does not read holds up nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, aclosing
from typing import TypeVar

import msgspec
import trio

from broker.cli.interrupts import is_interrupt
from broker.cli.run import terminal
from broker.cli.run.connect import how_to_start, open_client
from broker.cli.run.progress import Steps
from broker.cli.run.terminal_filter import RESET, TerminalFilter
from broker.core.errors import RefusedError, UpstreamError
from broker.core.escape import printable
from broker.core.paths import Paths
from broker.ipc.control.api import (
    Nothing,
    RunInputRequest,
    RunItem,
    RunResizeRequest,
    Started,
)
from broker.ipc.control.blocking_connection import BrokerGoneError
from broker.ipc.control.method import Method
from broker.ipc.control.methods import RUN_INPUT, RUN_RESIZE

_Request = TypeVar("_Request", bound=msgspec.Struct)


class AttachedProgram:
    """Passes standard input, and the terminal if the program has one."""

    def __init__(self, paths: Paths, steps: Steps, *, stdin: bool, tty: bool) -> None:
        self._paths = paths
        self._steps = steps
        self._stdin = stdin
        self._tty = tty
        self._filter = TerminalFilter(sys.stdout.encoding or "utf-8")
        self._started: Started | None = None

    async def run(
        self, call: Callable[[Callable[[RunItem], Awaitable[None]]], Awaitable[RunItem]]
    ) -> RunItem:
        """Call Run, and return its last item; ``call`` receives the consumer of items."""
        with ExitStack() as stack:
            try:
                async with trio.open_nursery() as nursery:

                    async def take(item: RunItem) -> None:
                        if item.started is not None:
                            self._started = item.started
                            self._begin(item.started, nursery, stack)
                        await self._take(item)

                    last = await call(take)
                    nursery.cancel_scope.cancel()
            except BaseExceptionGroup as group:
                # The caller handles interruptions and refusals differently.
                raise self._explained(_sole(group)) from None
        return last

    def _explained(self, error: BaseException) -> BaseException:
        """Return the error to report; one for a program whose broker has gone.

        That one has a hint by the machine's role (``how_to_start``).
        """
        if self._started is None or not isinstance(error, BrokerGoneError):
            return error
        name = printable(self._started.sandbox, 60)
        return UpstreamError(
            f"the broker ended; program {self._started.program} continues if {name} "
            "is running",
            hint=f"{how_to_start(self._paths)}; to see the program's output, run "
            f"'brokerctl logs {name}'",
        )

    def _begin(self, started: Started, nursery: trio.Nursery, stack: ExitStack) -> None:
        """Start to pass the terminal's or the input's bytes to the program."""
        if self._tty:
            # The terminal is the program's from now on.
            self._steps.stop_drawing()
            # Only now: while the machine boots, Ctrl-C is for this command.
            stack.enter_context(terminal.raw())
            stack.callback(_write, RESET)
            nursery.start_soon(self._pass_sizes, started)
        if self._tty or self._stdin:
            nursery.start_soon(self._pass_input, started)

    async def _take(self, item: RunItem) -> None:
        if item.output is not None and self._tty:
            _write(self._filter.feed(item.output))
        else:
            await self._steps.item(item)

    async def _pass_input(self, started: Started) -> None:
        sandbox, program = started.sandbox, started.program
        async with aclosing(terminal.typed()) as typed:
            async for data in typed:
                request = RunInputRequest(sandbox=sandbox, program=program, data=data)
                if not await self._order(RUN_INPUT, request):
                    return
        end = RunInputRequest(sandbox=sandbox, program=program, end=True)
        await self._order(RUN_INPUT, end)

    async def _pass_sizes(self, started: Started) -> None:
        async with aclosing(terminal.resized()) as sizes:
            async for rows, columns in sizes:
                request = RunResizeRequest(
                    sandbox=started.sandbox,
                    program=started.program,
                    rows=rows,
                    columns=columns,
                )
                await self._order(RUN_RESIZE, request)

    async def _order(
        self, method: Method[_Request, Nothing], request: _Request
    ) -> bool:
        """Send an order; return False if the program or the broker has ended.

        Neither is an error here: the call that runs the program says what ended.
        """
        try:
            async with open_client(self._paths) as client:
                await client.call(method, request)
        except (RefusedError, UpstreamError):
            return False
        return True


def _sole(error: BaseException) -> BaseException:
    if is_interrupt(error):
        return KeyboardInterrupt()
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
