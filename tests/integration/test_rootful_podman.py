"""Rootful Podman and the hook: refused before a broker is asked, see docs/launchers/podman.md.

Podman is run by root here, as ``sudo podman run`` is, with the hook of a person.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from broker.host.launchers.podman.hooks import PROGRAM, write_hooks
from tests.kit.podman import root_directory
from tests.kit.podman_store import CONF, STORAGE
from tests.kit.wayland.compositor import short_directory

pytestmark = [
    pytest.mark.machine,
    pytest.mark.root,
    pytest.mark.skipif(
        None in (shutil.which("podman"), shutil.which("runc")),
        reason="podman or runc is not installed",
    ),
]
LOOK = "ls -d /run/vitrail; echo runs; echo [$WAYLAND_DISPLAY]"


@pytest.fixture
def stage():
    """A hook with a broker that listens, and how to run a container with it."""
    with short_directory() as base, socket.socket(socket.AF_UNIX) as broker:
        (base / "containers.conf").write_text(CONF.format(runtime="runc"))
        (base / "storage.conf").write_text(STORAGE.format(base=base))
        env = {
            "PATH": os.environ["PATH"],
            "CONTAINERS_CONF": str(base / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(base / "storage.conf"),
        }
        broker.bind(str(base / "control"))
        broker.listen()
        broker.setblocking(False)
        hooks = base / "hooks"
        write_hooks(hooks, hooks / PROGRAM, base / "control", (base,))
        root = root_directory(base)

        def run(*annotations):
            words = ["podman", "--hooks-dir", str(hooks), "run", "--rm"]
            words += ["--network=none", "--volume", "/usr:/usr:ro"]
            for annotation in annotations:
                words += ["--annotation", annotation]
            words += ["--rootfs", f"{root}:O", "sh", "-c", LOOK]
            return subprocess.run(
                words, env=env, capture_output=True, text=True, timeout=120, check=False
            )

        if run().returncode != 0:
            pytest.skip("rootful Podman cannot run a container here")
        yield base, broker, run
        # Podman mounts it on itself.
        umount = ["umount", "--lazy", str(base / "store" / "overlay")]
        subprocess.run(umount, capture_output=True, check=False)
        for kind in ("store", "run"):
            shutil.rmtree(base / kind, ignore_errors=True)


def asked(broker) -> bool:
    """Whether a connection waits."""
    try:
        broker.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def test_a_container_of_root_s_starts_without_display(stage):
    _, broker, run = stage
    done = run("io.vitrail.sandbox=work")
    assert done.stdout.split() == ["runs", "[]"], done.stderr
    assert not asked(broker)


def test_one_whose_record_requires_a_lease_does_not_start(stage):
    base, broker, run = stage
    Path(base, "work.toml").write_text("[launch]\nrequired = true\n")
    done = run("io.vitrail.sandbox=work")
    assert done.returncode != 0
    assert "runs" not in done.stdout
    done = run("io.vitrail.sandbox=other", "io.vitrail.required=true")
    assert done.returncode != 0
    assert "runs" not in done.stdout
    assert not asked(broker)
