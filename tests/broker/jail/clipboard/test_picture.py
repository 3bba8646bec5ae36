"""Pictures written again have the same pixels, and nothing else of the old ones."""

from __future__ import annotations

import io
import random
import shutil
import struct
import subprocess
import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from broker.core.errors import PeerError
from broker.core.limits import clipboard as clipboard_limits
from broker.jail.clipboard.picture import rewrite_png
from broker.jail.clipboard.picture_lacing import passes

HEAD = b"\x89PNG\r\n\x1a\n"


def rewritten(data: bytes) -> bytes:
    steps = rewrite_png(data)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def chunk(kind: bytes, content: bytes) -> bytes:
    told = zlib.crc32(content, zlib.crc32(kind))
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", told)


def head(width=4, height=3, depth=8, colour=2, *more) -> bytes:
    more = more or (0, 0, 0)
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, *more))


def png(*chunks: bytes) -> bytes:
    return HEAD + b"".join(chunks) + chunk(b"IEND", b"")


def pixels(width=4, height=3, step=3, kind=0) -> bytes:
    row = bytes([kind]) + bytes(range(width * step))
    return chunk(b"IDAT", zlib.compress(row * height))


def picture(mode: str, size=(37, 23)) -> Image.Image:
    made = Image.new("RGBA", size)
    dice = random.Random(7)
    made.putdata([tuple(dice.randbytes(4)) for _ in range(size[0] * size[1])])
    return made.convert("L").convert(mode) if mode == "I;16" else made.convert(mode)


def encoded(image: Image.Image, **more) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", **more)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_the_pixels_are_the_same_as_another_decoder_sees_them(mode):
    image = picture(mode)
    data = encoded(image)
    fresh = Image.open(io.BytesIO(rewritten(data)))
    assert fresh.size == image.size
    assert fresh.convert("RGBA").tobytes() == (
        Image.open(io.BytesIO(data)).convert("RGBA").tobytes()
    )


@pytest.mark.parametrize(
    ("depth", "colour", "step"), [(8, 6, 4), (16, 6, 8), (8, 0, 1)]
)
@pytest.mark.parametrize("kind", range(5))
def test_every_filter(kind, depth, colour, step):
    dice = random.Random(kind)
    rows = b"".join(bytes([kind]) + dice.randbytes(9 * step) for _ in range(11))
    data = png(head(9, 11, depth, colour), chunk(b"IDAT", zlib.compress(rows)))
    before, after = (Image.open(io.BytesIO(x)) for x in (data, rewritten(data)))
    assert before.mode == after.mode
    assert before.tobytes() == after.tobytes()


def test_words_profiles_and_what_stands_behind_the_end_stay_behind():
    words = PngImagePlugin.PngInfo()
    words.add_text("Author", "somebody")
    data = encoded(picture("RGB"), pnginfo=words, icc_profile=b"a profile") + b"behind"
    assert b"somebody" in data
    fresh = rewritten(data)
    kinds = [fresh[i : i + 4] for i in range(len(fresh)) if fresh[i : i + 4].isalpha()]
    assert b"tEXt" not in kinds
    assert b"iCCP" not in kinds
    assert b"behind" not in fresh
    assert fresh.endswith(chunk(b"IEND", b""))


def test_transparency_stays_and_a_palette_is_whole():
    image = picture("RGB").quantize(5)
    data = encoded(image, transparency=3, bits=4)
    fresh = Image.open(io.BytesIO(rewritten(data)))
    assert fresh.convert("RGBA").tobytes() == (
        Image.open(io.BytesIO(data)).convert("RGBA").tobytes()
    )
    # A pixel beyond the palette of the old one is not beyond the new one's.
    rows = zlib.compress(b"\0\xff\xff")
    few = png(head(2, 1, 8, 3), chunk(b"PLTE", b"abc"), chunk(b"IDAT", rows))
    assert chunk(b"PLTE", b"abc".ljust(768, b"\0")) in rewritten(few)


def test_the_written_picture_is_exactly_our_encoding():
    """The same pixels in other clothes give the same file."""
    image = picture("RGB")
    one = rewritten(encoded(image, compress_level=1))
    assert one == rewritten(encoded(image, compress_level=9)) == rewritten(one)


