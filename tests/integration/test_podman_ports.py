"""A port of a Podman container is the user's, by rule (``vitrail.Tcp``)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from broker.core.errors import UpstreamError
from broker.helpers.process.spawn import run_tool
from tests.integration.test_ports import forwarded
from tests.kit.brokerctl import running
from tests.kit.eventually import eventually
from tests.kit.needs import PID_NAMESPACES
from tests.kit.podman import SHARED, podman_settings, root_directory
from tests.kit.world import world

pytestmark = [PID_NAMESPACES, pytest.mark.long]
RECORD = """\
class = "persistent"
[launch]
kind = "podman"
rootfs = "{root}"
bind_read_only = [{shared}]
"""
TOOL = "/run/vitrail/vitrail-files"


async def test_a_port_of_a_container_is_reached_by_the_user():
    port = 20000 + os.getpid() % 10000
    server = f"""
    mkdir -p /tmp/www && echo hello > /tmp/www/index.html && cd /tmp/www
    exec python3 {TOOL} vitrail-services python3 -m http.server --bind 127.0.0.1 {port}
    """
    async with (
        podman_settings() as settings,
        world({}, start=False, image=False, extra=settings) as w,
    ):
        w.write_rules(f"vitrail.Tcp +{port} @adminvm work allow\n")
        shared = ", ".join(f'"{path}"' for path in SHARED if Path(path).exists())
        root = root_directory(w.base)
        w.write_record("work", RECORD.format(root=root, shared=shared))
        await w.start()
        words = ("run", "-q", "work", "--", "sh", "-c", server)
        async with running(*words, env=w.environ):
            await w.wait_event("stream.opened", service="vitrail.Call")
            async with forwarded(w, port, name="work") as ((address, number), _):
                url = f"http://{address}:{number}/"

                async def answers():
                    try:
                        return await run_tool(["curl", "-s", url]) == b"hello\n"
                    except UpstreamError:
                        return False  # it does not listen yet

                await eventually(answers, deadline=60)
