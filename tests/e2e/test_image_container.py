"""A guest image on a machine without mmdebstrap: built in real rootless Podman."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from broker.cli.images.building.build import build_image
from broker.core.paths import find_paths
from broker.host.images.store import ImageSpec
from tests.e2e.test_foreign_images import paths_of, shown
from tests.kit.needs import NEEDS_VM
from tests.kit.podman import podman_settings
from tests.kit.podman_store import run
from tests.kit.toolbox import debian_tarball
from tests.kit.vm.tinyguest import ordinary_user
from tests.kit.world import record

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500), NEEDS_VM]
ABSENT = ("mmdebstrap", "genext2fs", "dpkg", "apt")


def path_without_tools(directory: Path) -> str:
    """A PATH with this machine's programs but those of a build."""
    directory.mkdir()
    for program in Path("/usr/bin").iterdir():
        if not program.name.startswith(ABSENT):
            (directory / program.name).symlink_to(program)
    return str(directory)


async def test_window_of_an_image_that_a_container_built(tmp_path, monkeypatch):
    ordinary_user()
    tarball = debian_tarball()
    async with podman_settings() as settings:
        conf = Path(settings["CONTAINERS_CONF"])
        # Rootless networks need another program, which is not what is tried here.
        conf.write_text(conf.read_text().replace("[containers]", '[containers]\nnetns = "host"'))  # fmt: skip
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        run(dict(os.environ), "import", str(tarball), "localhost/debian:12")
        monkeypatch.setenv("PATH", path_without_tools(tmp_path / "bin"))
        paths, steps = paths_of(tmp_path), []
        image = await build_image(
            paths, ImageSpec("mine"), steps.append, container="localhost/debian:12"
        )
        monkeypatch.undo()
        names = sorted(path.name for path in paths.images.iterdir())
        assert names == [image.directory.resolve().name, ".mine.lock", "mine"]
        assert "preparing a container of localhost/debian:12 with mmdebstrap" in steps
        assert image.manifest.versions["foot"]
        assert not run(dict(os.environ) | settings, "ps", "-aq"), "no container is left"
    (paths.images.parent / "tools").symlink_to(find_paths().tools)
    async with shown(tmp_path, record(launch='image = "mine"')) as (w, sandbox):
        code, output = await w.output(sandbox, "id", "-un")
        assert (code, output) == (0, b"user\n")
