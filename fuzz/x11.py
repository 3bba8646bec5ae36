"""Fuzz target: the X11 bridge, from the X11 side and from the compositor's.

Two parts. ``programs``: what any X11 program can cause (properties of any content, client
messages, windows that come, move and go in any order, circles of transient windows)
must never end the bridge. ``compositor``: events with changed bytes may end it, by
BridgeError only. In both the model of the compositor (``tests/kit/x11.py``) checks that
ids have no gaps, that objects exist, and that a surface loses its role in order.

    python -m fuzz.x11 [--seconds N] [--seed N] [--messages N]

prints how sessions ended.
"""

from __future__ import annotations

import random
import struct
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fuzz.runner import Meter, arguments, play, show

_METER = Meter(__name__, "shims/x11/*.py")

from shims.x11.properties import NAMES  # noqa: E402
from shims.x11.wire import BridgeError  # noqa: E402
from shims.x11.x11 import ATOMS  # noqa: E402
from tests.kit.x11 import Ends  # noqa: E402

_WINDOWS = [*(0x400001 + n for n in range(6)), *(0x600001 + n for n in range(3)), 0x100]
_WORDS = (0, 1, 2, 3, 8, 16, 48, 300, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, *_WINDOWS)
_STEPS = 60


def _value(rng: random.Random, ends: Ends) -> int:
    if rng.random() < 0.3:
        return ends.atom(rng.choice(ATOMS).encode())
    return rng.choice(_WORDS)


def _place(rng: random.Random) -> tuple[int, int, int, int]:
    corner = rng.choice((-30000, -20, 0, 900, 1280, 1300, 32000))
    return (
        corner,
        rng.choice((0, 800, corner)),
        *rng.choices((1, 60, 300, 16000, 65535), k=2),
    )


