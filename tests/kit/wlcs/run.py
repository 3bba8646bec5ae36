"""Tests of the Wayland Conformance Suite, each on a compositor of its own.

``async with suite(kind, workers) as s`` compiles the two modules beside this one; then
``await s.run(test, through=...)`` starts the compositor, where asked a sandbox's jailed
worker before it, and the suite's program for this one test.
"""

from __future__ import annotations

import enum
import os
import re
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import trio

from broker.cli.headless_sway import HeadlessCompositor
from broker.core.errors import UpstreamError
from broker.core.streams.wayland_rules import WindowRules
from broker.core.streams.wayland_verdicts import OPTIONS
from broker.helpers.process.spawn import STDOUT, spawn
from broker.ipc.worker import Fault
from broker.viewer.workers.pool import Workers
from tests.kit.eventually import NeverError, eventually, ready
from tests.kit.listening import takes_connections
from tests.kit.vm.suite_root import inside
from tests.kit.vm.tinyguest import ordinary_user
from tests.kit.wayland.client import Client
from tests.kit.wayland.compositor import short_directory
from tests.kit.wayland.input import Keyboard, Pointer
from tests.kit.wayland.stand import CONFIG, jailed

HERE = Path(__file__).parent
SIZE = (1280, 1024)
DEADLINE = 60.0
"""Seconds for one test; the suite's own deadlines are of 10."""
RULES = WindowRules("wlcs", allow=OPTIONS)
_UNSUPPORTED = 77
"""Exit code where the compositor has no means for what a test does (integration.c)."""
_WARNINGS = (
    "-std=gnu11",
    "-O1",
    "-Wall",
    "-Wextra",
    "-Wpedantic",
    "-Wshadow",
    "-Werror",
)
_INI = """
[core]
idle-time=0
[shell]
panel-position=none
startup-animation=none
animation=none
close-animation=none
locking=false
[input-method]
path=
"""
_SWAY = f"""
output * resolution {SIZE[0]}x{SIZE[1]} position 0 0
xwayland disable
swaybg_command -
focus_follows_mouse no
floating_minimum_size 1 x 1
floating_maximum_size -1 x -1
{CONFIG}
"""
_VERDICT = re.compile(r"^\[ {2}(PASSED|SKIPPED|FAILED) +\] 1 test", re.MULTILINE)


class Verdict(enum.StrEnum):
    PASS = "pass"
    FAIL = "fail"
    SKIP = "skip"


_VERDICTS = {
    "PASSED": Verdict.PASS,
    "FAILED": Verdict.FAIL,
    "SKIPPED": Verdict.SKIP,
}


@dataclass(frozen=True)
class Result:
    """What the suite said of one test, its output, and whom the filter blamed."""

    verdict: Verdict
    text: str
    faults: frozenset[Fault] = frozenset()


def runner() -> Path:
    """The suite's program; skips where it, or what the modules need, is missing."""
    for package in ("wlcs", "wayland-client", "libweston-10", "libweston-desktop-10"):
        if not _there(package):
            pytest.skip(
                f"needs pkg-config's {package} (packages wlcs, libweston-10-dev)"
            )
    return Path(_pkg_config("--variable=test_runner", "wlcs")[0])


def _there(package: str) -> bool:
    try:
        return not subprocess.run(
            ["pkg-config", "--exists", package], check=False
        ).returncode
    except FileNotFoundError:
        return False


def _pkg_config(*arguments: str) -> list[str]:
    done = subprocess.run(
        ["pkg-config", *arguments], check=True, capture_output=True, text=True
    )
    # The warnings are for what is written here.
    return [re.sub("^-I", "-isystem", word) for word in done.stdout.split()]


def _compile(name: str, directory: Path, *packages: str) -> Path:
    module = directory / f"{name}.so"
    flags = _pkg_config("--cflags", "--libs", *packages)
    argv = [
        "gcc",
        *_WARNINGS,
        "-shared",
        "-fPIC",
        f"-o{module}",
        HERE / f"{name}.c",
        *flags,
    ]
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return module


