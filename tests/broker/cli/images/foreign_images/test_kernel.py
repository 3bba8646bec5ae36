"""The kernel of an import: of the archive, of a package, of this machine."""

from __future__ import annotations

import lzma
import os
import struct
import subprocess
import time
from pathlib import Path

import pytest

from broker.cli.images.foreign_images import kernel_choice
from broker.cli.images.foreign_images.importing import import_image
from broker.cli.images.foreign_images.kernel import is_static
from broker.cli.images.foreign_images.kernel_choice import KernelChoice, choose_kernel
from broker.core import limits
from broker.core.errors import RefusedError, SetupError, UpstreamError
from broker.core.paths import Paths
from broker.host.images import initramfs
from tests.broker.cli.images.foreign_images.test_archive import ROOT, image, tar_of
from tests.kit.needs import NEEDS_JAIL, requires

pytestmark = [NEEDS_JAIL, requires("genext2fs", "dpkg-deb", "zstd")]
RELEASE = "6.99-test"
BUILTIN = "".join(
    f"kernel/{name}.ko\n"
    for name in (*initramfs.MODULES, *initramfs.NETWORK_MODULES)
    if name != "ext4"
)
HEAD = b"\x7fELF\x02\x01" + bytes(26)
STATIC = HEAD + struct.pack("<Q", 64) + bytes(14) + struct.pack("<HHHHH", 56, 1, 0, 0, 0) + struct.pack("<I", 1) + bytes(52)  # fmt: skip
DYNAMIC = STATIC[:64] + struct.pack("<I", 3) + STATIC[68:]


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-cq", "--stream-size", str(len(data))], input=data, check=True, capture_output=True).stdout  # fmt: skip


def kernel_files(release=RELEASE):
    """A kernel as Fedora has it, and two modules; ext4 needs jbd2."""
    directory = f"usr/lib/modules/{release}"
    return {
        f"{directory}/vmlinuz": b"kernel of " + release.encode(),
        f"{directory}/modules.builtin": BUILTIN.encode(),
        f"{directory}/kernel/fs/ext4/ext4.ko.xz": lzma.compress(
            b"\0depends=jbd2\0ext4"
        ),
        f"{directory}/kernel/fs/jbd2.ko.zst": zstd(b"\0depends=\0jbd2"),
    }


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path / "run", tmp_path / "state", tmp_path / "cache", ())


async def imported(paths, tmp_path, files, choice, steps=None):
    archive = tmp_path / "archive"
    archive.write_bytes(image(tar_of({**ROOT, **files})).data())
    steps = [] if steps is None else steps
    return await import_image(paths, "mine", archive, choice, steps.append)


def check(result, release=RELEASE):
    data = result.initrd.read_bytes()
    assert result.manifest.kernel == release
    assert result.kernel.read_bytes() == b"kernel of " + release.encode()
    assert initramfs.read_entry(data, "bin/busybox") == STATIC
    order = initramfs.read_entry(data, initramfs.ORDER).split()
    assert order == [b"jbd2", b"ext4"]
    assert initramfs.read_entry(data, "modules/jbd2.ko") == b"\0depends=\0jbd2"


async def test_kernel_of_the_archive_boots_its_own_image(paths, tmp_path):
    steps: list[str] = []
    files = {**kernel_files(), "usr/bin/busybox.static": STATIC}
    result = await imported(paths, tmp_path, files, choose_kernel(["image"], "default"), steps)  # fmt: skip
    check(result)
    assert "using the kernel of the archive" in steps
    assert sorted(p.name for p in result.directory.iterdir()) == ["initrd", "kernel", "manifest.json", "root"]  # fmt: skip


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, "no kernel with its modules"),
        ({**kernel_files(), **kernel_files("7.0")}, "several kernels"),
        ({k: v for k, v in kernel_files().items() if "vmlinuz" not in k}, "vmlinuz"),
        ({k: v for k, v in kernel_files().items() if "jbd2" not in k}, "module jbd2"),
        ({**kernel_files(), f"usr/lib/modules/{RELEASE}/kernel/fs/jbd2.ko.zst": b"x"}, "zstd data"),
        ({**kernel_files(), "usr/bin/busybox.static": DYNAMIC}, "busybox"),
    ],
)  # fmt: skip
async def test_unusable_kernel_of_the_archive_names_reason_and_choices(
    paths, tmp_path, files, reason, monkeypatch
):
    monkeypatch.setattr(kernel_choice, "which", lambda _name: None)
    files = {"usr/bin/busybox.static": STATIC, **files}
    with pytest.raises(SetupError, match="cannot use the kernel of the archive") as caught:  # fmt: skip
        await imported(paths, tmp_path, files, choose_kernel(["image"], "default"))
    assert reason in str(caught.value)
    assert all(text in caught.value.hint for text in ("--kernel host", "--base NAME"))
    assert [p.name for p in paths.images.iterdir()] == [".mine.lock"]


