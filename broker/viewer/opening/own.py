"""The user's own files and programs, each touched by a separate process.

``shims/files`` reads and keeps files here as it does in a guest: so one
receiver is tested against every trick, and a slow file system stops no broker.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import trio

from broker.core.errors import SetupError, UpstreamError
from broker.core.escape import printable
from broker.core.transfer.urls import Url
from broker.helpers.process.spawn import spawn
from broker.ipc.sealed_memfd import sealed
from broker.viewer.opening.exchanges import Delivery
from broker.viewer.opening.pipes import PipeEnd
from shims.bundle import bundle

INCOMING = "Incoming"
KEEP_FREE_BYTES = 100 << 20
_LAST_WORDS_BYTES = 4096
# Nothing of a display server's or a bus's address may come from elsewhere; these
# are what a program of the user's needs to reach the session.
_SESSION = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LC_ALL",
    "XDG_RUNTIME_DIR",
    "WAYLAND_DISPLAY",
    "DISPLAY",
    "DBUS_SESSION_BUS_ADDRESS",
    "XDG_CURRENT_DESKTOP",
    "XDG_SESSION_TYPE",
    "XDG_DATA_DIRS",
    "XDG_DATA_HOME",
    "XDG_CONFIG_HOME",
    "XDG_CONFIG_DIRS",
    "XDG_CACHE_HOME",
)
LOOP = "VITRAIL_OPENING"
"""Set for programs that we start: our own handler refuses to be called by one."""

_MAIN = """

if __name__ == "__main__":
    os.umask(0o077)
    sys.exit(reported(sys.argv[1], lambda: OWN_VERBS[sys.argv[1]](sys.argv[2:])))
"""


@dataclass
class ToolResult:
    """What the program for files has written, once it has ended."""

    written: bytes = b""

    @property
    def before(self) -> bytes:
        """SHA-256 of a file before its edit, or of what was saved."""
        digest, _, _ = self.written.partition(b"\n")
        return bytes.fromhex(digest.removeprefix(b"sha256 ").decode())

    @property
    def text(self) -> str:
        """The outcome of an edit, for the user."""
        return printable(self.written.partition(b"\n")[2].strip(), 400)

    @property
    def pages(self) -> int:
        """Of a document that was made."""
        return int(self.written.removeprefix(b"pages "))


class Own:
    """Files below the user's home, and the user's browser."""

    def __init__(self, home: Path, browser: Sequence[str] = ()) -> None:
        self._home = home
        self._browser = browser

    async def open_url(self, url: Url) -> None:
        """Open an address in the user's own session.

        The address is one word after ``--``.  Raises SetupError without a program
        for it, UpstreamError where that fails at once.
        """
        await self._open([*(self._browser or _find_browser()), url.canonical])

    async def open_file(self, path: Path) -> None:
        """Open a file of our own making by the user's program for it.

        Raises as ``open_url``.
        """
        await self._open([*_find_browser(), str(path)])

    async def _open(self, argv: list[str]) -> None:
        env = {key: os.environ[key] for key in _SESSION if key in os.environ}
        child = spawn(argv, env={**env, LOOP: "1"}, outlive_us=True)
        with trio.move_on_after(1.0):
            code = await child.wait()
            if code:
                raise UpstreamError(f"{argv[0]} ended with code {code}")
            return
        child.abandon()

    @asynccontextmanager
    async def storing(self, delivery: Delivery) -> AsyncIterator[None]:
        """Keep a delivery below ``~/Incoming/SOURCE`` while the block runs."""
        top = self._home / INCOMING / delivery.source
        words = ["store", str(top), delivery.source, str(KEEP_FREE_BYTES)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._store, words, delivery)
            delivery.taken.set()
            try:
                yield
            except BaseException:
                delivery.end("the sender broke it off")
                nursery.cancel_scope.cancel()
                raise

    async def _store(self, words: list[str], delivery: Delivery) -> None:
        try:
            await run_tool(words, stdin=delivery.pipe)
        except UpstreamError as error:
            delivery.end(str(error))
        else:
            delivery.end("")

    def sending(
        self, paths: Sequence[str], write: PipeEnd
    ) -> AbstractAsyncContextManager[ToolResult]:
        """Write the entries of files into a pipe while the block runs."""
        return _beside(["send", *paths], stdout=write, awaited=False)

    def saving(
        self, path: str, origin: str, read: PipeEnd, before: str
    ) -> AbstractAsyncContextManager[ToolResult]:
        """Put the one entry of a pipe in the place of a file, once the block has ended.

        ``before``: what has to be there, see ``Saved``; of the result it is the SHA-256
        of what was kept.
        """
        words = ["save", path, origin, before, str(KEEP_FREE_BYTES)]
        return _beside(words, stdin=read)

    def keeping_pages(
        self, path: str, read: PipeEnd
    ) -> AbstractAsyncContextManager[ToolResult]:
        """Make a PDF file of the pages in a pipe, once the block has ended."""
        return _beside(["pages", path, str(KEEP_FREE_BYTES)], stdin=read)

    def editing(
        self, path: str, origin: str, write: PipeEnd, back: PipeEnd
    ) -> AbstractAsyncContextManager[ToolResult]:
        """Write a file's entries into a pipe; replace it by what another one has.

        The block has to close the other end of ``back``.
        """
        return _beside(["edit", path, origin], stdin=back, stdout=write)


@asynccontextmanager
async def _beside(
    words: Sequence[str],
    *,
    stdin: PipeEnd | None = None,
    stdout: PipeEnd | None = None,
    awaited: bool = True,
) -> AsyncIterator[ToolResult]:
    """Run our program for files beside the block, on ends of pipes, which it takes over.

    The result is complete once the block has ended, which ``awaited`` waits for.  Raises
    UpstreamError where the program fails.
    """
    started, result = trio.Event(), ToolResult()
    ends = {
        name: end
        for name, end in (("stdin", stdin), ("stdout", stdout))
        if end is not None
    }

    async def run() -> None:
        fds = {name: end.fileno() for name, end in ends.items()}
        result.written = await run_tool(words, **fds, started=started)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await started.wait()
        for end in ends.values():
            end.close()  # the process has its own, whose end is the pipe's
        yield result
        if not awaited:
            nursery.cancel_scope.cancel()


@cache
def _files_tool() -> bytes:
    """Return the program, which has no other command of a guest's."""
    return (bundle("files", names=["own_files"]) + _MAIN).encode()