@dataclass(frozen=True)
class Place:
    """A compositor that runs, and the socket by which it is moved (integration.c)."""

    comp: HeadlessCompositor
    control: Path


class Suite:
    """The suite and one kind of compositor."""

    def __init__(
        self, kind: str, workers: Workers, directory: Path, root: Path | None
    ) -> None:
        self.runner, self.root = runner(), root
        self.kind, self.workers = kind, workers
        self.integration = _compile("integration", directory, "wlcs", "wayland-client")
        self.module = _compile(
            "weston_module", directory, "libweston-10", "libweston-desktop-10"
        )

    def tests(self) -> list[str]:
        """Names of all tests, in the suite's order."""
        listed = subprocess.run(
            self._argv("--gtest_list_tests"),
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        names, group = [], ""
        for line in listed.splitlines():
            word = line.split("#")[0].strip()
            if line.startswith("  "):
                names.append(group + word)
            elif word.endswith("."):
                group = word
        return names

    def _argv(self, *arguments: str, shares: tuple[Path, ...] = ()) -> list[str]:
        """The suite's program; ``shares`` are directories that it finds in its root, too."""
        argv = [str(self.runner), str(self.integration), *arguments]
        if self.root is None:
            return argv
        paths = [str(path) for path in (self.integration.parent, *shares)]
        return [*inside(self.root, *paths), *argv]

    async def run(self, test: str, *, through: bool) -> Result:
        """Run a test, directly on the compositor or ``through`` a worker before it."""
        start = _weston if self.kind == "weston" else _sway
        with short_directory() as directory:
            run = directory / "run"
            run.mkdir(mode=0o700)
            async with start(self, run) as place:
                if not through:
                    return await self._run(test, place, place.comp.display, directory)
                async with jailed(place.comp, self.workers, RULES) as it:
                    result = await self._run(test, place, it.path, directory, RULES)
                    await it.worker.close()
                    ended = "".join(f"{each}\n" for each in it.closed())
                    faults = frozenset(each.fault for each in it.closed())
                    return Result(result.verdict, result.text + ended, faults)

    async def _run(
        self,
        test: str,
        place: Place,
        display: Path,
        directory: Path,
        rules: WindowRules | None = None,
    ) -> Result:
        offered = await trio.to_thread.run_sync(_globals, display)
        log = directory / "log"
        with log.open("wb") as out:
            child = spawn(
                self._argv(
                    f"--gtest_filter={test}",
                    "--gtest_also_run_disabled_tests",
                    "--gtest_color=no",
                    shares=(directory,),
                ),
                env={
                    "PATH": os.environ["PATH"],
                    "LANG": "C.UTF-8",
                    "XDG_RUNTIME_DIR": str(directory),
                    "LD_PRELOAD": str(self.integration),
                    "WLCS_DISPLAY": str(display),
                    "WLCS_CONTROL": str(place.control),
                    "WLCS_GLOBALS": " ".join(f"{n}:{v}" for n, v in offered.items()),
                    "WLCS_FRAME": f"{rules.border} {rules.top}" if rules else "0 0",
                },
                stdout=out,
                stderr=STDOUT,
            )
            with trio.move_on_after(DEADLINE):
                await child.wait()
            if child.returncode is None:
                await child.kill_and_wait()
        text = log.read_text(errors="replace")
        found = _VERDICT.search(text)
        if child.returncode == _UNSUPPORTED:
            return Result(Verdict.SKIP, text)
        if child.returncode or not found:
            return Result(Verdict.FAIL, f"{text}\nexit code {child.returncode}\n")
        return Result(_VERDICTS[found[1]], text)


def _globals(display: Path) -> dict[str, int]:
    with Client(display).start() as client:
        return {name: version for name, (_, version) in client.globals.items()}


@asynccontextmanager
async def suite(
    kind: str, workers: Workers, *, root: Path | None = None
) -> AsyncIterator[Suite]:
    """Compile the modules for the length of the block.

    ``root``: the suite's program is the one there (``suite_root``), not ours.
    """
    ordinary_user()
    with short_directory() as directory:
        yield Suite(kind, workers, directory, root)


@asynccontextmanager
async def _started(
    directory: Path, name: str, *argv: str, up: Callable[[], bool], **more: str
) -> AsyncIterator[HeadlessCompositor]:
    """A compositor that ends with the block; its runtime directory is there."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "LANG": "C.UTF-8",
        "XDG_RUNTIME_DIR": str(directory),
    }
    log = directory / "log"
    with log.open("wb") as out:
        child = spawn(argv, env={**environment, **more}, stdout=out, stderr=STDOUT)
    display = directory / name
    try:
        await ready(child, lambda: takes_connections(display) and up(), output=log)
        yield HeadlessCompositor(child, display, {**environment, **more})
    finally:
        with trio.CancelScope(shield=True):
            await child.kill_and_wait()


@asynccontextmanager
async def _weston(suite: Suite, directory: Path) -> AsyncIterator[Place]:
    ini, control = directory / "weston.ini", directory / "control"
    ini.write_text(_INI)
    width, height = SIZE
    argv = [
        "weston", "--backend=headless-backend.so", "--socket=wlcs-0", "--use-pixman",
        f"--config={ini}", f"--modules={suite.module}",
        f"--width={width}", f"--height={height}",
    ]  # fmt: skip
    async with _started(
        directory,
        "wlcs-0",
        *argv,
        up=lambda: takes_connections(control),
        WLCS_CONTROL=str(control),
    ) as comp:
        yield Place(comp, control)


@asynccontextmanager
async def _sway(_suite: Suite, directory: Path) -> AsyncIterator[Place]:
    config, ipc = directory / "sway.conf", directory / "sway.sock"
    config.write_text(_SWAY)
    # Atomic, it would show a move after the client's next commit, or 200 ms later.
    argv = ["sway", "-D", "noatomic", "-c", str(config)]
    control = directory / "control"
    with trio.socket.socket(trio.socket.AF_UNIX) as listener:
        await listener.bind(str(control))
        listener.listen()
        async with (
            _started(
                directory,
                "wayland-1",
                *argv,
                up=lambda: takes_connections(ipc),
                SWAYSOCK=str(ipc),
                WLR_BACKENDS="headless",
                WLR_RENDERER="pixman",
                WLR_LIBINPUT_NO_DEVICES="1",
            ) as comp,
            trio.open_nursery() as nursery,
        ):
            # In 256ths of a pixel.
            pointer = partial(Pointer, comp.display, (SIZE[0] << 8, SIZE[1] << 8))
            with (
                await trio.to_thread.run_sync(pointer) as mouse,
                await trio.to_thread.run_sync(Keyboard, comp.display),
            ):
                nursery.start_soon(_obey, comp, mouse, listener)
                yield Place(comp, control)
                nursery.cancel_scope.cancel()


async def _obey(
    comp: HeadlessCompositor, mouse: Pointer, listener: trio.socket.SocketType
) -> None:
    """What the module for weston does, for sway."""
    sock, _ = await listener.accept()
    async with trio.SocketStream(sock) as stream:
        async for data in stream:
            # The other side waits for the answer to each line.
            match data.decode().split():
                case ["place", title, x, y]:
                    order = f'[title="^(.* )?{title}$"] move absolute position {x} {y}'
                    try:
                        await eventually(partial(_told, comp, order), deadline=10)
                    except NeverError:
                        await stream.send_all(b"no window has this title\n")
                        continue
                case ["motion", x, y]:
                    at = int(float(x) * 256), int(float(y) * 256)
                    await trio.to_thread.run_sync(mouse.move, *at)
                case ["moved", x, y]:
                    await trio.to_thread.run_sync(mouse.by, float(x), float(y))
                case ["button", code, state]:
                    press = partial(mouse.button, state == "1", int(code))
                    await trio.to_thread.run_sync(press)
                case _:
                    await stream.send_all(b"unsupported\n")
                    continue
            await stream.send_all(b"ok\n")


async def _told(comp: HeadlessCompositor, order: str) -> bool:
    """Whether sway could: not while the window is not shown."""
    try:
        await comp.command(order)
    except UpstreamError:
        return False
    return True
