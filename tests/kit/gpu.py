"""Real dma-bufs without a GPU: memory of the kernel's vgem, whose fences we hold."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker.core.streams.wayland_verdicts import DMABUF
from tests.kit.wayland.client import Window
from tests.kit.wayland.compositor import desktop
from tests.kit.wayland.gpu import PARAMS

XR24 = int.from_bytes(b"XR24", "little")
# Numbers of drm.h and vgem_drm.h.
_CREATE_DUMB, _TO_FD = 0xC02064B2, 0xC00C642D
_FENCE_ATTACH, _FENCE_SIGNAL = 0xC0106441, 0x40086442
_DUMB, _PRIME = struct.Struct("=6IQ"), struct.Struct("=IIi")
_WRITES = 1


def vgem_card() -> Path:
    """The device of vgem; skips the test where there is none that we may open."""
    for card in sorted(Path("/dev/dri").glob("card*")):
        link = Path("/sys/class/drm", card.name, "device")
        if link.resolve().name == "vgem" and os.access(card, os.R_OK | os.W_OK):
            return card
    pytest.skip(
        "no vgem: tests/e2e/test_gpu_host.py runs these in a machine that has it"
    )


def render_node() -> Path:
    """vgem's other node, which draws."""
    return next(Path("/dev/dri").glob("renderD*"))


@asynccontextmanager
async def gpu_desktop(folder: Path):
    """A sway that draws with OpenGL, by Mesa's software, and takes dma-bufs.

    It has no pictures of its screen: vgem's render node gives Mesa no memory for them.
    """
    vgem_card()
    program = folder / "sway"
    program.write_text(
        "#!/bin/sh\nexport WLR_RENDERER=gles2 WLR_RENDERER_ALLOW_SOFTWARE=1\n"
        f'export WLR_RENDER_DRM_DEVICE={render_node()}\nexec /usr/bin/sway "$@"\n'
    )
    program.chmod(0o755)
    path = os.environ["PATH"]
    os.environ["PATH"] = f"{folder}:{path}"
    try:
        async with desktop(
            config_extra="default_border none\ndefault_floating_border none\n"
            "for_window [title=.*] floating enable\n"
        ) as comp:
            yield comp
    finally:
        os.environ["PATH"] = path


class Memory:
    """Memory of vgem for one picture; ``fd`` is its dma-buf."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.card = os.open(vgem_card(), os.O_RDWR | os.O_CLOEXEC)
        made = bytearray(_DUMB.pack(height, width, 32, 0, 0, 0, 0))
        fcntl.ioctl(self.card, _CREATE_DUMB, made)
        *_, self.handle, self.stride, self.size = _DUMB.unpack(made)
        out = bytearray(_PRIME.pack(self.handle, os.O_RDWR | os.O_CLOEXEC, -1))
        fcntl.ioctl(self.card, _TO_FD, out)
        self.fd = _PRIME.unpack(out)[2]

    def fill(self, color: int) -> None:
        row = struct.pack("=I", 0xFF000000 | color) * (self.stride // 4)
        with mmap.mmap(self.fd, self.size) as memory:
            memory[: len(row) * self.height] = row * self.height

    def draw(self) -> int:
        """Somebody draws into it, until ``drawn``, or vgem's ten seconds are over."""
        told = bytearray(struct.pack("=4I", self.handle, _WRITES, 0, 0))
        fcntl.ioctl(self.card, _FENCE_ATTACH, told)
        return int(struct.unpack("=4I", told)[2])

    def drawn(self, fence: int) -> None:
        fcntl.ioctl(self.card, _FENCE_SIGNAL, struct.pack("=2I", fence, 0))

    def close(self) -> None:
        os.close(self.fd)
        os.close(self.card)


def buffer_of(client: Window, memory: Memory) -> int:
    """Make a wl_buffer of memory, as Mesa does: after the compositor's feedback.

    wlroots names LINEAR there alone, where it has no other modifier.
    """
    manager = client.bind(DMABUF)
    client.make(manager, "get_default_feedback", "zwp_linux_dmabuf_feedback_v1")
    client.roundtrip()
    params = client.make(manager, "create_params", PARAMS)
    client.send(params, "add", 0, 0, memory.stride, 0, 0, fds=[memory.fd])
    buffer = client.make(
        params, "create_immed", "wl_buffer", None, memory.width, memory.height, XR24, 0
    )
    client.send(params, "destroy")
    return buffer
