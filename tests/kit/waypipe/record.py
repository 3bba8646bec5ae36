"""Records what real waypipe servers send, for tests/corpus/waypipe.

    python -m tests.kit.waypipe.record NAME [SUITE] -- PROGRAM …

Every stream of the program is kept (one for each connection to Wayland), its
first ``KEEP`` bytes at a block's end, compressed.
"""

from __future__ import annotations

import os
import struct
import sys
import zlib
from pathlib import Path

import trio
import trio.testing

from tests.kit.eventually import eventually
from tests.kit.vm.suite_root import inside, suite_root
from tests.kit.wayland.compositor import windows
from tests.kit.waypipe.stand import SERVER, wire

KEEP = 1_500_000
CORPUS = Path(__file__).resolve().parent.parent.parent / "corpus" / "waypipe"


def load(path: Path) -> bytes:
    """A recorded stream, header and whole blocks."""
    return zlib.decompress(path.read_bytes())


def whole_blocks(stream: bytes, most: int = KEEP) -> bytes:
    """The beginning of a stream, cut at the end of a block."""
    position = 16
    while position + 4 <= len(stream):
        size = struct.unpack_from("<I", stream, position)[0] >> 5
        after = position + ((size + 3) & ~3)
        if size < 4 or after > min(len(stream), most):
            break
        position = after
    return stream[:position]


async def record(
    argv: tuple[str, ...], root: Path | None = None, seconds: float = 3
) -> list[bytes]:
    """Run a program and return its streams."""
    streams: list[bytearray] = []
    async with wire() as it:
        tap = str(Path(it.path).with_name("tap"))
        server = SERVER
        if root is not None:
            server = (*inside(root, str(Path(it.path).parent)), *SERVER)
        async with trio.open_nursery() as nursery:

            async def serve(sandbox: trio.SocketStream) -> None:
                streams.append(kept := bytearray())
                ours = await trio.open_unix_socket(it.path)

                async def down() -> None:
                    async for data in ours:
                        await sandbox.send_all(data)

                async with ours, trio.open_nursery() as both:
                    both.start_soon(down)
                    async for data in sandbox:
                        kept.extend(data)
                        await ours.send_all(data)
                    both.cancel_scope.cancel()

            listener = trio.socket.socket(trio.socket.AF_UNIX)
            await listener.bind(tap)
            listener.listen()
            nursery.start_soon(
                trio.serve_listeners, serve, [trio.SocketListener(listener)]
            )
            path, it.path = it.path, tap
            child = it.run(*argv, server=server)
            it.path = path

            async def shown():
                return windows(await it.comp.tree())

            await eventually(shown)
            await it.comp.type_text("hello")
            await trio.sleep(seconds)
            await child.stop()
            nursery.cancel_scope.cancel()
    return [whole_blocks(bytes(stream)) for stream in streams]


def main() -> None:
    at = sys.argv.index("--")
    name, suite = (*sys.argv[1:at], "")[:2]
    root = suite_root(suite) if suite else None
    streams = trio.run(record, tuple(sys.argv[at + 1 :]), root)
    out = Path(os.environ.get("VITRAIL_OUT", "out")) / "waypipe"
    out.mkdir(parents=True, exist_ok=True)
    for number, stream in enumerate(sorted(streams, key=len, reverse=True)[:1]):
        path = out / f"{name}{number or ''}.stream"
        path.write_bytes(zlib.compress(stream, 9))
        print(path, len(stream), path.stat().st_size)


if __name__ == "__main__":
    main()
