"""The tutorial's commands that need no machine are run; the others are known by name."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from tests.kit.brokerctl import Answer, brokerctl, home, paths_of

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"

WITHOUT_MACHINE = (
    "brokerctl doctor",
    "brokerctl new demo --from demo",
    "brokerctl policy show demo",
    "brokerctl new web --package firefox-esr --label orange",
    "brokerctl new work --from work",
    "brokerctl set work sound on",
    "brokerctl prompt phrase",
    "brokerctl policy starter",
    "brokerctl policy check",
)
_RULE = (
    "echo 'vitrail.Display * @type:disposable @adminvm ask remember=session' > "
    "~/.config/vitrail/policy.d/30-mine.policy"
)
# tests/e2e/test_tutorial_machines.py runs them.
IN_MACHINES = (
    "brokerctl run demo",
    "brokerctl audit connections",
    "brokerctl audit --since today",
    "brokerctl audit --kind decision --json",
    "brokerctl run --detach work",
    "brokerctl run work -- foot",
    "brokerctl status",
    "brokerctl stop work",
    "brokerctl sandbox snapshot work before",
    "brokerctl sandbox restore work before",
    "mkdir -p ~/.config/vitrail/policy.d",
    _RULE,
    "brokerctl grants",
    "brokerctl grants revoke --all",
    "brokerctl run --no-window demo -- uname -a",
)
ELSEWHERE = {
    "cd vitrail": "the reader's place",
    "export PATH=$PWD/.venv/bin:$PATH": "the reader's shell",
    "brokerctl run web": "builds an image with a browser; test_first_hour_box has one in a box",
    "brokerctl open paper.pdf": "tests/e2e/test_opening_vm.py",
    "brokerctl clipboard chords": "asks for chords; tests/integration/test_brokerctl_clipboard.py",
    "brokerctl cp work:~/report.odt .": "tests/e2e/test_first_week.py",
    "brokerctl demo -- foot": "tests/e2e/test_demo.py",
}


def commands() -> list[str]:
    """The page's commands after a prompt, in its order."""
    blocks = re.findall(r"(?ms)^```console\n(.*?)^```", PAGE.read_text())
    return re.findall(r"(?m)^\$ (.*)$", "".join(blocks))


async def typed(command: str, env: dict[str, str], deadline: float = 120) -> Answer:
    """Run a command of the page."""
    words = shlex.split(command)
    assert words.pop(0) == "brokerctl"
    return await brokerctl(*words, env=env, deadline=deadline)


def test_every_command_of_the_page_is_known():
    known = {*WITHOUT_MACHINE, *IN_MACHINES, *ELSEWHERE}
    assert set(commands()) == known


async def test_commands_that_need_no_machine():
    with home() as env:
        for command in WITHOUT_MACHINE:
            answer = await typed(command, env)
            assert answer.code == 0, (command, answer.out, answer.err)
        folder = paths_of(env).config[0] / "sandboxes.d"
        assert {path.stem for path in folder.iterdir()} == {
            "demo",
            "viewer",  # of 'policy starter'
            "web",
            "work",
        }


async def test_the_mistake_is_answered_as_the_page_shows():
    """Word for word, but for the person's home and the number of the line."""
    (shown,) = re.findall(
        r"(?s)\$ brokerctl run demo\n(/home/ada.*?)```", PAGE.read_text()
    )
    with home() as env:
        await typed("brokerctl new demo --from demo", env)
        record = paths_of(env).config[0] / "sandboxes.d" / "demo.toml"
        record.write_text(record.read_text().replace("memory", "memroy"))
        answer = await typed("brokerctl run demo", env)
        assert answer.code == 1
        assert answer.err == shown.replace("/home/ada", env["HOME"])
