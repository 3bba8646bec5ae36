"""Where a program of the table is run: directly, in boxes, and in a container."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from broker.core.errors import UpstreamError
from broker.core.paths import find_paths
from tests.kit.brokerctl import OUR_PYTHON, brokerctl, home, paths_of, running
from tests.kit.eventually import NeverError, eventually
from tests.kit.notified import Screen, notification_server
from tests.kit.podman import podman_settings
from tests.kit.sound.servers import sound_server
from tests.kit.wayland.compositor import desktop, windows
from tests.kit.world import short_directory
from tests.programs.image import IMAGE, is_made, with_image
from tests.programs.table import Program

BOX = """\
class = "persistent"
display = "allow"
audio = "allow"
[label]
colour = "blue"
[launch]
kind = "bwrap"
command = ["true"]
{setting}
{window}
"""
CONTAINER = """\
class = "disposable"
display = "allow"
audio = "allow"
[label]
colour = "orange"
[launch]
kind = "podman"
container_image = "{image}"
command = ["true"]
{window}
"""
X11 = "[window]\nx11 = true"
BOXES = ("directly", "box", "persistent")
_AT_ONCE = 6
_MARK = "-- the next program --"
_SECONDS = 90
_WINDOW_SECONDS = 60
_OUTSIDE = frozenset({*OUR_PYTHON, "VITRAIL_FORK", "VITRAIL_ACCEL"})
"""Variables of our own tools, which the programs are not to have."""


@dataclass
class Desk:
    """A desktop with a sound server, and a broker that is started by the first box."""

    screen: Screen

    @property
    def env(self) -> Mapping[str, str]:
        """The environment of the user's programs."""
        return self.screen.env

    async def measured(
        self, program: Program, places: tuple[str, ...] = BOXES
    ) -> dict[str, str]:
        """Return by place why it does not do it there, '' if it does.

        What does not work directly is tried in no box.
        """
        row: dict[str, str] = {}
        for place in places:
            if place == "directly":
                lacks = f"needs {program.package}" if program.missing else ""
                row[place] = lacks or await self._directly(program)
            elif place not in program.reasons and not row.get("directly"):
                row[place] = await self._inside(program, place)
        return row

    async def _directly(self, program: Program) -> str:
        """Run it without Vitrail; return why it does not work here, '' if it does."""
        with short_directory() as empty:
            env = {k: v for k, v in self.env.items() if k not in _OUTSIDE}
            display = self.screen.comp.display
            env |= {"HOME": str(empty), "XDG_RUNTIME_DIR": str(display.parent)}
            env["WAYLAND_DISPLAY"] = display.name
            if not program.x11:
                env |= {"GDK_BACKEND": "wayland", "QT_QPA_PLATFORM": "wayland"}
            argv = ["sh", "-c", program.script]
            if not program.title:
                with trio.move_on_after(_SECONDS):
                    done = await trio.run_process(
                        argv,
                        cwd=empty,
                        env=env,
                        check=False,
                        stdin=subprocess.DEVNULL,
                        capture_stdout=True,
                        stderr=subprocess.STDOUT,
                    )
                    return self.unsaid(program, done.stdout.decode(errors="replace"))
                return f"did not end in {_SECONDS} s"
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._quiet, argv, env, empty)
                why = await self.shown(program.title)
                nursery.cancel_scope.cancel()
            await self.closed()
            return why

    async def _inside(self, program: Program, place: str) -> str:
        """Run it in a box or container with the settings of its row."""
        where = ("mine",)
        if place == "box":
            where = ("--bwrap", "--x11") if program.x11 else ("--bwrap",)
        else:
            self._write(program, place)
        script = f'cd "$(mktemp -d "$HOME"/XXXX)"; {program.script}'
        words = ("run", *where, "--", "sh", "-c", script)
        if not program.title:
            try:
                done = await brokerctl(*words, env=self.env, deadline=_SECONDS)
            except trio.TooSlowError:
                return f"did not end in {_SECONDS} s"
            finally:
                await brokerctl("stop", "--all", env=self.env)
            return self.unsaid(program, done.out + done.err)
        async with running(*words, env=self.env):
            why = await self.shown(program.title)
            await brokerctl("stop", "--all", env=self.env)
            await self.closed()
            return why

    async def contained(self, programs: Sequence[Program]) -> dict[str, str]:
        """Run programs in one container; return by name why one does not do it.

        All have the same ``x11``.  Commands run one after the other, windows at once.
        """
        programs = [one for one in programs if "podman" not in one.reasons]
        if not programs:
            return {}
        self._write(programs[0], "podman")
        shown = [program for program in programs if program.title]
        told = [program for program in programs if not program.title]
        lines = []
        for program in programs:
            script = shlex.quote(program.script)
            place = 'cd "$(mktemp -d "$HOME"/XXXX)"'
            if program.title:
                lines.append(f"({place}; exec sh -c {script}) >/dev/null 2>&1 &")
            else:
                run = f"timeout -k 5 {_SECONDS} sh -c {script}"
                lines.append(f"({place}; echo {_MARK}; {run}) 2>&1 </dev/null")
        text = "\n".join([*lines, *(["wait"] if shown else [])])
        words = ("run", "mine", "--", "sh", "-c", text)
        rows: dict[str, str] = {}
        if told:
            deadline = 60 + _SECONDS * len(told)
            done = await brokerctl(*words, env=self.env, deadline=deadline)
            parts = done.out.split(f"{_MARK}\n")[1:]
            assert len(parts) == len(told), done
            rows |= {
                p.name: self.unsaid(p, o) for p, o in zip(told, parts, strict=True)
            }
        if shown:
            async with running(*words, env=self.env):
                for program in shown:
                    rows[program.name] = await self.shown(program.title)
                await brokerctl("stop", "--all", env=self.env)
                await self.closed()
        return rows

    def _write(self, program: Program, place: str) -> None:
        folder = paths_of(self.env).config[0] / "sandboxes.d"
        folder.mkdir(parents=True, exist_ok=True)
        window = X11 if program.x11 else ""
        if place == "podman":
            text = CONTAINER.format(image=IMAGE, window=window)
        else:
            text = BOX.format(setting=program.setting, window=window)
        (folder / "mine.toml").write_text(text)

    async def shown(self, titles: str, seconds: float = _WINDOW_SECONDS) -> str:
        """Wait for a window with one of the titles; return '' or what there is."""
        comp = self.screen.comp

        async def look() -> bool:
            names = [str(node.get("name")) for node in windows(await comp.tree())]
            return any(title in name for title in titles.split("|") for name in names)

        try:
            await eventually(look, deadline=seconds)
        except NeverError:
            found = [node.get("name") for node in windows(await comp.tree())]
            return f"no window with '{titles}' in its title, but {found}"
        return ""

    async def closed(self) -> None:
        """Wait until no window is left; those of processes that stay are killed."""
        comp = self.screen.comp

        async def none() -> bool:
            left = windows(await comp.tree())
            for node in left:
                with suppress(UpstreamError):  # it may have gone meanwhile
                    await comp.command(f"[con_id={node['id']}] kill")
            return not left

        await eventually(none)

    async def _quiet(self, argv: list[str], env: Mapping[str, str], home: Path) -> None:
        """Run until cancelled, with all that it started."""
        null = subprocess.DEVNULL

        async def end(process: trio.Process) -> None:
            os.killpg(process.pid, signal.SIGKILL)

        await trio.run_process(
            argv,
            cwd=home,
            env=env,
            check=False,
            stdin=null,
            stdout=null,
            stderr=null,
            start_new_session=True,
            deliver_cancel=end,
        )

    @staticmethod
    def unsaid(program: Program, output: str) -> str:
        """Return '' if the output shows that the program did it, or the output."""
        return "" if program.said(output) else f"printed {output[-300:]!r}"


