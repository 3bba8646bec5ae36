"""Attack: another sandbox changes what a container's path leads to while it starts.

It may write to a directory above a path that the record of this one binds, or above
its root, and puts a link there after ``brokerctl run`` has looked for links.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.kit.brokerctl import brokerctl
from tests.kit.needs import PID_NAMESPACES
from tests.kit.podman import SHARED, podman_settings, root_directory
from tests.kit.podman_store import run as podman
from tests.kit.world import world

pytestmark = [pytest.mark.slow, PID_NAMESPACES]

RECORD = """\
class = "disposable"
[launch]
kind = "podman"
rootfs = "{base}/root"
command = ["cat", "/var/text", "{base}/open/text"]
bind_read_only = [{shared}, "{base}/open"]
"""
SWAP = """\
#!/bin/sh
case " $* " in *" {step} "*)
  [ -e {path}.was ] || {{ mv {path} {path}.was; {put} {secret} {path}; }};;
esac
exec {podman} "$@"
"""
STEPS = [
    pytest.param("run", "ln -s", id="late"),
    pytest.param("unshare", "ln -s", id="early"),
    pytest.param("unshare", "mv", id="moved"),
]


def lay_out(w, secret: str) -> None:
    """The person's files, and a secret that is laid out as ``secret`` is."""
    root_directory(w.base)
    (w.base / "open").mkdir()
    (w.base / "root/var/text").write_text("the root's\n")
    (w.base / "open/text").write_text("the folder's\n")
    shutil.copytree(w.base / secret, w.base / "secret", symlinks=True)
    for text in (w.base / "secret").rglob("text"):
        text.write_text("a private key\n")
    shared = ", ".join(f'"{path}"' for path in SHARED if Path(path).exists())
    w.write_record("work", RECORD.format(base=w.base, shared=shared))


def swapping(w, path: str, step: str, put: str) -> dict[str, str]:
    """An environment whose Podman starts a step after the other sandbox's change."""
    found = shutil.which("podman")
    places = {"path": w.base / path, "secret": w.base / "secret"}
    program = w.base / "bin/podman"
    program.parent.mkdir()
    program.write_text(SWAP.format(step=step, put=put, podman=found, **places))
    program.chmod(0o755)
    return {**w.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"}


@pytest.mark.parametrize("path", ["root", "open"])
@pytest.mark.parametrize(("step", "put"), STEPS)
async def test_a_path_that_is_changed_while_a_container_starts(path, step, put):
    async with podman_settings() as settings, world(image=False, extra=settings) as w:
        lay_out(w, path)
        environ = swapping(w, path, step, put)
        answer = await brokerctl("run", "-q", "work", env=environ)
        assert (w.base / f"{path}.was").exists(), answer
        assert "private key" not in answer.out, answer
        if step == "run":
            # It has the checked file.
            assert answer.out.endswith("the root's\nthe folder's\n"), answer
        else:
            assert answer.code != 0
            assert "cannot bind-mount" in answer.err, answer
        mounts = podman(w.environ, "unshare", "cat", "/proc/self/mountinfo")
        assert "/oci/bound-" not in mounts
        assert not list((w.paths.runtime / "oci").glob("bound-*"))
