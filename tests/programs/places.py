"""Where a program of the table is run: directly, in a box, in a box of a record."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from tests.integration.test_menu import menu
from tests.kit.brokerctl import brokerctl, paths_of, running
from tests.kit.eventually import NeverError
from tests.kit.notified import Screen
from tests.kit.sound.servers import sound_server
from tests.kit.wayland.compositor import wait_window
from tests.kit.world import short_directory
from tests.programs.table import Program

RECORD = """\
class = "persistent"
display = "allow"
audio = "allow"
[label]
colour = "blue"
[launch]
kind = "bwrap"
command = ["true"]
{setting}
"""
_SECONDS = 90
_OUTSIDE = frozenset({"PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "VITRAIL_FORK"})
"""Variables of our own tools, which the programs are not to have."""


@dataclass
class Desk:
    """A desktop with a sound server, and a broker that is started by the first box."""

    screen: Screen

    @property
    def env(self) -> Mapping[str, str]:
        """The environment of the user's programs."""
        return self.screen.env

    async def measured(self, program: Program) -> dict[str, str]:
        """Return by place why it does not do it there, '' if it does.

        A box has a result only where it works directly.
        """
        if program.missing:
            return {"directly": f"needs {program.package}"}
        row = {"directly": await self.directly(program)}
        if not row["directly"]:
            if not program.record_only:
                row["box"] = await self.in_box(program)
            row["record"] = await self.in_record(program)
        return row

    async def directly(self, program: Program) -> str:
        """Run it without Vitrail; return why it does not work here, '' if it does."""
        with short_directory() as home:
            env = {k: v for k, v in self.env.items() if k not in _OUTSIDE}
            env |= {"HOME": str(home), "GDK_BACKEND": "wayland"}
            argv = ["sh", "-c", program.script]
            if not program.title:
                with trio.fail_after(_SECONDS):
                    done = await trio.run_process(
                        argv,
                        cwd=home,
                        env=env,
                        check=False,
                        stdin=subprocess.DEVNULL,
                        capture_stdout=True,
                        stderr=subprocess.STDOUT,
                    )
                return self._unsaid(program, done.stdout.decode(errors="replace"))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._quiet, argv, env, home)
                why = await self._shown(program.title)
                nursery.cancel_scope.cancel()
            return why

    async def in_box(self, program: Program) -> str:
        """Run it in a box without a record."""
        return await self._inside(program, "--bwrap")

    async def in_record(self, program: Program) -> str:
        """Run it in a box of a record, which has sound and what the row sets."""
        folder = paths_of(self.env).config[0] / "sandboxes.d"
        folder.mkdir(parents=True, exist_ok=True)
        text = RECORD.format(setting=program.setting)
        (folder / "mine.toml").write_text(text)
        return await self._inside(program, "mine")

    async def _inside(self, program: Program, *where: str) -> str:
        script = f'cd "$(mktemp -d "$HOME"/XXXX)"; {program.script}'
        words = ("run", *where, "--", "sh", "-c", script)
        if not program.title:
            done = await brokerctl(*words, env=self.env, deadline=_SECONDS)
            return self._unsaid(program, done.out + done.err)
        async with running(*words, env=self.env):
            why = await self._shown(program.title)
            await brokerctl("stop", "--all", env=self.env)
            return why

    async def _shown(self, title: str) -> str:
        try:
            await wait_window(self.screen.comp, title=title, deadline=60)
        except NeverError:
            return f"no window with '{title}' in its title"
        return ""

    async def _quiet(self, argv: list[str], env: Mapping[str, str], home: Path) -> None:
        """Run until cancelled."""
        null = subprocess.DEVNULL
        await trio.run_process(
            argv, cwd=home, env=env, check=False, stdin=null, stdout=null, stderr=null
        )

    @staticmethod
    def _unsaid(program: Program, output: str) -> str:
        return "" if program.said(output) else f"printed {output[-300:]!r}"


@asynccontextmanager
async def desk() -> AsyncIterator[Desk]:
    """Open a desktop with sound."""
    async with sound_server("pulseaudio") as sound, menu() as screen:
        server = sound.environment["XDG_RUNTIME_DIR"] + "/pulse/native"
        screen.env = {**screen.env, "PULSE_SERVER": f"unix:{server}"}
        yield Desk(screen)
