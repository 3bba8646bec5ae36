"""``brokerctl status`` names the program of a box."""

from __future__ import annotations

from tests.integration.test_box_session_bus import boxes
from tests.kit.brokerctl import brokerctl, running
from tests.kit.eventually import eventually
from tests.kit.needs import PID_NAMESPACES

pytestmark = PID_NAMESPACES


async def test_a_box_is_listed_with_its_program():
    # As its first process has the bus and the printer beside it.
    rules = "vitrail.Print * work @adminvm ask\n"
    async with boxes(rules=rules) as (w, _screen):
        for words in (("sleep", "1000"), ("sh", "-c", "sleep 1000; :")):
            async with running("run", "-q", "work", "--", *words, env=w.environ):

                async def listed(name=words[0]):
                    told = await brokerctl("status", env=w.environ)
                    rows = [line.split() for line in told.out.splitlines()]
                    return [row[2] for row in rows if row[0] == "work"] == [name]

                await eventually(listed)
                await brokerctl("stop", "work", env=w.environ)
