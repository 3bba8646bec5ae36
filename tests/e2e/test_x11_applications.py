"""X11 programs in bubblewrap, each window in its frame: bridge, waypipe and filter.

Each is driven with a pointer and keys on a real compositor. The bridge is the file that
boxes and machines get, started as 'brokerctl x11' starts it.
"""

from __future__ import annotations

import shlex
import shutil
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from shims.bundle import x11_bridge
from tests.kit.eventually import eventually
from tests.kit.wayland.apps import boxed
from tests.kit.wayland.compositor import desktop, windows
from tests.kit.wayland.stand import CONFIG
from tests.kit.wayland.world import closed, opened, placed, resized, started, world

pytestmark = [
    pytest.mark.skipif(not shutil.which("bwrap"), reason="bubblewrap is missing"),
    pytest.mark.skipif(not shutil.which("Xwayland"), reason="xwayland is missing"),
]
TK = ("python3", "/shared/menus.py")
_TK_MENUS = """
import tkinter
root = tkinter.Tk()
root.geometry("500x300")
bar = tkinter.Menu(root)
file, more = tkinter.Menu(bar, tearoff=0), tkinter.Menu(bar, tearoff=0)
for menu in (file, more):
    for number in range(5):
        menu.add_command(label=f"item {number}")
file.add_cascade(label="more", menu=more)
bar.add_cascade(label="File", menu=file)
root.config(menu=bar)
tkinter.mainloop()
"""
PROGRAMS = {
    "tk": (TK, (20, 15)),
    "gtk3": (("gtk3-widget-factory",), (430, 270)),
    "qt5": (("featherpad",), (30, 16)),
}


@asynccontextmanager
async def x11(there, directory, *argv: str, direct: bool = False, **env: str):
    """The program in a box with a separate X server; ``direct``: without waypipe."""
    program = argv[0]
    if not shutil.which(program):
        pytest.skip(f"{program} is missing")
    directory.chmod(0o777)
    (directory / "vitrail_x11.py").write_bytes(x11_bridge())
    (directory / "menus.py").write_text(_TK_MENUS)
    start = ("/usr/bin/python3", "/shared/vitrail_x11.py", "--", *argv)
    toolkits = {"GDK_BACKEND": "x11", "QT_QPA_PLATFORM": "xcb", **env}
    display = there.it.path if direct else None
    async with boxed(
        there.it, *start, shared=directory, display=display, **toolkits
    ) as app:
        yield app
    assert not [e for e in there.it.ends if "refused" in str(e)]


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
async def test_a_menu_is_framed_and_goes_when_the_user_clicks_elsewhere(
    program, tmp_path
):
    argv, at = PROGRAMS[program]
    async with world("sway") as there, x11(there, tmp_path, *argv) as app:
        frame = await app.framed()
        await there.look()
        for _ in range(3):
            await opened(there, app, frame, at, press=True)
            await there.keep(f"x11-{program}-menu")
            await closed(there, app, frame)
        await there.look()
        assert there.it.ends == []


_UPPER_LEFT_MENU = """
import tkinter
root = tkinter.Tk()
root.geometry("100x80")
root.title("corner")
menu = tkinter.Menu(root, tearoff=0)
for number in range(8):
    menu.add_command(label=f"item {number} " + "x" * 40)
root.bind("<Button-1>", lambda _: menu.tk_popup(root.winfo_rootx(), root.winfo_rooty()))
def poll():
    x, y = root.winfo_pointerxy()
    if x < root.winfo_rootx() - 20 and y < root.winfo_rooty() - 20:
        print(root.winfo_screenwidth(), file=open("/shared/result", "w"), flush=True)
    root.after(20, poll)
poll()
tkinter.mainloop()
"""


