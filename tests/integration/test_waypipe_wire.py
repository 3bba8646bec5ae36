"""Real waypipe servers and applications at our end of the wire."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import trio

from tests.kit.eventually import eventually
from tests.kit.vm.suite_root import inside, suite_root
from tests.kit.wayland.compositor import pixels, windows
from tests.kit.wayland.copying import copying
from tests.kit.wayland.input import Keyboard
from tests.kit.wayland.stand import FRAME
from tests.kit.waypipe.stand import SERVER, Wire, wire

_A = 30
_STALLS_ABOVE = 60_000
"""Bytes that waypipe 0.8.4 copies out; above 64 KiB its server stops for ever."""


async def _window(comp, part: str) -> dict:
    async def there():
        return [
            node for node in windows(await comp.tree()) if part in (node["name"] or "")
        ]

    return (await eventually(there))[0]


def _has(image, color: int) -> bool:
    wanted = (color >> 16 & 255, color >> 8 & 255, color & 255)
    return any(found[1][:3] == wanted for found in image.getcolors(1 << 24))


async def test_foot_is_framed_and_typed_into(tmp_path):
    async with wire() as it:
        it.run(
            "foot",
            "--title",
            "terminal",
            "sh",
            "-c",
            f"read x; echo $x > {tmp_path}/typed; sleep 60",
        )
        node = await _window(it.comp, "terminal")
        assert node["name"] == "[work] terminal"

        async def framed():
            return _has(await pixels(it.comp), FRAME)

        await eventually(framed)
        await it.comp.type_text("hello world\n")

        async def typed():
            file = tmp_path / "typed"
            return file.exists() and file.read_text() == "hello world\n"

        await eventually(typed)
        assert not it.ends
        (connection,) = it.connections
        assert connection.channel.header.version >= 16
        assert connection.channel.blocks > 10
        assert connection.work > 0


@pytest.fixture
def root(suite) -> Path | None:
    """The root of a suite; None for this machine's own."""
    return suite_root(suite) if suite else None


def server_of(root: Path | None, it: Wire) -> tuple[str, ...]:
    """A waypipe server of a suite."""
    if root is None:
        return SERVER
    return (*inside(root, str(Path(it.path).parent)), *SERVER)


async def _output(it: Wire, server: tuple[str, ...], *argv: str) -> bytes:
    """What a program prints, five seconds long."""
    read, write = os.pipe2(os.O_CLOEXEC)
    child = it.run(*argv, server=server, output=write)
    os.close(write)
    data = b""
    async with trio.lowlevel.FdStream(read) as stream:
        with trio.move_on_after(20):
            async for piece in stream:
                data += piece
    await child.stop()
    return data


@pytest.mark.parametrize(
    ("suite", "size"),
    [
        ("", _STALLS_ABOVE),
        pytest.param("trixie", 4 << 20, marks=pytest.mark.long),
        pytest.param("sid", 4 << 20, marks=pytest.mark.long),
    ],
    ids=["own", "trixie", "sid"],
)
async def test_copy_and_paste_between_two_streams(root, size):
    """Out of one application, into another, every byte the same."""
    async with wire() as it:
        server = server_of(root, it)
        shared = Path(it.path).parent / "copied"
        data = os.urandom(size)
        shared.write_bytes(data)
        with Keyboard(it.comp.display) as keys:
            it.run("foot", "--title", "front", "sleep", "60", server=server)
            await _window(it.comp, "front")
            await trio.to_thread.run_sync(keys.press, _A)
            copy = copying(str(shared), "--type", "application/x-test")
            it.run(*copy, server=server)

            async def pasted():
                got = await _output(
                    it,
                    server,
                    "wl-paste",
                    "--no-newline",
                    "--type",
                    "application/x-test",
                )
                return got if len(got) >= size else b""

            got = await eventually(pasted, deadline=60)
            assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()
        assert not it.ends


@pytest.mark.parametrize("suite", [pytest.param("trixie"), pytest.param("sid")])
@pytest.mark.long
async def test_other_servers_show_and_type(root):
    """0.9 and 0.11 at the version that we speak, 16."""
    async with wire() as it:
        mark = Path(it.path).parent / "typed"
        it.run(
            "foot", "--title", "newer", "sh", "-c", f"read x; echo $x > {mark}; sleep 60",
            server=server_of(root, it),
        )  # fmt: skip
        await _window(it.comp, "newer")

        async def typed():
            await it.comp.type_text("hello\n")
            return mark.exists() and "hello" in mark.read_text()

        await eventually(typed)
        assert not it.ends
        assert it.connections[0].channel.header.version >= 16


_CLIENTS = {
    "weston-flower": ("weston-flower",),
    "weston-smoke": ("weston-smoke",),
    "weston-eventdemo": ("weston-eventdemo",),
    "presentation": ("weston-presentation-shm",),
    "gtk3": ("gtk3-widget-factory",),
    "gtk4": ("gtk4-widget-factory",),
}


@pytest.mark.parametrize("name", _CLIENTS)
async def test_applications_are_shown_in_their_frame(name):
    async with wire() as it:
        it.run(*_CLIENTS[name])

        async def framed():
            return _has(await pixels(it.comp), FRAME)

        await eventually(framed)
        assert not it.ends
