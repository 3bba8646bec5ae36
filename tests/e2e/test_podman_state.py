"""Podman: a container's environment, output and files by its record, and its removal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.kit.brokerctl import brokerctl
from tests.kit.eventually import eventually
from tests.kit.needs import PID_NAMESPACES
from tests.kit.podman import (
    SHARED,
    containers,
    podman_settings,
    podman_start,
    root_directory,
    shared_words,
)
from tests.kit.podman_store import run as podman
from tests.kit.records import shown_record
from tests.kit.world import world

pytestmark = PID_NAMESPACES

RECORD = shown_record(
    'kind = "podman"', 'rootfs = "{root}"', "bind_read_only = [{shared}]", of="{kind}"
)
HOOKED = shown_record('kind = "podman"', "required = true", of="disposable")


def write_record(w, name, kind):
    root = w.base / "root"
    if not root.exists():
        root_directory(w.base)
    shared = ", ".join(f'"{path}"' for path in SHARED if Path(path).exists())
    w.write_record(name, RECORD.format(kind=kind, root=root, shared=shared))


def run_with_input(w, text, *words):
    """'brokerctl run' with standard input of a pipe; returns its output."""
    argv = [sys.executable, "-m", "broker.cli.app", "run", "-q", *words]
    done = subprocess.run(
        argv,
        input=text,
        env=w.environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.long
async def test_standard_input_and_a_home_that_stays():
    async with podman_settings() as settings, world(image=False, extra=settings) as w:
        write_record(w, "kept", "persistent")
        script = "cat >note; echo $HOME; cat note"
        words = ("kept", "--", "sh", "-c", script)
        out = await trio.to_thread.run_sync(run_with_input, w, "a line\n", *words)
        assert out.splitlines()[-2:] == ["/home/user", "a line"]
        again = await brokerctl("run", "-q", "kept", "--", "cat", "note", env=w.environ)
        assert (again.code, again.lines[-1:]) == (0, ["a line"])
        answer = await brokerctl("sandbox", "snapshot", "kept", "before", env=w.environ)
        assert answer.code == 0, answer
        answer = await brokerctl("run", "-q", "kept", "--", "rm", "note", env=w.environ)
        assert answer.code == 0, answer
        answer = await brokerctl(
            "sandbox", "restore", "kept", "before", "--yes", env=w.environ
        )
        assert answer.code == 0, answer
        again = await brokerctl("run", "-q", "kept", "--", "cat", "note", env=w.environ)
        assert (again.code, again.lines[-1:]) == (0, ["a line"])


async def test_a_home_is_in_use_as_long_as_its_container_lives():
    """Also when 'brokerctl run' is killed: Podman's conmon has the lock then."""
    async with podman_settings() as settings, world(image=False, extra=settings) as w:
        write_record(w, "kept", "persistent")
        ready = w.paths.homes / "kept/current/tree/ready"
        script = "ls -l /proc/self/fd >ready; exec sleep 1000"
        argv = [sys.executable, "-m", "broker.cli.app", "run", "-q", "kept", "--"]
        running = subprocess.Popen([*argv, "sh", "-c", script], env=w.environ)
        await eventually(ready.exists)
        await w.wait_event("lease.begin", sandbox="kept")
        # What ends the container with it is killed as well.
        for watching in watches(running):
            os.kill(watching, signal.SIGKILL)
        running.kill()
        await trio.to_thread.run_sync(running.wait)
        answer = await brokerctl("sandbox", "snapshot", "kept", "x", env=w.environ)
        assert "is in use" in answer.err, answer
        assert str(w.paths.homes) not in ready.read_text(), "it is not the container's"
        answer = await brokerctl("stop", "kept", env=w.environ)
        assert answer.code == 0, answer

        async def again():
            run = ("run", "-q", "kept", "--", "cat", "ready")
            return (await brokerctl(*run, env=w.environ)).code == 0

        await eventually(again)
        # Podman's clearing away after a run does not keep it from the next one.
        assert await again()


def watches(running):
    """The numbers of the processes that wait for the end of a 'brokerctl run'."""
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text()
    found = [pid for pid in map(int, children.split()) if comm(pid) == "sh"]
    assert found
    return found


