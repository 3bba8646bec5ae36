"""A program with a person at its keyboard: read its output, type an answer."""

from __future__ import annotations

import os
import sys
from contextlib import asynccontextmanager

import trio

from broker.helpers.process.spawn import PIPE, STDOUT, spawn
from tests.kit.brokerctl import _START


class Typist:
    """One running ``brokerctl``; standard output and error are one."""

    def __init__(self, child, keyboard) -> None:
        self._child = child
        self._keyboard = keyboard
        self._lines: list[str] = []
        self._more = trio.Event()
        self.said = ""

    async def read(self) -> None:
        """Collect its output, until it ends."""
        async with trio.lowlevel.FdStream(
            os.dup(self._child.popen.stdout.fileno())
        ) as s:
            async for data in s:
                self.said += data.decode()
                self._more.set()
                self._more = trio.Event()

    async def wait(self, words: str) -> str:
        """Wait until it has said that; returns the line."""
        with trio.fail_after(60):
            while True:
                for line in self.said.splitlines(keepends=True):
                    if words in line and line.endswith("\n"):
                        return line
                await self._more.wait()

    def type(self, text: str) -> None:
        """Type a line."""
        os.write(self._keyboard, text.encode() + b"\n")

    async def code(self) -> int:
        """Its exit code."""
        with trio.fail_after(60):
            return await self._child.wait()


@asynccontextmanager
async def typing(*words: str, env):
    """Run ``brokerctl`` so; killed at the end if it still runs."""
    theirs, ours = os.pipe()
    child = spawn(
        [sys.executable, "-u", "-c", _START, *words],
        env=env,
        stdin=theirs,
        stdout=PIPE,
        stderr=STDOUT,
    )
    os.close(theirs)
    typist = Typist(child, ours)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(typist.read)
        try:
            yield typist
        finally:
            await child.kill_and_wait()
            os.close(ours)
            nursery.cancel_scope.cancel()
    child.popen.stdout.close()
    print(typist.said)
