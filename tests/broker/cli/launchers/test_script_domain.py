"""The domain that 'machine arguments --format libvirt' prints: libvirt takes it."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from broker.cli.launchers.scripts.script_arguments import ScriptMachine
from broker.cli.launchers.scripts.script_domain import domain_of
from broker.core.errors import RefusedError
from broker.host.launchers.libvirt.domain import VsockWay
from broker.host.launchers.libvirt.folder_places import FolderPlace
from broker.host.launchers.libvirt.throwaway import Throwaway
from broker.host.vmm.image_boot import ImageBoot
from broker.host.vmm.qemu_arguments import Accel, HomeDisk

BOOT = ImageBoot(
    "11111111-2222-4333-8444-555555555555", "fox", Accel.TCG, Path("/k"), Path("/i"),
    Path("/r"), 512, 1,
)  # fmt: skip
ODD = Path('/run/"><x>&/vhost.sock')


def spec(name="fox", **more):
    return Throwaway(name, Path("/usr/bin/qemu"), replace(BOOT, **more))


def test_a_domain_has_image_console_and_vsock():
    made = ScriptMachine("fox", 512, huge_pages=True, cid=42)
    root = ET.fromstring(domain_of(made, spec(), None))
    assert root.findtext("name") == "fox"
    assert (root.findtext("os/kernel"), root.findtext("os/initrd")) == ("/k", "/i")
    assert "vitrail.name=fox" in root.findtext("os/cmdline")
    assert root.find("devices/disk/readonly") is not None
    assert [one.get("type") for one in root.findall("devices/serial")] == ["pty"]
    assert root.find("devices/vsock/cid").get("address") == "42"
    assert root.find("memoryBacking/hugepages/page").get("size") == "2"


def test_a_domain_has_a_device_for_each_folder():
    places = [FolderPlace(f"vitrail-{n}", Path(f"/run/f/{n}")) for n in (0, 1)]
    text = domain_of(ScriptMachine("fox", 512), spec(), VsockWay(ODD), places)
    root = ET.fromstring(text)
    assert [one.get("socket") for one in root.findall("devices/filesystem/source")] == [
        "/run/f/0",
        "/run/f/1",
    ]
    assert root.find("memoryBacking/access").get("mode") == "shared"


def test_no_text_leaves_its_place_in_a_domain():
    made = ScriptMachine("fox", 512, huge_pages=True)
    text = domain_of(made, spec('a"<b>&', root=ODD), VsockWay(ODD))
    root = ET.fromstring(text)
    assert root.findtext("name") == 'a"<b>&'
    assert root.find("devices/disk/source").get("file") == str(ODD)
    assert root.find("memoryBacking/access").get("mode") == "shared"
    args = [arg.get("value") for arg in root.iter() if arg.tag.endswith("}arg")]
    assert any(str(ODD) in arg for arg in args)
    assert not list(root.iter("x"))


@pytest.mark.parametrize(
    ("more", "lacks"),
    [
        ({"home": HomeDisk(Path("/h"), frozenset({"home"}), lock=-1)}, "home"),
        ({"image": Path("/image")}, "shared_image"),
        ({"folders": (Path("/run/folder-0"),)}, "folders"),
        ({"arena_bytes": 1}, "pixel_arena"),
        ({"uds": Path("/run/vm.vsock")}, "hybrid"),
    ],
)
def test_what_no_domain_can_have_is_refused(more, lacks):
    with pytest.raises(RefusedError, match=lacks):
        domain_of(ScriptMachine("fox", 512, **more), spec(), None)


@pytest.mark.skipif(not shutil.which("virsh"), reason="virsh is not installed")
@pytest.mark.parametrize("way", [None, VsockWay(ODD), VsockWay(ODD, (992, 990))])
def test_libvirt_s_parser_takes_it(way, tmp_path):
    file = tmp_path / "fox.xml"
    made = ScriptMachine("fox", 512, huge_pages=True, cid=42)
    places = [FolderPlace("vitrail-0", ODD)]
    text = domain_of(made, spec(), way, places)
    file.write_text(text.replace('type="qemu"', 'type="test"', 1))
    words = f"define --validate {file}; dumpxml fox"
    done = subprocess.run(
        ["virsh", "--quiet", "--connect", "test:///default", words],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "<kernel>/k</kernel>" in done.stdout