async def run_tool(
    words: Sequence[str],
    *,
    stdin: int | None = None,
    stdout: int | None = None,
    started: trio.Event | None = None,
) -> bytes:
    """Run our program for files to its end; returns its standard error.

    ``started`` is set when it runs.  Raises UpstreamError with its last words when it fails.
    """
    # One file, read from memory: it need not be on a disk.
    tool = sealed([_files_tool()])
    read, errors = os.pipe2(os.O_CLOEXEC)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    # guard: the program for files has no variable of the session
    env = {"LC_ALL": "C.UTF-8"}
    try:
        child = spawn(
            [sys.executable, "-I", f"/proc/self/fd/{tool}", *words],
            name="files",
            env=env,
            pass_fds=(tool,),
            stdin=null if stdin is None else stdin,
            stdout=null if stdout is None else stdout,
            stderr=errors,
        )
    except BaseException:
        os.close(read)
        raise
    finally:
        os.close(errors)
        os.close(null)
        os.close(tool)
    if started is not None:
        started.set()
    said = bytearray()
    try:
        async with trio.lowlevel.FdStream(read) as stream:
            async for data in stream:
                said = (said + data)[-_LAST_WORDS_BYTES:]
        code = await child.wait()
    finally:
        await child.kill_and_wait()
    if code:
        text = printable(bytes(said).strip(), 400)
        raise UpstreamError(text.removeprefix("vitrail: ") or f"it ended with {code}")
    return bytes(said)


def _find_browser() -> list[str]:
    """The program that opens addresses in the user's session."""
    if shutil.which("gio"):
        return ["gio", "open", "--"]
    raise SetupError(
        "no program opens addresses",
        hint="install 'gio' (libglib2.0-bin)",
    )