@pytest.mark.slow
async def test_a_menu_left_of_its_window_and_above_it_is_used(tmp_path):
    """X11's pointer leaves the only screen for it."""
    config = CONFIG + "for_window [app_id=.*] floating enable\n"
    argv = ("python3", "-c", _UPPER_LEFT_MENU)
    async with (
        desktop(config_extra=config) as comp,
        started(comp, None) as there,
        x11(there, tmp_path, *argv) as app,
    ):
        await app.framed()
        await placed(there, {"corner": (1172, 712)})
        frame = await app.framed()

        async def posted():
            if not app.shown_popups():
                await there.click(frame.x + 50, frame.y + 50)
            return app.shown_popups()

        ((x, y, _, _),) = await eventually(posted)
        assert max(x, y) < -50
        result = tmp_path / "result"
        for step in range(3):
            await there.move(frame.x + x + 20 + step, frame.y + y + 20)
        await eventually(result.exists)
        assert there.it.ends == []


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["1.5", "2"])
async def test_a_menu_of_tk_at_other_scales(scale, tmp_path):
    """Places are X11's pixels, which are the picture's at each scale."""
    argv, (x, y) = PROGRAMS["tk"]
    at = (round(x * float(scale)), round(y * float(scale)))
    config = CONFIG + f"output HEADLESS-1 scale {scale}\n"
    async with (
        desktop(config_extra=config) as comp,
        started(comp, None) as there,
        x11(there, tmp_path, *argv) as app,
    ):
        app.it.scale = float(scale)
        frame = await app.framed()
        await there.look(slack=1)
        for _ in range(3):
            await opened(there, app, frame, at, press=True)
            await there.keep("menu")
            await closed(there, app, frame)
        await there.look(slack=1)
        assert there.it.ends == []


@pytest.mark.long
@pytest.mark.parametrize("kind", ["sway", "weston", "kwin"])
@pytest.mark.parametrize("program", ["xterm", "xclock", "xcalc", "xeyes"])
async def test_an_x11_program_stays_in_its_frame_while_it_is_resized(
    program, kind, tmp_path
):
    argv = (program, "-geometry", "80x24" if program == "xterm" else "400x400")
    async with world(kind) as there, x11(there, tmp_path, *argv) as app:
        frame = await app.framed()
        await there.look()
        await resized(there, frame)
        await there.keep(f"x11-{program}-{kind}")
        assert there.it.ends == []


@pytest.mark.long
async def test_two_hundred_menus_end_no_connection(tmp_path):
    """Of three programs of one X server, in turn."""
    words = " & ".join(" ".join(argv) for argv, _ in PROGRAMS.values())
    async with (
        world("sway") as there,
        x11(there, tmp_path, "sh", "-c", f"{words} & wait") as app,
    ):
        comp = there.it.comp

        async def shown():
            return len(windows(await comp.tree())) == len(PROGRAMS)

        await eventually(shown)
        ids = {"tk": "Tk", "gtk3": "Gtk3-widget-factory", "qt5": "FeatherPad"}
        for number in range(200):
            program = [*PROGRAMS][number % len(PROGRAMS)]
            x, y = PROGRAMS[program][1]
            await comp.command(f'[app_id=".*{ids[program]}"] focus')
            (window,) = [
                w for w in windows(await comp.tree()) if ids[program] in w["app_id"]
            ]
            place = window["rect"]
            await there.click(place["x"] + x, place["y"] + y)
            with trio.move_on_after(3):
                while not app.shown_popups():
                    await trio.sleep(0.02)
            await there.click(5, 5)

            async def gone():
                return not app.shown_popups()

            await eventually(gone)
            assert there.it.ends == [], (number, program)


