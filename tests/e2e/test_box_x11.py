"""X11 programs in boxes: ``brokerctl run --bwrap --x11``, and a record's ``x11``."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.kit.brokerctl import brokerctl, running
from tests.kit.container import DIRECT, container
from tests.kit.needs import PID_NAMESPACES
from tests.kit.wayland.compositor import wait_frames, wait_window
from tests.kit.world import world

pytestmark = [
    PID_NAMESPACES,
    pytest.mark.skipif(not shutil.which("Xwayland"), reason="xwayland is missing"),
    pytest.mark.skipif(not shutil.which("xterm"), reason="xterm is missing"),
]
RED, ORANGE = (0xD5, 0x5E, 0x00), (0xE6, 0x9F, 0x00)


async def test_an_x11_program_of_a_box_has_a_framed_window():
    words = ("run", "-q", "--bwrap", "--x11", "--", "xterm", "-T", "boxed")
    async with (
        world(image=False) as w,
        running(*words, "-e", "sleep 1000", env=w.environ),
    ):
        await wait_window(w.comp, title="boxed")
        name = w.events("lease.begin")[-1]["sandbox"]
        await wait_frames(w.comp, {f"[{name}] boxed": {RED}})
        await w.comp.screenshot(_shown() / "bwrap-x11.png")


def _shown():
    folder = Path(os.environ.get("VITRAIL_OUT") or ".") / "launchers"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


TK_SIZES = """
import sys, tkinter
root = tkinter.Tk()
root.title("sizes")
root.geometry("300x200")
def current():
    return root.winfo_width(), root.winfo_height()
def wait_for(condition):
    passed = tkinter.BooleanVar()
    def check():
        root.after(20, check) if not condition() else passed.set(True)
    timer = root.after(int(sys.argv[1]), passed.set, False)
    check()
    root.wait_variable(passed)
    print(*current(), flush=True)
root.wait_visibility()
wait_for(lambda: current() == (300, 200))
root.geometry("600x450")
wait_for(lambda: current() == (600, 450))
root.geometry("200x120")
wait_for(lambda: current() == (200, 120))
tkinter.Label(root, text="content").pack(padx=200, pady=150)
root.geometry("")
wait_for(lambda: current()[0] > 400 and current()[1] > 300)
"""


def tk_sizes(answer):
    lines = (line.split() for line in answer.out.splitlines())
    return [tuple(map(int, line)) for line in lines if len(line) == 2]


async def test_x11_window_of_a_box_changes_its_own_size():
    """Otherwise the content of a growing dialog is cut off."""
    argv = (
        "run",
        "-q",
        "--bwrap",
        "--x11",
        "--",
        "/usr/bin/python3",
        "-c",
        TK_SIZES,
        "20000",
    )
    async with world(image=False) as w:
        await w.comp.command("for_window [title=.*sizes.*] floating enable")
        answer = await brokerctl(*argv, env=w.environ)
        assert answer.code == 0, answer
        sizes = tk_sizes(answer)
        assert sizes[:3] == [(300, 200), (600, 450), (200, 120)]
        assert sizes[3][0] > 400
        assert sizes[3][1] > 300


async def test_tiled_x11_window_of_a_box_keeps_the_size_of_its_tile():
    argv = (
        "run",
        "-q",
        "--bwrap",
        "--x11",
        "--",
        "/usr/bin/python3",
        "-c",
        TK_SIZES,
        "1500",
    )
    async with world(image=False) as w:
        answer = await brokerctl(*argv, env=w.environ)
        assert answer.code == 0, answer
        assert len(set(tk_sizes(answer)[1:])) == 1, answer


async def test_brokerctl_x11_shows_a_program_of_somebody_s_own_container():
    program = f"env PYTHONPATH={os.getcwd()} {sys.executable} -m broker.cli.app"
    xterm = "xterm -T own -e sleep 1000"
    async with (
        world(image=False) as w,
        container(
            *(w, "work"),
            title="[work] own",
            inside=DIRECT,
            program=f"{program} x11 -- {xterm}",
            record='[label]\ncolour = "orange"\n',
        ),
    ):
        await wait_frames(w.comp, {"[work] own": {ORANGE}})
        await w.comp.screenshot(_shown() / "x11-brokerctl.png")


async def test_a_box_without_the_option_has_no_x_server():
    async with world(image=False) as w:
        answer = await brokerctl(
            *("run", "-q", "--bwrap", "--", "xterm", "-e", "true"), env=w.environ
        )
        assert answer.code == 1, answer
        assert "'brokerctl run --bwrap --x11 -- xterm' instead" in answer.err
        answer = await brokerctl("run", "--bwrap", "--", "false", env=w.environ)
        assert (answer.code, "X11" in answer.err) == (1, False), answer


async def test_end_of_x11_program_prints_nothing():
    """Xwayland reported each time that its connection was broken."""
    run = ("run", "-q", "--bwrap", "--x11", "--", "xterm", "-T", "boxed", "-e", "true")
    async with world(image=False) as w:
        answer = await brokerctl(*run, env=w.environ)
        assert answer.code == 0
        assert "vitrail" not in answer.out + answer.err


async def test_the_programs_exit_code_is_the_boxs():
    async with world(image=False) as w:
        answer = await brokerctl(
            *("run", "-q", "--bwrap", "--x11", "--", "sh", "-c", "exit 7"),
            env=w.environ,
        )
        assert answer.code == 7, answer


COPY_PASTE = """
for name in clipboard primary; do
printf "$name" | xclip -selection $name -i && sleep 1 && xclip -selection $name -o; echo
done
"""


@pytest.mark.skipif(not shutil.which("xclip"), reason="xclip is missing")
async def test_a_script_pastes_what_it_copied_without_a_window():
    """The compositor has no copy of a sandbox without the keyboard; the X server has."""
    argv = ("run", "-q", "--bwrap", "--x11", "--", "sh", "-c", COPY_PASTE)
    async with world(image=False) as w:
        answer = await brokerctl(*argv, env=w.environ)
        assert answer.out.split()[:2] == ["clipboard", "primary"], answer


SCREENS = """
import gi
gi.require_version("Gdk", "3.0")
from gi.repository import Gdk
display = Gdk.Display.get_default()
for number in range(display.get_n_monitors()):
    place = display.get_monitor(number).get_geometry()
    print("screen", place.width, place.height, flush=True)
"""


async def test_x11_programs_have_one_screen_whatever_the_desktop_has():
    """A game that lists screens would show some that do not exist."""
    script = f"python3 -c '{SCREENS}'; command -v xrandr >/dev/null && xrandr"
    argv = ("--", "env", "GDK_BACKEND=x11", "sh", "-c", script)
    async with world(image=False) as w:
        for _ in range(2):
            await w.comp.command("create_output")
        answer = await brokerctl("run", "-q", "--bwrap", "--x11", *argv, env=w.environ)
        assert answer.out.count("screen ") == 1, answer
        if shutil.which("xrandr"):
            assert answer.out.count(" connected ") == 1, answer
