"""Real waypipe servers and applications at our end of the wire."""

from __future__ import annotations

from tests.kit.compositor import pixels, until, windows
from tests.kit.wayland_stand import FRAME
from tests.kit.waypipe_stand import wire


async def _window(comp, part: str) -> dict:
    async def there():
        return [
            node for node in windows(await comp.tree()) if part in (node["name"] or "")
        ]

    return (await until(there))[0]


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

        await until(framed)
        await it.comp.type_text("hello world\n")

        async def typed():
            file = tmp_path / "typed"
            return file.exists() and file.read_text() == "hello world\n"

        await until(typed)
        assert not it.ends
        (connection,) = it.connections
        assert connection.channel.header.version >= 16
        assert connection.channel.blocks > 10
        assert connection.work > 0