@pytest.mark.slow
@pytest.mark.parametrize("selection", ["clipboard", "primary"])
async def test_what_is_copied_crosses_both_ways(selection, tmp_path):
    """X11's selection, and the compositor's, with more than one property holds.

    Not through waypipe: from wl-copy to wl-paste through one waypipe server more than a
    pipe holds does not arrive either.
    """
    for program in ("xclip", "wl-copy"):
        if not shutil.which(program):
            pytest.skip(f"{program} is missing")
    primary = "-p" if selection == "primary" else ""
    script = (
        "head -c 3000000 /dev/urandom | base64 -w0 > /tmp/data; "
        f"xclip -selection {selection} -i /tmp/data; "
        f"until wl-paste {primary} -n > /tmp/there 2>/dev/null && cmp /tmp/data /tmp/there; "
        "do sleep 0.2; done; echo there > /shared/result; "
        f"wl-copy {primary} < /tmp/data; "
        f"until xclip -selection {selection} -o > /tmp/back && cmp /tmp/data /tmp/back; "
        "do sleep 0.2; done; echo back >> /shared/result; sleep 100"
    )
    async with (
        world("sway") as there,
        x11(there, tmp_path, "xterm", "-e", "sh", "-c", script, direct=True),
    ):

        async def crossed():
            result = tmp_path / "result"
            return result.exists() and result.read_text() == "there\nback\n"

        await eventually(crossed, deadline=60)
        assert there.it.ends == []


async def dragged(there, begin: str, end: str, files) -> None:
    """Drag from the left half of one window to the right half of another."""
    told = files[end]
    to = (0, 0)

    async def came(word: str, after: int, seconds: float) -> bool:
        with trio.move_on_after(seconds):
            while word not in told.read_text()[after:]:
                await there.move(to[0] + time.monotonic_ns() % 5, to[1])
        return word in told.read_text()[after:]

    for _ in range(8):
        tree = windows(await there.it.comp.tree())
        places = {window["name"][-2:]: window["rect"] for window in tree}
        one, other = places[begin], places[end]
        x, y = one["x"] + 70, one["y"] + one["height"] // 2
        to = other["x"] + other["width"] - 70, other["y"] + other["height"] // 2
        before = len(told.read_text())
        await there.move(x, y)
        await there.press(True)
        for step in range(1, 6):
            await there.move(x + 8 * step, y + step)
        over = await came("motion", before, 10)
        # A source that lets go before it has its target's answer drops nothing.
        await came("dropped", before, 0.5)
        await there.press(False)
        if over and await came(f"dropped from {begin}", before, 5):
            return
        await there.move(5, 5)
    pytest.fail(f"nothing dropped from {begin} on {end}: {told.read_text()}")


@pytest.mark.slow
async def test_drags_between_x11_windows_and_wayland_windows(tmp_path):
    source = Path(__file__).parents[1] / "kit/wayland/gtk_drag.py"
    (tmp_path / "gtk_drag.py").write_bytes(source.read_bytes())
    files = {name: tmp_path / name for name in ("AA", "BB", "WW")}
    words = "".join(
        f"{'GDK_BACKEND=wayland ' if name == 'WW' else ''}/usr/bin/python3 "
        f"/shared/gtk_drag.py 3 {name} /shared/{name} text 'from {name}' & "
        for name in files
    )
    async with world("sway") as there, x11(there, tmp_path, "sh", "-c", f"{words}wait"):

        async def ready():
            return len(windows(await there.it.comp.tree())) == len(files)

        await eventually(ready, deadline=60)
        await placed(there, {"AA": (50, 50), "BB": (500, 50), "WW": (50, 400)})
        for begin, end in (("AA", "BB"), ("BB", "WW"), ("WW", "AA"), ("AA", "AA")):
            await dragged(there, begin, end, files)
        assert there.it.ends == []


@pytest.mark.slow
async def test_the_x_server_ends_with_its_last_program_and_comes_back(tmp_path):
    """Three programs, one after the other, with three Xwaylands."""
    ended = "until ! pgrep -x Xwayland; do sleep 0.2; done"
    seen = "until test -e /shared/seen-$0; do sleep 0.05; done"
    once = f"xterm -T xterm-$n -e sh -c '{seen}' $n; {ended}"
    script = f"for n in 1 2 3; do {once}; done; exit 0"
    async with (
        world("sway") as there,
        x11(there, tmp_path, "sh", "-c", script) as app,
    ):
        for number in (1, 2, 3):

            async def shown(number=number):
                titles = [w["name"] for w in windows(await there.it.comp.tree())]
                return [t for t in titles if f"xterm-{number}" in t]

            await eventually(shown)
            (tmp_path / f"seen-{number}").touch()
        with trio.fail_after(30):
            assert await app.child.wait() == 0


