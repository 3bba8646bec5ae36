from __future__ import annotations

import lzma
import shutil
import stat
import subprocess
from importlib import resources

import pytest

from broker.cli.images.building.initramfs_build import (
    boot_modules,
    build_initramfs,
    read_modules,
)
from broker.core.errors import UpstreamError
from broker.host.images.initramfs import (
    MODULES,
    NETWORK_MODULES,
    ArchiveEntry,
    agent_overlay,
    dependencies,
    modules_overlay,
    shares_image,
    takes_arena,
    write_cpio,
)

MODINFO = b"\0license=GPL\0depends=%b\0retpoline=Y\0"


def put_module(directory, name, depends="", *, suffix=".ko", where="kernel/drivers"):
    path = directory / where / f"{name}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = b"\x7fELF " + name.encode() + MODINFO % depends.encode()
    path.write_bytes(lzma.compress(content) if suffix == ".ko.xz" else content)
    return content


@pytest.fixture
def kernel(tmp_path):
    (tmp_path / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\n")
    return tmp_path


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is not installed")
def test_cpio_is_what_cpio_reads(tmp_path):
    archive = write_cpio(
        {
            "d": ArchiveEntry(stat.S_IFDIR | 0o755),
            "d/file": ArchiveEntry(stat.S_IFREG | 0o640, b"content"),
            "d/empty": ArchiveEntry(stat.S_IFREG | 0o600),
            "three": ArchiveEntry(stat.S_IFREG | 0o755, b"abc"),
        }
    )
    subprocess.run(
        ["cpio", "-i", "--quiet"], input=archive, cwd=tmp_path, check=True, timeout=10
    )
    assert (tmp_path / "d/file").read_bytes() == b"content"
    assert stat.S_IMODE((tmp_path / "d/file").stat().st_mode) == 0o640
    assert (tmp_path / "d/empty").read_bytes() == b""
    assert (tmp_path / "three").read_bytes() == b"abc"


def test_equal_entries_give_equal_bytes_in_any_order():
    one = {"a": ArchiveEntry(0o100644, b"1"), "b": ArchiveEntry(0o100644, b"2")}
    assert write_cpio(one) == write_cpio(dict(reversed(one.items())))


def test_archives_can_be_concatenated():
    """The kernel unpacks one after the other if each begins on 4 bytes."""
    assert len(write_cpio({"a": ArchiveEntry(0o100644, b"12345")})) % 512 == 0
    assert agent_overlay(b"x").startswith(b"070701")


def test_dependencies_come_first_and_once(kernel):
    put_module(kernel, "virtio_blk", "virtio,virtio_ring")
    put_module(kernel, "virtio", "virtio_ring")
    put_module(kernel, "virtio_ring")
    modules = read_modules(kernel, ["virtio_blk", "virtio"])
    assert list(modules) == ["virtio_ring", "virtio", "virtio_blk"]


def test_file_names_with_a_dash_are_the_same_module(kernel):
    put_module(kernel, "virtio-rng", "rng-core")
    put_module(kernel, "rng-core")
    assert list(read_modules(kernel, ["virtio_rng"])) == ["rng_core", "virtio_rng"]


def test_built_in_modules_are_left_out(kernel):
    assert read_modules(kernel, ["ext4"]) == {}


def test_compressed_modules_are_unpacked(kernel):
    content = put_module(kernel, "overlay", suffix=".ko.xz")
    assert read_modules(kernel, ["overlay"]) == {"overlay": content}


def test_unknown_compression_is_named(kernel):
    put_module(kernel, "overlay", suffix=".ko.bz2")
    with pytest.raises(UpstreamError, match=r"overlay\.ko\.bz2 is not"):
        read_modules(kernel, ["overlay"])


def test_missing_module_is_named_unless_optional(kernel):
    assert read_modules(kernel, ["vsock_loopback"]) == {}
    with pytest.raises(UpstreamError, match="do not contain the module virtio_blk"):
        read_modules(kernel, ["virtio_blk"])


def test_ext4_as_a_module_brings_its_checksum(kernel):
    (kernel / "modules.builtin").write_text("")
    put_module(kernel, "ext4", "jbd2")
    put_module(kernel, "jbd2")
    put_module(kernel, "crc32c_generic")
    assert list(read_modules(kernel, ["ext4"])) == ["crc32c_generic", "jbd2", "ext4"]


def test_usb_is_loaded_where_the_kernel_can_be_given_devices(kernel):
    for name in (*MODULES, *NETWORK_MODULES, "usb-storage", "uhid"):
        put_module(kernel, name)
    assert "usb_storage" not in boot_modules(kernel)
    put_module(kernel, "vhci-hcd", "usbip-core")
    put_module(kernel, "usbip-core")
    loaded = list(boot_modules(kernel))
    assert loaded[-4:] == ["usbip_core", "vhci_hcd", "usb_storage", "uhid"]


@pytest.mark.parametrize(
    ("section", "names"),
    [
        (b"", []),
        (b"\0depends=\0", []),
        (b"\0depends=a-b,c\0", ["a_b", "c"]),
        (b"\0softdepends=x\0depends=y\0", ["y"]),
    ],
)
def test_dependencies(section, names):
    assert dependencies(b"\x7fELF" + section) == names


def test_initramfs_has_an_init_and_the_order():
    made = build_initramfs(b"BUSYBOX", {"b": b"1", "a": b"2"}, b"#!/bin/busybox sh\n")
    assert b"init\0" in made
    assert b"b\na\n" in made
    assert made == build_initramfs(
        b"BUSYBOX", {"b": b"1", "a": b"2"}, b"#!/bin/busybox sh\n"
    )


def made(*names, **needs):
    modules = {name: MODINFO % needs.get(name, "").encode() for name in names}
    return build_initramfs(b"busybox", modules, b"init")


def order_of(archive):
    """Return what an init reads: of two files of a name, the later one."""
    found = archive.rindex(b"modules/order\0")
    head = archive[found - 110 : found]
    begin = (found - 110) + (110 + len("modules/order") + 1 + 3) // 4 * 4
    return archive[begin : begin + int(head[54:62], 16)].decode().split()


NETWORKED = made(
    *("virtio_mmio", "failover", "net_failover", "virtio_net", "af_packet", "fuse"),
    "virtiofs",
    virtio_net="net_failover",
    net_failover="failover",
    virtiofs="fuse",
)


@pytest.mark.parametrize("folders", [False, True])
@pytest.mark.parametrize("network", [False, True])
def test_a_machine_loads_what_its_network_and_folders_need(network, folders):
    more = modules_overlay(NETWORKED, folders=folders, network=network)
    assert bool(more) is (folders or not network)
    net = ["failover", "net_failover", "virtio_net", "af_packet"] if network else []
    assert order_of(NETWORKED + more) == [
        *("virtio_mmio", *net),
        *(["fuse", "virtiofs"] if folders else []),
    ]


def test_what_other_modules_need_is_loaded_without_a_network_too():
    archive = made("crc", "ext4", "virtio_net", virtio_net="crc,ext4", ext4="crc")
    more = modules_overlay(archive, folders=False, network=False)
    assert order_of(archive + more) == ["crc", "ext4"]
    archive = made("virtio_blk", "virtio_net", virtio_net="virtio_blk")
    more = modules_overlay(archive, folders=False, network=False)
    assert order_of(archive + more) == ["virtio_blk"]


def test_a_machine_that_shares_its_image_loads_its_driver():
    names = ("libnvdimm", "nd_virtio", "virtio_pmem", "nd_btt", "nd_pmem")
    archive = made("virtio_pci", *names)
    assert order_of(archive) == ["virtio_pci"]
    more = modules_overlay(archive, folders=False, network=True, shared_image=True)
    assert order_of(archive + more) == ["virtio_pci", *names]


def test_a_router_loads_its_modules_and_nobody_else_what_they_need():
    archive = made(
        *("crc", "ext4", "udp_tunnel", "wireguard", "nf_conntrack", "nft_ct"),
        ext4="crc",
        wireguard="udp_tunnel",
        nf_conntrack="crc",
        nft_ct="nf_conntrack",
    )
    assert order_of(archive) == ["crc", "ext4"]
    more = modules_overlay(archive, folders=False, network=True, router=True)
    assert order_of(archive + more) == [
        *("crc", "ext4", "udp_tunnel", "wireguard", "nf_conntrack", "nft_ct"),
    ]


def test_a_machine_with_an_arena_loads_what_makes_a_device_of_it():
    names = ("libnvdimm", "nd_virtio", "virtio_pmem", "nd_btt", "nd_pmem")
    more = ("device_dax", "dax_pmem")
    archive = made("virtio_pci", *names, *more)
    assert order_of(archive) == ["virtio_pci"]
    for shared in (False, True):
        added = modules_overlay(
            archive, folders=False, network=True, shared_image=shared, arena=True
        )
        assert order_of(archive + added) == ["virtio_pci", *names, *more]
    assert takes_arena(archive)
    assert not takes_arena(made("virtio_pci", *names))


def test_an_image_is_shared_by_machines_that_have_driver_and_init_for_it():
    init = (resources.files("broker") / "data/image/init").read_bytes()
    driver = {"virtio_pmem": b""}
    assert shares_image(build_initramfs(b"", driver, init))
    assert not shares_image(build_initramfs(b"", {}, init))
    assert not shares_image(build_initramfs(b"", driver, b"mount /dev/vda"))


@pytest.mark.parametrize("network", [False, True])
def test_a_kernel_with_all_of_it_built_in_needs_no_other_order(network):
    archive = made("virtio_mmio", "ext4")
    assert modules_overlay(archive, folders=True, network=network) == b""


def test_the_images_modules_are_those_of_a_network_too(kernel):
    for name in (*MODULES, *NETWORK_MODULES):
        put_module(kernel, name)
    assert set(NETWORK_MODULES) <= set(boot_modules(kernel))
