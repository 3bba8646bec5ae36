"""Programs of a box print on printers of the desktop, by rule."""

from __future__ import annotations

import base64

from tests.integration.test_box_session_bus import boxes, in_box
from tests.integration.test_printing import PRINTS_HERE, dark, printed
from tests.integration.test_sanitize import PDF
from tests.kit.cups import printers
from tests.kit.needs import PID_NAMESPACES
from tests.kit.wayland.compositor import short_directory

pytestmark = [PID_NAMESPACES, PRINTS_HERE]
RULES = """\
vitrail.Print + work @adminvm allow printer=Office
vitrail.Print + @anyvm @adminvm deny
"""
PRINT = f"""\
cd && printf %s {base64.b64encode(PDF).decode()} | base64 -d > a.pdf &&
exec /usr/bin/env python3 -I -S -B /run/vitrail/vitrail-files vitrail-print a.pdf
"""


async def test_a_box_prints_on_the_printer_of_the_rule():
    with short_directory() as folder:
        async with (
            printers(folder, "Home", "Office") as cups,
            boxes(rules=RULES, extra={**cups.env, "XDG_CACHE_HOME": str(folder)}) as (
                w,
                _screen,
            ),
        ):
            code, said = await in_box(w, "work", PRINT)
            assert code == 0, said
            (job,) = await printed(cups)
            assert (job.printer, job.title) == ("Office", "work: a.pdf")
            assert b"JavaScript" not in job.content
            pixels, width = dark(job.content)
            assert 500 < pixels < 30_000
            assert width == 300
            code, said = await in_box(w, "personal", PRINT)
            assert code != 0
            assert len(cups.jobs()) == 1
