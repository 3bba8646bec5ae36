"""Icons of disposables in Plasma's task bar, which looks for one when a window opens."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from broker.helpers.process.popen import our_program
from broker.helpers.process.spawn import DEVNULL, spawn
from tests.kit.eventually import eventually
from tests.kit.wayland.at_desktop import GREEN, ORANGE, at_desktop, records
from tests.kit.wayland.stand import SIZE

pytestmark = pytest.mark.long
RULES = "vitrail.Display * @anyvm @adminvm allow\n"
PANEL = (0, SIZE[1] - 40, SIZE[0], SIZE[1])


async def in_task_bar(screen, *colours):
    """Whether the panel has icons of these colours."""
    found = (await screen.picture("plasma-icons")).crop(PANEL).getcolors(1 << 20)
    return set(colours) <= {colour for n, colour in found if n > 50}


async def test_two_disposables_have_icons_of_their_own_at_once(tmp_path):
    out = Path(os.environ.get("VITRAIL_OUT") or tmp_path)
    texts = records("gtk3-demo") | {"web": records("konsole")["web"]}
    texts = {
        name: text.replace("persistent", "disposable") for name, text in texts.items()
    }
    children = []
    async with at_desktop("plasma", out, texts, RULES) as (screen, w):
        try:
            for name, colour in (("work", GREEN), ("web", ORANGE)):
                argv = our_program("broker.cli.app", "menu", "start", name)
                children.append(
                    spawn(argv, env=w.environ, stdout=DEVNULL, stderr=DEVNULL)
                )
                await eventually(partial(screen.counted, colour))
            # Not one group under one icon, which all without an entry are.
            await eventually(partial(in_task_bar, screen, GREEN, ORANGE))
        finally:
            for child in children:
                await child.stop()