def batches(programs: Sequence[Program]) -> list[list[Program]]:
    """Divide them into those that one container runs."""
    kinds: dict[tuple[bool, bool], list[Program]] = {}
    for program in programs:
        kinds.setdefault((bool(program.title), program.x11), []).append(program)
    return [
        kind[first : first + _AT_ONCE]
        for kind in kinds.values()
        for first in range(0, len(kind), _AT_ONCE)
    ]


@asynccontextmanager
async def desk(
    *, containers: bool = False, machines: bool = False
) -> AsyncIterator[Desk]:
    """Open a desktop with sound and an X server.

    ``containers``: with their image; ``machines``: with the user's guest images.
    """
    async with AsyncExitStack() as stack:
        sound = await stack.enter_async_context(sound_server("pulseaudio"))
        env = dict(stack.enter_context(home()))
        cache = find_paths().cache.parent if machines else f"{env['HOME']}/c"
        env["XDG_CACHE_HOME"] = str(cache)
        server = sound.environment["XDG_RUNTIME_DIR"] + "/pulse/native"
        env["PULSE_SERVER"] = f"unix:{server}"
        if containers:
            assert is_made(), "tests.programs.image makes it"
            settings = await stack.enter_async_context(podman_settings())
            with_image(settings)
            env |= settings
        comp = await stack.enter_async_context(desktop(config_extra="xwayland enable"))
        screen = await stack.enter_async_context(notification_server(comp, env))
        screen.env = {**screen.env, "DISPLAY": await _display(screen)}
        stack.push_async_callback(brokerctl, "stop", "--broker", env=screen.env)
        yield Desk(screen)


async def _display(screen: Screen) -> str:
    """Ask sway for the name of its X server."""
    with short_directory() as folder:
        said = folder / "display"
        await screen.comp.command(
            f"exec echo $DISPLAY > {said}.new && mv {said}.new {said}"
        )

        async def there() -> bool:
            return said.exists()

        await eventually(there)
        return said.read_text().strip()
