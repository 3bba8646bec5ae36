"""Attack: the sender or the receiver of a copy is killed at any point of it."""

from __future__ import annotations

import random
import signal
import sys
from pathlib import Path

import pytest

from tests.integration.test_opening import sandboxes
from tests.kit.eventually import eventually
from tests.kit.needs import requires
from tests.kit.shims import files_program
from tests.kit.world import descriptors

pytestmark = requires("waypipe")
RULES = "vitrail.FileCopy * work personal allow\n"
SEED = 20261122
KILLS = 5
FILES = 30
# The guest's own program, which kills itself after so many of its lines; without a
# kill it writes how many there are.
PROGRAM = """\
#!{python}
import importlib.util, os, sys
spec = importlib.util.spec_from_file_location("tool", {tool!r})
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)
done = 0
def line(frame, event, argument):
    global done
    done += event == "line"
    if done == {lines}:
        os.kill(os.getpid(), 9)
    return line
sys.settrace(line)
code = tool.main([{verb} *sys.argv[1:]])
sys.settrace(None)
with open({count!r}, "w") as file:
    file.write(str(done))
sys.exit(code)
"""


class Killed:
    """One of the two programs, in place of which another one is started."""

    def __init__(self, guest, command, verb):
        self.guest = guest
        place = "vitrail_files.py" if command == "vitrail-files" else f"bin/{command}"
        self.tool = guest.folder / "runtime" / place
        self.count = guest.folder / f"lines-{command}"
        self.usual = self.tool.read_text()
        self.verb = verb

    def after(self, lines):
        """It is killed after so many lines; -1 for never."""
        text = PROGRAM.format(
            python=sys.executable,
            tool=str(files_program()),
            lines=lines,
            verb=self.verb,
            count=str(self.count),
        )
        if self.tool.suffix:
            self.guest.replace_tool(text)
        else:
            self._write(text)

    def put_back(self):
        self._write(self.usual)

    def _write(self, text):
        self.tool.unlink()
        self.tool.write_text(text)
        self.tool.chmod(0o755)


def whole(tree: Path, source: Path) -> bool:
    return {p.name: p.read_bytes() for p in tree.iterdir()} == {
        p.name: p.read_bytes() for p in source.iterdir()
    }


@pytest.mark.parametrize("who", ["sender", "receiver"])
async def test_no_part_of_it_is_visible_and_nothing_is_left(who):
    async with sandboxes(RULES) as (w, work, personal):
        source = work.home / "d"
        source.mkdir()
        for number in range(FILES):
            (source / str(number)).write_bytes(bytes([number]) * 5000)
        incoming = personal.home / "Incoming/work"
        killed = {
            "sender": Killed(work, "vitrail-copy", '"vitrail-copy",'),
            "receiver": Killed(personal, "vitrail-files", ""),
        }[who]
        killed.after(-1)
        code, said = await work.command("vitrail-copy", "d", "personal")
        assert code == 0, said
        pipes = descriptors(await w.broker_pid())["pipe"]
        lines = int(killed.count.read_text())
        dice = random.Random(SEED)
        wanted = -signal.SIGKILL if who == "sender" else 1
        kills = 0
        for number in range(KILLS):
            killed.after(dice.randrange(1, lines))
            code, said = await work.command("vitrail-copy", "d", "personal")
            # How many lines there are depends on how the bytes come.
            assert code in {wanted, 0}, said
            kills += code == wanted
            # All of it or nothing, under its name or with a number.
            seen = [p for p in incoming.iterdir() if not p.name.startswith(".")]
            assert all(whole(p, source) for p in seen), number

        assert kills

        async def quiet():
            streams = (await w.status()).streams
            return not [s for s in streams if s.service == "vitrail.FileCopy"]

        await eventually(quiet)

        async def as_before():
            return descriptors(await w.broker_pid())["pipe"] == pipes

        await eventually(as_before)
        killed.put_back()
        code, said = await work.command("vitrail-copy", "d", "personal")
        assert code == 0, said

        async def swept():
            return not [p for p in incoming.iterdir() if p.name.startswith(".")]

        await eventually(swept)
        assert all(whole(p, source) for p in incoming.iterdir())
