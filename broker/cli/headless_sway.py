"""A headless compositor: sway that draws into memory.

For a machine without a desktop (a server, a CI machine): the demo takes its
screenshot, the tests type into it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import trio

from broker.core import limits
from broker.core.errors import SetupError, UpstreamError
from broker.helpers.compositor_socket import accepts
from broker.helpers.process.spawn import Child, run_tool, spawn
from broker.ipc.captured_stderr import FirstWords

_LOOK_SECONDS = 0.02
_NEW_KEYBOARD_MS = 500
_HEADER = struct.Struct("=6sII")
_MAGIC = b"i3-ipc"
_RUN_COMMAND, _GET_TREE = 0, 4


class _Done(msgspec.Struct):
    """Sway's answer to a command."""

    success: bool
    error: str = ""


def _whole(answer: bytes | bytearray) -> int:
    """Return how long an answer is, its header included."""
    return _HEADER.size + int(_HEADER.unpack_from(answer)[1])


class HeadlessCompositor:
    """A sway without a screen; ``close`` or ``async with`` ends it.

    ``display`` is the absolute path of its Wayland socket, ``environment``
    what a program needs to be shown on it, ``child`` its process.
    """

    def __init__(
        self, child: Child, display: Path, environment: Mapping[str, str]
    ) -> None:
        self.child = child
        self.display = display
        self.environment = dict(environment)

    async def __aenter__(self) -> Self:
        """Return the compositor, which is already running."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the compositor's process."""
        await self.close()

    async def close(self) -> None:
        """End sway and its children; not cancellable."""
        with trio.CancelScope(shield=True):
            await self.child.stop(limits.VM_QUIT_SECONDS)

    async def screenshot(self, path: Path) -> None:
        """Write what the screen shows as PNG.  Raises UpstreamError."""
        await self._tool("grim", str(path))

    async def tree(self) -> dict[str, object]:
        """Return sway's tree of windows, see sway-ipc(7).  Raises UpstreamError."""
        return msgspec.json.decode(await self._ask(_GET_TREE), type=dict[str, object])

    async def command(self, text: str) -> None:
        """Send a command to sway, see sway(5).  Raises UpstreamError."""
        answers = await self._ask(_RUN_COMMAND, text)
        for answer in msgspec.json.decode(answers, type=list[_Done]):
            if not answer.success:
                raise UpstreamError(f"sway refuses {text!r}: {answer.error}")

    async def _ask(self, kind: int, text: str = "") -> bytes:
        """Return sway's answer to a message of sway-ipc(7).

        Without swaymsg: who waits for a window asks twenty times a second.
        """
        path, payload = self.environment["SWAYSOCK"], text.encode()
        answer = bytearray()
        try:
            with trio.fail_after(limits.COMPOSITOR_TOOL_SECONDS):
                async with await trio.open_unix_socket(path) as stream:
                    await stream.send_all(_HEADER.pack(_MAGIC, len(payload), kind))
                    await stream.send_all(payload)
                    while len(answer) < _HEADER.size or len(answer) < _whole(answer):
                        part = await stream.receive_some()
                        answer += part
                        if not part or len(answer) > limits.COMPOSITOR_TREE_BYTES:
                            raise UpstreamError("sway's answer has no end")
        except (OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
            raise UpstreamError(f"sway does not answer: {error}") from error
        return bytes(answer[_HEADER.size :])

    async def type_text(self, text: str) -> None:
        """Type on a virtual keyboard; a newline is the Return key.

        A seat without a screen has no keyboard but this one.  Applications
        learn of it when it appears and ask for it then; the first keys would
        be lost on a slower machine, in an emulated guest for example.
        """
        await self._tool("wtype", "-s", str(_NEW_KEYBOARD_MS), "--", text)

    async def _tool(self, *argv: str) -> bytes:
        """Run a tool in the compositor's environment; return its output."""
        return await run_tool(
            argv,
            env=self.environment,
            deadline=limits.COMPOSITOR_TOOL_SECONDS,
            output_limit=limits.COMPOSITOR_TREE_BYTES,
        )


def _config(size: tuple[int, int], extra: str) -> str:
    width, height = size
    return (
        f"output * resolution {width}x{height} position 0 0\n"
        "xwayland disable\n"
        "swaybg_command -\n"
        "default_border normal\n"
        f"{extra}\n"
    )


def _prepare(runtime_dir: Path, config: str) -> Path:
    """Create the runtime directory, remove stale sockets, write sway's config."""
    runtime_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    runtime_dir.chmod(0o700)
    for stale in [*runtime_dir.glob("wayland-*"), runtime_dir / "sway.sock"]:
        if not accepts(stale):
            stale.unlink(missing_ok=True)
    path = runtime_dir / "sway.conf"
    path.write_text(config)
    return path


async def open_headless_sway(
    runtime_dir: Path, *, size: tuple[int, int] = (1280, 800), config_extra: str = ""
) -> HeadlessCompositor:
    """Start sway with its sockets in ``runtime_dir`` (made, 0700); wait for it.

    Raises SetupError for root (sway refuses it) or when a program is missing,
    UpstreamError with sway's words when it does not come up.
    """
    if os.geteuid() == 0:
        raise SetupError(
            "sway does not run as root",
            hint="run the command as an ordinary user",
        )
    config = _prepare(runtime_dir, _config(size, config_extra))
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": os.environ.get("HOME", "/"),
        "LANG": "C.UTF-8",
        "XDG_RUNTIME_DIR": str(runtime_dir),
        "SWAYSOCK": str(runtime_dir / "sway.sock"),
    }
    headless = {
        "WLR_BACKENDS": "headless",
        "WLR_RENDERER": "pixman",
        "WLR_LIBINPUT_NO_DEVICES": "1",
    }
    before = _displays(runtime_dir)
    words = FirstWords()
    try:
        child = spawn(
            ["sway", "-c", str(config)],
            env={**environment, **headless},
            stdout=words.fd,
            stderr=words.fd,
        )
        display = await _wait_ready(child, runtime_dir, before, words)
    finally:
        words.close()
    return HeadlessCompositor(
        child, display, {**environment, "WAYLAND_DISPLAY": str(display)}
    )


async def _wait_ready(
    child: Child, runtime_dir: Path, before: set[Path], words: FirstWords
) -> Path:
    """Connect every 20 ms until sway accepts connections on its socket."""
    try:
        with trio.move_on_after(limits.COMPOSITOR_READY_SECONDS):
            while child.popen.poll() is None:
                fresh = _displays(runtime_dir) - before
                if fresh and accepts(runtime_dir / "sway.sock"):
                    return fresh.pop()
                await trio.sleep(_LOOK_SECONDS)
    except BaseException:
        await child.kill_and_wait()
        raise
    code = child.popen.poll()
    await child.kill_and_wait()
    raise UpstreamError(
        f"sway was not ready after {limits.COMPOSITOR_READY_SECONDS:g} s"
        if code is None
        else f"sway exited with code {code}: {words.text() or 'no output'}",
        hint="to see whether sway works, run 'WLR_BACKENDS=headless sway --debug'",
    )


def _displays(runtime_dir: Path) -> set[Path]:
    found = runtime_dir.glob("wayland-*")
    return {path for path in found if path.is_socket() and accepts(path)}
