"""A real GTK 4 program and a pen, which the model compositor has, as none of our machines does."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio

from tests.kit.eventually import eventually
from tests.kit.wayland import gtk_pen
from tests.kit.wayland.compositor import short_directory
from tests.kit.wayland.model_compositor import model_compositor
from tests.kit.wayland.stand import filtered

TABLET, TOOL, SEAT = "zwp_tablet_v2", "zwp_tablet_tool_v2", "zwp_tablet_seat_v2"
PEN, PRESSURE = 0x140, 2
HALF = 65535 // 2


def gtk4() -> bool:
    """Whether the system's Python has GTK 4."""
    check = "import gi; gi.require_version('Gtk', '4.0')"
    return not subprocess.run(
        ["/usr/bin/python3", "-c", check], check=False, capture_output=True
    ).returncode


async def test_gtk_program_hears_a_pen_over_its_content_in_its_own_places():
    if not await trio.to_thread.run_sync(gtk4):
        pytest.skip("GTK 4 for Python is missing")
    with short_directory() as directory:
        display, told = directory / "wayland-0", directory / "told"
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "XDG_RUNTIME_DIR": str(directory),
            "GSK_RENDERER": "cairo",
            "GSETTINGS_BACKEND": "memory",
            "LANG": "C.UTF-8",
        }
        comp = SimpleNamespace(display=display, environment=environment)
        async with model_compositor(display) as model_side, filtered(comp) as it:
            it.run("/usr/bin/python3", gtk_pen.__file__, str(told))

            async def shown() -> bool:
                return any(
                    m.roots() and any(t.kind == SEAT for t in m.things.values())
                    for m in model_side.models
                )

            await eventually(shown)
            ((end, model),) = [
                pair
                for pair in zip(model_side.ends, model_side.models, strict=True)
                if pair[1].roots()
            ]
            await use(end, model, told)
            assert it.ends == []
            lines = told.read_text().splitlines()
    # The pen at (30, 20) of what the compositor has as the content's surface.
    assert "down pen 30 20 0.50" in lines, lines
    assert any(line.startswith("motion pen 40 25") for line in lines), lines
    assert lines[-1].startswith("up pen"), lines
    assert not [line for line in lines if " 9" in line], "what was over the frame"


async def use(end, model, told: Path) -> None:
    """The person's pen: over the frame, over the content, and over the frame again."""
    root = model.roots()[0]
    content = next(
        c for c in root.children if c.size() is not None and c.size() >= (200, 100)
    )
    seat = next(t for t in model.things.values() if t.kind == SEAT)
    tablet = model.server_made(seat, "tablet_added", TABLET)
    model.tell(tablet, "name", b"Secret Make")
    model.tell(tablet, "done")
    tool = model.server_made(seat, "tool_added", TOOL)
    model.tell(tool, "type", PEN)
    model.tell(tool, "capability", PRESSURE)
    model.tell(tool, "done")

    def press(surface, serial: int, x: int, y: int) -> None:
        model.tell(tool, "proximity_in", serial, tablet, surface)
        model.tell(tool, "motion", x * 256, y * 256)
        model.tell(tool, "frame", serial)
        model.tell(tool, "pressure", HALF)
        model.tell(tool, "down", serial + 1)
        model.tell(tool, "frame", serial + 1)
        model.tell(tool, "motion", (x + 10) * 256, (y + 5) * 256)
        model.tell(tool, "frame", serial + 2)
        model.tell(tool, "up")
        model.tell(tool, "frame", serial + 3)
        model.tell(tool, "proximity_out")
        model.tell(tool, "frame", serial + 4)

    press(root, 500, 90, 90)
    press(content, 600, 30, 20)
    press(root, 700, 90, 90)
    said, model.out = bytes(model.out), bytearray()
    end.send(said)

    async def heard() -> bool:
        return told.exists() and "\nup " in told.read_text()

    await eventually(heard)