GOOD = pixels()
BAD = {
    "empty": b"",
    "not one": b"GIF89a" + bytes(40),
    "no head": png(GOOD),
    "head twice": png(head(), head(), GOOD),
    "no pixels": png(head()),
    "no end": HEAD + head() + GOOD,
    "size zero": png(head(0), GOOD),
    "depth": png(head(4, 3, 4, 2), GOOD),
    "colour": png(head(4, 3, 8, 5), GOOD),
    "packing": png(head(4, 3, 8, 2, 1, 0, 0), GOOD),
    "order": png(head(4, 3, 8, 2, 0, 0, 2), GOOD),
    "rows of another order": png(head(4, 3, 8, 2, 0, 0, 1), GOOD),
    "half of the passes": png(
        head(8, 8, 8, 0, 0, 0, 1), chunk(b"IDAT", zlib.compress(bytes(20)))
    ),
    "more behind the passes": png(
        head(1, 1, 8, 0, 0, 0, 1), chunk(b"IDAT", zlib.compress(bytes(3)))
    ),
    "no palette": png(head(4, 3, 8, 3), GOOD),
    "palette of a part": png(head(4, 3, 8, 3), chunk(b"PLTE", b"ab"), GOOD),
    "palette of grey": png(head(4, 3, 8, 0), chunk(b"PLTE", b"abc"), GOOD),
    "late palette": png(head(), GOOD, chunk(b"PLTE", b"abc")),
    "two pieces": png(head(), GOOD, chunk(b"tEXt", b"x"), GOOD),
    "unknown critical": png(head(), chunk(b"CgBI", b"x"), GOOD),
    "transparency": png(head(), chunk(b"tRNS", b"x"), GOOD),
    "transparency beyond": png(
        head(4, 3, 8, 3), chunk(b"PLTE", b"abc"), chunk(b"tRNS", bytes(257)), GOOD
    ),
    "sum": png(head(), GOOD[:-1] + bytes([GOOD[-1] ^ 1])),
    "length": HEAD + head() + b"\xff\xff\xff\xff" + GOOD[4:],
    "fewer pixels": png(head(), pixels(height=2)),
    "more pixels": png(head(), pixels(height=4)),
    "filter": png(head(), pixels(kind=5)),
    "not packed": png(head(), chunk(b"IDAT", b"\0" * 40)),
    "more behind": png(head(), chunk(b"IDAT", zlib.compress(bytes(39)) + b"x")),
}


@pytest.mark.parametrize("name", BAD)
def test_a_png_that_is_not_strict_is_refused(name):
    with pytest.raises(PeerError, match="cannot rewrite the image as PNG"):
        rewritten(BAD[name])


@pytest.mark.parametrize("more", [0, 1])
def test_so_many_pixels_and_no_more(more, monkeypatch):
    monkeypatch.setattr(clipboard_limits, "CLIPBOARD_PIXEL_BYTES", 3 * 13 - more)
    data = png(head(), GOOD)
    if more:
        with pytest.raises(PeerError, match="more pixels than the limit"):
            rewritten(data)
    else:
        assert rewritten(data)


@pytest.mark.parametrize("more", [0, 1])
def test_so_wide_and_no_wider(more):
    side = clipboard_limits.CLIPBOARD_PICTURE_SIDE + more
    rows = zlib.compress(bytes(side + 1))
    data = png(head(side, 1, 8, 0), chunk(b"IDAT", rows))
    if more:
        with pytest.raises(PeerError, match="wider or higher than the limit"):
            rewritten(data)
    else:
        assert rewritten(data)


def test_a_bomb_is_unpacked_no_further_than_it_says():
    bomb = zlib.compress(bytes(200_000_000), 9)
    with pytest.raises(PeerError, match="more pixels than the header declares"):
        rewritten(png(head(), chunk(b"IDAT", bomb)))


def test_what_is_not_unpacked_yet_is_not_copied_for_each_slice(monkeypatch):
    """Each call of zlib copies all that it was given and did not use."""
    copied = []
    decompressobj = zlib.decompressobj

    class Counted:
        def __init__(self):
            self._real = decompressobj()

        def __getattr__(self, name):
            return getattr(self._real, name)

        def decompress(self, *arguments):
            found = self._real.decompress(*arguments)
            copied.append(len(self._real.unconsumed_tail))
            return found

    rows = random.Random(7).randbytes(2 << 20)
    packed = zlib.compress(
        b"".join(b"\0" + rows[n : n + 2048] for n in range(0, len(rows), 2048))
    )
    monkeypatch.setattr("broker.jail.clipboard.picture.zlib.decompressobj", Counted)
    rewritten(png(head(2048, 1024, 8, 0), chunk(b"IDAT", packed)))
    assert len(copied) > 4
    assert max(copied) <= 1 << 18


def test_pixels_in_a_later_piece_are_beyond_the_end():
    more = zlib.compress(bytes(1 << 20), 0)
    for last in (b"x", bytes(1 << 19)):
        data = zlib.compress(bytes([0, 1] * 3)) + more + last
        with pytest.raises(PeerError, match="more pixels than the header declares"):
            rewritten(png(head(1, 3, 8, 0), chunk(b"IDAT", data)))


@pytest.mark.parametrize("size", [(1024, 1024), (1, 32768)])
@pytest.mark.parametrize("laced", [0, 1])
def test_others_get_their_turn(size, laced):
    width, height = size
    rows = zlib.compress(
        bytes(_unpacked(width, height, 8) if laced else (width + 1) * height)
    )
    data = png(head(width, height, 8, 0, 0, 0, laced), chunk(b"IDAT", rows))
    assert sum(1 for _ in rewrite_png(data)) >= 3


# -- interlaced ones ---------------------------------------------------------------------


def _unpacked(width: int, height: int, bits: int) -> int:
    """Bytes of an interlaced picture's passes, with their filters'."""
    return sum(
        (p.width * bits + 7) // 8 * p.height + p.height for p in passes(width, height)
    )


