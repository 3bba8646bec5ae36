"""A viewer's machine as many people have it: sway and a sound server."""

from __future__ import annotations

import base64
import gzip

from broker.host.images.store import ImageSpec
from tests.kit.link.three_machines import PACKAGES
from tests.kit.sound.servers import Heard
from tests.kit.vm.brokers import until_there

SPEC = ImageSpec(
    name="viewervm",
    suite="bookworm",
    packages=(*PACKAGES, "pulseaudio", "pulseaudio-utils"),
)
MEMORY_MIB = 2560
_PULSE = (
    "setsid pulseaudio -n --daemonize=no --use-pid-file=no --exit-idle-time=-1"
    " --disable-shm=yes -L module-native-protocol-unix"
    " -L 'module-null-sink sink_name=viewer rate=48000' >/tmp/pulse.log 2>&1 &"
)
_LISTEN = (
    "setsid parec -d viewer.monitor --format=s16le --rate=48000 --channels=2"
    " --raw >/tmp/heard.raw 2>/tmp/parec.log &"
)


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
