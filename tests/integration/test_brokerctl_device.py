"""``brokerctl device``, as a person and a script run it, on a real socket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.control.api import DevicesAnswer, DeviceStatus
from tests.kit.brokerctl import brokerctl, harmless, home, paths_of
from tests.kit.control import ScriptedBroker, serving


@pytest.fixture
def env() -> Iterator[dict[str, str]]:
    with home() as env:
        yield env


def stick(**more) -> DeviceStatus:
    words = {
        "port": "2-1",
        "title": "\x1b[31mSanDisk (storage)",
        "id": "0951:1666",
        "serial": "A1",
        "hash": "ab" * 32,
        "interfaces": ["08:06:50"],
        "state": "plugged",
        "driver": "usb-storage",
        "removable": "removable",
        "sandboxes": ["work"],
    }
    return DeviceStatus(**{**words, **more})


def broker(*devices) -> ScriptedBroker:
    api = ScriptedBroker()
    api.plugged = DevicesAnswer(
        devices=list(devices), strict=False, problems=["port 1-4: malformed"]
    )
    return api


async def test_list_shows_devices_escaped_and_problems(env):
    async with serving(
        paths_of(env).control, broker(stick(), stick(port="2-2", sandboxes=[]))
    ):
        told = await brokerctl("device", "list", env=env)
        assert told.code == 0, told
        assert told.lines[1].split()[:5] == [
            "2-1",
            "0951:1666",
            "08:06:50",
            "work",
            "-",
        ]
        assert "stays" in told.lines[2]
        assert "port 1-4: malformed" in told.err
        assert all(map(harmless, told.lines))
        (shown,) = (await brokerctl("device", "list", "--json", env=env)).objects
        assert [device["port"] for device in shown["devices"]] == ["2-1", "2-2"]


async def test_attach_and_detach(env):
    api = broker(stick())
    async with serving(paths_of(env).control, api):
        told = await brokerctl("device", "attach", "2-1", "work", env=env)
        assert told.code == 0, told
        assert "port 2-1 is attached to work (dev-1, by usbip)" in told.err
        assert api.handed == [("2-1", "work")]
        told = await brokerctl("device", "detach", "2-1", "--json", env=env)
        assert told.objects[0]["sandbox"] == "work"
        told = await brokerctl("device", "detach", "2-1", env=env)
        assert told.code == 1
        assert "nothing of port '2-1' is attached" in told.err


async def test_explain_asks_the_rules_about_the_device_in_the_port(env):
    paths = paths_of(env)
    folder = Path(paths.config[0]) / "policy.d"
    folder.mkdir(parents=True)
    rule = "vitrail.Device * work @adminvm allow id=0951:* class=storage\n"
    (folder / "10-a.policy").write_text(rule)
    async with serving(
        paths.control, broker(stick(), stick(port="2-2", interfaces=["03:01:01"]))
    ):
        told = await brokerctl("device", "explain", "2-1", "work", env=env)
        assert told.code == 0, told
        assert "allow" in told.lines[0]
        told = await brokerctl("device", "explain", "2-2", "work", env=env)
        assert told.code == 1
        assert any("class is 03:01:01" in line for line in told.lines), told
        told = await brokerctl("device", "explain", "2-9", "work", env=env)
        assert told.code == 1
        assert "no device is in port '2-9'" in told.err


async def test_without_a_broker_it_says_so(env):
    told = await brokerctl("device", "list", env=env)
    assert told.code == 1
