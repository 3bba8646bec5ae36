"""How smooth the manager's long lists are: 200 sandboxes, and a log of a million events.

    python -m tests.bench.manager.lists [--events N]

In a window on a headless sway: a list of N rows is scrolled from end to end in 300
steps, one for each frame, and the time of its own work for each frame is measured
(processor time, so that other work on the machine does not count).  Then the questions
that the activity page asks the log: the newest page, pages of a filter, and the oldest.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from broker.cli.manager.following import RecordRows
from broker.core.paths import find_paths
from tests.bench.manager.__main__ import RECORD, fill
from tests.kit.wayland.compositor import desktop

STEPS = 300
SCROLL = """
import json, sys, time
from broker.cli.manager.toolkit import Adw, GLib, Gtk
from broker.cli.manager.pages.activity import ActivityPage, EventRow
from broker.cli.manager.following import SandboxRow
from broker.cli.manager.list_view import ListPage
from broker.cli.manager.pages.sandbox_page import SandboxLine
kind, count, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
found = []
def begin(app):
    window = Adw.ApplicationWindow(application=app, default_width=960, default_height=680)
    began = time.process_time()
    if kind == "sandboxes":
        page = ListPage("Sandboxes", Adw.Bin, lambda place, row: place.set_child(SandboxLine(row, print).widget), spoken=lambda row: row.name)
        page.show([(f"box-{n}", SandboxRow(f"box-{n}", "box", "title", "green")) for n in range(count)])
        scrolled = page.widget
    else:
        page = ActivityPage(print, print, None, None)
        rows = [EventRow(n, n * 10**9, "decision", "box", f"box decision {n} " * 5) for n in range(count, 0, -1)]
        page._show(rows, more=False)
        scrolled = page._list.widget
    window.set_content(page.widget)
    window.present()
    found.append(time.process_time() - began)
    state = {"step": 0, "at": None}
    def tick(_widget, _clock):
        now = time.process_time()
        adjustment = scrolled.get_vadjustment()
        most = adjustment.get_upper() - adjustment.get_page_size()
        if most <= 0:
            return True
        if state["at"] is not None:
            found.append(now - state["at"])
        state["at"] = now
        state["step"] += 1
        adjustment.set_value(most * state["step"] / steps)
        if state["step"] > steps:
            app.quit()
            return False
        return True
    window.add_tick_callback(tick)
app = Adw.Application()
app.connect("activate", begin)
app.run([])
print(json.dumps(found))
"""


async def scroll(kind: str, count: int) -> None:
    """Scroll a list, and print the work for a frame."""
    async with desktop() as comp:
        env = {
            **os.environ,
            **comp.environment,
            "GSK_RENDERER": "cairo",
            "GDK_BACKEND": "wayland",
            "PYTHONPATH": os.environ.get("PYTHONPATH", "."),
        }
        words = [sys.executable, "-c", SCROLL, kind, str(count), str(STEPS)]
        done = await trio.run_process(
            words, env=env, capture_stdout=True, stderr=subprocess.DEVNULL
        )
    made, *frames = json.loads(done.stdout)
    frames.sort()
    print(
        f"{count} {kind}: made in {made * 1e3:.0f} ms; work for a frame: median "
        f"{statistics.median(frames) * 1e3:.1f} ms, 95 % within "
        f"{frames[int(len(frames) * 0.95)] * 1e3:.1f} ms, most {frames[-1] * 1e3:.1f} ms"
    )


def records(count: int) -> None:
    """Print how long it takes to read so many records, as after an event."""
    with TemporaryDirectory() as place:
        folder = Path(place) / "config/vitrail/sandboxes.d"
        folder.mkdir(parents=True)
        (Path(place) / "run").mkdir(mode=0o700)
        for n in range(count):
            (folder / f"box-{n}.toml").write_text(RECORD.format(number=n))
        paths = find_paths(
            {
                "HOME": place,
                "XDG_CONFIG_HOME": f"{place}/config",
                "XDG_CONFIG_DIRS": f"{place}/none",
                "XDG_RUNTIME_DIR": f"{place}/run",
            }
        )
        rows = RecordRows(paths)
        for again in ("first", "again"):
            began = time.process_time()
            assert len(rows.read()) == count
            took = (time.process_time() - began) * 1e3
            print(f"{count} records read, {again}: {took:.0f} ms")


async def questions(events: int) -> None:
    """Print how long the activity page's questions to the log take."""
    from broker.cli.manager.pages.activity import EventQuery, EventRow, read_events
    from broker.core.paths import Paths

    with TemporaryDirectory() as place:
        paths = Paths(Path(place) / "run", Path(place), Path(place), ())
        await fill(paths.audit, events)
        oldest = EventRow(700, 0, "", "", "")
        for name, query, before in (
            ("newest page", EventQuery(), None),
            ("newest of a sandbox", EventQuery("sandbox-7"), None),
            ("newest decisions of a sandbox", EventQuery("box-3", "decision"), None),
            ("a name that nothing has", EventQuery("nobody"), None),
            ("oldest page", EventQuery(), oldest),
            ("oldest decisions of a sandbox", EventQuery("box-3", "decision"), oldest),
        ):
            began = time.process_time()
            rows = read_events(paths, query, before)
            took = (time.process_time() - began) * 1e3
            print(f"{events} events, {name}: {len(rows)} rows in {took:.0f} ms")


async def main(events: int) -> None:
    """Measure."""
    records(200)
    await scroll("sandboxes", 200)
    await scroll("events", 20_000)
    await questions(events)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench.manager.lists")
    parser.add_argument("--events", type=int, default=1_000_000)
    trio.run(main, parser.parse_args().events)
