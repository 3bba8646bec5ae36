"""The waypipe client in a container of rootless Podman, and its leftovers."""

from __future__ import annotations

import json
import os
import signal
import socket
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from broker.core.errors import SetupError
from broker.viewer.waypipe.client import waypipe_version
from broker.viewer.waypipe.podman import (
    WaypipePodman,
    load_podman,
    require_rust,
    start_in_podman,
)
from tests.kit.brokerctl import home, paths_of
from tests.kit.eventually import eventually
from tests.kit.wayland.compositor import short_directory
from tests.kit.waypipe.podman import IMAGE, rootless, run

# One Podman storage: a test that counts containers must not see another one's.
pytestmark = [pytest.mark.machine, pytest.mark.alone]


@contextmanager
def display():
    """A sandbox's display directory, with its worker's socket."""
    with short_directory() as path, socket.socket(socket.AF_UNIX) as worker:
        worker.bind(str(path / "wayland.sock"))
        worker.listen(8)
        yield path


def ours(env, how):
    """Names of this broker's containers."""
    words = ("ps", "-a", "--format={{.Names}}", "--filter", f"label={how.label}")
    return run(env, *words).split()


async def test_it_listens_confined_and_leaves_nothing(monkeypatch):
    async with rootless() as settings:
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        env = dict(os.environ)
        with display() as path:
            how = WaypipePodman(IMAGE, Path("/run/test-a"))
            client = await start_in_podman(path, how)
            assert client.socket_path.is_socket()
            assert client.jail == "podman"
            (name,) = ours(env, how)
            (facts,) = json.loads(run(env, "inspect", name))
            assert facts["HostConfig"]["NetworkMode"] == "none"
            assert facts["HostConfig"]["ReadonlyRootfs"]
            assert facts["EffectiveCaps"] in ([], None)
            status = Path(f"/proc/{facts['State']['Pid']}/status").read_text()
            assert "NoNewPrivs:\t1\n" in status
            assert "CapEff:\t0000000000000000\n" in status
            assert {m["Destination"]: m["RW"] for m in facts["Mounts"]} == {
                "/s": False, "/s/client": True,
            }  # fmt: skip
            assert set(os.listdir(path)) == {"wayland.sock", "waypipe.sock"}
            await client.stop()
            assert ours(env, how) == []
            assert not client.socket_path.exists()


async def test_what_a_killed_broker_left_goes_with_the_next_start(monkeypatch):
    async with rootless() as settings:
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        env = dict(os.environ)
        with display() as one, display() as two:
            how = WaypipePodman(IMAGE, Path("/run/test-b"))
            other = WaypipePodman(IMAGE, Path("/run/test-c"))
            theirs = await start_in_podman(two, other)
            lost = await start_in_podman(one, how)
            (left,) = ours(env, how)
            os.kill(lost.child.pid, signal.SIGKILL)
            await lost.child.wait()
            assert ours(env, how) == [left], "it outlives the podman that started it"
            os.close(lost.output)

            again = await start_in_podman(
                one, WaypipePodman(IMAGE, Path("/run/test-b"))
            )
            (name,) = ours(env, how)
            assert name != left
            assert len(ours(env, other)) == 1, "another broker's is not touched"
            for client in (again, theirs):
                await client.stop()


async def test_its_own_end_is_seen(monkeypatch):
    async with rootless() as settings:
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        with display() as path:
            how = WaypipePodman(IMAGE, Path("/run/test-d"))
            client = await start_in_podman(path, how)
            (name,) = ours(dict(os.environ), how)
            run(dict(os.environ), "kill", name)
            with trio.fail_after(20):
                assert await client.child.wait() != 0

            async def gone():
                return not ours(dict(os.environ), how)

            assert await eventually(gone)
            await client.stop()


async def test_an_image_that_is_not_there_is_not_pulled(monkeypatch):
    async with rootless() as settings:
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        with display() as path:
            how = WaypipePodman("localhost/none", Path("/run/test-e"))
            with pytest.raises(SetupError, match="no image 'localhost/none'") as caught:
                await start_in_podman(path, how)
            assert "none is pulled" in caught.value.hint


async def test_an_image_with_the_client_in_c_is_refused(monkeypatch):
    """As this machine's own would be, whose image it is here."""
    if not (await waypipe_version()).startswith(("0.8", "0.9")):
        pytest.skip("this machine's waypipe is the one in Rust")
    async with rootless() as settings:
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        how = WaypipePodman(IMAGE, Path("/run/test-f"))
        with pytest.raises(SetupError, match="written in C") as caught:
            await require_rust(how)
        assert "0.10 or later" in caught.value.hint
        assert run(dict(os.environ), "ps", "-aq") == ""
        with pytest.raises(SetupError, match="no image"):
            await require_rust(WaypipePodman("localhost/none", Path("/run/test-f")))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "image = 'x'",
        "podman_image = 5",
        'podman_image = ""',
        "podman_image = '-v'",
        "\x80",
    ],
)
def test_a_file_that_is_not_understood_is_named(text):
    with home() as env:
        paths = paths_of(env)
        assert load_podman(paths) is None
        paths.config[0].mkdir(parents=True)
        (paths.config[0] / "waypipe.toml").write_bytes(text.encode("latin-1"))
        with pytest.raises(SetupError) as caught:
            load_podman(paths)
        assert caught.value.where.endswith("waypipe.toml")
