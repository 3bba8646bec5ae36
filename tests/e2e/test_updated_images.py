"""A person's home and its image: built again below it, rolled back, and renamed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from broker.cli.images import installed
from broker.cli.images.building import files
from broker.cli.images.building.build import put_in_place
from broker.core.names import SandboxName
from broker.host.homes.store import HomeStore
from broker.host.images import store
from tests.e2e.test_foreign_images import GREEN, debugfs, paths_of
from tests.kit.brokerctl import brokerctl
from tests.kit.needs import NEEDS_VM
from tests.kit.wayland.compositor import wait_frames
from tests.kit.world import record, the_image, world

pytestmark = [pytest.mark.long, pytest.mark.timeout(600), NEEDS_VM]
STATE = '[state]\ndisk_size = "128M"'
LOOK = """
touch kept; cat /etc/version kept
echo "$(hostname) had $(cat /etc/version)" >>kept; sync kept
"""


def put_version(paths, base: store.Image, version: str) -> store.Image:
    """Put an image in place as a build does; its guests know which one it is."""
    work = paths.images / f".default.{version}"
    subprocess.run(
        ["cp", "-r", "--sparse=always", "--reflink=auto", base.directory, work],
        check=True,
    )
    said = work / "version"
    said.write_text(f"{version}\n")
    # debugfs succeeds whatever becomes of the command.
    words = [debugfs(), "-w", "-R", f"write {said} /etc/version", work / "root"]
    subprocess.run(words, check=True, capture_output=True)
    said.unlink()
    manifest = msgspec.structs.replace(base.manifest, digest=files.digest(work))
    (work / "manifest.json").write_bytes(installed.manifest_bytes(manifest))
    return put_in_place(paths, "default", work)


async def test_a_home_survives_a_new_image_its_rollback_and_a_new_name(tmp_path: Path):
    base = await the_image()
    paths = paths_of(tmp_path)
    paths.images.mkdir(parents=True)
    shutil.copytree(base.directory.parent.parent / "tools", paths.tools)
    put_version(paths, base, "first")
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    mail = record("persistent", launch=STATE)
    async with world({"mail": mail}, extra=cache, image=False) as w:

        async def looks(name):
            code, said = await w.output(name, "sh", "-c", LOOK)
            return code, said.decode().splitlines()

        async def ctl(*words):
            done = await brokerctl(*words, env={**w.environ, "PYTHONPATH": "."})
            assert done.code == 0, done.err

        assert await looks("mail") == (0, ["first"])
        put_version(paths, base, "second")
        assert await looks("mail") == (0, ["first", "mail had first"]), "it still runs"
        await w.stop("mail")

        log = ["mail had first"] * 2
        assert await looks("mail") == (0, ["second", *log])
        await w.stop("mail")

        await ctl("image", "rollback", "default")
        log.append("mail had second")
        assert await looks("mail") == (0, ["first", *log])
        await w.stop("mail")

        await ctl("image", "rollback", "default")
        await ctl("sandbox", "rename", "mail", "post")
        homes = HomeStore(w.paths.homes)
        assert homes.find(SandboxName("mail")) is None
        sandbox = await w.window("post", "shell")
        await wait_frames(w.comp, {f"[{sandbox}] shell": {GREEN}})
        log.append("mail had first")
        assert await looks("post") == (0, ["second", *log])
        await w.stop("post")
        disk = homes.require(SandboxName("post")).disk
        subprocess.run(["/sbin/e2fsck", "-f", "-n", disk], check=True)
