"""Containers of rootless Podman: by record, and by the hook of those people start."""

from __future__ import annotations

import os
from pathlib import Path

import trio

from tests.kit.brokerctl import brokerctl, running
from tests.kit.eventually import eventually
from tests.kit.needs import PID_NAMESPACES
from tests.kit.own_command import hooked_words, install_hook
from tests.kit.podman import (
    CONNECT_EACH,
    SECOND,
    SHARED,
    containers,
    podman_settings,
    podman_start,
    root_directory,
    shared_words,
)
from tests.kit.podman_store import run as podman
from tests.kit.records import shown_record
from tests.kit.wayland.compositor import wait_frames, wait_window, windows
from tests.kit.world import world

pytestmark = PID_NAMESPACES

ORANGE = (0xE6, 0x9F, 0x00)
RECORD = shown_record(
    'kind = "podman"',
    'rootfs = "{root}"',
    'command = ["foot", "-T", "contained", "sleep", "1000"]',
    "bind_read_only = [{shared}]",
    colour="orange",
    of="disposable",
    tables='[audio]\nplayback = "allow"\n',
)


def record_of(w) -> str:
    shared = ", ".join(f'"{path}"' for path in SHARED if Path(path).exists())
    return RECORD.format(root=root_directory(w.base), shared=shared)


HOOKED = shown_record('kind = "podman"', "{required}", colour="orange")
PROBE = (
    CONNECT_EACH
    + """\
for path in ("/run/vitrail/x", "/run/vitrail/vitrail.Audio"):
    try:
        os.symlink("/", path) if path.endswith("x") else os.unlink(path)
    except OSError as error:
        print(error.errno)
"""
)


def words(w, *more, name="work"):
    return hooked_words(w.base / "root", *more, name=name)[1:]


async def test_a_container_that_a_person_starts_by_podman_run():
    """Framed; its sockets are of no use to another one; its death cuts its streams."""
    async with podman_settings() as settings, world(image=False, extra=settings) as w:
        w.write_record("work", HOOKED.format(required=""))
        root_directory(w.base)
        await install_hook(w)
        foot = podman_start(
            w.environ, *words(w, "--name=mine"), "foot", "-T", "mine", "sleep", "1000"
        )
        try:
            await wait_window(w.comp, title="mine")
            await wait_frames(w.comp, {"[work] mine": {ORANGE}})
            begin = await w.only_event("lease.begin")
            assert begin["sandbox"] == "work"
            (sockets,) = (w.paths.runtime / "launch").glob("*/s")
            second = podman_start(
                w.environ,
                *("--rm", "--network=none", "--volume", f"{sockets}:/run/other"),
                *(*shared_words(), "--rootfs", f"{w.base / 'root'}:O"),
                *("python3", "-c", SECOND),
            )
            out, err = await trio.to_thread.run_sync(second.communicate)
            assert second.returncode == 0, (out, err)
            refused = await w.wait_event("stream.refused")
            assert "not in this container" in refused["reason"]
            # A second sandbox of a persistent record has no lease, and starts.
            again = podman_start(w.environ, *words(w), "sh", "-c", "ls /run/vitrail")
            _, err = await trio.to_thread.run_sync(again.communicate)
            assert again.returncode == 2, "no such directory"
            podman(w.environ, "kill", "mine")
            await w.wait_event("lease.end", sandbox="work")
            await eventually(lambda: _no_windows(w))
        finally:
            podman(w.environ, "rm", "-af", "-t", "0", check=False)
            await trio.to_thread.run_sync(foot.communicate)
        assert list((w.paths.runtime / "launch").glob("*")) == []


async def test_two_containers_that_start_at_the_same_time():
    """Each has a different lease, directory and name."""
    async with podman_settings() as settings, world(image=False, extra=settings) as w:
        text = HOOKED.format(required="required = true")
        w.write_record("work", text.replace("persistent", "disposable"))
        root_directory(w.base)
        await install_hook(w)
        # The user namespace that all later ones share.
        podman(w.environ, "unshare", "true")
        foot = ("foot", "-T", "shown", "sleep", "1000")
        names = ("one", "two")
        started = [
            podman_start(w.environ, *words(w, f"--name={name}"), *foot)
            for name in names
        ]
        try:
            await wait_window(w.comp, title="shown", count=2)
            begun = w.events("lease.begin")
            assert len({event["sandbox"] for event in begun}) == 2
            assert len({event["pid"] for event in begun}) == 2
            assert len(list((w.paths.runtime / "launch").glob("*/s"))) == 2
        finally:
            podman(w.environ, "rm", "-af", "-t", "0", check=False)
            for child in started:
                await trio.to_thread.run_sync(child.communicate)
        await eventually(lambda: _leases_ended(w))


async def _no_windows(w):
    return windows(await w.comp.tree()) == []


async def test_what_a_container_of_a_person_s_reaches():
    async with podman_settings() as settings, world(image=False, extra=settings) as w:
        w.write_record("work", HOOKED.format(required=""))
        root_directory(w.base)
        await install_hook(w)
        # Its root is us outside; its other users are others (user_namespaces(7)).
        for user in ("0", "1000"):
            child = podman_start(
                w.environ,
                *words(w, f"--user={user}:{user}"),
                *("python3", "-c", PROBE, str(w.comp.display), str(w.paths.control)),
                *("/run/vitrail/wayland-0", f"/run/user/{user}/pulse/native"),
            )
            out, err = await trio.to_thread.run_sync(child.communicate)
            assert child.returncode == 0, err
            assert out.split() == [
                *("FileNotFoundError", "FileNotFoundError", "connected", "connected"),
                *("30", "30"),
            ], "EROFS"
            await eventually(lambda: _leases_ended(w))


async def _leases_ended(w):
    return len(w.events("lease.begin")) == len(w.events("lease.end"))


async def test_without_a_broker_it_starts_unless_its_record_requires_it():
    async with podman_settings() as settings, world(image=False, extra=settings) as w:
        w.write_record("work", HOOKED.format(required=""))
        w.write_record("strict", HOOKED.format(required="required = true"))
        root_directory(w.base)
        await install_hook(w)
        await w.shutdown()
        shell = ("sh", "-c", "echo it runs; ls /run/vitrail")
        for name, runs in (("work", True), ("strict", False)):
            child = podman_start(w.environ, *words(w, name=name), *shell)
            out, err = await trio.to_thread.run_sync(child.communicate)
            assert ("it runs" in out) is runs, (name, err)
            assert (child.returncode == 2) is runs, (name, err)
        assert "exit status 1" in err
        assert containers(w.environ) == []
        await w.start()


async def test_a_container_of_a_record_has_a_framed_window_and_leaves_nothing():
    async with podman_settings() as settings, world(image=False, extra=settings) as w:
        w.write_record("work", record_of(w))
        async with running("run", "-q", "work", env=w.environ):
            await wait_window(w.comp, title="contained")
            begin = await w.only_event("lease.begin")
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
