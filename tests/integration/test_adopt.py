"""``brokerctl adopt`` on the libvirtd of a session: domains listed, changed, restored."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree as ET

import pytest

from broker.helpers.process.spawn import run_tool
from broker.host.launchers.libvirt.domain import SERIAL
from tests.kit.brokerctl import home, paths_of
from tests.kit.vm.libvirt import Libvirt, require_libvirt, running

pytestmark = pytest.mark.slow

UUID = "11111111-2222-4333-8444-555555555555"
XML = """<domain type='qemu'><name>{}</name><uuid>{}</uuid>
<memory unit='MiB'>64</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type></os>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<graphics type='vnc' port='-1' autoport='yes' passwd='s3cret'/>
<disk type='file' device='disk'><driver name='qemu' type='raw'/>
<source file='/nowhere/disk'/><target dev='vda' bus='virtio'/></disk>
<memballoon model='none'/></devices></domain>"""


@pytest.fixture
async def virt():
    require_libvirt()
    with home() as env:
        base = Path(env["HOME"])
        env |= {
            "XDG_CONFIG_HOME": str(base / "config"),
            "XDG_STATE_HOME": f"{base}/state",
        }
        env |= {
            "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", f"{Path.home()}/.cache")
        }
        (base / "etc-libvirt").mkdir()
        world = SimpleNamespace(environ=env, base=base, paths=None)
        async with running(Libvirt(world)) as made:
            made.paths = paths_of({**made.environ, "HOME": str(base)})
            yield made


async def defined(virt, name, identity=UUID):
    file = Path(virt.environ["HOME"], "domain.xml")
    file.write_text(XML.format(name, identity))
    await virt.virsh("define", str(file))


async def adopt(virt, *words, code=0):
    """Run it as a script does; return its output and errors."""
    argv = [sys.executable, "-m", "broker.cli.app", "adopt", *words]
    argv = ["sh", "-c", '"$@" </dev/null 2>&1; echo "code $?"', "sh", *argv]
    environ = {**virt.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    text = (await run_tool(virt.alone(*argv), env=environ, deadline=120)).decode()
    print(text)
    assert text.endswith(f"code {code}\n")
    return text.rpartition("code ")[0]


async def xml_of(virt, name):
    return await virt.virsh("dumpxml", "--inactive", "--security-info", name)


async def test_a_domain_becomes_a_sandbox_and_is_restored(virt):
    await defined(virt, "Office PC (old)")
    before = await xml_of(virt, "Office PC (old)")
    session = ("--connect", "qemu:///session")
    listed = json.loads(await adopt(virt, *session, "--json"))
    assert listed == [
        {
            "domain": "Office PC (old)",
            "state": "shut off",
            "connect": "qemu:///session",
            "sandbox": "",
        }
    ]
    shown = await adopt(virt, *session, "--for", "office", "--yes", "Office PC (old)")
    assert "s3cret" not in shown
    assert "office-pc-old" in shown
    assert f"sudo sh /dev/disk/by-id/virtio-{SERIAL}" in shown
    record = virt.paths.config[0] / "sandboxes.d/office-pc-old.toml"
    assert f'libvirt = "{UUID}"' in record.read_text()
    rules = virt.paths.config[0] / "policy.d/40-office-pc-old.policy"
    assert "office-pc-old" in rules.read_text()
    after = ET.fromstring(await xml_of(virt, "Office PC (old)"))
    assert after.find("devices/graphics").get("passwd") == "s3cret"
    (disk,) = [d for d in after.iter("disk") if d.findtext("serial") == SERIAL]
    assert disk.find("readonly") is not None
    assert disk.find("driver").get("type") == "raw"
    assert disk.find("target").get("dev") == "vdb"
    text = Path(disk.find("source").get("file")).read_bytes()
    assert text.startswith(b"#!/bin/sh")
    assert len(text) % 512 == 0
    (row,) = json.loads(await adopt(virt, *session, "--json"))
    assert row["sandbox"] == "office-pc-old"
    again = await adopt(virt, *session, "--yes", "Office PC (old)", code=1)
    assert "is the sandbox 'office-pc-old' already" in again
    undone = await adopt(virt, "--undo", "office-pc-old", "--yes")
    assert "s3cret" not in undone
    assert not record.exists()
    assert not rules.exists()
    assert ET.canonicalize(
        await xml_of(virt, UUID), strip_text=True
    ) == ET.canonicalize(before, strip_text=True)


async def test_what_has_changed_since_is_kept(virt):
    await defined(virt, "work")
    words = ("--connect", "qemu:///session", "--name", "mine", "--colour", "sky")
    await adopt(virt, *words, "--yes", "work")
    record = virt.paths.config[0] / "sandboxes.d/mine.toml"
    assert 'colour = "sky"' in record.read_text()
    record.write_text(record.read_text() + "# mine\n")
    file = Path(virt.environ["HOME"], "changed.xml")
    changed = (await xml_of(virt, "work")).replace("65536", "98304")
    file.write_text(changed)
    await virt.virsh("define", str(file))
    undone = await adopt(virt, "--undo", "mine", "--yes")
    assert "kept, because it was changed since" in undone
    assert record.exists()
    left = ET.fromstring(await xml_of(virt, "work"))
    assert left.findtext("memory") == "98304"
    assert "vitrail" not in ET.tostring(left, encoding="unicode")
    assert "was not made by" in await adopt(virt, "--undo", "mine", "--yes", code=1)


async def test_nothing_is_written_without_a_yes(virt):
    await defined(virt, "work")
    before = await xml_of(virt, "work")
    words = ("--connect", "qemu:///session", "work")
    refused = await adopt(virt, *words, code=1)
    assert "standard input is not a terminal" in refused
    shown = await adopt(virt, *words, "--dry-run")
    assert "to be written" in shown
    assert await xml_of(virt, "work") == before
    assert not list(virt.paths.config[0].glob("*.d/*"))
    assert "has no domain 'wrok'" in await adopt(virt, *words[:2], "wrok", code=1)
    taken = await adopt(virt, *words, "--name", "me", "--yes", code=1)
    assert "cannot be named 'me'" in taken