def _program(rng: random.Random, ends: Ends) -> None:  # noqa: C901
    """One thing that an X11 program does, or the server because of it."""
    xid = rng.choice(_WINDOWS[:-1])
    x, y, w, h = _place(rng)
    what = rng.randrange(12)
    if what == 0 and xid not in ends.core.windows:
        ends.core.input_at = ends.now if rng.random() < 0.7 else 0.0
        size = (min(w, 300), min(h, 300))
        ends.show(xid, (x, y, *size), own=rng.random() < 0.5)
    elif what == 1:
        ends.event(rng.choice((17, 18)), "II", 0x100, xid)
    elif what == 2:
        ends.event(19, "IIB", 0x100, xid, rng.randrange(2))
    elif what == 3:
        ends.event(20, "II", 0x100, xid)
    elif what == 4:
        parent = rng.choice(_WINDOWS)
        ends.event(21, "IIIhhB", 0x100, xid, parent, x, y, 0)
    elif what == 5:
        kind = rng.choice((22, 23))
        ends.event(kind, "IIIhhHHHH", 0x100, xid, 0, x, y, w, h, 0, rng.randrange(128))
    elif what in (6, 7, 8):
        name = rng.choice(NAMES)
        data = struct.pack("<9I", *(_value(rng, ends) for _ in range(9)))
        data = data[: 4 * rng.randrange(10)]
        if rng.random() < 0.3:
            data = rng.randbytes(rng.randrange(60))
        form = rng.choice((8, 16, 32, 32, 32))
        ends.properties[xid, name] = (form, data[: len(data) // 4 * 4])
        ends.event(28, "IIIB", xid, ends.atom(name.encode()), 0, 0)
    elif what in (9, 10):
        values = [_value(rng, ends) for _ in range(5)]
        ends.message(rng.choice(_WINDOWS), rng.choice(ATOMS), *values)
    else:
        words = [_value(rng, ends) for _ in range(6)]
        ends.event(rng.choice((30, 31, 90, 101)), "6I", *words)
    if rng.random() < 0.2:
        _input(rng, ends)
    ends.now += rng.choice((0.0, 0.05, 0.3, 3.0))
    ends.run()


def _input(rng: random.Random, ends: Ends) -> None:
    """The user: the pointer and the keyboard in some surface, a dismissed menu."""
    names = {ends.above[oid]: oid for oid in ends.above}
    surfaces = [oid for oid, kind in ends.above.items() if kind == "wl_surface"]
    popups = [oid for oid, kind in ends.above.items() if kind == "xdg_popup"]
    ends.serial += 1
    if popups and rng.random() < 0.4:
        ends.tell(rng.choice(popups), "popup_done")
    elif surfaces and "wl_pointer" in names:
        surface, pointer = rng.choice(surfaces), names["wl_pointer"]
        ends.tell(pointer, "enter", ends.serial, surface, 5.0, 5.0)
        ends.tell(pointer, "button", ends.serial, 1, 0x110, 1)
        if rng.random() < 0.4:
            _drag(rng, ends, surface)
        ends.tell(names["wl_keyboard"], "enter", ends.serial, surface, b"")


def _drag(rng: random.Random, ends: Ends, surface: int) -> None:
    """Something is dragged over a surface: of another program, or what began there."""
    device = ends.bridge.selections.device()
    sources = [oid for oid, kind in ends.above.items() if kind == "wl_data_source"]
    helper, drag = ends.core.helper, ends.atom(b"XdndSelection")
    ends.event(90, "III", helper, rng.choice(_WINDOWS), drag)
    ends.run()
    if device is None or surface not in ends.above:
        return
    offer = 0xFF000000 + ends.serial
    ends.tell(device.device.up, "data_offer", offer)
    ends.above[offer] = "wl_data_offer"
    ends.tell(offer, "offer", "text/plain")
    ends.tell(device.device.up, "enter", ends.serial, surface, 5.0, 5.0, offer)
    ends.run()
    for _ in range(rng.randrange(4)):
        what = rng.choice(("leave", "drop", "motion"))
        values = (1, 6.0, 7.0) if what == "motion" else ()
        ends.tell(device.device.up, what, *values)
        if sources and sources[0] in ends.above:
            how = rng.choice(("dnd_drop_performed", "dnd_finished", "cancelled"))
            ends.tell(sources[0], how)
        ends.run()
        name = rng.choice(("XdndStatus", "XdndFinished", "XdndPosition", "XdndDrop"))
        ends.message(helper, name, *(_value(rng, ends) for _ in range(5)))
        ends.run()


def _compositor(rng: random.Random, ends: Ends) -> None:
    """An event with some bytes changed, or of no sense."""
    oid = rng.choice([*ends.above, 0, 0xFF000000, 7777])
    size = 8 + 4 * rng.randrange(8)
    body = b"".join(
        struct.pack("<I", rng.choice((*_WORDS, *ends.above))) for _ in range(size // 4)
    )
    head = struct.pack("<II", oid, size << 16 | rng.randrange(8))
    ends.core.relay.up.feed(head + body[: size - 8])
    ends.now += 0.1
    ends.run()


def session(rng: random.Random) -> tuple[int, str]:
    """One bridge; messages fed, and how it ended."""
    ends = Ends()
    hostile = rng.random() < 0.4
    count = 0
    try:
        for _ in range(_STEPS):
            count += 1
            if hostile and rng.random() < 0.3:
                _compositor(rng, ends)
            else:
                _program(rng, ends)
    except BridgeError as error:
        if not hostile:
            raise
        return count, f"compositor: {' '.join(str(error).split()[:4])}"
    except (AssertionError, KeyError):
        # A compositor that errs and the model of one do not agree on what exists.
        if not hostile:
            raise
        return count, "compositor: the model lost count"
    finally:
        ends.bridge.close()
    return count, "compositor: went on" if hostile else "programs: went on"


def fuzz(*, seconds: float, limit: int, seed: int) -> Counter[str]:
    """Fuzz until either is reached; returns how sessions ended."""
    return play(session, "messages", seconds=seconds, seed=seed, limit=limit)


def main() -> None:
    """Entry point."""
    options = arguments(__doc__, "messages", seconds=30)
    ends = fuzz(seconds=options.seconds, limit=options.messages, seed=options.seed)
    show(ends, _METER, seed=options.seed)


if __name__ == "__main__":
    main()