def comm(pid):
    return Path(f"/proc/{pid}/comm").read_text().strip()


async def test_container_ends_with_the_brokerctl_that_is_killed():
    """Its window would stay, of a program that the user believes to have ended."""
    async with podman_settings() as settings, world(image=False, extra=settings) as w:
        write_record(w, "brief", "disposable")
        argv = [sys.executable, "-m", "broker.cli.app", "run", "-q", "brief", "--"]
        running = subprocess.Popen([*argv, "sleep", "1000"], env=w.environ)
        try:
            await w.wait_event("lease.begin")
            assert list((w.paths.runtime / "oci").glob("cid-*"))
        finally:
            running.kill()
            await trio.to_thread.run_sync(running.wait)
        await w.wait_event("lease.end")
        await eventually(lambda: not containers(w.environ))
        await eventually(lambda: not list((w.paths.runtime / "oci").glob("cid-*")))


async def test_a_disposable_one_leaves_nothing():
    """No container, image, overlay, mount, socket, directory or control group."""
    async with podman_settings() as settings, world(image=False, extra=settings) as w:
        write_record(w, "brief", "disposable")
        script = "echo x >~/x; echo x >/tmp/x; cat /proc/sys/kernel/hostname"
        run = ("run", "-q", "brief", "--", "sh", "-c", script)
        found = []
        for _ in range(2):
            answer = await brokerctl(*run, env=w.environ)
            assert answer.code == 0, answer
            number = answer.lines[-1]  # the first digits of the container's id
            assert len(number) == 12
            await eventually(lambda: _leases_ended(w))
            found.append(left(w))
            assert list(Path("/sys/fs/cgroup").glob(f"*/**/*{number}*")) == []
        assert found[0] == found[1]
        assert found[0]["containers"] == found[0]["images"] == []
        assert found[0]["launches"] == found[0]["mounts"] == []


async def _leases_ended(w):
    return len(w.events("lease.begin")) == len(w.events("lease.end"))


def left(w):
    """What containers could leave, by kind."""
    store = Path(w.environ["CONTAINERS_STORAGE_CONF"]).parent
    images = podman(w.environ, "images", "-a", "--format", "json")
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found = subprocess.run(
        ["podman", "unshare", "find", str(store), "-mindepth", "2", "-maxdepth", "3"],
        env=w.environ,
        capture_output=True,
        text=True,
        check=True,
    )
    # The network's and the locks' files stay; a layer or a container is a directory.
    return {
        "containers": containers(w.environ),
        "images": json.loads(images),
        "layers": sorted(found.stdout.split()),
        "launches": list((w.paths.runtime / "launch").glob("*")),
        "files": sorted(path.name for path in (w.paths.runtime / "oci").iterdir()),
        "mounts": [line for line in mounts if str(w.base) in line],
    }


async def test_two_hooks_at_once_give_two_leases():
    """Each container has separate sockets, and only these."""
    async with podman_settings() as settings, world(image=False, extra=settings) as w:
        w.write_record("work", HOOKED)
        root_directory(w.base)
        answer = await brokerctl("launcher", "install", "podman", env=w.environ)
        assert answer.code == 0, answer
        hooks = w.paths.config[0].parent / "containers" / "oci" / "hooks.d"
        conf = Path(w.environ["CONTAINERS_CONF"])
        conf.write_text(conf.read_text() + f'hooks_dir = ["{hooks}"]\n')
        words = [
            *("--rm", "--network=none", "--annotation", "io.vitrail.sandbox=work"),
            *(*shared_words(), "--rootfs", f"{w.base / 'root'}:O"),
            *("sh", "-c", "stat -c %i /run/vitrail/wayland-0"),
        ]
        children = [podman_start(w.environ, *words) for _ in range(3)]
        inodes = set()
        for child in children:
            out, err = await trio.to_thread.run_sync(child.communicate)
            assert child.returncode == 0, err
            inodes.add(out.strip())
        assert len(inodes) == 3
        await eventually(lambda: _leases_ended(w))
        begun = {event["sandbox"] for event in w.events("lease.begin")}
        assert len(begun) == 3
