"""An image of a stranger's with annotations, run by Podman and the real hook.

Vitrail's own annotations would lease it; the runtime's (crun(1)) would give it a filter of
system calls of its own, and write a file outside.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from broker.host.launchers.podman.hooks import PROGRAM, write_hooks
from tests.kit.podman import podman_settings, root_directory, shared_words
from tests.kit.podman_store import run

pytestmark = pytest.mark.slow

LOOK = "echo runs [$WAYLAND_DISPLAY]"
ANNOTATIONS = ("io.vitrail.sandbox=work", "io.vitrail.ours=true")


@contextmanager
def broker(path: Path, sockets: Path | None = None):
    """Counts the hook's connections, and hangs up: the containers start anyway.

    With ``sockets`` it leases each of them.
    """
    lease = {"id": "0123456789ab", "sandbox": "work", "directory": str(sockets)}
    reply = json.dumps({"parameters": lease}).encode() + b"\0"
    asked = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve():
            while True:
                try:
                    conn, _ = listener.accept()
                except OSError:
                    return
                asked.append(conn)
                with conn:
                    if sockets is not None:
                        conn.recv(65536)
                        conn.sendall(reply)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield asked
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def build(env, base, name, *annotations):
    words = [word for one in annotations for word in ("--annotation", one)]
    # Without its cache: the second one would be the first.
    run(
        env,
        "build",
        "--quiet",
        "--no-cache",
        *words,
        "--tag",
        f"localhost/{name}",
        str(base),
    )


async def test_annotations_count_only_where_no_image_has_brought_them():
    if os.geteuid() == 0:
        pytest.skip("root's containers get no lease in any case")
    async with podman_settings() as settings:
        env = {**os.environ, **settings}
        base = Path(settings["CONTAINERS_CONF"]).parent
        root_directory(base)
        (base / "Containerfile").write_text("FROM scratch\nCOPY root /\n")
        build(env, base, "evil", *ANNOTATIONS)
        build(env, base, "plain")
        hooks = base / "hooks"
        write_hooks(hooks, hooks / PROGRAM, base / "control", (base,))

        def podman(*words):
            command = ["podman", "--hooks-dir", str(hooks), *words]
            done = subprocess.run(
                command, env=env, cwd="/", capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            return done.stdout.split()

        options = ["--network=none", *shared_words()]
        program = ["/bin/sh", "-c", LOOK]
        with broker(base / "control") as asked:
            said = podman("run", "--rm", *options, "localhost/evil", *program)
            assert (said, asked) == (["runs", "[]"], []), "the image leased itself"

            # The person's, and not on the command line that starts it.
            given = ["--annotation", "io.vitrail.sandbox=work"]
            for more in ([], ["--rm"]):
                asked.clear()
                words = ["create", *more, *given, *options, "localhost/plain", *program]
                (container,) = podman(*words)
                assert podman("start", "--attach", container) == ["runs", "[]"]
                assert asked, "the hook did not ask the broker"


ALLOWS_ALL = "BgAAAAAA/38="
"""One instruction of BPF, in base64: SECCOMP_RET_ALLOW."""
ADD_KEY = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
number = {"x86_64": 248, "aarch64": 217}[__import__("os").uname().machine]
added = libc.syscall(number, b"user", b"name", b"text", 4, -2)
print("refused" if added < 0 else "added")
"""
"""Podman's own filter refuses it."""
ALONE = (
    *("unshare", "--user", "--map-auto", "--map-root-user", "--mount", "--propagation"),
    *("private", "sh", "-c"),
    'mount --bind "$0" /sys/fs/cgroup && mount -t tmpfs tmpfs /dev/shm && exec "$@"',
)
"""crun refuses a machine that mixes both versions of control groups; and Podman as root of
a user namespace has one lock there for all users."""


async def test_a_runtime_obeys_no_annotation_of_an_image():
    if os.geteuid() == 0:
        pytest.skip("root's containers get no lease from this broker")
    if shutil.which("crun") is None:
        pytest.skip("crun is not installed")
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    unified = [fields[1] for fields in mounts if fields[2] == "cgroup2"]
    alone = (*ALONE, unified[0]) if unified else ()
    async with podman_settings() as settings:
        env = {**os.environ, **settings}
        base = Path(settings["CONTAINERS_CONF"]).parent
        conf = base / "containers.conf"
        text = conf.read_text().replace('"runc"', '"crun"')
        conf.write_text(text.replace("[engine]", 'cgroups = "disabled"\n[engine]'))
        root_directory(base)
        made, wanted = base / "made", base / "wanted"
        (base / "Containerfile").write_text("FROM scratch\nCOPY root /\n")
        stderr = "run.oci.hooks.stderr={}".format
        evil = f"run.oci.seccomp_bpf_data={ALLOWS_ALL}"
        build({**env, "BUILDAH_ISOLATION": "chroot"}, base, "evil", evil, stderr(made))
        hooks = base / "hooks"
        write_hooks(hooks, hooks / PROGRAM, base / "control", (base,))
        (base / "sockets").mkdir()

        def podman(*words):
            root = f"--runtime-flag=root={base / 'crun'}"
            command = ["podman", root, "--hooks-dir", str(hooks), "run", "--rm", *words]
            command += ["--network=none", *shared_words(), "localhost/evil"]
            done = subprocess.run(
                [*alone, *command, "/usr/bin/python3", "-c", ADD_KEY],
                env=env,
                cwd="/",
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            return done.stdout.strip()

        # The attack is a real one.
        assert podman() == "added"
        leased = ["--annotation", "io.vitrail.sandbox=work"]
        with broker(base / "control", base / "sockets") as asked:
            assert podman(*leased) == "refused"
            assert not made.exists()
            # The user's own is obeyed, and crun does write there.
            assert podman(*leased, "--annotation", stderr(wanted)) == "refused"
            assert wanted.exists()
            assert len(asked) == 4, "prepared and bound, twice"
