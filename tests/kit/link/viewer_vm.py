"""A viewer's machine as many people have it: sway, rootless Podman, a sound server.

Its Podman has an image of a waypipe client and nothing else, and is set up for a
machine without systemd.
"""

from __future__ import annotations

import base64
import gzip
import tarfile
from pathlib import Path

import trio

from broker.host.images.store import ImageSpec
from tests.kit.link.three_machines import PACKAGES
from tests.kit.sound.servers import Heard
from tests.kit.vm.brokers import until_there
from tests.kit.waypipe import rust_waypipe
from tests.kit.waypipe.podman import CONF, IMAGE

SPEC = ImageSpec(
    name="viewervm",
    suite="bookworm",
    packages=(*PACKAGES, "podman", "crun", "uidmap", "pulseaudio", "pulseaudio-utils"),
)
MEMORY_MIB = 2560
TAR = "waypipe.tar"
"""The image's layer, on the disk of the project (``lab(extra=…)``)."""
# Its overlay is in memory, where an overlay of a user's can have no marks of its own.
_STORAGE = '[storage]\ndriver = "vfs"\n'
_CONFIG = "/run/vit/.config"
_PULSE = (
    "setsid pulseaudio -n --daemonize=no --use-pid-file=no --exit-idle-time=-1"
    " --disable-shm=yes -L module-native-protocol-unix"
    " -L 'module-null-sink sink_name=viewer rate=48000' >/tmp/pulse.log 2>&1 &"
)
_LISTEN = (
    "setsid parec -d viewer.monitor --format=s16le --rate=48000 --channels=2"
    " --raw >/tmp/heard.raw 2>/tmp/parec.log &"
)


async def waypipe_layer(folder: Path) -> Path:
    """A tar of the waypipe in Rust and its libraries."""
    program, needed = await trio.to_thread.run_sync(rust_waypipe.files)
    path = folder / TAR
    with tarfile.open(path, "w") as tar:
        tar.add(program, "bin/waypipe")
        for name, source in needed.items():
            tar.add(source, name.lstrip("/"))
        empty = tarfile.TarInfo("s")
        empty.type, empty.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(empty)
    return path


async def furnish_podman(viewer) -> None:
    """Rootless Podman with the image, and a broker that uses it."""
    # Made by systemd or by the boot scripts elsewhere.
    await viewer.run("mount -t cgroup2 none /sys/fs/cgroup", user="root")
    await viewer.write(
        f"{_CONFIG}/containers/containers.conf", CONF.format(runtime="crun")
    )
    await viewer.write(f"{_CONFIG}/containers/storage.conf", _STORAGE)
    await viewer.write(f"{_CONFIG}/vitrail/waypipe.toml", f'podman_image = "{IMAGE}"\n')
    await viewer.run(f"podman import -q /srv/extra/{TAR} {IMAGE}")


async def start_sound(viewer) -> None:
    """A sound server with a sink that records its input."""
    await viewer.run("mkdir -p /run/user/vit/pulse")
    await viewer.run(_PULSE)
    await until_there(viewer, "pactl info")
    await viewer.run(_LISTEN)
    await until_there(viewer, "test -s /tmp/heard.raw")


async def heard(viewer) -> Heard:
    """What its sink has played since ``start_sound``."""
    said = await viewer.run("gzip -1 </tmp/heard.raw | base64 -w0")
    return Heard(gzip.decompress(base64.b64decode(said)))
