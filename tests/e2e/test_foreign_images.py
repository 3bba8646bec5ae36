"""Guests whose root file system is from elsewhere: an OCI archive, this machine's /usr.

Both are made of the default guest image's own files, so that no network is needed.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import re
import shutil
import subprocess
import tarfile
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker.cli.images.foreign_images.hostroot import build_host_image, is_current
from broker.cli.images.foreign_images.importing import import_image
from broker.cli.images.foreign_images.kernel_choice import KernelChoice, choose_kernel
from broker.core.paths import find_paths
from broker.host.images import initramfs
from tests.kit.needs import NEEDS_VM
from tests.kit.wayland.compositor import wait_frames
from tests.kit.world import record, the_image, world

pytestmark = [pytest.mark.long, pytest.mark.timeout(600), NEEDS_VM]
GREEN = (0x00, 0x9E, 0x73)


def debugfs() -> str:
    found = shutil.which("debugfs", path="/usr/sbin:/sbin:/usr/bin")
    if found is None:
        pytest.skip("debugfs (e2fsprogs) is not installed")
    return found


def unpacked(image, place: Path) -> Path:
    """The files of a guest image, as this user."""
    root = place / "root"
    root.mkdir()
    # Owners cannot be set by an ordinary user; it says so of each file.
    words = [debugfs(), "-R", f"rdump / {root}", str(image.root)]
    subprocess.run(words, check=True, capture_output=True)
    return root


def cache_with(image, place: Path) -> None:
    """A separate cache, with this guest image and the tools."""
    images = place / "cache" / "vitrail" / "images"
    images.mkdir(parents=True)
    (images / "default").symlink_to(image.directory.resolve())
    (images.parent / "tools").symlink_to(find_paths().tools)


@asynccontextmanager
async def shown(place: Path, text: str):
    """A broker with that cache and one record."""
    cache = {"XDG_CACHE_HOME": str(place / "cache")}
    async with world({"app": text}, extra=cache, image=False) as w:
        sandbox = await w.window("app", "shell")
        await wait_frames(w.comp, {f"[{sandbox}] shell": {GREEN}})
        yield w, sandbox


def paths_of(place: Path):
    return find_paths({"XDG_CACHE_HOME": str(place / "cache"), "XDG_RUNTIME_DIR": "/tmp", "HOME": str(place)})  # fmt: skip


def oci(root: Path, target: Path) -> None:
    """An archive of two layers: the files, and a later change to them."""

    def layer(fill):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            fill(tar)
        return gzip.compress(out.getvalue(), 1)

    def ours(info):
        info.uid = info.gid = 0
        return info

    def second(tar):
        for name, data in (("etc/marker", b"second layer"), ("etc/.wh.debian_version", b"")):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))

    blobs = {}

    def blob(data):
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return {"digest": f"sha256:{digest}", "size": len(data)}

    layers = [layer(lambda tar: tar.add(root, ".", filter=ours)), layer(second)]
    manifest = {"config": blob(b"{}"), "layers": [blob(data) for data in layers]}
    index = {"manifests": [blob(json.dumps(manifest).encode())]}
    blobs["index.json"] = json.dumps(index).encode()
    with tarfile.open(target, "w") as tar:
        for name, data in blobs.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


async def test_a_window_of_an_imported_oci_image(tmp_path: Path):
    base = await the_image()
    cache_with(base, tmp_path)
    root = unpacked(base, tmp_path)
    # As a stranger's image: without what ours have.
    shutil.rmtree(root / "usr/lib/vitrail")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    oci(root, tmp_path / "archive")
    shutil.rmtree(root)
    paths = paths_of(tmp_path)
    image = await import_image(
        paths, "mine", tmp_path / "archive", KernelChoice(), print
    )
    assert image.suite == "oci"
    assert image.manifest.versions["foot"] == base.manifest.versions["foot"]
    async with shown(tmp_path, record(launch='image = "mine"')) as (w, sandbox):
        script = "cat /etc/marker; id -un; ls /etc/debian_version"
        code, said = await w.output(sandbox, "sh", "-c", script)
        assert code != 0, "what the second layer hides is not there"
        assert said.decode().startswith("second layeruser\n")


async def test_a_window_of_a_program_of_this_machine(tmp_path: Path):
    base = await the_image()
    cache_with(base, tmp_path)
    root = unpacked(base, tmp_path)
    (root / "etc/shadow").chmod(0o600)
    (root / "etc/shadow").write_text("secret")
    paths = paths_of(tmp_path)
    image = await build_host_image(paths, "default", print, root=root)
    assert is_current(image, root)
    again = await build_host_image(paths, "default", print, root=root)
    assert again.directory == image.directory, "no package changed"
    async with shown(tmp_path, record(launch='root = "host"')) as (w, sandbox):
        script = "id -un; ls /etc/shadow /home; test -w /usr/bin || echo read-only"
        _, said = await w.output(sandbox, "sh", "-c", script)
        lines = said.decode().splitlines()
        assert lines[0] == "user"
        assert "user" in lines[1:]
        assert lines[-1] == "read-only"
        assert not any(line == "/etc/shadow" for line in lines)


def kernel_of(image, root: Path) -> None:
    """Put the image's kernel, its modules and its busybox into a root file system."""
    data = image.initrd.read_bytes()
    directory = root / "usr/lib/modules" / image.manifest.kernel
    (directory / "kernel").mkdir(parents=True)
    names = {name.decode() for name in re.findall(rb"modules/(\w+)\.ko\0", data)}
    for name in names:
        module = initramfs.read_entry(data, f"modules/{name}.ko")
        (directory / "kernel" / f"{name}.ko.xz").write_bytes(lzma.compress(module, preset=0))  # fmt: skip
    builtin = {*initramfs.MODULES, *initramfs.NETWORK_MODULES} - names
    (directory / "modules.builtin").write_text("".join(f"kernel/{name}.ko\n" for name in builtin))  # fmt: skip
    shutil.copyfile(image.kernel, directory / "vmlinuz")
    (root / "usr/bin/busybox").write_bytes(initramfs.read_entry(data, "bin/busybox"))


async def test_a_window_of_an_image_with_its_own_kernel(tmp_path: Path):
    """The archive has kernel, modules and busybox; no guest image is used."""
    base = await the_image()
    ready = tmp_path / "base"
    ready.mkdir()
    root = unpacked(base, ready)
    kernel_of(base, root)
    oci(root, tmp_path / "archive")
    shutil.rmtree(root)
    paths = paths_of(tmp_path)
    choice = choose_kernel(["image"], "default")
    image = await import_image(paths, "mine", tmp_path / "archive", choice, print)
    assert not (paths.images / "default").exists()
    (paths.images.parent / "tools").symlink_to(find_paths().tools)
    async with shown(tmp_path, record(launch='image = "mine"')) as (w, sandbox):
        _, release = await w.output(sandbox, "uname", "-r")
        assert release.decode().strip() == image.manifest.kernel
