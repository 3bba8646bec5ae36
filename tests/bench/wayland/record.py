"""Record sessions of real applications: seeds of the fuzz target, food of the benchmark.

    python -m tests.bench.wayland.record [NAME...]

Each program runs on a headless sway through a filter that writes down what it
is fed, while a pointer opens its menus.  Ids depend on what the filter itself
asks the compositor for: record again when that changes.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import trio

from broker.jail.worker.wayland.connection import WaylandConnection
from tests.bench.wayland import firefox
from tests.kit.wayland import sessions
from tests.kit.wayland.compositor import desktop, wait_window
from tests.kit.wayland.input import Pointer
from tests.kit.wayland.stand import CONFIG, SIZE, filtered


class Recording(WaylandConnection):
    """A connection that keeps the bytes that it was fed."""

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        self.chunks: list[tuple[str, bytes, int]] = []
        core = self.core
        sessions.crop_by_viewports(core)
        sessions.without_time(core)
        feed_client, feed_server = core.from_client, core.from_server

        def client(data, fds, now):
            self.chunks.append(("c", data, len(fds)))
            feed_client(data, fds, now)

        def server(data, fds, now):
            self.chunks.append(("s", data, len(fds)))
            feed_server(data, fds, now)

        core.from_client, core.from_server = client, server  # type: ignore[method-assign]

    async def _hurry(self) -> None:
        """Do nothing that a replay, which has no time, would not do."""
        await trio.sleep_forever()


PROGRAMS: dict[str, tuple[list[str], float, tuple[tuple[int, int], ...]]] = {
    "foot": (["foot", "sh", "-c", "ls -l /usr; sleep 60"], 3, ((50, 50),)),
    "gtk3-demo": (["gtk3-demo"], 3, ((100, 100), (60, 30))),
    "gtk3-widget-factory": (["gtk3-widget-factory"], 4, ((430, 270), (50, 312))),
    "gtk4-demo": (["gtk4-demo"], 4, ((-76, 28), (60, 30))),
    "gtk4-widget-factory": (["gtk4-widget-factory"], 4, ((500, 262), (50, 340))),
    "featherpad": (["featherpad"], 3, ((30, 18), (70, 18))),
    "mpv": (["mpv", "--no-config", "--vo=wlshm", "--ao=null", "--loop", "CLIP"], 3, ((300, 300),)),
    "firefox": (["firefox-esr", "--no-remote", "--profile", "PLACE/profile", "PAGE"], 12, ((-30, 62),)),
    "chromium": (
        ["chromium", "--no-sandbox", "--ozone-platform=wayland", "--disable-gpu", "--no-first-run", "--user-data-dir=PLACE/chromium", "PAGE"], 8, ((-30, 62),),
    ),
    "xwayland": (["Xwayland", ":77", "-ac"], 3, ((300, 300),)),
    "weston-subsurfaces": (["weston-subsurfaces"], 4, ()),
    "weston-presentation-shm": (["weston-presentation-shm"], 4, ()),
    "weston-terminal": (["weston-terminal"], 3, ((100, 100), (20, 20))),
    "weston-scaler": (["weston-scaler"], 2, ()),
    "weston-cliptest": (["weston-cliptest"], 2, ((100, 100),)),
}  # fmt: skip


async def record(place: Path, name: str) -> list[tuple[str, bytes, int]]:
    """The longest of a program's connections."""
    argv, seconds, clicks = PROGRAMS[name]
    words = {"CLIP": place / "clip.webm", "PAGE": place / "page.html"}
    argv = [str(words.get(a, a.replace("PLACE", str(place)))) for a in argv]
    (place / "profile").mkdir(exist_ok=True)
    made: list[Recording] = []

    def connection(*args, **options) -> Recording:
        made.append(Recording(*args, **options))
        return made[-1]

    async with (
        desktop(config_extra=CONFIG) as comp,
        filtered(comp, sessions.RULES, make=connection) as it,
    ):
        with await trio.to_thread.run_sync(Pointer, comp.display, SIZE) as mouse:
            await trio.to_thread.run_sync(mouse.move, 5, 5)
            it.run(
                *argv,
                HOME=str(place),
                QT_QPA_PLATFORM="wayland",
                GTK_A11Y="none",
                MOZ_ENABLE_WAYLAND="1",
            )
            (window, *_) = await wait_window(comp, title="[work]", deadline=40)
            await trio.sleep(seconds / 2)
            (window, *_) = await wait_window(comp, title="[work]")
            rect = window["rect"]
            for x, y in clicks:
                at = rect["x"] + (x if x >= 0 else rect["width"] + x), rect["y"] + y
                await trio.to_thread.run_sync(
                    mouse.move, rect["x"] + 200, rect["y"] + 200
                )
                await trio.to_thread.run_sync(mouse.click, *at)
                await trio.sleep(1)
            for step in range(8):
                await comp.command(f"resize set {600 + 20 * step} {400 + 10 * step}")
                await trio.sleep(0.05)
            await trio.sleep(seconds / 2)
            longest = max(made, key=lambda c: sum(len(data) for _, data, _ in c.chunks))
            return list(longest.chunks)


def main() -> None:
    """Entry point."""
    corpus = Path(__file__).resolve().parents[2] / "corpus/wayland"
    with tempfile.TemporaryDirectory(prefix="vt-") as place:
        firefox.clip(Path(place))
        for name in sys.argv[1:] or PROGRAMS:
            chunks = trio.run(record, Path(place), name)
            sessions.replay(chunks)
            out = corpus / f"{name}.session"
            out.write_bytes(sessions.pack(chunks))
            print(
                f"{name}: {len(chunks)} reads, {out.stat().st_size} bytes", flush=True
            )


if __name__ == "__main__":
    main()
