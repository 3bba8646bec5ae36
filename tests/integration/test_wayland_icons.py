"""Icons of windows, as labwc of Debian unstable shows them in its title bars."""

from __future__ import annotations

import mmap
import os

import numpy as np
import pytest

from broker.core.streams.wayland_rules import WindowRules
from broker.ipc.worker import Fault
from broker.jail.wayland.scene import icon
from tests.integration.test_wayland_newer import decorated
from tests.kit.vm.newer_suite import NEWEST, newer
from tests.kit.wayland.client import Window, memfd
from tests.kit.wayland.pixels import frames, mask, near
from tests.kit.wayland.resizing import kept, picture_name
from tests.kit.wayland.stand import FRAME, GUEST, jailed
from tests.kit.workers import open_workers

TITLE_BARS = """<?xml version="1.0"?><labwc_config>
<core><decoration>server</decoration></core>
<theme><titlebar><layout>icon:close</layout><showTitle>yes</showTitle></titlebar></theme>
</labwc_config>"""
YELLOW = 0xFFFF00


def give_icon(c: Window, top: int, colour: int, side: int) -> None:
    """An application's own icon, all of one colour."""
    size = side * side * 4
    fd = memfd(size)
    with mmap.mmap(fd, size) as memory:
        memory[:] = (0xFF000000 | colour).to_bytes(4, "little") * (side * side)
    pool = c.make(c.shm, "create_pool", "wl_shm_pool", None, size, fds=[fd])
    os.close(fd)
    buffer = c.make(
        pool, "create_buffer", "wl_buffer", None, 0, side, side, side * 4, 0
    )
    manager = c.bind(icon.MANAGER)
    made = c.make(manager, "create_icon", icon.ICON)
    c.send(made, "add_buffer", buffer, 1)
    c.send(manager, "set_icon", top, made)


@pytest.mark.long
@pytest.mark.parametrize("own", [False, True])
async def test_title_bar_shows_an_icon_with_the_sandboxs_border(own):
    rules = WindowRules("work", color=FRAME)
    async with (
        newer("labwc", TITLE_BARS, suite=NEWEST) as comp,
        open_workers() as workers,
        jailed(comp, workers, rules) as it,
    ):

        def act(c: Window):
            surface, _ = decorated(c, 400, 300)
            top = next(o for o, k in c.kinds.items() if k == "xdg_toplevel")
            if own:
                give_icon(c, top, YELLOW, 64)
                c.send(surface, "commit")
                c.roundtrip()
            return it.settled()

        image = await it.client(act)
        assert [m.reason for m in it.closed() if m.fault is not Fault.NONE] == []
    kept(picture_name("icon-own" if own else "icon-ours"), image)
    (frame,) = [f for f in frames(image, FRAME) if f.w > 300]
    # The title bar is above the frame, the icon at its left.
    bar = image.crop((frame.x - 4, max(0, frame.y - 40), frame.x + 60, frame.y - 1))
    border = near(bar, FRAME, 40)
    assert border.sum() > 20, "no border in the sandbox's colour"
    picture = near(bar, YELLOW if own else 0xFAFAFA, 40)
    assert picture.sum() > 20
    # What the application drew lies inside the border on all sides.
    rows, columns = np.nonzero(picture)
    edge_rows, edge_columns = np.nonzero(border)
    if own:
        assert edge_rows.min() < rows.min() <= rows.max() < edge_rows.max()
        assert edge_columns.min() < columns.min()
        assert columns.max() < edge_columns.max()
    assert not mask(bar, GUEST).any()
