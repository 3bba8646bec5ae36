"""What the user mounts below a directory of a real Flatpak application, while that runs."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest
import trio

from broker.helpers.mounts.namespaces import mount_table
from broker.net.peers.flatpak_instances import leaders_of
from tests.e2e.test_flatpak import APP, RECORD, finished, plain
from tests.kit.brokerctl import running
from tests.kit.eventually import eventually
from tests.kit.flatpak import LAUNCH, applications, environment
from tests.kit.needs import PID_NAMESPACES
from tests.kit.records import shown_record
from tests.kit.shared_mounts import (
    mount_memory,
    namespaces_with_later_mounts,
    run_in_shared_mounts,
    unmount,
)
from tests.kit.wayland.compositor import wait_window
from tests.kit.world import world

pytestmark = [PID_NAMESPACES, pytest.mark.long]


def separated(w):
    """The first processes of the application's instances whose mounts are private."""
    leaders = [leader for leader, _ in leaders_of(w.paths.runtime.parent, APP)]
    return [
        leader
        for leader in leaders
        if not any(b"master:" in b" ".join(mount) for mount in mount_table(leader))
    ]


def others_with_later_mounts():
    """All but Flatpak's proxies of D-Bus, which have the whole of this machine's files."""
    pairs = namespaces_with_later_mounts()
    return [pair for pair in pairs if pair[1] != "xdg-dbus-proxy"]


NESTED = shown_record(
    *LAUNCH, 'bind_read_only = ["{folder}/a/b/hooks"]', colour="orange"
)
RENAMES = (
    "cd {folder}; mv a old; mv a/b old; mkdir -p a/b/hooks; echo evil >a/b/hooks/x"
)


async def test_directory_above_read_only_path_keeps_its_name():
    async with world(image=False) as w:
        env = environment(w)
        folder = w.base / "shared"
        (folder / "a/b/hooks").mkdir(parents=True)
        async with applications(w.base, env, Foot="", Other=""):
            w.write_record("term", NESTED.format(folder=folder))
            argv = ("run", "-q", "--flatpak", APP, "--", "-T", "flat", "sleep", "1000")
            async with running(*argv, env=env):
                await wait_window(w.comp, title="flat")
                script = f"{RENAMES.format(folder=folder)}; echo new >new"
                child = plain(w, APP, "-c", script, program="sh")
                _, err = await finished(child)
                assert sorted(path.name for path in folder.iterdir()) == ["a", "new"]
                assert [path.name for path in (folder / "a").iterdir()] == ["b"]
                assert list((folder / "a/b/hooks").iterdir()) == [], err


async def an_application():
    async with world(image=False) as w:
        env = environment(w)
        folder = w.base / "shared"
        (folder / "vault").mkdir(parents=True)
        async with applications(w.base, env, Foot="", Other=""):
            w.write_record("term", RECORD.format(folder=folder))
            argv = ("run", "-q", "--flatpak", APP, "--", "-T", "flat", "sleep", "1000")
            async with running(*argv, env=env):
                await wait_window(w.comp, title="flat")
                await eventually(lambda: len(separated(w)) == 1, deadline=20)
                # As the portal starts it: not by brokerctl.
                second = plain(w, APP, "-T", "second", "sleep", "1000", program="foot")
                try:
                    await wait_window(w.comp, title="second")
                    await eventually(lambda: len(separated(w)) == 2)
                    for leader in separated(w):
                        there = Path(f"/proc/{leader}/root/{folder}/vault")
                        for target in (folder / "vault", folder):
                            mount_memory(target)
                            assert not others_with_later_mounts()
                            opened = os.open(there, os.O_RDONLY)
                            assert os.listdir(opened) == []
                            unmount(target)  # not busy
                            os.close(opened)
                finally:
                    second.kill()
                    await finished(second)


def test_later_mount_absent_in_each_instance():
    run_in_shared_mounts(partial(trio.run, an_application))
