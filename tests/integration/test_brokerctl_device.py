"""``brokerctl device``, as a person and a script run it, on a real socket."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from broker.cli.devices.streams import stream_devices
from broker.ipc.control.api import DevicesAnswer, DeviceStatus
from tests.kit.brokerctl import brokerctl, harmless, paths_of
from tests.kit.control import ScriptedBroker, serving
from tests.kit.sound.servers import microphone, sound_server


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
        assert "no device is attached as '2-1'" in told.err


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
        assert "no device is plugged into port '2-9'" in told.err


async def test_without_a_broker_it_says_so(env):
    told = await brokerctl("device", "list", env=env)
    assert told.code == 1


def test_cameras_are_named_with_their_port(tmp_path):
    usb = tmp_path / "devices/pci0000:00/usb1/1-2/1-2:1.0/video4linux"
    folder = tmp_path / "class"
    folder.mkdir()
    for name, index in (("video0", "0"), ("video1", "1")):
        node = usb / name
        node.mkdir(parents=True)
        (node / "index").write_text(f"{index}\n")
        (node / "name").write_text("\x1b[31mCamera\n")
        (folder / name).symlink_to(node)
    virtual = tmp_path / "devices/virtual/video4linux/video7"
    virtual.mkdir(parents=True)
    (virtual / "index").write_text("0\n")
    (virtual / "name").write_text("Loopback\n")
    (folder / "video7").symlink_to(virtual)
    found = [s for s in stream_devices(folder) if s.kind == "camera"]
    assert [(s.name, s.port) for s in found] == [("video0", "1-2"), ("video7", "")]
    assert all(harmless(s.title) for s in found)
    assert stream_devices(tmp_path / "none") == [
        s for s in stream_devices(folder) if s.kind == "microphone"
    ]


async def test_microphones_are_named():
    words = (sys.executable, "-m", "broker.cli.app", "device", "list", "--json")
    async with sound_server("pulseaudio") as server:
        await microphone(server, "mic")
        env = server.environment | server.brokerctl
        async with serving(paths_of(env).control, broker(stick())):
            told = await server.run(*words, env=env)
    shown = json.loads(told.out)
    assert [device["port"] for device in shown["devices"]] == ["2-1"]
    found = [s for s in shown["streams"] if s["kind"] == "microphone"]
    # The monitors of sinks are none: what you hear is not a device.
    assert [(s["name"], s["sandboxes"]) for s in found] == [("mic", [])]
