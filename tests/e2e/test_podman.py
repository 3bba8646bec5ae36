"""Containers of rootless Podman: by record, and by the hook of those people start."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from broker.peers.credentials import pid_namespaces_of_self
from tests.kit.brokerctl import brokerctl, running
from tests.kit.eventually import eventually
from tests.kit.podman import SHARED, containers, podman_settings, root_directory
from tests.kit.wayland.compositor import wait_frames, wait_window
from tests.kit.world import world

ORANGE = (0xE6, 0x9F, 0x00)
RECORD = """\
class = "disposable"
display = "allow"
[label]
colour = "orange"
[audio]
playback = "allow"
[launch]
kind = "podman"
rootfs = "{root}"
command = ["foot", "-T", "contained", "sleep", "1000"]
bind_read_only = [{shared}]
"""


@pytest.fixture(autouse=True)
def _kernel():
    """Whether the kernel can tell a container's pid namespace (Linux 6.11)."""
    if len(pid_namespaces_of_self()) == 0:
        pytest.skip("this kernel cannot tell a process's pid namespace")


def record_of(w) -> str:
    shared = ", ".join(f'"{path}"' for path in SHARED if Path(path).exists())
    return RECORD.format(root=root_directory(w.base), shared=shared)


async def test_a_container_of_a_record_has_a_framed_window_and_leaves_nothing():
    async with podman_settings() as settings, world(image=False, extra=settings) as w:
        w.write_record("work", record_of(w))
        async with running("run", "-q", "work", env=w.environ):
            await wait_window(w.comp, title="contained")
            (begin,) = w.events("lease.begin")
            title = f"[{begin['sandbox']}] contained"
            await wait_frames(w.comp, {title: {ORANGE}})
            shown = Path(os.environ.get("VITRAIL_OUT") or ".") / "launchers"
            shown.mkdir(parents=True, exist_ok=True)
            await w.comp.screenshot(shown / "podman.png")
            assert begin["sandbox"].startswith("work-")
            (keeper,) = [p for p in (await w.status()).processes if p.role == "keeper"]
            (window,) = await wait_window(w.comp, title="contained")
            assert window["pid"] == keeper.pid
            answer = await brokerctl("stop", begin["sandbox"], env=w.environ)
            assert answer.code == 0, answer
            await w.wait_event("lease.end", sandbox=begin["sandbox"])

        async def gone():
            return containers(w.environ) == []

        await eventually(gone)
        assert list((w.paths.runtime / "launch").glob("*")) == []