def build_deb(directory: Path, files) -> Path:
    root = directory / "deb"
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    (root / "DEBIAN").mkdir()
    (root / "DEBIAN/control").write_text(
        "Package: linux-test\nVersion: 1\nArchitecture: all\nMaintainer: T <t@t>\nDescription: t\n"
    )
    target = directory / "linux.deb"
    subprocess.run(["dpkg-deb", "--build", root, target], check=True)
    return target


async def test_kernel_of_packages(paths, tmp_path):
    files = kernel_files()
    first = {k: v for k, v in files.items() if "jbd2" not in k}
    package = build_deb(tmp_path, first)
    # As Arch has it, and Fedora: some modules in a package of their own.
    more = tmp_path / "modules.pkg.tar.zst"
    more.write_bytes(zstd(tar_of({k: v for k, v in files.items() if k not in first})))
    choice = choose_kernel([str(package), str(more)], "default")
    result = await imported(paths, tmp_path, {"bin/busybox": STATIC}, choice)
    check(result)


async def test_package_that_is_none_is_refused(paths, tmp_path):
    package = tmp_path / "linux.deb"
    package.write_bytes(b"!<arch>\n" + bytes(100))
    with pytest.raises(UpstreamError, match=r"cannot read .*linux\.deb"):
        await imported(paths, tmp_path, {}, choose_kernel([str(package)], "default"))


async def test_package_that_unpacks_to_more_than_the_limit(
    paths, tmp_path, monkeypatch
):
    """Attack: a few bytes of zeros, compressed, fill the disk of all images."""
    monkeypatch.setattr(limits, "IMAGE_IMPORT_BYTES", 1 << 20)
    package = tmp_path / "linux.tar.zst"
    package.write_bytes(zstd(bytes(64 << 20)))
    with pytest.raises(UpstreamError, match=r"cannot read .*linux\.tar\.zst"):
        await imported(paths, tmp_path, {}, choose_kernel([str(package)], "default"))
    sizes = [file.stat().st_size for file in tmp_path.rglob("*.tar")]
    assert max(sizes, default=0) <= 1 << 20


async def test_package_with_names_that_lead_out_is_refused(paths, tmp_path):
    package = tmp_path / "linux.tar"
    package.write_bytes(tar_of({**kernel_files(), "../../escaped": b"x"}))
    with pytest.raises(SetupError, match=r"contains '\.\.'"):
        await imported(paths, tmp_path, {}, choose_kernel([str(package)], "default"))


async def test_kernel_of_this_machine(paths, tmp_path, monkeypatch):
    root = tmp_path / "host"
    files = kernel_files()
    name = f"usr/lib/modules/{RELEASE}/vmlinuz"
    files[f"boot/vmlinuz-{RELEASE}"] = files.pop(name)
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    choice = KernelChoice("host", root=root, release=RELEASE)
    busybox = tmp_path / "busybox"
    busybox.write_bytes(STATIC)
    monkeypatch.setattr(kernel_choice, "which", lambda _name: str(busybox))
    steps: list[str] = []
    check(await imported(paths, tmp_path, {}, choice, steps))
    assert f"using the kernel of this machine ({RELEASE})" in steps
    if os.geteuid() != 0:
        (root / f"boot/vmlinuz-{RELEASE}").chmod(0)
        with pytest.raises(SetupError, match="only root can read") as caught:
            await imported(paths, tmp_path, {}, choice)
        assert f"sudo chmod a+r {root}/boot/vmlinuz-{RELEASE}" in caught.value.hint
    with pytest.raises(SetupError, match=r"this machine \(7\.1\).* has no modules"):
        await imported(paths, tmp_path, {}, KernelChoice("host", root=root, release="7.1"))  # fmt: skip


@pytest.mark.parametrize(
    "values", [["image", "host"], ["image", "x.deb"], ["absent.deb"], ["/etc/passwd"]]
)
def test_other_choices_are_refused_with_the_list(values):
    with pytest.raises(RefusedError) as caught:
        choose_kernel(values, "default")
    assert "--kernel image" in caught.value.hint


@pytest.mark.parametrize("program", [b"", DYNAMIC, b"#!/bin/sh\n", STATIC[:60]])
def test_program_that_needs_a_loader_is_no_busybox(program):
    assert not is_static(program)


def test_program_with_many_headers_is_read_in_a_moment():
    """Attack: 65,535 headers; each was read as a copy of the rest of 64 MiB."""
    header = bytearray(STATIC[:64])
    struct.pack_into("<HH", header, 54, 56, 0xFFFF)
    began = time.monotonic()
    assert is_static(bytes(header) + bytes(64 << 20))
    assert time.monotonic() - began < 5


def test_static_program():
    assert is_static(STATIC)
