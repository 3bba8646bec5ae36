"""An image of a stranger's with Vitrail's annotations, run by Podman and the real hook."""

from __future__ import annotations

import os
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
def broker(path: Path):
    """Counts the hook's connections, and hangs up: the containers start anyway."""
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
                conn.close()

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