@pytest.mark.slow
async def test_programs_that_follow_each_other_all_find_the_x_server(tmp_path):
    """Each comes as the one before it goes, when Xwayland may end."""
    if not shutil.which("x11perf"):
        pytest.skip("x11perf is missing")
    once = "x11perf -reps 200 -repeat 1 -rect500 >&2"
    script = f"for n in $(seq 20); do {once} || exit 1; done; exit 0"
    async with world("sway") as there, x11(there, tmp_path, "sh", "-c", script) as app:
        with trio.fail_after(120):
            assert await app.child.wait() == 0, app.said()
        assert there.it.ends == []


TITLES = {
    "xterm": ("xterm", "-T", "Тест Ω 日本", "-e", "sleep", "60"),
    "xclock": ("xclock", "-title", "Uhr Größe Ω"),
    "xmessage": ("xmessage", "-title", "Сообщение Ελλάδα", "text"),
}
"""Programs that set WM_NAME alone, as COMPOUND_TEXT made by libX11."""


@pytest.mark.slow
async def test_a_title_is_read_in_its_own_encoding(tmp_path):
    for program in TITLES:
        if not shutil.which(program):
            pytest.skip(f"{program} is missing")
    words = " & ".join(map(shlex.join, TITLES.values()))
    argv = ("sh", "-c", f"{words} & wait")
    async with world("sway") as there, x11(there, tmp_path, *argv, LC_ALL="C.UTF-8"):

        async def untitled():
            names = [w["name"] or "" for w in windows(await there.it.comp.tree())]
            titles = [title for _program, _option, title, *_ in TITLES.values()]
            return [t for t in titles if not any(t in name for name in names)]

        async def titled():
            return await untitled() == []

        assert await eventually(titled)


# A window inside of another one, mapped, that becomes a window of its own (tool panes that
# are torn off); and one that was created, mapped and reparented in one go.
_TORN_OFF = """
import ctypes, sys, time
x = ctypes.CDLL("libX11.so.6")
for name in ("XOpenDisplay", "XDefaultRootWindow", "XCreateSimpleWindow"):
    getattr(x, name).restype = ctypes.c_void_p if name == "XOpenDisplay" else ctypes.c_ulong
d = ctypes.c_void_p(x.XOpenDisplay(None))
root = ctypes.c_ulong(x.XDefaultRootWindow(d))
def window(parent, name, width):
    made = ctypes.c_ulong(x.XCreateSimpleWindow(d, parent, 0, 0, width, 200, 0, 0, 0xff0000))
    x.XStoreName(d, made, name.encode())
    return made
outer = window(root, "outer", 300)
inner = window(outer, "torn off", 260)
late = window(outer, "torn late", 240)
x.XMapWindow(d, outer)
x.XMapWindow(d, inner)
x.XReparentWindow(d, inner, root, 0, 0)
x.XSync(d, 0)
time.sleep(1)
x.XReparentWindow(d, late, root, 0, 0)
x.XMapWindow(d, late)
x.XSync(d, 0)
time.sleep(60)
"""


@pytest.mark.slow
async def test_a_window_that_is_torn_off_is_shown(tmp_path):
    (tmp_path / "torn.py").write_text(_TORN_OFF)
    argv = ("python3", "/shared/torn.py")
    async with world("sway") as there, x11(there, tmp_path, *argv):

        async def shown():
            names = [w["name"] or "" for w in windows(await there.it.comp.tree())]
            wanted = ("outer", "torn off", "torn late")
            return all(any(one in name for name in names) for one in wanted)

        assert await eventually(shown), windows(await there.it.comp.tree())
        assert there.it.ends == []