KINDS = [
    (depth, colour)
    for colour, depths in {
        0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16),
    }.items()
    for depth in depths
]  # fmt: skip
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def sample(depth: int, colour: int, width: int, height: int) -> bytes:
    """A picture in the usual order, with nothing in the bits that fill up a row."""
    dice = random.Random(f"{depth} {colour} {width} {height}")
    bits = CHANNELS[colour] * depth
    row, beyond = -(-width * bits // 8), -width * bits % 8
    rows = b""
    for _ in range(height):
        pixels = bytearray(dice.randbytes(row))
        pixels[-1] &= 0xFF << beyond & 0xFF
        rows += b"\0" + pixels
    palette = [chunk(b"PLTE", dice.randbytes(3 << depth))] if colour == 3 else []
    return png(
        head(width, height, depth, colour),
        *palette,
        chunk(b"IDAT", zlib.compress(rows)),
    )


def laced(folder, pictures: dict[str, bytes]) -> dict[str, bytes]:
    """The same written interlaced by libpng."""
    if not shutil.which("optipng"):
        pytest.skip("not installed: optipng")
    files = {name: folder / f"{name}.png" for name in pictures}
    for name, file in files.items():
        file.write_bytes(pictures[name])
    words = [
        "optipng",
        "-quiet",
        "-force",
        "-i1",
        "-o1",
        "-nx",
        "-f5",
        *files.values(),
    ]
    subprocess.run(words, check=True, timeout=100)
    made = {name: file.read_bytes() for name, file in files.items()}
    assert all(data[28] == 1 for data in made.values())
    return made


def seen(data: bytes) -> bytes:
    return Image.open(io.BytesIO(data)).convert("RGBA").tobytes()


@pytest.mark.parametrize(("depth", "colour"), KINDS)
def test_interlaced_ones_have_the_same_pixels_in_the_usual_order(
    depth, colour, tmp_path
):
    """Of each size with passes that are not there, and of one with all filters."""
    sizes = [(w, h) for w in range(1, 10) for h in range(1, 10)] + [(37, 23), (130, 65)]
    plain = {f"{w}x{h}": sample(depth, colour, w, h) for w, h in sizes}
    for name, data in laced(tmp_path, plain).items():
        fresh = rewritten(data)
        assert fresh == rewritten(plain[name]), name
        assert seen(fresh) == seen(data), name


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_interlaced_photographs_are_the_same_to_another_decoder(mode, tmp_path):
    smooth = Image.linear_gradient("L").resize((201, 97))
    image = Image.merge("RGBA", [smooth, smooth.rotate(90), smooth.rotate(180), smooth])
    image = image.convert("L").convert(mode) if mode == "I;16" else image.convert(mode)
    (data,) = laced(tmp_path, {"it": encoded(image)}).values()
    assert seen(rewritten(data)) == seen(data)


def test_transparency_of_an_interlaced_one_stays(tmp_path):
    image = picture("RGB").quantize(5)
    (data,) = laced(tmp_path, {"it": encoded(image, transparency=3, bits=4)}).values()
    assert b"tRNS" in rewritten(data)
    assert seen(rewritten(data)) == seen(data)


@pytest.mark.parametrize("more", [0, 1])
def test_so_many_interlaced_pixels_and_no_more(more, monkeypatch):
    monkeypatch.setattr(clipboard_limits, "CLIPBOARD_PIXEL_BYTES", 8 * 9 - more)
    data = png(
        head(8, 8, 8, 0, 0, 0, 1),
        chunk(b"IDAT", zlib.compress(bytes(_unpacked(8, 8, 8)))),
    )
    if more:
        with pytest.raises(PeerError, match="more pixels than the limit"):
            rewritten(data)
    else:
        assert rewritten(data)


def test_an_interlaced_bomb_is_unpacked_no_further_than_it_says():
    bomb = chunk(b"IDAT", zlib.compress(bytes(200_000_000), 9))
    tracemalloc.start()
    try:
        with pytest.raises(PeerError, match="more pixels than the header declares"):
            rewritten(png(head(4, 3, 8, 2, 0, 0, 1), bomb))
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


LACED = png(
    head(9, 9, 4, 3, 0, 0, 1),
    chunk(b"PLTE", bytes(48)),
    chunk(b"IDAT", zlib.compress(bytes(_unpacked(9, 9, 4)))),
)


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_whatever_comes_it_is_rewritten_or_refused(data):
    plain = encoded(picture("P", (8, 8)))
    base = bytearray(data.draw(st.sampled_from([plain, LACED])))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(base) - 1))
        base[at] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        # With sums that are good again, so that more than these is asked.
        base = bytearray(_summed(bytes(base)))
    try:
        fresh = rewritten(bytes(base))
    except PeerError:
        return
    Image.open(io.BytesIO(fresh)).load()


def _summed(data: bytes) -> bytes:
    out, at = data[:8], 8
    while at + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, at)
        if size > len(data) - at - 12:
            break
        out += chunk(data[at + 4 : at + 8], data[at + 8 : at + 8 + size])
        at += 12 + size
    return out + data[at:]
