"""A domain's XML with a vsock: added, kept and refused parts."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from broker.host.launchers.libvirt.domain import (
    DomainError,
    VsockWay,
    with_installer,
    with_vsock,
    without_vsock,
)
from tests.kit.hooks import libvirt as hook

XML = (
    "<domain type='kvm'><name>a</name><uuid>u</uuid>"
    "<metadata><m:x xmlns:m='urn:m'>kept</m:x></metadata>"
    "<memoryBacking><hugepages/><source type='anonymous'/></memoryBacking>"
    "<devices><emulator>/usr/bin/q</emulator></devices></domain>"
)
SOCKET = VsockWay(Path("/run/user/1/vitrail/libvirt/work/vsock/vhost.sock"))


def test_the_kernels_vsock_gets_a_cid_of_libvirts_choice():
    new = ET.fromstring(with_vsock(XML, VsockWay(None)))
    assert new.find("devices/vsock/cid").attrib == {"auto": "yes"}
    assert new.find("memoryBacking/source").get("type") == "anonymous"
    assert with_vsock(ET.tostring(new, encoding="unicode"), VsockWay(None)) is None


def test_a_helpers_socket_is_what_the_hook_reads_back():
    new = with_vsock(XML, SOCKET)
    assert hook.read_domain(new.encode()).vhost_user == str(SOCKET.vhost_user)
    tree = ET.fromstring(new)
    assert tree.find("memoryBacking/source").get("type") == "memfd"
    assert tree.find("memoryBacking/access").get("mode") == "shared"
    assert tree.find("memoryBacking/hugepages") is not None
    assert tree.find("metadata/{urn:m}x").text == "kept"
    assert with_vsock(new, SOCKET) is None


@pytest.mark.parametrize(
    ("machine", "device"),
    [
        ("", "vhost-user-vsock-pci,bus=pcie.0,addr=0x1e"),
        ("pc-q35-7.2", "vhost-user-vsock-pci,bus=pcie.0,addr=0x1e"),
        ("pc", "vhost-user-vsock-pci,bus=pci.0,addr=0x1e"),
        ("pc-i440fx-7.2", "vhost-user-vsock-pci,bus=pci.0,addr=0x1e"),
        ("microvm", "vhost-user-vsock-device"),
    ],
)
def test_the_device_is_one_of_the_domain_s_machine(machine, device):
    of = f"<os><type machine='{machine}'>hvm</type></os><devices>"
    new = with_vsock(XML.replace("<devices>", of if machine else "<devices>"), SOCKET)
    assert f'value="{device},chardev=vitrail-vsock"' in new
    assert hook.read_domain(new.encode()).vhost_user == str(SOCKET.vhost_user)


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        (
            "<!DOCTYPE d [<!ENTITY a 'b'>]><domain><devices>&a;</devices></domain>",
            "type",
        ),
        ("<domain>", "cannot parse"),
        ("<network/>", "does not describe a domain"),
        ("<domain/>", "does not describe a domain"),
    ],
)
def test_malformed_domain_xml_is_refused(xml, message):
    with pytest.raises(DomainError, match=message):
        with_vsock(xml, SOCKET)


def test_a_path_that_qemu_would_read_otherwise_is_refused():
    with pytest.raises(DomainError, match="cannot contain the path"):
        with_vsock(XML, VsockWay(Path("/run/a,b=c/vhost.sock")))


def test_the_systems_qemu_runs_as_the_sockets_owner():
    """Another user's QEMU could not enter the directory of the person's socket."""
    before = XML.replace(
        "</domain>",
        "<seclabel type='dynamic' model='dac'/>"
        "<seclabel type='dynamic' model='apparmor'/></domain>",
    )
    new = ET.fromstring(with_vsock(before, VsockWay(SOCKET.vhost_user, (1000, 100))))
    labels = {one.get("model"): one for one in new.findall("seclabel")}
    assert len(new.findall("seclabel")) == 2
    assert labels["apparmor"].get("type") == "dynamic"
    assert labels["dac"].get("type") == "static"
    assert labels["dac"].findtext("label") == "+1000:+100"


LABELLED = XML.replace("</domain>", "<seclabel type='none' model='dac'/></domain>")


@pytest.mark.parametrize(
    "before", [XML, LABELLED, XML.replace("<memoryBacking>", "<a/><memoryBacking>")]
)
@pytest.mark.parametrize(
    "way", [SOCKET, VsockWay(None), VsockWay(SOCKET.vhost_user, (1000, 100))]
)
def test_what_was_added_is_removed_again(before, way):
    new = with_installer(with_vsock(before, way), Path("/a b/<c>"))
    assert new != before
    assert elements(without_vsock(new, before)) == elements(before)


def elements(xml):
    """The parts of a domain, in no order: libvirt has one of its own."""
    parts = [ET.tostring(part, encoding="unicode") for part in ET.fromstring(xml)]
    return sorted(ET.canonicalize(part, strip_text=True) for part in parts)


def test_what_others_added_since_stays():
    line = (
        "<q:commandline xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'>"
        "<q:arg value='-s'/></q:commandline></domain>"
    )
    before = XML.replace("</domain>", line)
    new = with_vsock(before, SOCKET).replace('value="-s"', 'value="-S"')
    new = new.replace("<devices>", "<devices><vsock model='virtio'/>")
    left = without_vsock(new, before)
    assert 'value="-S"' in left
    assert "vitrail" not in left


def test_the_installers_disk_takes_a_free_name_once():
    used = "<devices><disk><target dev='vda'/></disk><disk><target dev='vdc'/></disk>"
    new = with_installer(XML.replace("<devices>", used), Path("/one"))
    new = with_installer(new, Path("/two"))
    disks = ET.fromstring(new).findall("devices/disk")
    assert [disk.find("target").get("dev") for disk in disks] == ["vda", "vdc", "vdb"]
    assert disks[2].find("source").get("file") == "/two"
    assert disks[2].find("readonly") is not None


def test_a_domain_of_another_record_gets_one_vsock():
    moved = SOCKET.vhost_user.parents[2] / "play/vsock/vhost.sock"
    new = with_vsock(with_vsock(XML, SOCKET), VsockWay(moved))
    assert str(SOCKET.vhost_user) not in new
    assert new.count("id=vitrail-vsock") == 1
