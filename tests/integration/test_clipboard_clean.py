"""Content for a sandbox is cleaned in its worker's jail."""

from __future__ import annotations

import io

import pytest
import trio
from PIL import Image

from broker.core.names import SandboxName
from broker.ipc import clipboard as m
from broker.viewer.clipboard import clipboard_member
from broker.viewer.clipboard.exchange import messages as w
from tests.kit.wayland.compositor import short_directory
from tests.kit.workers import open_workers


def picture() -> bytes:
    file = io.BytesIO()
    Image.effect_mandelbrot((300, 200), (-2, -1, 1, 1), 40).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "data", "clean"),
    [
        ("text/plain", b"ls\x1b[201~ -l\r\n", b"ls[201~ -l\n"),
        ("text/plain", b"\xff", None),
        ("image/png", picture(), ...),
        ("image/png", picture()[:-20], None),
        ("image/webp", b"RIFF", None),
    ],
    ids=["text", "no text", "picture", "half a picture", "unknown"],
)
async def test_a_jailed_worker_writes_it_again_or_says_why_not(kind, data, clean):
    with short_directory() as base:
        async with open_workers() as workers:
            mine = await workers.open_worker(
                SandboxName("work"), base, base / "wayland-0"
            )
            assert mine.jail.seccomp
            rewrite = m.Rewrite(7, kind, len(data), ["controls"])
            order = w.WorkerOrder("work", rewrite, (w.Item(kind, data),))
            await clipboard_member.send_order(mine, order)
            with trio.fail_after(60):
                while True:
                    said = await mine.messages.receive()
                    if isinstance(said, m.ClipboardFailed | w.CheckedContent):
                        break
            assert said.transfer == 7
            if clean is None:
                assert isinstance(said, m.ClipboardFailed), said
                assert said.reason
            elif clean is ...:
                fresh = Image.open(io.BytesIO(said.untrusted_data))
                assert fresh.tobytes() == Image.open(io.BytesIO(data)).tobytes()
            else:
                assert said.untrusted_data == clean
