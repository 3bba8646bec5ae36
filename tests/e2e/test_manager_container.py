"""The manager makes a container of an image: from *New…* to its framed window."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from broker.helpers.process.spawn import run_tool
from tests.kit.manager import keyboard, managed, person, reach
from tests.kit.needs import PID_NAMESPACES, requires
from tests.kit.podman import containers, podman_settings
from tests.kit.podman_store import run as podman
from tests.kit.wayland.compositor import wait_window
from tests.kit.world import world

pytestmark = [
    PID_NAMESPACES,
    requires("foot", "busybox"),
    pytest.mark.long,
    pytest.mark.timeout(400),
]

IMAGE = "localhost/terminal"
FILES = (
    *("/usr/bin/foot", "/usr/bin/busybox", "/usr/share/X11/xkb", "/etc/fonts"),
    *("/usr/lib/locale/C.utf8", "/usr/share/fonts/truetype/dejavu"),
    *("/usr/share/fontconfig", "/usr/share/terminfo"),
)


def make_image(w) -> None:
    """An image of this machine's foot and busybox, with what they load."""
    loaded = subprocess.run(
        ["ldd", "/usr/bin/foot"], check=True, capture_output=True, text=True
    )
    files = {*FILES, *re.findall(r"(?:=> |^\s)(/\S+) \(", loaded.stdout, re.MULTILINE)}
    found = [file for file in sorted(files) if Path(file).exists()]
    tar = w.base / "root.tar"
    subprocess.run(
        ["tar", "--dereference", "-P", "--transform=s,^/,,", "-cf", tar, *found],
        check=True,
    )
    root = w.base / "root"
    (root / "bin").mkdir(parents=True)
    (root / "bin/sh").symlink_to("/usr/bin/busybox")
    for name in ("proc", "sys", "dev", "tmp", "run", "var", "home", "etc"):
        (root / name).mkdir()
    subprocess.run(["tar", "-C", root, "-rf", tar, "."], check=True)
    podman(w.environ, "import", str(tar), IMAGE)


async def key(w, name) -> None:
    await run_tool(["wtype", "-k", name], env=w.comp.environment)


async def test_a_container_of_an_image_is_made_and_started(tmp_path):
    async with (
        podman_settings() as settings,
        world({}, image=False, extra=settings) as w,
        keyboard(w),
    ):
        make_image(w)
        async with managed(w, tmp_path, "sandboxes") as env:
            await person(env, ("press", "New…"), ("enter", "Name of the sandbox=crate"))
            await reach(w, env, "What runs the sandbox: Micro VM")
            await key(w, "space")
            await person(env, ("sees", "Flatpak application"))
            await key(w, "Down")
            await key(w, "Down")
            await key(w, "Return")
            container = "What runs the sandbox: Container of an OCI image"
            await person(
                env,
                ("sees", container),
                ("enter", f"Image or application={IMAGE}"),
                ("press", "Create… offline"),
                ("sees", f'container_image = "{IMAGE}"'),
                ("press", "Create"),
                ("press", "Start crate"),
            )
            (window,) = await wait_window(w.comp, title="foot", deadline=90)
            assert window["name"] == "[crate] foot"
            await person(env, ("sees", "running"), ("press", "Stop crate"))
            await person(env, ("sees", "Start crate"), ("misses", "Stop crate"))
        assert containers(w.environ) == []
