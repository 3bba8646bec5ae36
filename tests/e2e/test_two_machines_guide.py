"""docs/two-machines.md, step by step, with no other knowledge.

Nothing of the test kit but two homes and a screen: the words typed are those of
the guide, and a code that one machine shows is typed at the other.
"""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent

import pytest

from tests.kit.brokerctl import brokerctl
from tests.kit.eventually import eventually
from tests.kit.link.two_brokers import two
from tests.kit.wayland.compositor import wait_window, windows
from tests.kit.wayland.typed_text import typing

GUIDE = (Path(__file__).parents[2] / "docs/two-machines.md").read_text()

_BOOT_SECONDS = 120
"""For an emulated machine beside fifteen other processes: it boots for a minute then."""
# Step 3's, as it is there.
RECORD = dedent(re.search(r'(?m)^ +class = "disposable"\n(?: +\S.*\n)+', GUIDE)[0])


def typed_in_the_guide(prompt):
    """The commands after 'viewer$' or 'host$', in order."""
    return re.findall(rf"^ +{prompt}\$ +(\S.*)$", GUIDE, re.MULTILINE)


async def code_of(terminal):
    line = await terminal.wait("this machine's code: ")
    return re.search(r"code: ([0-9 ]+)", line)[1]


async def pair(viewer, host):
    """Step 2, in the guide's words."""
    (at_viewer,) = [c for c in typed_in_the_guide("viewer") if " pair " in c]
    (at_host,) = [c for c in typed_in_the_guide("host") if " pair " in c]
    async with typing(*at_viewer.split()[1:], env=viewer) as there:
        await there.wait("waiting on")
        async with typing(*at_host.split()[1:], env=host) as here:
            codes = await code_of(here), await code_of(there)
            here.type(codes[1])
            there.type(codes[0])
            assert (await here.code(), await there.code()) == (0, 0)


@pytest.mark.slow
async def test_the_guide_leads_to_a_window_in_its_order():
    async with two({"web": RECORD}, start=False, paired=False) as t:
        viewer, host = t.viewer.environ, t.host.environ
        # 1. Say where the link is.
        for side, key in ((t.viewer, "listen"), (t.host, "connect")):
            side.paths.config[0].mkdir(parents=True, exist_ok=True)
            link = side.paths.config[0] / "link.toml"
            link.write_text(f'{key} = "unix:{t.socket}"\n')
        await pair(viewer, host)  # 2.
        # 3. The record is on both.
        # 4. The host's broker; the viewer's is started by the first run.
        assert "vitrail-host" in typed_in_the_guide("host")
        t.host.words = []
        await t.host.start()
        (run,) = [c for c in typed_in_the_guide("viewer") if " run " in c]
        _, verb, record = run.split()
        program = ("--", "foot", "-T", "guided", "cat")
        words = (verb, "-d", record, *program)
        said = await brokerctl(*words, env=viewer, deadline=_BOOT_SECONDS)
        assert said.code == 0, said.err
        assert "start the broker" in said.err
        await wait_window(t.viewer.comp, title="guided")

        # 5. The same lease from both sides, and an end.
        for env, role in ((viewer, "viewer"), (host, "host")):
            (status,) = (await brokerctl("status", "--json", env=env)).objects
            assert (status["role"], status["link"]["state"]) == (role, "up")
            (lease,) = status["leases"]
            assert lease["record"] == "web"
        stopped = await brokerctl("stop", lease["sandbox"], env=host)
        assert stopped.code == 0, stopped.err

        async def empty():
            return not windows(await t.viewer.comp.tree())

        assert await eventually(empty)
